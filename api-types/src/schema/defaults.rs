//! What a built-in object holds where its author said nothing, as Kubernetes' own defaulting has it.
//!
//! Constants of single fields stand in the overlay. Here is what depends on the kind or on other fields: a table
//! of functions, each of which gets a part of an object and completes it. All of them may be run again.

use super::{Schema, Type};
use crate::kinds::Kind;
use serde_json::{Map, Value};

mod definition;
mod extensions;
mod pod;
mod rows;

/// Completes an object of a built-in kind: the schema's constants, then the kind's own rules. An object of the
/// wrong types stays as it is, for the check to find.
pub fn set_defaults(kind: &Kind, schema: &Schema, object: &mut Value) {
    if !object.is_object() || !schema.is_typed(object) {
        return;
    }
    fill(schema, object);
    for (group, name, rule) in rows::ROWS {
        if (*group, *name) == (kind.group.as_str(), kind.kind.as_str()) {
            rule(object);
        }
    }
    // Rules make parts that have constants of their own.
    fill(schema, object);
}

pub(super) fn fill(schema: &Schema, value: &mut Value) {
    match (schema.ty, value) {
        (Type::Object, Value::Object(fields)) => {
            for (name, child) in schema.properties.iter() {
                let Some(default) = &child.default else { continue };
                let is_missing = match fields.get(name) {
                    None => true,
                    Some(Value::Null) => !child.nullable,
                    Some(other) => child.builtin && !child.pointer && super::normalize::is_zero(other),
                };
                if is_missing {
                    fields.insert(name.clone(), (**default).clone());
                }
            }
            for (name, value) in fields {
                schema.properties.get(name).into_iter().for_each(|child| fill(child, value));
            }
        }
        (Type::Map, Value::Object(entries)) => {
            entries.values_mut().for_each(|v| schema.items.iter().for_each(|s| fill_item(s, v)));
        }
        (Type::List, Value::Array(items)) => {
            items.iter_mut().for_each(|v| schema.items.iter().for_each(|s| fill_item(s, v)));
        }
        _ => {}
    }
}

fn fill_item(schema: &Schema, value: &mut Value) {
    if let (Value::Null, Some(default), false) = (&*value, &schema.default, schema.nullable) {
        *value = (**default).clone();
    }
    fill(schema, value);
}

pub(super) fn fill_nulls(schema: &Schema, value: &mut Value) {
    let Value::Object(fields) = value else { return };
    // A required structure that is shared by its fields is absent: Go has a pointer there, and leaves it out.
    let absent = |name: &&String| {
        schema.properties.get(*name).is_some_and(|child| child.ty == Type::Object && !child.atomic)
    };
    let required = schema.required.iter().filter(|name| !absent(name));
    for name in required.chain(schema.written.iter()).filter(|_| schema.builtin) {
        fields.entry(name.clone()).or_insert(Value::Null);
    }
    for (name, value) in fields {
        schema.properties.get(name).into_iter().for_each(|s| fill_nulls(s, value));
    }
}

/// Nothing was said: the field is absent, null or an empty text.
fn is_unset(value: Option<&Value>) -> bool {
    value.is_none_or(|v| v.is_null() || v == "")
}

fn put(object: &mut Value, key: &str, default: impl Into<Value>) {
    if let Value::Object(fields) = object
        && is_unset(fields.get(key))
    {
        fields.insert(key.to_owned(), default.into());
    }
}

/// The object at `key`, made if it is not there. Rules run on objects of the right types only.
fn ensure<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    put(object, key, Map::new());
    &mut object[key]
}

/// Calls `rule` with each item of the list at `key`.
fn each(object: &mut Value, key: &str, rule: impl FnMut(&mut Value)) {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().for_each(rule);
}

/// Calls `rule` with the object at a path, if there is one.
fn at(object: &mut Value, path: &[&str], rule: impl FnOnce(&mut Value)) {
    let place = path.iter().try_fold(object, |v, key| v.get_mut(*key));
    if let Some(place) = place.filter(|v| v.is_object()) {
        rule(place);
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
