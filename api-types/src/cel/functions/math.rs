//! Numbers: the math extension.

use std::cmp::Ordering;

use super::super::error::EvalError;
use super::super::value::Value;
use super::equality::compare;
use super::{Arguments, Cost, ONE, Outcome, Row, bool, global};

pub(super) static ROWS: &[Row] = &[
    global("math.greatest", "list(A)", "A", Cost::Items(0), |a| extreme(a.items(0)?, Ordering::Greater)),
    global("math.greatest", "A", "A", ONE, |a| extreme(a, Ordering::Greater)),
    global("math.greatest", "A, B", "dyn", ONE, |a| extreme(a, Ordering::Greater)),
    global("math.greatest", "A, B, C", "dyn", ONE, |a| extreme(a, Ordering::Greater)),
    global("math.least", "list(A)", "A", Cost::Items(0), |a| extreme(a.items(0)?, Ordering::Less)),
    global("math.least", "A", "A", ONE, |a| extreme(a, Ordering::Less)),
    global("math.least", "A, B", "dyn", ONE, |a| extreme(a, Ordering::Less)),
    global("math.least", "A, B, C", "dyn", ONE, |a| extreme(a, Ordering::Less)),
    global("math.ceil", "double", "double", ONE, |a| real(&a, f64::ceil)),
    global("math.floor", "double", "double", ONE, |a| real(&a, f64::floor)),
    global("math.round", "double", "double", ONE, |a| real(&a, f64::round)),
    global("math.trunc", "double", "double", ONE, |a| real(&a, f64::trunc)),
    global("math.sqrt", "double", "double", ONE, |a| real(&a, f64::sqrt)),
    global("math.isNaN", "double", "bool", ONE, |a| is(&a, f64::is_nan)),
    global("math.isInf", "double", "bool", ONE, |a| is(&a, f64::is_infinite)),
    global("math.isFinite", "double", "bool", ONE, |a| is(&a, f64::is_finite)),
    global("math.abs", "int", "int", ONE, |a| {
        a.int(0)?.checked_abs().map(Value::Int).ok_or_else(|| EvalError::failed("integer overflow"))
    }),
    global("math.abs", "double", "double", ONE, |a| real(&a, f64::abs)),
    global("math.sign", "int", "int", ONE, |a| Ok(Value::Int(a.int(0)?.signum()))),
    global("math.sign", "double", "double", ONE, |a| real(&a, |d| if d == 0.0 { d } else { d.signum() })),
    global("math.bitAnd", "int, int", "int", ONE, |a| Ok(Value::Int(a.int(0)? & a.int(1)?))),
    global("math.bitOr", "int, int", "int", ONE, |a| Ok(Value::Int(a.int(0)? | a.int(1)?))),
    global("math.bitXor", "int, int", "int", ONE, |a| Ok(Value::Int(a.int(0)? ^ a.int(1)?))),
    global("math.bitNot", "int", "int", ONE, |a| Ok(Value::Int(!a.int(0)?))),
    global("math.bitShiftLeft", "int, int", "int", ONE, |a| {
        shift(&a, |value, by| value.checked_shl(by).unwrap_or(0))
    }),
    global("math.bitShiftRight", "int, int", "int", ONE, |a| {
        shift(&a, |value, by| (value as u64).checked_shr(by).unwrap_or(0) as i64)
    }),
];

fn extreme<'a>(values: Vec<Value<'a>>, wanted: Ordering) -> Outcome<'a> {
    let mut values = values.into_iter();
    let first =
        values.next().ok_or_else(|| EvalError::failed("math.@min(list) argument must not be empty"))?;
    if !matches!(first, Value::Int(_) | Value::Uint(_) | Value::Double(_)) {
        return Err(EvalError::no_overload());
    }
    values.try_fold(first, |best, value| {
        let order = compare(&value, &best).ok_or_else(EvalError::no_overload)?;
        Ok(if order == wanted { value } else { best })
    })
}

fn real<'a>(a: &[Value<'_>], op: fn(f64) -> f64) -> Outcome<'a> {
    match a[0] {
        Value::Double(d) => Ok(Value::Double(op(d))),
        _ => Err(EvalError::no_overload()),
    }
}

fn is<'a>(a: &[Value<'_>], op: fn(f64) -> bool) -> Outcome<'a> {
    match a[0] {
        Value::Double(d) => bool(op(d)),
        _ => Err(EvalError::no_overload()),
    }
}

fn shift<'a>(a: &Vec<Value<'a>>, op: fn(i64, u32) -> i64) -> Outcome<'a> {
    let by = u32::try_from(a.int(1)?);
    let by = by.map_err(|_| EvalError::failed(format!("math.bitShift negative offset: {}", a[1].size())))?;
    Ok(Value::Int(op(a.int(0)?, by)))
}
