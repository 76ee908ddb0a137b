//! The paths of a group's version with what may be done on them, from the rows of the kinds table.

use std::sync::Arc;

use api_types::kinds::Kind;
use serde_json::{Map, Value, json};

use super::path_of;
use crate::discovery::Table;

/// Method, action as clients call it, verb.
type Action = (&'static str, &'static str, &'static str);

const COLLECTION: &[Action] = &[
    ("get", "list", "list"),
    ("post", "post", "create"),
    ("delete", "deletecollection", "deletecollection"),
];
const EVERYWHERE: &[Action] = &[("get", "list", "list")];
const ITEM: &[Action] = &[
    ("get", "get", "get"),
    ("put", "put", "update"),
    ("patch", "patch", "patch"),
    ("delete", "delete", "delete"),
];
const SUBRESOURCE: &[Action] = &[
    ("get", "get", "get"),
    ("put", "put", "update"),
    ("patch", "patch", "patch"),
    ("post", "post", "create"),
    ("delete", "delete", "delete"),
];
const WATCH: &[Action] = &[("get", "watch", "watch")];
const WATCH_LIST: &[Action] = &[("get", "watchlist", "watch")];

/// All paths of a group's version, sorted.
pub(super) fn of_version(table: &Table, group: &str, version: &str) -> Map<String, Value> {
    let base = format!("/{}", path_of(group, version));
    let mut paths = Map::new();
    let rows = || table.rows().iter().filter(|r| r.group == group && r.version == version);
    if rows().any(|row| row.custom.is_none()) {
        paths.insert(format!("{base}/"), document("get available resources", "APIResourceList"));
    }
    let is_described = |row: &&Arc<Kind>| row.custom.is_some() || !row.definition.is_empty();
    for row in rows().filter(is_described) {
        add_row(&mut paths, row, &base);
    }
    paths.sort_keys();
    paths
}

/// A path at which one of discovery's documents stands.
pub(super) fn document(description: &str, definition: &str) -> Value {
    let schema = format!("#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.{definition}");
    json!({ "get": {
        "description": description,
        "responses": { "200": {
            "description": "OK",
            "content": { "application/json": { "schema": { "$ref": schema } } },
        } },
    } })
}

fn add_row(paths: &mut Map<String, Value>, row: &Kind, base: &str) {
    let place = if row.is_namespaced() { "/namespaces/{namespace}" } else { "" };
    let plural = &row.plural;
    let (collection, watched) = (format!("{base}{place}/{plural}"), format!("{base}/watch{place}/{plural}"));
    let served = |verb: &str| row.verbs.iter().any(|v| v == verb);
    insert(paths, row, &collection, COLLECTION, &served);
    if row.is_namespaced() {
        insert(paths, row, &format!("{base}/{plural}"), EVERYWHERE, &served);
    }
    insert(paths, row, &format!("{collection}/{{name}}"), ITEM, &served);
    // The old paths of watches are older than custom kinds.
    if row.custom.is_none() {
        insert(paths, row, &watched, WATCH_LIST, &served);
        insert(paths, row, &format!("{watched}/{{name}}"), WATCH, &served);
        if row.is_namespaced() {
            insert(paths, row, &format!("{base}/watch/{plural}"), WATCH_LIST, &served);
        }
    }
    for sub in &row.subresources {
        let served = |verb: &str| sub.verbs.iter().any(|v| v == verb);
        let path = format!("{collection}/{{name}}/{}", sub.name);
        insert(paths, row, &path, SUBRESOURCE, &served);
        if sub.verbs.iter().any(|verb| verb == "delete") {
            insert(paths, row, &format!("{path}/{{path}}"), SUBRESOURCE, &served);
        }
    }
}

/// Adds a path with those of `actions` that are served.
fn insert(
    paths: &mut Map<String, Value>,
    row: &Kind,
    path: &str,
    actions: &[Action],
    served: &dyn Fn(&str) -> bool,
) {
    let mut operations = Map::new();
    for (method, action, verb) in actions.iter().filter(|(_, _, verb)| served(verb)) {
        operations.insert((*method).into(), operation(row, action, verb));
    }
    if !operations.is_empty() {
        let variables =
            ["name", "namespace", "path"].into_iter().filter(|v| path.contains(&format!("{{{v}}}")));
        let parameters: Vec<_> = variables
            .map(|name| {
                let schema = json!({ "type": "string", "uniqueItems": true });
                json!({ "name": name, "in": "path", "required": true, "schema": schema })
            })
            .collect();
        if !parameters.is_empty() {
            operations.insert("parameters".into(), parameters.into());
        }
        paths.insert(path.to_owned(), Value::Object(operations));
    }
}

fn operation(row: &Kind, action: &str, verb: &str) -> Value {
    let names: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "list" | "watch" | "deletecollection" => {
            &["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "watch"]
        }
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        _ => &[],
    };
    let kind_of = |name: &str| match name {
        "force" | "watch" => "boolean",
        "limit" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    let parameters: Vec<_> = names
        .iter()
        .map(|name| json!({ "name": name, "in": "query", "schema": { "type": kind_of(name), "uniqueItems": true } }))
        .collect();
    let own = if row.custom.is_some() { super::custom::name(row) } else { row.definition.clone() };
    let definition = match verb {
        "list" => format!("{own}List"),
        "watch" => "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent".to_owned(),
        _ => own.clone(),
    };
    let content = match own.is_empty() {
        true => json!({}),
        false => {
            json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{definition}") } } })
        }
    };
    let mut operation = json!({
        "operationId": format!("{verb}{}{}", row.version, row.kind),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": { "group": row.group, "version": row.version, "kind": row.kind },
        "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": content } },
    });
    match verb {
        "patch" => operation["requestBody"] = json!({ "content": patch_content(row) }),
        "create" | "update" => {
            operation["requestBody"] = json!({ "required": true, "content": content_of_any(&content) });
        }
        _ => {}
    }
    operation
}

fn content_of_any(json_content: &Value) -> Value {
    match json_content.get("application/json") {
        Some(schema) => json!({ "*/*": schema }),
        None => json!({ "*/*": { "schema": { "type": "object" } } }),
    }
}

/// What a patch may be written in. Clients look here for whether a kind knows strategic merges.
fn patch_content(row: &Kind) -> Value {
    let mut forms =
        vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if !row.definition.is_empty() {
        forms.push("application/strategic-merge-patch+json");
    }
    let schema =
        json!({ "schema": { "$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch" } });
    forms.into_iter().map(|form| (form.to_owned(), schema.clone())).collect::<Map<_, _>>().into()
}
