//! Schemas of custom kinds as OpenAPI has them: what their author wrote, with the fields that every object has.

use api_types::kinds::Kind;
use serde_json::{Map, Value, json};

/// The name of a kind's definition: its group from the back, version and kind (`com.example.v1.Lamp`).
pub(super) fn name(row: &Kind) -> String {
    let mut parts: Vec<&str> = row.group.split('.').rev().collect();
    parts.extend([row.version.as_str(), row.kind.as_str()]);
    parts.join(".")
}

/// The definitions of a custom kind and of its list.
pub(super) fn definitions(row: &Kind) -> Vec<(String, Value)> {
    let Some(custom) = &row.custom else { return Vec::new() };
    let name = name(row);
    vec![(format!("{name}List"), list(row, &name)), (name, object(row, &custom.version().openapi))]
}

const PLACE: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers \
    should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
    this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

fn object(row: &Kind, openapi: &Value) -> Value {
    let mut schema = openapi.clone();
    let Some(fields) = schema.as_object_mut() else { return json!({ "type": "object" }) };
    let mut properties = Map::new();
    properties.insert("apiVersion".into(), json!({ "type": "string", "description": API_VERSION }));
    properties.insert("kind".into(), json!({ "type": "string", "description": KIND }));
    let metadata = json!({
        "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        "allOf": [{ "$ref": format!("{PLACE}{META}.ObjectMeta") }],
    });
    properties.insert("metadata".into(), metadata);
    if let Some(own) = fields.get("properties").and_then(Value::as_object) {
        for (name, schema) in own {
            properties.entry(name.clone()).or_insert_with(|| schema.clone());
        }
    }
    fields.insert("properties".into(), properties.into());
    fields.insert("x-kubernetes-group-version-kind".into(), json!([named(row, &row.kind)]));
    schema
}

fn named(row: &Kind, kind: &str) -> Value {
    json!({ "group": row.group, "version": row.version, "kind": kind })
}

fn list(row: &Kind, name: &str) -> Value {
    let plural = &row.plural;
    json!({
        "description": format!("{} is a list of {}", row.list_kind, row.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": API_VERSION },
            "items": {
                "description": format!("List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"),
                "type": "array",
                "items": { "allOf": [{ "$ref": format!("{PLACE}{name}") }] },
            },
            "kind": { "type": "string", "description": KIND },
            "metadata": {
                "description": "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
                "allOf": [{ "$ref": format!("{PLACE}{META}.ListMeta") }],
            },
        },
        "x-kubernetes-group-version-kind": [named(row, &row.list_kind)],
    })
}
