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

/// The same as version 2 can say it, and as clients that check objects by it need it: where all fields are
/// kept, nothing is said about fields, since such clients refuse those that they do not find.
pub(super) fn definitions_of_version_2(row: &Kind) -> Vec<(String, Value)> {
    let Some(custom) = &row.custom else { return Vec::new() };
    let name = name(row);
    let mut schema = custom.version().openapi.clone();
    let object = if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        json!({ "type": "object", "x-kubernetes-group-version-kind": [named(row, &row.kind)] })
    } else {
        simplify(&mut schema);
        object(row, &schema)
    };
    vec![(format!("{name}List"), list(row, &name)), (name, object)]
}

/// Leaves out of an author's schema, and of all schemas in it, what version 2 has no words for.
fn simplify(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    for junctor in ["allOf", "anyOf", "oneOf", "not"] {
        fields.shift_remove(junctor);
    }
    let is = |fields: &Map<String, Value>, name: &str| fields.get(name) == Some(&Value::Bool(true));
    let (nullable, open) = (is(fields, "nullable"), is(fields, "x-kubernetes-preserve-unknown-fields"));
    if nullable || open {
        fields.shift_remove("items");
        fields.shift_remove("properties");
    }
    let type_is = |fields: &Map<String, Value>, name: &str| fields.get("type").is_some_and(|it| it == name);
    let untyped_list = type_is(fields, "array") && !fields.contains_key("items");
    if nullable || untyped_list || (open && type_is(fields, "object")) {
        fields.shift_remove("type");
    }
    fields.shift_remove("nullable");
    need_nothing_nullable(fields);
    for (key, value) in fields.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(simplify),
            ("items" | "additionalProperties", below) => simplify(below),
            _ => {}
        }
    }
}

/// A field that may be null may be absent, too, where null cannot be said.
fn need_nothing_nullable(fields: &mut Map<String, Value>) {
    let nullable = |schema: &Value| schema["nullable"] == Value::Bool(true);
    if fields.get("additionalProperties").is_some_and(nullable) {
        fields.shift_remove("required");
    }
    let properties = fields.get("properties").and_then(Value::as_object);
    let free: Vec<String> = properties
        .into_iter()
        .flatten()
        .filter(|(_, it)| nullable(it))
        .map(|(name, _)| name.clone())
        .collect();
    let Some(required) = fields.get_mut("required").and_then(Value::as_array_mut) else { return };
    required.retain(|name| !free.iter().any(|free| name == free));
    if required.is_empty() {
        fields.shift_remove("required");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_says_nothing_about_the_inside_of_what_keeps_all_fields() {
        let mut schema = json!({ "type": "object", "properties": {
            "open": { "type": "object", "description": "d", "properties": { "a": { "type": "string" } },
                "x-kubernetes-preserve-unknown-fields": true },
            "list": { "type": "array", "items": { "type": "object", "nullable": true } },
        } });
        simplify(&mut schema);
        let properties = json!({
            "open": { "description": "d", "x-kubernetes-preserve-unknown-fields": true },
            "list": { "type": "array", "items": {} },
        });
        assert_eq!(schema["properties"], properties);
    }

    #[test]
    fn version_2_has_no_choices_and_needs_nothing_that_may_be_null() {
        let mut schema = json!({ "type": "object", "required": ["a", "b"], "anyOf": [{ "required": ["a"] }],
            "properties": { "a": { "type": "string", "nullable": true },
                "b": { "anyOf": [{ "type": "integer" }, { "type": "string" }], "x-kubernetes-int-or-string": true } } });
        simplify(&mut schema);
        let simple = json!({ "type": "object", "required": ["b"],
            "properties": { "a": {}, "b": { "x-kubernetes-int-or-string": true } } });
        assert_eq!(schema, simple);
    }
}
