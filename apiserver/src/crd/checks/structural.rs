//! Structural schemas: every field has its type said outside of junctors, and junctors say nothing but rules
//! about values of fields that are there.

use api_types::schema::values;
use api_types::status::FieldError;
use serde_json::{Value, json};

use super::{Errors, items, text};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All that keeps a schema from being structural, sorted.
pub(super) fn check(schema: &Value, path: &str) -> Errors {
    let mut errors = Errors::new();
    invariants(schema, Level::Root, path, &mut errors);
    complete(schema, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn is(schema: &Value, field: &str) -> bool {
    schema[field] == true
}

fn object<'a>(schema: &'a Value, field: &str) -> Option<&'a Value> {
    schema.get(field).filter(|s| s.is_object())
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn invariants(schema: &Value, level: Level, path: &str, errors: &mut Errors) {
    let items_below = object(schema, "items");
    if text(schema, "type") == "array" && items_below.is_none() {
        errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    if let Some(below) = items_below {
        invariants(below, Level::Item, &format!("{path}.items"), errors);
    }
    for (name, below) in properties(schema) {
        invariants(below, Level::Field, &format!("{path}.properties[{name}]"), errors);
    }
    let additional = schema.get("additionalProperties").filter(|a| !a.is_null());
    if additional.is_some() && level == Level::Root {
        let why = "must not be used at the root";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    if let Some(below) = additional.filter(|a| a.is_object()) {
        invariants(below, Level::Field, &format!("{path}.additionalProperties"), errors);
    }
    extensions(schema, path, errors);
    let int_or_string = is_int_or_string(schema);
    let first_all_of = items(&schema["allOf"]).first().is_some_and(is_int_or_string);
    value_rules(schema, int_or_string, first_all_of, path, errors);
    type_is_said(schema, level, path, errors);
    objects(schema, level, path, errors);
}

fn extensions(schema: &Value, path: &str, errors: &mut Errors) {
    if !is(schema, "x-kubernetes-int-or-string") {
        return;
    }
    for field in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if is(schema, field) {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(format!("{path}.{field}"), true, why));
        }
    }
}

fn type_is_said(schema: &Value, level: Level, path: &str, errors: &mut Errors) {
    let path = format!("{path}.type");
    let ty = text(schema, "type");
    let free = is(schema, "x-kubernetes-int-or-string") || is(schema, "x-kubernetes-preserve-unknown-fields");
    if is(schema, "x-kubernetes-embedded-resource") && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match ty {
            "" => FieldError::required(path.as_str(), why),
            ty => FieldError::invalid(path.as_str(), ty, why),
        });
    } else if ty.is_empty() && !free {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(path.as_str(), why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(path, ty, "must be object at the root"));
    }
}

/// The fields that every object of the API has are what they are.
fn objects(schema: &Value, level: Level, path: &str, errors: &mut Errors) {
    let embedded = is(schema, "x-kubernetes-embedded-resource");
    let is_object = level == Level::Root || embedded;
    if embedded && !schema["additionalProperties"].is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    for name in ["kind", "apiVersion"] {
        if let Some(below) =
            schema["properties"].get(name).filter(|b| is_object && text(b, "type") != "string")
        {
            let path = format!("{path}.properties[{name}].type");
            errors.push(FieldError::invalid(path, text(below, "type"), "must be string"));
        }
    }
    if let Some(metadata) = schema["properties"].get("metadata") {
        let path = format!("{path}.properties[metadata]");
        if is_object && text(metadata, "type") != "object" {
            errors.push(FieldError::invalid(
                format!("{path}.type"),
                text(metadata, "type"),
                "must be object",
            ));
        }
        if level == Level::Root && says_more_than_names(metadata) {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(path, why));
        }
    }
    let bare = schema["properties"].as_object().is_none_or(serde_json::Map::is_empty);
    if embedded && bare && !is(schema, "x-kubernetes-preserve-unknown-fields") {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), why));
    }
}

fn says_more_than_names(metadata: &Value) -> bool {
    let fields = metadata.as_object().into_iter().flatten();
    let other = fields.filter(|(key, _)| !matches!(key.as_str(), "type" | "default" | "properties"));
    other.count() > 0
        || properties(metadata).any(|(name, _)| !matches!(name.as_str(), "name" | "generateName"))
}

fn is_int_or_string(schema: &Value) -> bool {
    schema["anyOf"] == json!([{"type": "integer"}, {"type": "string"}])
}

const JUNCTORS: &[&str] = &["anyOf", "allOf", "oneOf"];

fn value_rules(schema: &Value, skip_any: bool, skip_first_all: bool, path: &str, errors: &mut Errors) {
    for junctor in JUNCTORS {
        if *junctor == "anyOf" && skip_any {
            continue;
        }
        for (i, below) in items(&schema[*junctor]).iter().enumerate() {
            let skip = *junctor == "allOf" && i == 0 && skip_first_all;
            nested(below, skip, &format!("{path}.{junctor}[{i}]"), errors);
        }
    }
    if let Some(below) = object(schema, "not") {
        nested(below, false, &format!("{path}.not"), errors);
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(error) = values::check_pattern(pattern)
    {
        errors.push(FieldError::invalid(format!("{path}.pattern"), pattern, error.to_string()));
    }
}

/// What a schema within a junctor may not say, and how Kubernetes puts it.
const FORBIDDEN: &[(&str, &str)] = &[
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(schema: &Value, skip_any: bool, path: &str, errors: &mut Errors) {
    value_rules(schema, skip_any, false, path, errors);
    if let Some(below) = object(schema, "items") {
        nested(below, false, &format!("{path}.items"), errors);
    }
    for (name, below) in properties(schema) {
        nested(below, false, &format!("{path}.properties[{name}]"), errors);
    }
    for (field, why) in FORBIDDEN {
        if schema.get(*field).is_some_and(|v| !v.is_null() && *v != false && *v != "" && *v != json!([])) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), *why));
        }
    }
    if schema["properties"].get("metadata").is_some() {
        let path = format!("{path}.properties[metadata]");
        errors.push(FieldError::forbidden(path, "must not be specified in a nested context"));
    }
}

/// Junctors speak only of fields that the schema itself has.
fn complete(schema: &Value, path: &str, errors: &mut Errors) {
    values_complete(schema, Some(schema), path, path, errors);
    if let Some(below) = object(schema, "items") {
        complete(below, &format!("{path}.items"), errors);
    }
    for (name, below) in properties(schema) {
        complete(below, &format!("{path}.properties[{name}]"), errors);
    }
    if let Some(below) = object(schema, "additionalProperties") {
        complete(below, &format!("{path}.additionalProperties"), errors);
    }
}

fn values_complete(rules: &Value, schema: Option<&Value>, path: &str, said: &str, errors: &mut Errors) {
    for junctor in JUNCTORS {
        for (i, below) in items(&rules[*junctor]).iter().enumerate() {
            nested_complete(below, schema, path, &format!("{said}.{junctor}[{i}]"), errors);
        }
    }
    if let Some(below) = object(rules, "not") {
        nested_complete(below, schema, path, &format!("{said}.not"), errors);
    }
}

fn nested_complete(rules: &Value, schema: Option<&Value>, path: &str, said: &str, errors: &mut Errors) {
    let Some(schema) = schema else {
        return errors.push(FieldError::required(path, format!("because it is defined in {said}")));
    };
    values_complete(rules, Some(schema), path, said, errors);
    if let Some(below) = object(rules, "items") {
        let (path, said) = (format!("{path}.items"), format!("{said}.items"));
        nested_complete(below, object(schema, "items"), &path, &said, errors);
    }
    for (name, below) in properties(rules) {
        let (path, said) = (format!("{path}.properties[{name}]"), format!("{said}.properties[{name}]"));
        nested_complete(below, schema["properties"].get(name), &path, &said, errors);
    }
}
