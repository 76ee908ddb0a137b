//! Lists: Kubernetes' list library and the lists extension.

use std::cmp::Ordering;

use super::super::error::EvalError;
use super::super::value::Value;
use super::equality::{compare, equal};
use super::{Arguments, Cost, ONE, Outcome, Row, Size, bool, global, member};

const READ: Cost = Cost::Items(0);

pub(super) static ROWS: &[Row] = &[
    member("isSorted", "list(A)", "bool", READ, is_sorted),
    member("sum", "list(int)", "int", READ, sum),
    member("sum", "list(uint)", "uint", READ, sum),
    member("sum", "list(double)", "double", READ, sum),
    member("sum", "list(duration)", "duration", READ, sum),
    member("min", "list(A)", "A", READ, |a| extreme(&a, Ordering::Less, "min")),
    member("max", "list(A)", "A", READ, |a| extreme(&a, Ordering::Greater, "max")),
    member("indexOf", "list(A), A", "int", READ, |a| position(&a, false)),
    member("lastIndexOf", "list(A), A", "int", READ, |a| position(&a, true)),
    member("distinct", "list(A)", "list(A)", Cost::Product, distinct).sized(Size::Argument(0)),
    member("reverse", "list(A)", "list(A)", READ, |a| {
        let mut items = a.items(0)?;
        items.reverse();
        Ok(Value::list(items))
    })
    .sized(Size::Argument(0)),
    member("sort", "list(A)", "list(A)", READ, sort).sized(Size::Argument(0)),
    member("slice", "list(A), int, int", "list(A)", READ, slice).sized(Size::Argument(0)),
    member("flatten", "list(list(A))", "list(A)", READ, |a| flatten(&a, 1)),
    member("flatten", "list(dyn), int", "list(dyn)", READ, |a| flatten(&a, a.int(1)?)),
    member("first", "list(A)", "optional(A)", ONE, |a| Ok(maybe(a.items(0)?.into_iter().next()))),
    member("last", "list(A)", "optional(A)", ONE, |a| Ok(maybe(a.items(0)?.pop()))),
    global("lists.range", "int", "list(int)", READ, range),
];

/// What a list that an expression makes may hold.
const ITEMS_MAX: i64 = 1 << 20;

fn maybe(value: Option<Value<'_>>) -> Value<'_> {
    value.map_or_else(Value::none, Value::some)
}

fn is_sorted(a: Vec<Value<'_>>) -> Outcome<'_> {
    let items = a.items(0)?;
    for pair in items.windows(2) {
        match compare(&pair[0], &pair[1]) {
            None => return Err(EvalError::no_overload()),
            Some(Ordering::Greater) => return bool(false),
            Some(_) => {}
        }
    }
    bool(true)
}

fn sum(a: Vec<Value<'_>>) -> Outcome<'_> {
    let mut items = a.items(0)?.into_iter();
    let Some(first) = items.next() else { return Ok(Value::Int(0)) };
    let add = super::find("_+_");
    items.try_fold(first, |total, item| {
        let both = vec![total, item];
        let overload = add.iter().find(|o| o.fits(&both)).ok_or_else(EvalError::no_overload)?;
        (overload.run)(both)
    })
}

fn extreme<'a>(a: &Vec<Value<'a>>, wanted: Ordering, name: &str) -> Outcome<'a> {
    let mut items = a.items(0)?.into_iter();
    let first = items.next().ok_or_else(|| EvalError::failed(format!("{name} called on empty list")))?;
    items.try_fold(first, |best, item| {
        let order = compare(&item, &best).ok_or_else(EvalError::no_overload)?;
        Ok(if order == wanted { item } else { best })
    })
}

fn position<'a>(a: &Vec<Value<'a>>, last: bool) -> Outcome<'a> {
    let items = a.items(0)?;
    let fits = |item: &Value<'a>| equal(item, &a[1]);
    let at = if last { items.iter().rposition(fits) } else { items.iter().position(fits) };
    Ok(Value::Int(at.map_or(-1, |at| at as i64)))
}

fn distinct(a: Vec<Value<'_>>) -> Outcome<'_> {
    let mut unique: Vec<Value<'_>> = Vec::new();
    for item in a.items(0)? {
        if !unique.iter().any(|u| equal(u, &item)) {
            unique.push(item);
        }
    }
    Ok(Value::list(unique))
}

fn sort(a: Vec<Value<'_>>) -> Outcome<'_> {
    let mut items = a.items(0)?;
    let mut comparable = items.windows(2).all(|pair| compare(&pair[0], &pair[1]).is_some());
    items.sort_by(|x, y| {
        compare(x, y).unwrap_or_else(|| {
            comparable = false;
            Ordering::Equal
        })
    });
    match comparable {
        true => Ok(Value::list(items)),
        false => Err(EvalError::failed("list elements must be comparable")),
    }
}

fn slice(a: Vec<Value<'_>>) -> Outcome<'_> {
    let (items, start, end) = (a.items(0)?, a.int(1)?, a.int(2)?);
    let place = |i: i64| usize::try_from(i).ok().filter(|i| *i <= items.len());
    match (place(start), place(end)) {
        (Some(from), Some(to)) if from <= to => Ok(Value::list(items[from..to].to_vec())),
        _ => Err(EvalError::failed(format!("cannot slice({start}, {end}), list is length {}", items.len()))),
    }
}

fn flatten<'a>(a: &Vec<Value<'a>>, depth: i64) -> Outcome<'a> {
    if depth < 0 {
        return Err(EvalError::failed("level must be non-negative"));
    }
    let mut items = a.items(0)?;
    for _ in 0..depth {
        if !items.iter().any(|item| matches!(item, Value::List(_))) {
            break;
        }
        let spread = |item: Value<'a>| match item {
            Value::List(list) => list.iter().collect(),
            other => vec![other],
        };
        items = items.into_iter().flat_map(spread).collect();
    }
    Ok(Value::list(items))
}

fn range(a: Vec<Value<'_>>) -> Outcome<'_> {
    match a.int(0)? {
        n if n > ITEMS_MAX => Err(EvalError::failed(format!("lists.range: size {n} is too large"))),
        n => Ok(Value::list((0..n).map(Value::Int).collect())),
    }
}
