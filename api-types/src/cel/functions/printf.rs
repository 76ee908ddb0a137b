//! `'%s has %d'.format([name, count])`.

use super::super::error::EvalError;
use super::super::value::{Map, Value};
use super::operators::double_text;
use super::strings::TEXT_MAX;
use super::{Arguments, Cost, Outcome, Row, member, text, time};

pub(super) static ROWS: &[Row] = &[member("format", "string, list(dyn)", "string", Cost::Text(0), format)];

fn format(a: Vec<Value<'_>>) -> Outcome<'_> {
    let mut items = a.items(1)?.into_iter();
    let mut out = String::new();
    let mut chars = a.text(0)?.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok();
        }
        let verb = chars.next().ok_or_else(|| EvalError::failed("unexpected end of string"))?;
        let failed = || EvalError::failed("index out of range: not enough arguments to format");
        let item = items.next().ok_or_else(failed)?;
        out.push_str(&one(verb, precision.map(|p| p.min(100)), &item)?);
        if out.len() > TEXT_MAX {
            return Err(EvalError::failed("string is too long"));
        }
    }
    text(out)
}

fn one(verb: char, precision: Option<usize>, item: &Value<'_>) -> Result<String, EvalError> {
    let digits = precision.unwrap_or(6);
    let wrong = || {
        EvalError::failed(format!(
            "error during formatting: no formatting function is defined for %{verb} of {}",
            item.kind()
        ))
    };
    Ok(match (verb, item) {
        ('s', item) => shown(item),
        ('d', Value::Int(i)) => i.to_string(),
        ('d', Value::Uint(u)) => u.to_string(),
        ('d', Value::Double(d)) if !d.is_finite() => double_text(*d),
        ('f', item) => format!("{:.digits$}", number(item).ok_or_else(wrong)?),
        ('e', item) => exponent(number(item).ok_or_else(wrong)?, digits),
        ('b', Value::Int(i)) => signed(*i, format!("{:b}", i.unsigned_abs())),
        ('b', Value::Uint(u)) => format!("{u:b}"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('o', Value::Int(i)) => signed(*i, format!("{:o}", i.unsigned_abs())),
        ('o', Value::Uint(u)) => format!("{u:o}"),
        ('x' | 'X', item) => {
            let hex = hex(item).ok_or_else(wrong)?;
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        _ => return Err(wrong()),
    })
}

fn number(item: &Value<'_>) -> Option<f64> {
    match item {
        Value::Int(i) => Some(*i as f64),
        Value::Uint(u) => Some(*u as f64),
        Value::Double(d) => Some(*d),
        _ => None,
    }
}

fn signed(i: i64, digits: String) -> String {
    if i < 0 { format!("-{digits}") } else { digits }
}

fn exponent(d: f64, digits: usize) -> String {
    let text = format!("{d:.digits$e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let sign = if power < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", power.abs())
}

fn hex(item: &Value<'_>) -> Option<String> {
    let of_bytes = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    Some(match item {
        Value::Int(i) => signed(*i, format!("{:x}", i.unsigned_abs())),
        Value::Uint(u) => format!("{u:x}"),
        Value::String(s) => of_bytes(s.as_bytes()),
        Value::Bytes(b) => of_bytes(b),
        _ => return None,
    })
}

/// A value as `%s` writes it, which all values can be.
fn shown(item: &Value<'_>) -> String {
    match item {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::String(s) => s.to_string(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Timestamp(at) => time::timestamp_text(at),
        Value::Duration(span) => time::duration_text(span),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| shown(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => shown_map(map),
        Value::Type(ty) => ty.to_string(),
        other => other.kind().to_string(),
    }
}

fn shown_map(map: &Map<'_>) -> String {
    let mut entries: Vec<String> = map
        .keys()
        .iter()
        .filter_map(|key| {
            let value = map.get(&super::super::value::Key::of(key)?)?;
            Some(format!("{}: {}", shown(key), shown(&value)))
        })
        .collect();
    entries.sort();
    format!("{{{}}}", entries.join(", "))
}
