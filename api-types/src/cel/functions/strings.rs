//! Strings: the language's own functions and the strings extension.

use super::super::error::EvalError;
use super::super::value::Value;
use super::{Arguments, Cost, ONE, Outcome, Row, Size, bool, global, member, text};

const READ: Cost = Cost::Text(0);

pub(super) static ROWS: &[Row] = &[
    member("startsWith", "string, string", "bool", Cost::Text(1), |a| {
        bool(a.text(0)?.starts_with(a.text(1)?))
    }),
    member("endsWith", "string, string", "bool", Cost::Text(1), |a| bool(a.text(0)?.ends_with(a.text(1)?))),
    member("contains", "string, string", "bool", Cost::Find, |a| bool(a.text(0)?.contains(a.text(1)?))),
    member("charAt", "string, int", "string", ONE, char_at),
    member("indexOf", "string, string", "int", READ, |a| index_of(&a, false)).sized(Size::One),
    member("indexOf", "string, string, int", "int", READ, |a| index_of(&a, false)).sized(Size::One),
    member("lastIndexOf", "string, string", "int", READ, |a| index_of(&a, true)).sized(Size::One),
    member("lastIndexOf", "string, string, int", "int", READ, |a| index_of(&a, true)).sized(Size::One),
    member("lowerAscii", "string", "string", READ, |a| text(a.text(0)?.to_ascii_lowercase()))
        .sized(Size::Argument(0)),
    member("upperAscii", "string", "string", READ, |a| text(a.text(0)?.to_ascii_uppercase()))
        .sized(Size::Argument(0)),
    member("trim", "string", "string", READ, |a| text(a.text(0)?.trim())).sized(Size::Argument(0)),
    member("reverse", "string", "string", READ, |a| text(a.text(0)?.chars().rev().collect::<String>()))
        .sized(Size::Argument(0)),
    member("replace", "string, string, string", "string", READ, |a| replace(&a, -1)),
    member("replace", "string, string, string, int", "string", READ, |a| replace(&a, a.int(3)?)),
    member("split", "string, string", "list(string)", READ, |a| split(&a, -1)).sized(Size::Argument(0)),
    member("split", "string, string, int", "list(string)", READ, |a| split(&a, a.int(2)?))
        .sized(Size::Argument(0)),
    member("substring", "string, int", "string", READ, |a| substring(&a, None)).sized(Size::Argument(0)),
    member("substring", "string, int, int", "string", READ, |a| substring(&a, Some(a.int(2)?)))
        .sized(Size::Argument(0)),
    member("join", "list(string)", "string", Cost::Items(0), |a| join(&a, "")),
    member("join", "list(string), string", "string", Cost::Items(0), |a| join(&a, a.text(1)?)),
    global("strings.quote", "string", "string", READ, |a| text(quote(a.text(0)?))),
];

/// What a text that an expression makes may hold, in bytes; no request is larger.
pub(super) const TEXT_MAX: usize = 3 << 20;

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn outside(at: i64) -> EvalError {
    EvalError::failed(format!("index out of range: {at}"))
}

fn char_at(a: Vec<Value<'_>>) -> Outcome<'_> {
    let (all, at) = (chars(a.text(0)?), a.int(1)?);
    let place = usize::try_from(at).ok().filter(|at| *at <= all.len()).ok_or_else(|| outside(at))?;
    text(all.get(place).map(char::to_string).unwrap_or_default())
}

fn index_of<'a>(a: &Vec<Value<'a>>, last: bool) -> Outcome<'a> {
    let (all, wanted) = (chars(a.text(0)?), chars(a.text(1)?));
    let at = if a.len() > 2 { Some(a.int(2)?) } else { None };
    if let Some(at) = at.filter(|at| *at < 0 || *at > all.len() as i64) {
        return Err(outside(at));
    }
    let end = all.len().checked_sub(wanted.len());
    let fits = |place: &usize| all[*place..].starts_with(&wanted);
    let found = match (end, at.map(|at| at as usize)) {
        (None, _) => None,
        (Some(end), at) if last => (0..=at.unwrap_or(end).min(end)).rev().find(fits),
        (Some(end), at) => (at.unwrap_or(0)..=end).find(fits),
    };
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn replace<'a>(a: &Vec<Value<'a>>, limit: i64) -> Outcome<'a> {
    let (whole, old, new) = (a.text(0)?, a.text(1)?, a.text(2)?);
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = if old.is_empty() { whole.chars().count() + 1 } else { whole.matches(old).count() };
    if whole.len() + found.min(count).saturating_mul(new.len()) > TEXT_MAX {
        return Err(EvalError::failed("string is too long"));
    }
    text(whole.replacen(old, new, count))
}

fn split<'a>(a: &Vec<Value<'a>>, limit: i64) -> Outcome<'a> {
    let (whole, by) = (a.text(0)?, a.text(1)?);
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<String> = match (count, by.is_empty()) {
        (0, _) => Vec::new(),
        (_, false) => whole.splitn(count, by).map(str::to_owned).collect(),
        (_, true) => {
            let all = chars(whole);
            let single = all.len().min(count.saturating_sub(usize::from(count < all.len())));
            let mut parts: Vec<String> = all[..single].iter().map(char::to_string).collect();
            if single < all.len() {
                parts.push(all[single..].iter().collect());
            }
            parts
        }
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

fn substring<'a>(a: &Vec<Value<'a>>, end: Option<i64>) -> Outcome<'a> {
    let (all, start) = (chars(a.text(0)?), a.int(1)?);
    let length = all.len() as i64;
    let end = end.unwrap_or(length);
    if start < 0 || start > length {
        return Err(outside(start));
    }
    if end < 0 || end > length {
        return Err(outside(end));
    }
    if start > end {
        return Err(EvalError::failed(format!("invalid substring range. start: {start}, end: {end}")));
    }
    text(all[start as usize..end as usize].iter().collect::<String>())
}

fn join<'a>(a: &Vec<Value<'a>>, separator: &str) -> Outcome<'a> {
    let mut out = String::new();
    for (i, item) in a.items(0)?.iter().enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(item.as_str().ok_or_else(EvalError::no_overload)?);
        if out.len() > TEXT_MAX {
            return Err(EvalError::failed("string is too long"));
        }
    }
    text(out)
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
