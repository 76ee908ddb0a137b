//! Rules that many kinds share, each adding to a list of field errors what it finds.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

pub(super) type Errors = Vec<FieldError>;

/// A text that is present and not empty.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object[field].as_str().filter(|text| !text.is_empty())
}

/// The items of a list; none if it is absent.
pub(super) fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// Each item of the list `object.field` with its path.
pub(super) fn indexed<'a>(
    object: &'a Value,
    path: &str,
    field: &str,
) -> impl Iterator<Item = (String, &'a Value)> {
    let path = join(path, field);
    items(&object[field]).iter().enumerate().map(move |(index, item)| (format!("{path}[{index}]"), item))
}

pub(super) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

pub(super) fn required(object: &Value, path: &str, field: &str, errors: &mut Errors) {
    let is_missing = match &object[field] {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if is_missing {
        errors.push(FieldError::required(join(path, field), ""));
    }
}

/// If given, at least `min`.
pub(super) fn at_least(object: &Value, path: &str, field: &str, min: i64, errors: &mut Errors) {
    if let Some(number) = object[field].as_i64().filter(|number| *number < min) {
        let why = format!("must be greater than or equal to {min}");
        errors.push(FieldError::invalid(join(path, field), number, why));
    }
}

/// If given, not negative.
pub(super) fn not_negative(object: &Value, path: &str, fields: &[&str], errors: &mut Errors) {
    fields.iter().for_each(|field| at_least(object, path, field, 0, errors));
}

/// If given, one of `supported`, which is sorted.
pub(super) fn one_of(object: &Value, path: &str, field: &str, supported: &[&str], errors: &mut Errors) {
    if let Some(value) = object[field].as_str().filter(|value| !supported.contains(value)) {
        errors.push(FieldError::not_supported(join(path, field), value, supported));
    }
}

/// As `one_of`, for fields that Kubernetes reports as invalid instead of unsupported.
pub(super) fn port_number(value: &Value, path: &str, errors: &mut Errors) {
    if let Some(port) = value.as_i64().filter(|port| !(1..=65535).contains(port)) {
        errors.push(FieldError::invalid(path, port, "must be between 1 and 65535, inclusive"));
    }
}

/// A port number or the name of one.
pub(super) fn port_or_name(value: &Value, path: &str, errors: &mut Errors) {
    match value {
        Value::String(name) => invalid_all(names::check_port_name(name), path, name, errors),
        Value::Number(_) => port_number(value, path, errors),
        _ => errors.push(FieldError::required(path, "")),
    }
}

/// One error for each text of `wrong`.
pub(super) fn invalid_all(wrong: Vec<String>, path: &str, value: &str, errors: &mut Errors) {
    errors.extend(wrong.into_iter().map(|why| FieldError::invalid(path, value, why)));
}

/// A domain, a slash and a path; what is wrong with one of them is told of it alone.
pub(super) fn check_domain_path(text: &str, path: &str, errors: &mut Errors) {
    let wrong = names::check_domain_path(text).into_iter();
    errors.extend(wrong.map(|(part, why)| FieldError::invalid(path, part, why)));
}

/// The field must be as it was.
pub(super) fn immutable(new: &Value, old: &Value, path: &str, errors: &mut Errors) {
    let pointer = format!("/{}", path.replace('.', "/"));
    let at = |object: &Value| object.pointer(&pointer).cloned().unwrap_or_default();
    if at(new) != at(old) {
        errors.push(FieldError::immutable(path, at(new)));
    }
}

/// A label selector object (`matchLabels`, `matchExpressions`).
pub(super) fn selector(selector: &Value, path: &str, errors: &mut Errors) {
    super::metadata::check_labels(&join(path, "matchLabels"), &selector["matchLabels"], errors);
    for (path, term) in indexed(selector, path, "matchExpressions") {
        let operator = term["operator"].as_str().unwrap_or_default();
        let has_values = !items(&term["values"]).is_empty();
        match (operator, has_values) {
            ("In" | "NotIn", false) => errors.push(FieldError::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            ("Exists" | "DoesNotExist", true) => errors.push(FieldError::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            _ => errors.push(FieldError::invalid(
                format!("{path}.operator"),
                operator,
                "not a valid selector operator",
            )),
        }
        let key = term["key"].as_str().unwrap_or_default();
        invalid_all(names::check_label_key(key), &format!("{path}.key"), key, errors);
        for (path, value) in indexed(term, &path, "values") {
            let value = value.as_str().unwrap_or_default();
            invalid_all(names::check_label_value(value), &path, value, errors);
        }
    }
}
