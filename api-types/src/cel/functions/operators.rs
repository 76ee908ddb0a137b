//! Operators, conversions and the few functions that the language itself has.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::error::EvalError;
use super::super::value::{Items, Key, List, Map, Text, Value};
use super::equality::{compare, contains, equal, join};
use super::{Arguments, Cost, ONE, Outcome, Row, Run, Size, bool, global, member, text, time};

const SHORTER: Cost = Cost::Shorter;

pub(super) static ROWS: &[Row] = &[
    global("_==_", "A, A", "bool", SHORTER, |a| bool(equal(&a[0], &a[1]))).sized(Size::One),
    global("_!=_", "A, A", "bool", SHORTER, |a| bool(!equal(&a[0], &a[1]))).sized(Size::One),
    global("!_", "bool", "bool", ONE, |a| bool(a[0].as_bool() == Some(false))).sized(Size::One),
    global("-_", "int", "int", ONE, |a| {
        a.int(0)?.checked_neg().map(Value::Int).ok_or_else(|| overflow("integer"))
    }),
    global("-_", "double", "double", ONE, |a| double(&a, |x, _| -x)),
    global("_+_", "int, int", "int", ONE, |a| ints(&a, i64::checked_add)),
    global("_-_", "int, int", "int", ONE, |a| ints(&a, i64::checked_sub)),
    global("_*_", "int, int", "int", ONE, |a| ints(&a, i64::checked_mul)),
    global("_/_", "int, int", "int", ONE, |a| {
        nonzero(&a, "division").and_then(|()| ints(&a, i64::checked_div))
    }),
    global("_%_", "int, int", "int", ONE, |a| {
        nonzero(&a, "modulus").and_then(|()| ints(&a, i64::checked_rem))
    }),
    global("_+_", "uint, uint", "uint", ONE, |a| uints(&a, u64::checked_add)),
    global("_-_", "uint, uint", "uint", ONE, |a| uints(&a, u64::checked_sub)),
    global("_*_", "uint, uint", "uint", ONE, |a| uints(&a, u64::checked_mul)),
    global("_/_", "uint, uint", "uint", ONE, |a| {
        nonzero(&a, "division").and_then(|()| uints(&a, u64::checked_div))
    }),
    global("_%_", "uint, uint", "uint", ONE, |a| {
        nonzero(&a, "modulus").and_then(|()| uints(&a, u64::checked_rem))
    }),
    global("_+_", "double, double", "double", ONE, |a| double(&a, |x, y| x + y)),
    global("_-_", "double, double", "double", ONE, |a| double(&a, |x, y| x - y)),
    global("_*_", "double, double", "double", ONE, |a| double(&a, |x, y| x * y)),
    global("_/_", "double, double", "double", ONE, |a| double(&a, |x, y| x / y)),
    global("_+_", "string, string", "string", Cost::Texts(0, 1), |a| {
        text(format!("{}{}", a.text(0)?, a.text(1)?))
    })
    .sized(Size::Sum),
    global("_+_", "bytes, bytes", "bytes", Cost::Texts(0, 1), |a| match (&a[0], &a[1]) {
        (Value::Bytes(x), Value::Bytes(y)) => Ok(Value::Bytes([&**x, &**y].concat().into())),
        _ => Err(EvalError::no_overload()),
    })
    .sized(Size::Sum),
    global("_+_", "list(A), list(A)", "list(A)", ONE, append).sized(Size::Sum),
    global("_+_", "duration, duration", "duration", ONE, time::add),
    global("_+_", "timestamp, duration", "timestamp", ONE, time::add),
    global("_+_", "duration, timestamp", "timestamp", ONE, time::add),
    global("_-_", "duration, duration", "duration", ONE, time::subtract),
    global("_-_", "timestamp, duration", "timestamp", ONE, time::subtract),
    global("_-_", "timestamp, timestamp", "duration", ONE, time::subtract),
    global("_[_]", "list(A), int", "A", ONE, index),
    global("_[_]", "map(A, B), A", "B", ONE, index),
    global("@in", "A, list(A)", "bool", Cost::Items(1), |a| match &a[1] {
        Value::List(list) => bool(contains(list, &a[0])),
        _ => Err(EvalError::no_overload()),
    }),
    global("@in", "A, map(A, B)", "bool", ONE, |a| match &a[1] {
        Value::Map(map) => bool(Key::of(&a[0]).is_some_and(|key| map.get(&key).is_some())),
        _ => Err(EvalError::no_overload()),
    }),
    global("@merge", "map(A, B), map(A, B)", "map(A, B)", ONE, merge).sized(Size::Sum),
    global("size", "string", "int", ONE, size).sized(Size::One),
    global("size", "bytes", "int", ONE, size).sized(Size::One),
    global("size", "list(A)", "int", ONE, size).sized(Size::One),
    global("size", "map(A, B)", "int", ONE, size).sized(Size::One),
    member("size", "string", "int", ONE, size).sized(Size::One),
    member("size", "bytes", "int", ONE, size).sized(Size::One),
    member("size", "list(A)", "int", ONE, size).sized(Size::One),
    member("size", "map(A, B)", "int", ONE, size).sized(Size::One),
    global("type", "A", "type(A)", ONE, |a| Ok(Value::Type(a[0].kind()))),
    global("dyn", "A", "dyn", ONE, |mut a| Ok(a.remove(0))).sized(Size::Argument(0)),
    global("bool", "bool", "bool", ONE, |mut a| Ok(a.remove(0))),
    global("bool", "string", "bool", ONE, |a| match a.text(0)? {
        "true" | "True" | "TRUE" | "t" | "1" => bool(true),
        "false" | "False" | "FALSE" | "f" | "0" => bool(false),
        other => Err(EvalError::failed(format!("type conversion error from 'string' to 'bool': {other}"))),
    }),
    global("int", "int", "int", ONE, to_int),
    global("int", "uint", "int", ONE, to_int),
    global("int", "double", "int", ONE, to_int),
    global("int", "string", "int", ONE, to_int),
    global("int", "timestamp", "int", ONE, to_int),
    global("uint", "uint", "uint", ONE, to_uint),
    global("uint", "int", "uint", ONE, to_uint),
    global("uint", "double", "uint", ONE, to_uint),
    global("uint", "string", "uint", ONE, to_uint),
    global("double", "double", "double", ONE, to_double),
    global("double", "int", "double", ONE, to_double),
    global("double", "uint", "double", ONE, to_double),
    global("double", "string", "double", ONE, to_double),
    global("string", "string", "string", ONE, to_string).sized(Size::Argument(0)),
    global("string", "bool", "string", ONE, to_string),
    global("string", "int", "string", ONE, to_string),
    global("string", "uint", "string", ONE, to_string),
    global("string", "double", "string", ONE, to_string),
    global("string", "bytes", "string", Cost::Text(0), to_string).sized(Size::Argument(0)),
    global("string", "timestamp", "string", ONE, to_string),
    global("string", "duration", "string", ONE, to_string),
    global("string", "IP", "string", ONE, to_string),
    global("string", "CIDR", "string", ONE, to_string),
    global("bytes", "bytes", "bytes", ONE, |mut a| Ok(a.remove(0))).sized(Size::Argument(0)),
    global("bytes", "string", "bytes", Cost::Text(0), |a| Ok(Value::Bytes(a.text(0)?.as_bytes().into())))
        .sized(Size::Argument(0)),
];

/// The four orders: their overloads differ in nothing but the function.
pub(super) static ORDERS: &[(&str, Run)] =
    &[("_<_", less), ("_<=_", less_equal), ("_>_", greater), ("_>=_", greater_equal)];

/// Which types have an order: numbers among each other, the others each with itself.
pub(super) const ORDERED: &[&str] = &[
    "bool, bool",
    "int, int",
    "uint, uint",
    "double, double",
    "int, uint",
    "int, double",
    "uint, int",
    "uint, double",
    "double, int",
    "double, uint",
    "string, string",
    "bytes, bytes",
    "timestamp, timestamp",
    "duration, duration",
];

fn less(a: Vec<Value<'_>>) -> Outcome<'_> {
    ordered(&a, Ordering::is_lt)
}

fn less_equal(a: Vec<Value<'_>>) -> Outcome<'_> {
    ordered(&a, Ordering::is_le)
}

fn greater(a: Vec<Value<'_>>) -> Outcome<'_> {
    ordered(&a, Ordering::is_gt)
}

fn greater_equal(a: Vec<Value<'_>>) -> Outcome<'_> {
    ordered(&a, Ordering::is_ge)
}

fn ordered<'a>(a: &[Value<'_>], fits: fn(Ordering) -> bool) -> Outcome<'a> {
    bool(compare(&a[0], &a[1]).is_some_and(fits))
}

fn overflow(what: &str) -> EvalError {
    EvalError::failed(format!("{what} overflow"))
}

fn nonzero(a: &[Value<'_>], what: &str) -> Result<(), EvalError> {
    match a[1] {
        Value::Int(0) | Value::Uint(0) => Err(EvalError::failed(format!("{what} by zero"))),
        _ => Ok(()),
    }
}

fn ints<'a>(a: &[Value<'_>], op: fn(i64, i64) -> Option<i64>) -> Outcome<'a> {
    match (&a[0], &a[1]) {
        (Value::Int(x), Value::Int(y)) => op(*x, *y).map(Value::Int).ok_or_else(|| overflow("integer")),
        _ => Err(EvalError::no_overload()),
    }
}

fn uints<'a>(a: &[Value<'_>], op: fn(u64, u64) -> Option<u64>) -> Outcome<'a> {
    match (&a[0], &a[1]) {
        (Value::Uint(x), Value::Uint(y)) => {
            op(*x, *y).map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn double<'a>(a: &[Value<'_>], op: fn(f64, f64) -> f64) -> Outcome<'a> {
    match (&a[0], a.get(1)) {
        (Value::Double(x), Some(Value::Double(y))) => Ok(Value::Double(op(*x, *y))),
        (Value::Double(x), None) => Ok(Value::Double(op(*x, 0.0))),
        _ => Err(EvalError::no_overload()),
    }
}

/// `a + b` of lists. A list that nobody else holds grows in place, so that building one is not quadratic.
fn append(mut a: Vec<Value<'_>>) -> Outcome<'_> {
    let (Some(Value::List(right)), Some(Value::List(mut left))) = (a.pop(), a.pop()) else {
        return Err(EvalError::no_overload());
    };
    let schema = left.schema.or(right.schema);
    if let (Items::Made(items), None) = (&mut left.items, schema) {
        Rc::make_mut(items).extend(right.iter());
        return Ok(Value::List(left));
    }
    let items = Items::Made(Rc::new(join(&left, &right)));
    Ok(Value::List(List { items, schema }))
}

/// The accumulator of `transformMap` with one more entry, or several.
fn merge(mut a: Vec<Value<'_>>) -> Outcome<'_> {
    let (Some(Value::Map(more)), Some(Value::Map(Map::Made(mut made)))) = (a.pop(), a.pop()) else {
        return Err(EvalError::no_overload());
    };
    let entries: &mut BTreeMap<_, _> = Rc::make_mut(&mut made);
    for key in more.keys().iter().filter_map(Key::of) {
        let Some(value) = more.get(&key) else { continue };
        if entries.contains_key(&key) {
            return Err(EvalError::failed(format!("insert failed: key {key:?} already exists")));
        }
        entries.insert(key, value);
    }
    Ok(Value::Map(Map::Made(made)))
}

fn index(a: Vec<Value<'_>>) -> Outcome<'_> {
    lookup(&a[0], &a[1])?.ok_or_else(|| match &a[0] {
        Value::List(_) => EvalError::failed(format!("index out of bounds: {}", shown(&a[1]))),
        _ => EvalError::no_key(shown(&a[1])),
    })
}

/// The item or value at an index or key; none if there is none.
pub(in super::super) fn lookup<'a>(
    whole: &Value<'a>,
    at: &Value<'a>,
) -> Result<Option<Value<'a>>, EvalError> {
    match (whole, Key::of(at)) {
        (Value::List(list), Some(Key::Int(i))) => Ok(usize::try_from(i).ok().and_then(|i| list.get(i))),
        (Value::Map(map), Some(key)) => Ok(map.get(&key)),
        _ => Err(EvalError::no_overload()),
    }
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.to_string(),
        other => other.to_json().unwrap_or_default().to_string(),
    }
}

fn size(a: Vec<Value<'_>>) -> Outcome<'_> {
    Ok(Value::Int(i64::try_from(a[0].size()).unwrap_or(i64::MAX)))
}

fn to_int(a: Vec<Value<'_>>) -> Outcome<'_> {
    let failed = |what: &str| EvalError::failed(format!("type conversion error from '{what}' to 'int'"));
    let int = match &a[0] {
        Value::Int(i) => Some(*i),
        Value::Uint(u) => i64::try_from(*u).ok(),
        Value::Double(d) if d.abs() < 9.223_372_036_854_775e18 => Some(*d as i64),
        Value::Timestamp(at) => Some(at.timestamp()),
        Value::String(text) => return text.parse().map(Value::Int).map_err(|_| failed("string")),
        _ => None,
    };
    int.map(Value::Int).ok_or_else(|| overflow("integer"))
}

fn to_uint(a: Vec<Value<'_>>) -> Outcome<'_> {
    let uint = match &a[0] {
        Value::Uint(u) => Some(*u),
        Value::Int(i) => u64::try_from(*i).ok(),
        Value::Double(d) if *d >= 0.0 && *d < 1.844_674_407_370_955e19 => Some(*d as u64),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    uint.map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
}

fn to_double(a: Vec<Value<'_>>) -> Outcome<'_> {
    let failed = || EvalError::failed("type conversion error from 'string' to 'double'");
    match &a[0] {
        Value::Double(d) => Ok(Value::Double(*d)),
        Value::Int(i) => Ok(Value::Double(*i as f64)),
        Value::Uint(u) => Ok(Value::Double(*u as f64)),
        Value::String(text) => text.parse().map(Value::Double).map_err(|_| failed()),
        _ => Err(EvalError::no_overload()),
    }
}

fn to_string(a: Vec<Value<'_>>) -> Outcome<'_> {
    use super::super::value::Opaque;
    text(match &a[0] {
        Value::String(Text::Made(text)) => return Ok(Value::text(text.clone())),
        Value::String(text) => text.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|_| EvalError::failed("invalid UTF-8 in bytes, cannot convert to string"))?,
        Value::Timestamp(at) => time::timestamp_text(at),
        Value::Duration(span) => time::duration_text(span),
        Value::Opaque(Opaque::Ip(ip)) => ip.to_string(),
        Value::Opaque(Opaque::Cidr(cidr)) => cidr.to_string(),
        _ => return Err(EvalError::no_overload()),
    })
}

/// A double as Go's shortest form writes it.
pub(super) fn double_text(d: f64) -> String {
    let exponent = if d == 0.0 { 0 } else { d.abs().log10().floor() as i32 };
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if !(-4..21).contains(&exponent) {
        let text = format!("{d:e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let power: i32 = power.parse().unwrap_or(0);
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", power.abs());
    }
    d.to_string()
}
