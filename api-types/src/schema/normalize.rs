//! The form in which objects are kept: what reading into Kubernetes' types and writing out again makes of them.

use super::{Schema, Type};
use crate::quantity::Quantity;
use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

pub(super) fn prune(schema: &Schema, value: &mut Value) {
    match (schema.ty, value) {
        (Type::Object, Value::Object(fields)) => {
            fields.retain(|key, _| schema.preserve_unknown || schema.properties.contains_key(key));
            for (key, value) in fields {
                schema.properties.get(key).into_iter().for_each(|s| prune(s, value));
            }
        }
        (Type::Map, Value::Object(entries)) => {
            entries.values_mut().for_each(|v| schema.items.iter().for_each(|s| prune(s, v)));
        }
        (Type::List, Value::Array(items)) => {
            items.iter_mut().for_each(|v| schema.items.iter().for_each(|s| prune(s, v)));
        }
        _ => {}
    }
}

/// Brings a custom object into the form in which Kubernetes keeps it: unknown fields dropped, defaults filled
/// in, nulls gone from fields that may not be null, whole numbers written as such.
pub(super) fn conform(schema: &Schema, object: &mut Value) {
    prune(schema, object);
    super::defaults::fill(schema, object);
    drop_nulls(schema, object);
    tidy(schema, object);
    whole_numbers(object);
}

fn drop_nulls(schema: &Schema, value: &mut Value) {
    match (schema.ty, value) {
        (Type::Object, Value::Object(fields)) => {
            fields.retain(|key, value| {
                let Some(child) = schema.properties.get(key).filter(|c| !c.builtin) else { return true };
                drop_nulls(child, value);
                // What may be anything may be null.
                !value.is_null() || child.nullable || child.ty == Type::Any
            });
        }
        (Type::Map, Value::Object(entries)) => {
            entries.values_mut().for_each(|v| schema.items.iter().for_each(|s| drop_nulls(s, v)));
        }
        (Type::List, Value::Array(items)) => {
            items.iter_mut().for_each(|v| schema.items.iter().for_each(|s| drop_nulls(s, v)));
        }
        _ => {}
    }
}

/// Go writes a float without a fraction as a whole number.
fn whole_numbers(value: &mut Value) {
    const EXACT_MAX: f64 = 9.0e18;
    match value {
        Value::Number(n) => {
            let whole = n.as_f64().filter(|f| n.is_f64() && f.fract() == 0.0 && f.abs() < EXACT_MAX);
            if let Some(whole) = whole {
                #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
                let whole = whole as i64;
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

pub(super) fn normalize(schema: &Schema, object: &mut Value) {
    prune(schema, object);
    tidy(schema, object);
}

fn tidy(schema: &Schema, value: &mut Value) {
    match (schema.ty, value) {
        (Type::Object, Value::Object(fields)) => {
            fields.retain(|key, value| match schema.properties.get(key) {
                Some(child) if child.builtin => {
                    !is_nothing(child, value)
                        || schema.written.contains(key)
                        || (is_zero(value) && schema.required.contains(key))
                }
                _ => true,
            });
            for name in schema.written.iter() {
                fields.entry(name.as_str()).or_insert(Value::Null);
            }
            for (key, value) in fields {
                schema.properties.get(key).into_iter().for_each(|s| tidy(s, value));
            }
        }
        (Type::Map, Value::Object(entries)) => {
            for value in entries.values_mut() {
                let Some(below) = schema.items.as_deref() else { continue };
                if value.is_null() && below.builtin && below.ty == Type::String {
                    *value = Value::String(String::new());
                }
                tidy(below, value);
            }
        }
        (Type::List, Value::Array(items)) => {
            items.iter_mut().for_each(|v| schema.items.iter().for_each(|s| tidy(s, v)));
        }
        (Type::Quantity, value) => tidy_quantity(value),
        (Type::String, Value::String(text)) if schema.builtin && &*schema.format == "date-time" => {
            tidy_time(text, schema.definition.ends_with("MicroTime"));
        }
        _ => {}
    }
}

pub(super) fn settle(schema: &Schema, value: &mut Value) {
    match (schema.ty, value) {
        (Type::Object, Value::Object(fields)) => {
            for (key, value) in fields {
                let Some(child) = schema.properties.get(key) else { continue };
                if schema.written.contains(key) && is_nothing(child, value) {
                    *value = Value::Null;
                }
                settle(child, value);
            }
        }
        (Type::Map, Value::Object(entries)) => {
            entries.values_mut().for_each(|v| schema.items.iter().for_each(|s| settle(s, v)));
        }
        (Type::List, Value::Array(items)) => {
            items.iter_mut().for_each(|v| schema.items.iter().for_each(|s| settle(s, v)));
        }
        _ => {}
    }
}

/// What Go's `omitempty` leaves out.
fn is_nothing(schema: &Schema, value: &Value) -> bool {
    match (schema.ty, value) {
        (_, Value::Null) => true,
        (Type::Map, Value::Object(entries)) => entries.is_empty(),
        (Type::List, Value::Array(items)) => items.is_empty(),
        (Type::String | Type::Integer | Type::Number | Type::Boolean, value) => {
            is_zero(value) && !schema.pointer && schema.default.is_none()
        }
        _ => false,
    }
}

/// A scalar that Go does not tell from one that nobody set, unless the field is a pointer.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(said) => !said,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Times are of Greenwich and as exact as their type.
fn tidy_time(text: &mut String, is_micro: bool) {
    let (length, precision) = if is_micro { (27, SecondsFormat::Micros) } else { (20, SecondsFormat::Secs) };
    if text.len() == length && text.ends_with('Z') {
        return;
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        *text = time.to_utc().to_rfc3339_opts(precision, true);
    }
}

fn tidy_quantity(value: &mut Value) {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(n) => n.to_string(),
        _ => return,
    };
    if let Ok(quantity) = Quantity::parse(&text) {
        *value = Value::String(quantity.to_string());
    }
}
