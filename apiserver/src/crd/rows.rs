//! From a definition to rows: one for each served version, all of one family.

use std::cmp::Reverse;
use std::sync::Arc;

use api_types::kinds::{Column, Custom, CustomVersion, Family, Kind, ScalePaths, Scope, Subresource};
use api_types::schema::Schema;
use api_types::schema::validations::Validations;
use api_types::schema::values::Rules;
use serde_json::Value;
use tracing::warn;

use super::names::Acceptance;

const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating resources, although \
    some resources may allow a client to request the generation of an appropriate name automatically. Name is \
    primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

/// What rows follow from: as long as this is the same, so are they.
pub(super) fn state(definition: &Value, accepted: &Acceptance) -> String {
    let metadata = &definition["metadata"];
    let closed = metadata["deletionTimestamp"].is_string();
    format!(
        "{} {} {closed} {} {}",
        metadata["uid"].as_str().unwrap_or_default(),
        metadata["generation"],
        accepted.established,
        accepted.names
    )
}

/// The rows of a definition at `revision`; none while its names are not its own.
pub(super) fn compile(
    definition: &Value,
    accepted: &Acceptance,
    state: &str,
    revision: u64,
) -> Vec<Arc<Kind>> {
    if !accepted.established {
        return Vec::new();
    }
    let spec = &definition["spec"];
    let versions: &[Value] = spec["versions"].as_array().map_or(&[], Vec::as_slice);
    let Some(storage) = versions.iter().position(|v| v["storage"] == true) else { return Vec::new() };
    let Some(compiled) = versions.iter().map(|v| version(definition, v)).collect::<Option<Vec<_>>>() else {
        return Vec::new();
    };
    let deleting = definition["metadata"]["deletionTimestamp"].is_string();
    let family = Arc::new(Family {
        definition: definition["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        state: state.to_owned(),
        since: revision,
        versions: compiled,
        storage,
        selectable: versions.iter().flat_map(selectable).collect(),
        webhook: webhook(spec),
        closed: deleting
            .then(|| "create not allowed while custom resource definition is terminating".to_owned()),
    });
    let served = versions.iter().enumerate().filter(|(_, v)| v["served"] == true);
    served
        .map(|(index, v)| Arc::new(row(spec, v, accepted, Custom { family: family.clone(), index })))
        .collect()
}

/// The way from one version to another that is not merely another `apiVersion`.
fn webhook(spec: &Value) -> Option<Value> {
    let conversion = &spec["conversion"];
    (conversion["strategy"] == "Webhook").then(|| conversion["webhook"].clone())
}

fn version(definition: &Value, version: &Value) -> Option<CustomVersion> {
    let name = version["name"].as_str()?;
    let group = definition["spec"]["group"].as_str()?;
    let openapi = version["schema"]["openAPIV3Schema"].clone();
    let compiled = Schema::from_openapi(&openapi).map_err(|e| e.to_string());
    let rules = Rules::compile(&openapi).map_err(|e| e.to_string());
    let (schema, rules) = match (compiled, rules) {
        (Ok(schema), Ok(rules)) => (schema, rules),
        (Err(error), _) | (_, Err(error)) => {
            // Validation keeps such out; one that an older server let in is not served.
            warn!(definition = ?definition["metadata"]["name"], version = name, error, "a schema does not compile");
            return None;
        }
    };
    let (validations, broken) = Validations::compile(&schema, &openapi);
    for rule in broken {
        warn!(definition = ?definition["metadata"]["name"], path = rule.path, error = rule.why, "a rule does not compile");
    }
    Some(CustomVersion {
        validations,
        name: name.to_owned(),
        api_version: format!("{group}/{name}"),
        schema: Arc::new(schema),
        rules,
        openapi,
        scale: scale(&version["subresources"]["scale"]),
    })
}

fn scale(scale: &Value) -> Option<ScalePaths> {
    let text = |field: &str| scale[field].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    Some(ScalePaths {
        spec_replicas: text("specReplicasPath")?,
        status_replicas: text("statusReplicasPath")?,
        label_selector: text("labelSelectorPath"),
    })
}

/// Told to whoever asks for this version.
fn deprecation(group: &str, name: &str, kind: &str, version: &Value) -> Option<String> {
    let own = version["deprecationWarning"].as_str().map(str::to_owned);
    (version["deprecated"] == true)
        .then(|| own.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated")))
}

fn selectable(version: &Value) -> Vec<String> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    fields.filter_map(|f| f["jsonPath"].as_str()).map(|p| p.trim_start_matches('.').to_owned()).collect()
}

fn row(spec: &Value, version: &Value, accepted: &Acceptance, custom: Custom) -> Kind {
    let names = &accepted.names;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().map(text).collect() };
    let (group, plural) = (text(&spec["group"]), text(&names["plural"]));
    let (kind, name) = (text(&names["kind"]), text(&version["name"]));
    Kind {
        storage: format!("{group}/{plural}"),
        subresources: subresources(&group, &name, &kind, version),
        list_kind: text(&names["listKind"]),
        singular: text(&names["singular"]),
        short_names: list(&names["shortNames"]),
        categories: list(&names["categories"]),
        scope: if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: VERBS.iter().map(|v| (*v).to_owned()).collect(),
        selectable_fields: selectable(version),
        columns: columns(version),
        definition: String::new(),
        through: None,
        deprecation: deprecation(&group, &name, &kind, version),
        custom: Some(custom),
        version: name,
        group,
        plural,
        kind,
    }
}

fn subresources(group: &str, version: &str, kind: &str, of: &Value) -> Vec<Subresource> {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    let entry = |name: &str, group: &str, version: &str, kind: &str| Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: verbs(),
    };
    let declared = |name: &str| of["subresources"].get(name).is_some_and(Value::is_object);
    let mut all = Vec::new();
    if declared("status") {
        all.push(entry("status", group, version, kind));
    }
    if declared("scale") {
        all.push(entry("scale", "autoscaling", "v1", "Scale"));
    }
    all
}

fn columns(version: &Value) -> Vec<Column> {
    let name = Column {
        name: "Name".to_owned(),
        kind: "string".to_owned(),
        format: "name".to_owned(),
        description: NAME_TEXT.to_owned(),
        priority: 0,
        json_path: None,
    };
    let declared = version["additionalPrinterColumns"].as_array().filter(|c| !c.is_empty());
    let declared = match declared {
        Some(declared) => declared.iter().map(column).collect(),
        None => vec![Column {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: AGE_TEXT.to_owned(),
            priority: 0,
            json_path: Some(".metadata.creationTimestamp".to_owned()),
        }],
    };
    std::iter::once(name).chain(declared).collect()
}

const AGE_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this object was \
    created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not \
    set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. \
    Null for lists. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

fn column(declared: &Value) -> Column {
    let text = |field: &str| declared[field].as_str().unwrap_or_default().to_owned();
    let path = text("jsonPath");
    let description = match text("description") {
        none if none.is_empty() => format!("Custom resource definition column (in JSONPath format): {path}"),
        own => own,
    };
    Column {
        name: text("name"),
        kind: text("type"),
        format: text("format"),
        description,
        priority: declared["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or_default(),
        json_path: Some(path),
    }
}

/// The order of rows: by group, then the version that clients should prefer first, then the resource.
pub(super) fn order(row: &Kind) -> (&str, Reverse<(u8, u64, u64)>, &str, &str) {
    (&row.group, Reverse(preference(&row.version)), &row.version, &row.plural)
}

/// `v10` before `v2` before `v1beta1` before `v1alpha1` before what is no version by Kubernetes' rules.
fn preference(version: &str) -> (u8, u64, u64) {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let (major, rest) = rest.split_at(digits(rest));
    let Ok(major) = major.parse() else { return (0, 0, 0) };
    let minor = |stage: &str| rest.strip_prefix(stage).and_then(|n| n.parse().ok());
    match (rest, minor("beta"), minor("alpha")) {
        ("", ..) => (3, major, 0),
        (_, Some(minor), _) => (2, major, minor),
        (_, _, Some(minor)) => (1, major, minor),
        _ => (0, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_and_newer_versions_come_first() {
        let mut versions = ["v1alpha1", "v2", "foo1", "v1beta2", "v10", "v1", "v1beta10"];
        versions.sort_by_key(|v| Reverse(preference(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo1"]);
    }
}
