//! Values that may be absent.

use super::super::error::EvalError;
use super::super::value::Value;
use super::operators::lookup;
use super::{ONE, Outcome, Row, bool, global, member};

pub(super) static ROWS: &[Row] = &[
    global("optional.none", "", "optional(A)", ONE, |_| Ok(Value::none())),
    global("optional.of", "A", "optional(A)", ONE, |mut a| Ok(Value::some(a.remove(0)))),
    global("optional.ofNonZeroValue", "A", "optional(A)", ONE, |mut a| {
        let value = a.remove(0);
        Ok(if is_zero(&value) { Value::none() } else { Value::some(value) })
    }),
    member("hasValue", "optional(A)", "bool", ONE, |a| bool(matches!(a[0], Value::Optional(Some(_))))),
    member("value", "optional(A)", "A", ONE, |a| match &a[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        _ => Err(EvalError::failed("optional.none() dereference")),
    }),
    member("or", "optional(A), optional(A)", "optional(A)", ONE, |mut a| {
        let is_some = matches!(a[0], Value::Optional(Some(_)));
        Ok(a.swap_remove(usize::from(!is_some)))
    }),
    member("orValue", "optional(A), A", "A", ONE, |mut a| match &a[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        _ => Ok(a.swap_remove(1)),
    }),
    global("_[?_]", "list(A), int", "optional(A)", ONE, index),
    global("_[?_]", "map(A, B), A", "optional(B)", ONE, index),
    global("_[?_]", "optional(list(A)), int", "optional(A)", ONE, index),
    global("_[?_]", "optional(map(A, B)), A", "optional(B)", ONE, index),
    global("_[_]", "optional(list(A)), int", "optional(A)", ONE, index),
    global("_[_]", "optional(map(A, B)), A", "optional(B)", ONE, index),
];

fn index(a: Vec<Value<'_>>) -> Outcome<'_> {
    let found = match &a[0] {
        Value::Optional(None) => None,
        Value::Optional(Some(whole)) => lookup(whole, &a[1])?,
        whole => lookup(whole, &a[1])?,
    };
    Ok(found.map_or_else(Value::none, Value::some))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::Duration(d) => d.is_zero(),
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        Value::Optional(inner) => inner.is_none(),
        _ => false,
    }
}
