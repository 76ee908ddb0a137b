//! Kubernetes quantities, exactly.

use super::super::error::EvalError;
use super::super::value::{Opaque, Value};
use super::equality::equal;
use super::{Arguments, Cost, ONE, Row, bool, global, member};
use crate::quantity::Quantity;

const READ: Cost = Cost::Text(0);

pub(super) static ROWS: &[Row] = &[
    global("quantity", "string", "Quantity", READ, |a| parse(a.text(0)?).map(made)),
    global("isQuantity", "string", "bool", READ, |a| bool(parse(a.text(0)?).is_ok())),
    member("sign", "Quantity", "int", ONE, |a| {
        let quantity = of(&a, 0)?;
        Ok(Value::Int(if quantity.is_zero() {
            0
        } else if quantity.is_negative() {
            -1
        } else {
            1
        }))
    }),
    member("isInteger", "Quantity", "bool", ONE, |a| bool(whole(&of(&a, 0)?).is_some())),
    member("asInteger", "Quantity", "int", ONE, |a| {
        let failed = || EvalError::failed("cannot convert value to integer");
        whole(&of(&a, 0)?).map(Value::Int).ok_or_else(failed)
    }),
    member("asApproximateFloat", "Quantity", "double", ONE, |a| Ok(Value::Double(approximate(&of(&a, 0)?)))),
    member("isGreaterThan", "Quantity, Quantity", "bool", ONE, |a| bool(of(&a, 0)? > of(&a, 1)?)),
    member("isLessThan", "Quantity, Quantity", "bool", ONE, |a| bool(of(&a, 0)? < of(&a, 1)?)),
    member("compareTo", "Quantity, Quantity", "int", ONE, |a| {
        Ok(Value::Int(of(&a, 0)?.cmp(&of(&a, 1)?) as i64))
    }),
    member("add", "Quantity, Quantity", "Quantity", ONE, |a| Ok(made(of(&a, 0)? + of(&a, 1)?))),
    member("add", "Quantity, int", "Quantity", ONE, |a| {
        Ok(made(of(&a, 0)? + Quantity::from_units(a.int(1)?)))
    }),
    member("sub", "Quantity, Quantity", "Quantity", ONE, |a| Ok(made(of(&a, 0)? - of(&a, 1)?))),
    member("sub", "Quantity, int", "Quantity", ONE, |a| {
        Ok(made(of(&a, 0)? - Quantity::from_units(a.int(1)?)))
    }),
    member("isEqualTo", "Quantity, Quantity", "bool", ONE, |a| bool(equal(&a[0], &a[1]))),
];

fn made<'a>(quantity: Quantity) -> Value<'a> {
    Value::Opaque(Opaque::Quantity(quantity))
}

fn of(a: &Vec<Value<'_>>, at: usize) -> Result<Quantity, EvalError> {
    match a.opaque(at)? {
        Opaque::Quantity(quantity) => Ok(*quantity),
        _ => Err(EvalError::no_overload()),
    }
}

fn parse(text: &str) -> Result<Quantity, EvalError> {
    Quantity::parse(text).map_err(|why| EvalError::failed(why.to_string()))
}

fn whole(quantity: &Quantity) -> Option<i64> {
    let units = quantity.units();
    (Quantity::from_units(units) == *quantity).then_some(units)
}

fn approximate(quantity: &Quantity) -> f64 {
    match whole(quantity) {
        Some(units) => units as f64,
        None => quantity.milli() as f64 / 1000.0,
    }
}
