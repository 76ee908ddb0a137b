//! When values are equal, and which of two comes first.

use std::cmp::Ordering;

use super::super::value::{Key, List, Map, Opaque, Value};
use crate::schema::{ListType, Schema};

/// Equality across all types: numbers by their value, values of different types never.
pub(in super::super) fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    if let Some(order) = numeric(a, b) {
        return order == Some(Ordering::Equal);
    }
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::List(a), Value::List(b)) => lists(a, b),
        (Value::Map(a), Value::Map(b)) => maps(a, b),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::Opaque(a), Value::Opaque(b)) => opaques(a, b),
        _ => false,
    }
}

fn opaques(a: &Opaque<'_>, b: &Opaque<'_>) -> bool {
    match (a, b) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => a == b,
        (Opaque::Url(a), Opaque::Url(b)) => a.text == b.text,
        (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
        (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
        (Opaque::Semver(a), Opaque::Semver(b)) => a.order(b) == Ordering::Equal,
        (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
        _ => false,
    }
}

fn lists(a: &List<'_>, b: &List<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.schema.or(b.schema).map(|s| &s.list) {
        Some(ListType::Set) => a.iter().all(|x| b.iter().any(|y| equal(&x, &y))),
        Some(ListType::Map(keys)) => {
            a.iter().all(|x| b.iter().any(|y| same_keys(&x, &y, keys) && equal(&x, &y)))
        }
        _ => a.iter().zip(b.iter()).all(|(x, y)| equal(&x, &y)),
    }
}

/// Whether two items of a list that is a map are the same entry.
fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> bool {
    let field = |value: &Value<'_>, key: &String| match value {
        Value::Map(map) => map.get(&Key::String(key.as_str().into())).and_then(|v| Key::of(&v)),
        _ => None,
    };
    keys.iter().all(|key| field(a, key) == field(b, key))
}

fn maps(a: &Map<'_>, b: &Map<'_>) -> bool {
    let same = |key: &Value<'_>| {
        let Some(key) = Key::of(key) else { return false };
        match (a.get(&key), b.get(&key)) {
            (Some(x), Some(y)) => equal(&x, &y),
            _ => false,
        }
    };
    a.len() == b.len() && a.keys().iter().all(same)
}

/// `a + b` of lists: sets unite, maps take `b`'s entries in place of their own, others are joined.
pub(in super::super) fn join<'a>(a: &List<'a>, b: &List<'a>) -> Vec<Value<'a>> {
    let mut all: Vec<Value<'a>> = a.iter().collect();
    let schema: Option<&Schema> = a.schema.or(b.schema);
    match schema.map(|s| &s.list) {
        Some(ListType::Set) => {
            for item in b.iter() {
                if !all.iter().any(|x| equal(x, &item)) {
                    all.push(item);
                }
            }
        }
        Some(ListType::Map(keys)) => {
            for item in b.iter() {
                match all.iter().position(|x| same_keys(x, &item, keys)) {
                    Some(at) => all[at] = item,
                    None => all.push(item),
                }
            }
        }
        _ => all.extend(b.iter()),
    }
    all
}

/// Whether a list has the item.
pub(in super::super) fn contains(list: &List<'_>, item: &Value<'_>) -> bool {
    list.iter().any(|x| equal(&x, item))
}

/// The order of two numbers of any type; the inner is none for NaN, the outer if they are not both numbers.
fn numeric(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(i) => Some(i128::from(*i)),
        Value::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    let real = |value: &Value<'_>| match value {
        Value::Double(d) => Some(*d),
        other => whole(other).map(|w| w as f64),
    };
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return Some(Some(a.cmp(&b)));
    }
    Some(real(a)?.partial_cmp(&real(b)?))
}

/// Which of two values comes first; none if they have no order.
pub(in super::super) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    if let Some(order) = numeric(a, b) {
        return order;
    }
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some((**a).cmp(&**b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        _ => None,
    }
}
