//! What a definition of a custom kind holds where its author said nothing, and the form in which Kubernetes'
//! own types write its schemas: what is empty is left out.

use serde_json::{Map, Value, json};

use super::{at, each, put};

const SERVICE_PORT: i64 = 443;

pub(super) fn complete(definition: &mut Value) {
    at(definition, &["spec"], |spec| {
        put(spec, "conversion", json!({ "strategy": "None" }));
        at(spec, &["conversion", "webhook", "clientConfig", "service"], |service| {
            put(service, "port", SERVICE_PORT);
        });
        if let Some(kind) = spec["names"]["kind"].as_str().filter(|k| !k.is_empty()).map(str::to_owned) {
            at(spec, &["names"], |names| {
                put(names, "singular", kind.to_lowercase());
                put(names, "listKind", format!("{kind}List"));
            });
        }
        leave_out(spec, "preserveUnknownFields");
        each(spec, "versions", version);
    });
}

fn version(version: &mut Value) {
    put(version, "served", false);
    put(version, "storage", false);
    leave_out(version, "deprecated");
    each(version, "additionalPrinterColumns", |column| {
        if column["priority"] == 0 {
            column.as_object_mut().into_iter().for_each(|c| drop(c.shift_remove("priority")));
        }
    });
    at(version, &["schema", "openAPIV3Schema"], tidy);
}

fn leave_out(object: &mut Value, field: &str) {
    if object[field] == false
        && let Some(fields) = object.as_object_mut()
    {
        fields.shift_remove(field);
    }
}

/// What a schema may say; anything else is not kept.
const KNOWN: &[&str] = &[
    "id",
    "$schema",
    "$ref",
    "description",
    "type",
    "format",
    "title",
    "default",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "enum",
    "maxProperties",
    "minProperties",
    "required",
    "items",
    "allOf",
    "oneOf",
    "anyOf",
    "not",
    "properties",
    "additionalProperties",
    "patternProperties",
    "dependencies",
    "additionalItems",
    "definitions",
    "externalDocs",
    "example",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

/// Written even when empty or false, because absence means something else.
const KEPT: &[&str] =
    &["default", "example", "additionalProperties", "items", "not", "x-kubernetes-preserve-unknown-fields"];

fn tidy(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    fields.retain(|key, value| {
        let empty = match value {
            Value::Null => key != "default",
            Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        let kept = KEPT.contains(&key.as_str()) && !value.is_null();
        KNOWN.contains(&key.as_str()) && (!empty || kept)
    });
    tidy_below(fields);
}

fn tidy_below(fields: &mut Map<String, Value>) {
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("items" | "not" | "additionalProperties" | "additionalItems", one @ Value::Object(_)) => {
                tidy(one)
            }
            ("items" | "allOf" | "oneOf" | "anyOf", Value::Array(all)) => all.iter_mut().for_each(tidy),
            ("properties" | "patternProperties" | "definitions", Value::Object(all)) => {
                all.values_mut().for_each(tidy);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_conversion_are_filled_in_and_schemas_tidied() {
        let mut definition = json!({"spec": {
            "names": {"plural": "lamps", "kind": "Lamp"}, "preserveUnknownFields": false,
            "versions": [{"name": "v1", "storage": true, "deprecated": false, "schema": {"openAPIV3Schema": {
                "type": "object", "required": [], "odd": 1, "properties": {"a": {"type": "array", "uniqueItems": false, "nullable": true, "default": [], "items": {"description": "", "type": "string"}}},
            }}}],
        }});
        complete(&mut definition);
        assert_eq!(
            definition,
            json!({"spec": {
                "names": {"plural": "lamps", "kind": "Lamp", "singular": "lamp", "listKind": "LampList"},
                "versions": [{"name": "v1", "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"a": {"type": "array", "nullable": true, "default": [], "items": {"type": "string"}}},
                }}, "served": false}],
                "conversion": {"strategy": "None"},
            }})
        );
    }
}
