//! Printer columns, subresources and selectable fields: what a version says with JSON paths.

use api_types::status::FieldError;
use serde_json::Value;

use super::{Errors, items, text};

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const SELECTABLE_MAX: usize = 8;

pub(super) fn all(columns: &Value, path: &str, errors: &mut Errors) {
    for (i, column) in items(columns).iter().enumerate() {
        column_at(column, &format!("{path}[{i}]"), errors);
    }
}

fn column_at(column: &Value, path: &str, errors: &mut Errors) {
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let one_of = |known: &[&str]| format!("must be one of {}", known.join(","));
    match text(column, "type") {
        "" => errors.push(FieldError::required(format!("{path}.type"), one_of(COLUMN_TYPES))),
        ty if !COLUMN_TYPES.contains(&ty) => {
            errors.push(FieldError::invalid(format!("{path}.type"), ty, one_of(COLUMN_TYPES)));
        }
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.push(FieldError::invalid(format!("{path}.format"), format, one_of(COLUMN_FORMATS)));
    }
    match text(column, "jsonPath") {
        "" => errors.push(FieldError::required(format!("{path}.JSONPath"), "")),
        json_path => drop(simple_path(json_path, &format!("{path}.JSONPath"), errors)),
    }
}

/// Whether a path is in the simple notation.
fn simple_path(json_path: &str, path: &str, errors: &mut Errors) -> bool {
    if json_path.starts_with('.') {
        return true;
    }
    errors.push(FieldError::invalid(path, json_path, "must be a simple json path starting with ."));
    false
}

pub(super) fn subresources(subresources: &Value, path: &str, errors: &mut Errors) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    for (field, below) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let path = format!("{path}.scale.{field}");
        match text(scale, field) {
            "" => errors.push(FieldError::required(path, "")),
            given if !simple_path(given, &path, errors) => {}
            given if !given.starts_with(&format!("{below}.")) => {
                errors.push(FieldError::invalid(path, given, format!("should be a json path under {below}")));
            }
            _ => {}
        }
    }
    let path = format!("{path}.scale.labelSelectorPath");
    let given = text(scale, "labelSelectorPath");
    if !given.is_empty()
        && simple_path(given, &path, errors)
        && !given.starts_with(".spec.")
        && !given.starts_with(".status.")
    {
        errors.push(FieldError::invalid(path, given, "should be a json path under either .spec or .status"));
    }
}

pub(super) fn selectable(version: &Value, path: &str, errors: &mut Errors) {
    let fields = items(&version["selectableFields"]);
    if fields.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(path, fields.len(), SELECTABLE_MAX));
    }
    let mut seen = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let path = format!("{path}[{i}].jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        if let Err(why) = selectable_path(given, schema) {
            errors.push(FieldError::invalid(path.as_str(), given, why));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(path, given));
        }
        seen.push(given);
    }
}

fn selectable_path(given: &str, schema: &Value) -> Result<(), String> {
    let Some(names) = given.strip_prefix('.') else {
        return Err("is an invalid path: must be a simple json path starting with .".to_owned());
    };
    if names.contains('[') {
        return Err("is an invalid path: does not refer to a valid field".to_owned());
    }
    let names: Vec<&str> = names.split('.').collect();
    if names.first() == Some(&"metadata") {
        return Err("must not point to fields in metadata".to_owned());
    }
    let found = names.iter().try_fold(schema, |s, name| s["properties"].get(*name));
    let Some(found) = found else {
        return Err("is an invalid path: does not refer to a valid field".to_owned());
    };
    match found["type"].as_str() {
        Some("string" | "boolean" | "integer") => Ok(()),
        _ => Err("must point to a field of type string, boolean or integer. \
                  Enum string fields and strings with formats are allowed."
            .to_owned()),
    }
}
