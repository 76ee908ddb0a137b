//! Semantic versions.

use std::cmp::Ordering;

use super::super::error::EvalError;
use super::super::value::{Opaque, Value};
use super::{Arguments, Cost, ONE, Outcome, Row, bool, global, member};

/// A version; what comes after `+` has no order and is not kept.
#[derive(Debug)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
}

impl Semver {
    pub(super) fn order(&self, other: &Semver) -> Ordering {
        let released = |version: &Semver| version.pre.is_empty();
        self.numbers.cmp(&other.numbers).then_with(|| match (released(self), released(other)) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre_order(other),
        })
    }

    fn pre_order(&self, other: &Semver) -> Ordering {
        for (a, b) in self.pre.iter().zip(&other.pre) {
            let order = match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            };
            if order.is_ne() {
                return order;
            }
        }
        self.pre.len().cmp(&other.pre.len())
    }
}

const READ: Cost = Cost::Text(0);

pub(super) static ROWS: &[Row] = &[
    global("semver", "string", "Semver", READ, |a| made(a.text(0)?, false)),
    global("semver", "string, bool", "Semver", READ, |a| made(a.text(0)?, a[1].as_bool() == Some(true))),
    global("isSemver", "string", "bool", READ, |a| bool(parse(a.text(0)?, false).is_some())),
    global("isSemver", "string, bool", "bool", READ, |a| {
        bool(parse(a.text(0)?, a[1].as_bool() == Some(true)).is_some())
    }),
    member("major", "Semver", "int", ONE, |a| number(&a, 0)),
    member("minor", "Semver", "int", ONE, |a| number(&a, 1)),
    member("patch", "Semver", "int", ONE, |a| number(&a, 2)),
    member("isGreaterThan", "Semver, Semver", "bool", ONE, |a| bool(order(&a)?.is_gt())),
    member("isLessThan", "Semver, Semver", "bool", ONE, |a| bool(order(&a)?.is_lt())),
    member("compareTo", "Semver, Semver", "int", ONE, |a| Ok(Value::Int(order(&a)? as i64))),
];

fn made<'a>(text: &str, lenient: bool) -> Outcome<'a> {
    let failed = || EvalError::failed(format!("invalid semver: {text}"));
    parse(text, lenient).map(|version| Value::Opaque(Opaque::Semver(version.into()))).ok_or_else(failed)
}

/// Lenient: a leading `v`, missing minor and patch, leading zeros.
fn parse(text: &str, lenient: bool) -> Option<Semver> {
    let text = if lenient { text.strip_prefix('v').unwrap_or(text) } else { text };
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (text, pre) = text.split_once('-').map_or((text, None), |(text, pre)| (text, Some(pre)));
    let words = |words: Option<&str>| -> Option<Vec<String>> {
        let words: Vec<String> = words.map_or_else(Vec::new, |w| w.split('.').map(str::to_owned).collect());
        let is_word = |w: &String| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        words.iter().all(is_word).then_some(words)
    };
    words(build)?;
    let pre = words(pre)?;
    let is_padded = |w: &String| w.len() > 1 && w.starts_with('0') && w.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > 3 || (parts.len() < 3 && !lenient) || pre.iter().any(is_padded) {
        return None;
    }
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number || (!lenient && is_padded(&(*part).to_owned())) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    Some(Semver { numbers, pre })
}

fn number<'a>(a: &Vec<Value<'a>>, at: usize) -> Outcome<'a> {
    match a.opaque(0)? {
        Opaque::Semver(version) => Ok(Value::Int(i64::try_from(version.numbers[at]).unwrap_or(i64::MAX))),
        _ => Err(EvalError::no_overload()),
    }
}

fn order(a: &Vec<Value<'_>>) -> Result<Ordering, EvalError> {
    match (a.opaque(0)?, a.opaque(1)?) {
        (Opaque::Semver(x), Opaque::Semver(y)) => Ok(x.order(y)),
        _ => Err(EvalError::no_overload()),
    }
}
