//! Regular expressions, in time that grows with the text alone.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};

use super::super::error::EvalError;
use super::super::value::Value;
use super::{Arguments, Cost, Outcome, Row, Size, bool, global, member, text};

pub(super) static ROWS: &[Row] = &[
    member("matches", "string, string", "bool", Cost::Regex, matches).sized(Size::One),
    global("matches", "string, string", "bool", Cost::Regex, matches).sized(Size::One),
    member("find", "string, string", "string", Cost::Regex, |a| {
        let found = compile(a.text(1)?)?.find(a.text(0)?).map(|found| found.as_str().to_owned());
        text(found.unwrap_or_default())
    })
    .sized(Size::Argument(0)),
    member("findAll", "string, string", "list(string)", Cost::Regex, |a| find_all(&a, -1))
        .sized(Size::Argument(0)),
    member("findAll", "string, string, int", "list(string)", Cost::Regex, |a| find_all(&a, a.int(2)?))
        .sized(Size::Argument(0)),
];

/// What a compiled pattern may hold in memory, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;
/// How many compiled patterns are kept; when there are more, all are dropped and made again as needed.
const KEPT_MAX: usize = 256;

/// Reads a pattern. Patterns are few and used often, so that what is compiled is kept.
pub(in super::super) fn compile(pattern: &str) -> Result<Regex, EvalError> {
    static KEPT: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = kept.get(pattern) {
        return Ok(regex.clone());
    }
    let made = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE_MAX).build();
    let regex = made.map_err(|why| {
        EvalError::failed(format!("error parsing regexp: {}", why.to_string().replace('\n', " ")))
    })?;
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(pattern.to_owned(), regex.clone());
    Ok(regex)
}

fn matches(a: Vec<Value<'_>>) -> Outcome<'_> {
    bool(compile(a.text(1)?)?.is_match(a.text(0)?))
}

fn find_all<'a>(a: &Vec<Value<'a>>, limit: i64) -> Outcome<'a> {
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let regex = compile(a.text(1)?)?;
    let found = regex.find_iter(a.text(0)?).take(count).map(|found| Value::text(found.as_str()));
    Ok(Value::list(found.collect()))
}
