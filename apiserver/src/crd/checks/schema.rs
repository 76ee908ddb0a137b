//! What may stand where in an `openAPIV3Schema`, and what the `x-kubernetes-` extensions ask for.

use api_types::status::FieldError;
use serde_json::Value;

use super::{Errors, defaults, items, rules, structural, text};

/// Checks the schema of `version`, whose place is `path`.
pub(super) fn check(version: &Value, path: &str, errors: &mut Errors) {
    let schema = &version["schema"]["openAPIV3Schema"];
    if !schema.is_object() {
        return;
    }
    let path = format!("{path}.openAPIV3Schema");
    if version["subresources"]["status"].is_object() {
        root_with_status(schema, &path, errors);
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let unstructured = structural::check(schema, &path);
    let structural = unstructured.is_empty();
    match structural {
        true => errors.extend(defaults::check(schema, &path)),
        false => errors.extend(unstructured),
    }
    rules::check(schema, &path, structural, errors);
    let mut walk = Walk { errors };
    walk.schema(schema, &path, Place { root: true, in_metadata: false, no_default: None });
}

/// With a status subresource, the status' rules are found by its property alone.
fn root_with_status(schema: &Value, path: &str, errors: &mut Errors) {
    const ALLOWED: &[&str] = &[
        "description",
        "type",
        "format",
        "title",
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
        "required",
        "items",
        "properties",
        "externalDocs",
        "example",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    ];
    let ty = text(schema, "type");
    if !ty.is_empty() && ty != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.push(FieldError::invalid(format!("{path}.type"), ty, why));
    }
    if schema.as_object().into_iter().flatten().any(|(key, _)| !ALLOWED.contains(&key.as_str())) {
        let why = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
            MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
            XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status \
            subresource is enabled";
        errors.push(FieldError::invalid(path, schema.clone(), why));
    }
}

#[derive(Clone, Copy)]
struct Place {
    root: bool,
    /// Below `metadata` of an object.
    in_metadata: bool,
    /// Why there may be no default here.
    no_default: Option<&'static str>,
}

struct Walk<'a> {
    errors: &'a mut Errors,
}

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// Parts of JSON schema that are not supported, each said as its own name.
const UNSUPPORTED: &[&str] =
    &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];

impl Walk<'_> {
    fn forbid(&mut self, path: String, why: impl Into<String>) {
        self.errors.push(FieldError::forbidden(path, why));
    }

    fn schema(&mut self, schema: &Value, path: &str, place: Place) {
        self.vocabulary(schema, path, place);
        if schema["uniqueItems"] == true {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbid(format!("{path}.uniqueItems"), why);
        }
        self.additional(schema, path, place);
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            let is_object = place.root || schema["x-kubernetes-embedded-resource"] == true;
            let own = is_object && matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
            let no_default = match name.as_str() {
                "metadata" if own && place.root => Some("in top-level metadata"),
                "kind" if own && place.root => Some("in top-level kind"),
                "apiVersion" if own && place.root => Some("in top-level apiVersion"),
                _ => place.no_default,
            };
            let below_place = Place { root: false, in_metadata: place.in_metadata || own, no_default };
            self.schema(below, &format!("{path}.properties[{name}]"), below_place);
        }
        let below = Place { root: false, ..place };
        if let Some(not) = schema.get("not").filter(|n| n.is_object()) {
            self.schema(not, &format!("{path}.not"), below);
        }
        for junctor in ["allOf", "oneOf", "anyOf"] {
            for (i, one) in items(&schema[junctor]).iter().enumerate() {
                self.schema(one, &format!("{path}.{junctor}[{i}]"), below);
            }
        }
        if let Some(one) = schema.get("items").filter(|i| i.is_object()) {
            self.schema(one, &format!("{path}.items"), below);
        }
        self.extensions(schema, path);
    }

    fn vocabulary(&mut self, schema: &Value, path: &str, place: Place) {
        let ty = text(schema, "type");
        if !ty.is_empty() && !TYPES.contains(&ty) {
            self.errors.push(FieldError::not_supported(format!("{path}.type"), ty, TYPES));
        }
        if let (Some(why), true) = (place.no_default, schema.get("default").is_some()) {
            self.forbid(format!("{path}.default"), format!("must not be set {why}"));
        }
        for part in UNSUPPORTED {
            let is_set = schema.get(*part).is_some_and(|v| !v.is_null() && *v != "");
            if is_set {
                self.forbid(format!("{path}.{part}"), format!("{part} is not supported"));
            }
        }
        if ty == "null" {
            self.forbid(format!("{path}.type"), "type cannot be set to null, use nullable as an alternative");
        }
        if schema["items"].is_array() {
            self.forbid(format!("{path}.items"), "items must be a schema object and not an array");
        }
        if place.in_metadata && schema["x-kubernetes-embedded-resource"] == true {
            let why = "must not be used inside of resource meta";
            self.forbid(format!("{path}.x-kubernetes-embedded-resource"), why);
        }
    }

    fn additional(&mut self, schema: &Value, path: &str, place: Place) {
        let Some(additional) = schema.get("additionalProperties").filter(|a| !a.is_null()) else { return };
        let named = schema["properties"].as_object().is_some_and(|p| !p.is_empty());
        if named && *additional != true {
            let why = "additionalProperties and properties are mutual exclusive";
            self.forbid(format!("{path}.additionalProperties"), why);
        }
        if additional.is_object() {
            let no_default = match place.in_metadata {
                true => Some("inside additionalProperties applying to object metadata"),
                false => place.no_default,
            };
            let below = Place { root: false, no_default, ..place };
            self.schema(additional, &format!("{path}.additionalProperties"), below);
        }
    }

    fn extensions(&mut self, schema: &Value, path: &str) {
        if schema["x-kubernetes-preserve-unknown-fields"] == false {
            let path = format!("{path}.x-kubernetes-preserve-unknown-fields");
            self.errors.push(FieldError::invalid(path, false, "must be true or undefined"));
        }
        self.typed_extension(schema, path, "x-kubernetes-map-type", "object", &["atomic", "granular"]);
        self.typed_extension(schema, path, "x-kubernetes-list-type", "array", &["atomic", "set", "map"]);
        self.set_items(schema, path);
        self.map_keys(schema, path);
        self.key_fields(schema, path);
    }

    fn typed_extension(&mut self, schema: &Value, path: &str, extension: &str, ty: &str, known: &[&str]) {
        let Some(given) = schema.get(extension).and_then(Value::as_str) else { return };
        let actual = text(schema, "type");
        if actual != ty {
            let why = format!("must be {ty} if {extension} is specified");
            let path = format!("{path}.type");
            self.errors.push(match actual {
                "" => FieldError::required(path, why),
                actual => FieldError::invalid(path, actual, why),
            });
        }
        if !known.contains(&given) {
            self.errors.push(FieldError::not_supported(format!("{path}.{extension}"), given, known));
        }
    }

    /// Items of a set are compared as wholes.
    fn set_items(&mut self, schema: &Value, path: &str) {
        if text(schema, "type") != "array" || text(schema, "x-kubernetes-list-type") != "set" {
            return;
        }
        let (item, why) =
            (&schema["items"], "must be atomic as item of a list with x-kubernetes-list-type=set");
        let extension = match text(item, "type") {
            "array" if !matches!(text(item, "x-kubernetes-list-type"), "" | "atomic") => {
                "x-kubernetes-list-type"
            }
            "object" if text(item, "x-kubernetes-map-type") != "atomic" => "x-kubernetes-map-type",
            _ => return,
        };
        let given = item["x-kubernetes-list-type"].clone();
        self.errors.push(FieldError::invalid(format!("{path}.items.{extension}"), given, why));
    }

    fn map_keys(&mut self, schema: &Value, path: &str) {
        let list_type = schema["x-kubernetes-list-type"].as_str();
        let list = &schema["x-kubernetes-list-map-keys"];
        let keys: Vec<&str> = items(list).iter().filter_map(Value::as_str).collect();
        if !keys.is_empty() && list_type != Some("map") {
            let path = format!("{path}.x-kubernetes-list-type");
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            self.errors.push(match list_type {
                None => FieldError::required(path, why),
                Some(other) => FieldError::invalid(path, other, why),
            });
        }
        if list_type != Some("map") {
            return;
        }
        let keys_path = format!("{path}.x-kubernetes-list-map-keys");
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.errors.push(FieldError::required(keys_path.as_str(), why));
        }
        let Some(item) = schema.get("items").filter(|i| i.is_object()) else {
            let why = "must have a schema if x-kubernetes-list-type is map";
            return self.errors.push(FieldError::required(format!("{path}.items"), why));
        };
        if text(item, "type") != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            let path = format!("{path}.items.type");
            return self.errors.push(FieldError::invalid(path, text(item, "type"), why));
        }
        for (i, key) in keys.iter().enumerate() {
            match item["properties"].get(*key) {
                Some(field) if matches!(text(field, "type"), "array" | "object") => {
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let path = format!("{path}.items.properties[{key}].type");
                    self.errors.push(FieldError::invalid(path, text(item, "type"), why));
                }
                Some(_) => {}
                None => {
                    let why = "entries must all be names of item properties";
                    self.errors.push(FieldError::invalid(keys_path.as_str(), list.clone(), why));
                }
            }
            if keys[..i].contains(key) {
                let why = "must not contain duplicate entries";
                self.errors.push(FieldError::invalid(keys_path.as_str(), list.clone(), why));
            }
        }
    }

    /// Items of sets and maps can always be told apart.
    fn key_fields(&mut self, schema: &Value, path: &str) {
        let list_type = text(schema, "x-kubernetes-list-type");
        let item = &schema["items"];
        if !matches!(list_type, "set" | "map") || !item.is_object() {
            return;
        }
        if item["nullable"] == true {
            let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
            self.forbid(format!("{path}.items.nullable"), why);
        }
        if list_type != "map" {
            return;
        }
        for key in items(&schema["x-kubernetes-list-map-keys"]).iter().filter_map(Value::as_str) {
            let Some(field) = item["properties"].get(key) else { continue };
            let path = format!("{path}.items.properties[{key}]");
            let required = items(&item["required"]).iter().any(|r| r == key);
            if !required && field.get("default").is_none() {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.errors.push(FieldError::required(format!("{path}.default"), why));
            }
            if field["nullable"] == true {
                let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                self.forbid(format!("{path}.nullable"), why);
            }
        }
    }
}
