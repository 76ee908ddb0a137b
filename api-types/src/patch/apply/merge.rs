//! Joins an applied configuration with the live object, and takes fields out of an object.

use super::compare::item_element;
use super::field_set::FieldSet;
use crate::schema::{ListType, Schema, Type};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Says what is wrong with an applied configuration: types, unknown fields, items without identity or twice.
pub(super) fn check(schema: &Schema, value: &Value) -> Result<(), String> {
    let found = schema.check(value);
    if let Some(unknown) = found.unknown().next() {
        return Err(format!(".{unknown}: field not declared in schema"));
    }
    if let Some(wrong) = found.type_errors.first() {
        return Err(format!(".{}: {wrong}", wrong.path));
    }
    check_items(schema, value, "")
}

fn check_items(schema: &Schema, value: &Value, path: &str) -> Result<(), String> {
    match (schema.ty, value) {
        (Type::Object | Type::Map, Value::Object(fields)) => fields.iter().try_for_each(|(key, value)| {
            schema.child(key).map_or(Ok(()), |child| check_items(child, value, &format!("{path}.{key}")))
        }),
        (Type::List, Value::Array(items)) if schema.list != ListType::Atomic => {
            let mut seen = HashSet::new();
            for (i, item) in items.iter().enumerate() {
                let element = item_element(schema, item, i).map_err(|why| format!("{path}: {why}"))?;
                let place = super::field_set::show(&element);
                if !seen.insert(element) {
                    return Err(format!("{path}: duplicate entries for key {place}"));
                }
                schema.item().map_or(Ok(()), |s| check_items(s, item, &format!("{path}{place}")))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What `live` becomes with `config` on top.
pub(super) fn merge(schema: &Schema, live: Option<&Value>, config: &Value) -> Value {
    match (schema.is_leaf_as(config), live, config) {
        (false, Some(Value::Object(live)), Value::Object(config)) => {
            Value::Object(merge_fields(schema, live, config))
        }
        (false, None | Some(Value::Null), Value::Object(config)) => {
            Value::Object(merge_fields(schema, &Map::new(), config))
        }
        (false, Some(Value::Array(live)), Value::Array(config)) => {
            Value::Array(merge_items(schema, live, config))
        }
        (false, Some(live @ (Value::Object(_) | Value::Array(_))), Value::Null) => live.clone(),
        _ => config.clone(),
    }
}

fn merge_fields(
    schema: &Schema,
    live: &Map<String, Value>,
    config: &Map<String, Value>,
) -> Map<String, Value> {
    let open = Schema::default();
    let mut out = live.clone();
    for (key, value) in config {
        let merged = merge(schema.child(key).unwrap_or(&open), live.get(key), value);
        out.insert(key.clone(), merged);
    }
    out
}

/// Items that only one side has stay in its order; where both have items, the configuration's order wins.
fn merge_items(schema: &Schema, live: &[Value], config: &[Value]) -> Vec<Value> {
    let open = Schema::default();
    let item = schema.item().unwrap_or(&open);
    let elements = |items: &[Value]| -> Vec<String> {
        let element = |(i, v)| item_element(schema, v, i).unwrap_or_else(|_| format!("i:{i}"));
        items.iter().enumerate().map(element).collect()
    };
    let (left, right) = (elements(live), elements(config));
    let in_live = |e: &String| left.iter().position(|l| l == e).map(|i| &live[i]);
    let mut shared = right.iter().filter(|e| left.contains(e)).peekable();
    let (mut l, mut r, mut out, mut merged) = (0, 0, Vec::new(), HashSet::new());
    while l < left.len() || r < right.len() {
        let at_left = left.get(l);
        let known = at_left.is_some_and(|e| right.contains(e));
        match (at_left, right.get(r)) {
            (Some(e), Some(f)) if e == f => {
                merged.insert(f);
                out.push(merge(item, Some(&live[l]), &config[r]));
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            // The configuration wants another of the shared items first.
            (Some(e), Some(_)) if known && shared.peek().is_some_and(|next| *next != e) => {
                l += 1;
                continue;
            }
            (Some(_), _) if !known => {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            (Some(e), _) if merged.contains(e) => l += 1,
            _ => {}
        }
        if let Some(element) = right.get(r) {
            merged.insert(element);
            out.push(merge(item, in_live(element), &config[r]));
            r += 1;
            shared.next_if(|next| *next == element);
        }
    }
    out
}

/// Takes the fields of `set` out of `value`; none is left of what is emptied by it.
pub(super) fn remove(schema: &Schema, value: Value, set: &FieldSet) -> Option<Value> {
    if schema.is_leaf_as(&value) || set.below.is_empty() {
        return Some(value);
    }
    let open = Schema::default();
    match value {
        Value::Object(fields) => {
            let was_empty = fields.is_empty();
            let keep = fields.into_iter().filter_map(|(key, value)| {
                let kept = match set.below.get(&format!("f:{key}")) {
                    Some(below) if below.member => None,
                    Some(below) => remove(schema.child(&key).unwrap_or(&open), value, below),
                    None => Some(value),
                };
                Some((key, kept?))
            });
            let kept: Map<String, Value> = keep.collect();
            (was_empty || !kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let was_empty = items.is_empty();
            let keep = items.into_iter().enumerate().filter_map(|(i, item)| {
                let element = item_element(schema, &item, i).unwrap_or_else(|_| format!("i:{i}"));
                match set.below.get(&element) {
                    Some(below) if below.member => None,
                    Some(below) => remove(schema.item().unwrap_or(&open), item, below),
                    None => Some(item),
                }
            });
            let kept: Vec<Value> = keep.collect();
            (was_empty || !kept.is_empty()).then_some(Value::Array(kept))
        }
        scalar => Some(scalar),
    }
}
