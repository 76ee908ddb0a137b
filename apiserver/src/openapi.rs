//! `/openapi/v3`: what kubectl's `explain`, and its check whether the server validates, read.
//!
//! Paths and schemas follow from the kinds table. Version 2 is answered with a document without
//! definitions: clients that still ask for it fall back on the server's own validation.

mod gnostic;

use std::collections::HashMap;
use std::sync::LazyLock;

use api_types::kinds::Kind;
use api_types::schema;
use api_types::status::Status;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::discovery::Table;
use crate::negotiate::{self, Accept};
use crate::request_info::RequestInfo;

/// The answer at an OpenAPI path.
pub(crate) fn answer(
    table: &Table,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Option<Result<http::Response<Body>, Status>> {
    let path = info.path.trim_end_matches('/');
    match path {
        "/openapi/v2" => Some(answer_version_2(headers)),
        "/openapi/v3" => Some(negotiate::answer_value(StatusCode::OK, &root(table), &Accept::default())),
        _ => {
            let name = path.strip_prefix("/openapi/v3/")?;
            Some(document(table, name, info))
        }
    }
}

/// The form of version 2 that kubectl and helm ask for, and nothing else.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

fn answer_version_2(headers: &HeaderMap) -> Result<http::Response<Body>, Status> {
    let wanted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if !wanted.into_iter().any(|accept| accept.contains(GNOSTIC)) {
        return negotiate::answer_value(StatusCode::OK, &version_2(), &Accept::default());
    }
    let mut response = http::Response::new(Body::from(gnostic::encode(&version_2())));
    // An `@` is no letter of a media type; Kubernetes answers with a dot.
    let named = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    response.headers_mut().insert(header::CONTENT_TYPE, named);
    Ok(response)
}

fn version_2() -> Value {
    json!({ "swagger": "2.0", "info": about(), "paths": {}, "definitions": {} })
}

fn about() -> Value {
    json!({ "title": "Kubernetes", "version": "v1.36.0" })
}

fn root(table: &Table) -> Value {
    let mut paths = Map::new();
    for (group, versions) in table.groups() {
        for version in versions {
            let name = path_of(group, version);
            let url = format!("/openapi/v3/{name}?hash={}", hash(table, group, version));
            paths.insert(name, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Changes when the document may have changed: clients keep documents by it.
fn hash(table: &Table, group: &str, version: &str) -> String {
    let rows: Vec<_> = table.rows().iter().filter(|r| r.group == group && r.version == version).collect();
    let text = format!("{} {rows:?}", env!("CARGO_PKG_VERSION"));
    format!("{:08X}", crc32fast::hash(text.as_bytes()))
}

fn document(table: &Table, name: &str, info: &RequestInfo) -> Result<http::Response<Body>, Status> {
    let groups = table.groups();
    let found = groups.iter().flat_map(|(g, versions)| versions.iter().map(move |v| (*g, *v)));
    let (group, version) =
        found.into_iter().find(|(g, v)| path_of(g, v) == name).ok_or_else(Status::unknown_resource)?;
    let hash = hash(table, group, version);
    let body = kept(&format!("{name} {hash}"), || {
        let document = json!({
            "openapi": "3.0.0", "info": about(), "paths": paths(table, group, version),
            "components": { "schemas": schema::openapi_v3(group, version) },
        });
        negotiate::encode(&document)
    });
    let mut response = negotiate::answer_json(StatusCode::OK, body, &Accept::default())?;
    if info.query.get("hash") == Some(&hash) {
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Documents made so far, by name and hash; as many as there are group versions.
fn kept(key: &str, make: impl FnOnce() -> Bytes) -> Bytes {
    static KEPT: LazyLock<Mutex<HashMap<String, Bytes>>> = LazyLock::new(Mutex::default);
    if let Some(bytes) = KEPT.lock().get(key) {
        return bytes.clone();
    }
    let made = make();
    KEPT.lock().insert(key.to_owned(), made.clone());
    made
}

fn paths(table: &Table, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for row in table.rows().iter().filter(|r| r.group == group && r.version == version) {
        let base = format!("/{}", path_of(group, version));
        let collection = match row.is_namespaced() {
            true => format!("{base}/namespaces/{{namespace}}/{}", row.plural),
            false => format!("{base}/{}", row.plural),
        };
        let verb = |name: &str| row.verbs.iter().any(|v| v == name);
        let collection_actions = [
            ("get", "list", "list"),
            ("post", "post", "create"),
            ("delete", "deletecollection", "deletecollection"),
        ];
        insert(&mut paths, row, &collection, &collection_actions, &verb);
        if row.is_namespaced() {
            insert(&mut paths, row, &format!("{base}/{}", row.plural), &[("get", "list", "list")], &verb);
        }
        let item = format!("{collection}/{{name}}");
        const ITEM: &[(&str, &str, &str)] = &[
            ("get", "get", "get"),
            ("put", "put", "update"),
            ("patch", "patch", "patch"),
            ("delete", "delete", "delete"),
        ];
        insert(&mut paths, row, &item, ITEM, &verb);
        for sub in &row.subresources {
            let verb = |name: &str| sub.verbs.iter().any(|v| v == name);
            const SUB: &[(&str, &str, &str)] = &[
                ("get", "get", "get"),
                ("put", "put", "update"),
                ("patch", "patch", "patch"),
                ("post", "post", "create"),
            ];
            insert(&mut paths, row, &format!("{item}/{}", sub.name), SUB, &verb);
        }
    }
    Value::Object(paths)
}

/// Adds a path with those of `actions` (method, action, verb) that are served.
fn insert(
    paths: &mut Map<String, Value>,
    row: &Kind,
    path: &str,
    actions: &[(&str, &str, &str)],
    served: &dyn Fn(&str) -> bool,
) {
    let mut operations = Map::new();
    for (method, action, verb) in actions.iter().filter(|(_, _, verb)| served(verb)) {
        operations.insert((*method).into(), operation(row, action, verb));
    }
    if !operations.is_empty() {
        paths.insert(path.to_owned(), Value::Object(operations));
    }
}

fn operation(row: &Kind, action: &str, verb: &str) -> Value {
    let names: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "list" | "deletecollection" => {
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
    let definition = if verb == "list" { format!("{}List", row.definition) } else { row.definition.clone() };
    let content = match row.definition.is_empty() {
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
    if verb == "patch" {
        operation["requestBody"] = json!({ "content": patch_content(row) });
    }
    operation
}

/// What a patch may be written in. Clients look here for whether a kind knows strategic merges.
fn patch_content(row: &Kind) -> Value {
    let mut forms =
        vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if !row.definition.is_empty() {
        forms.push("application/strategic-merge-patch+json");
    }
    let schema = json!({ "schema": { "type": "object" } });
    forms.into_iter().map(|form| (form.to_owned(), schema.clone())).collect::<Map<_, _>>().into()
}
