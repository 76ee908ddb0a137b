//! Times and durations.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};

use super::super::error::EvalError;
use super::super::value::Value;
use super::{Arguments, ONE, Outcome, Row, global, member};

pub(super) static ROWS: &[Row] = &[
    global("timestamp", "string", "timestamp", ONE, |a| {
        let failed =
            || EvalError::failed(format!("invalid timestamp: {:?}", a[0].as_str().unwrap_or_default()));
        parse_timestamp(a.text(0)?).map(Value::Timestamp).ok_or_else(failed)
    }),
    global("timestamp", "timestamp", "timestamp", ONE, |mut a| Ok(a.remove(0))),
    global("timestamp", "int", "timestamp", ONE, |a| {
        let at = DateTime::from_timestamp(a.int(0)?, 0).filter(|at| (1..=9999).contains(&at.year()));
        at.map(Value::Timestamp).ok_or_else(|| EvalError::failed("timestamp overflow"))
    }),
    global("duration", "string", "duration", ONE, |a| {
        let failed =
            || EvalError::failed(format!("time: invalid duration {:?}", a[0].as_str().unwrap_or_default()));
        parse_duration(a.text(0)?).map(Value::Duration).ok_or_else(failed)
    }),
    global("duration", "duration", "duration", ONE, |mut a| Ok(a.remove(0))),
    global("duration", "int", "duration", ONE, |a| Ok(Value::Duration(TimeDelta::nanoseconds(a.int(0)?)))),
    member("getFullYear", "timestamp", "int", ONE, |a| part(&a, |t| t.year().into())),
    member("getFullYear", "timestamp, string", "int", ONE, |a| part(&a, |t| t.year().into())),
    member("getMonth", "timestamp", "int", ONE, |a| part(&a, |t| t.month0().into())),
    member("getMonth", "timestamp, string", "int", ONE, |a| part(&a, |t| t.month0().into())),
    member("getDayOfYear", "timestamp", "int", ONE, |a| part(&a, |t| t.ordinal0().into())),
    member("getDayOfYear", "timestamp, string", "int", ONE, |a| part(&a, |t| t.ordinal0().into())),
    member("getDayOfMonth", "timestamp", "int", ONE, |a| part(&a, |t| t.day0().into())),
    member("getDayOfMonth", "timestamp, string", "int", ONE, |a| part(&a, |t| t.day0().into())),
    member("getDate", "timestamp", "int", ONE, |a| part(&a, |t| t.day().into())),
    member("getDate", "timestamp, string", "int", ONE, |a| part(&a, |t| t.day().into())),
    member("getDayOfWeek", "timestamp", "int", ONE, |a| {
        part(&a, |t| t.weekday().num_days_from_sunday().into())
    }),
    member("getDayOfWeek", "timestamp, string", "int", ONE, |a| {
        part(&a, |t| t.weekday().num_days_from_sunday().into())
    }),
    member("getHours", "timestamp", "int", ONE, |a| part(&a, |t| t.hour().into())),
    member("getHours", "timestamp, string", "int", ONE, |a| part(&a, |t| t.hour().into())),
    member("getHours", "duration", "int", ONE, |a| span(&a, |d| d.num_hours())),
    member("getMinutes", "timestamp", "int", ONE, |a| part(&a, |t| t.minute().into())),
    member("getMinutes", "timestamp, string", "int", ONE, |a| part(&a, |t| t.minute().into())),
    member("getMinutes", "duration", "int", ONE, |a| span(&a, |d| d.num_minutes())),
    member("getSeconds", "timestamp", "int", ONE, |a| part(&a, |t| t.second().into())),
    member("getSeconds", "timestamp, string", "int", ONE, |a| part(&a, |t| t.second().into())),
    member("getSeconds", "duration", "int", ONE, |a| span(&a, |d| d.num_seconds())),
    member("getMilliseconds", "timestamp", "int", ONE, |a| {
        part(&a, |t| i64::from(t.nanosecond()) / 1_000_000)
    }),
    member("getMilliseconds", "timestamp, string", "int", ONE, |a| {
        part(&a, |t| i64::from(t.nanosecond()) / 1_000_000)
    }),
    member("getMilliseconds", "duration", "int", ONE, |a| span(&a, |d| i64::from(d.subsec_millis()))),
];

/// Reads RFC 3339.
pub(in super::super) fn parse_timestamp(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (1..=9999).contains(&at.year()).then_some(at)
}

pub(in super::super) fn timestamp_text(at: &DateTime<Utc>) -> String {
    let nanos = at.nanosecond();
    let whole = at.format("%Y-%m-%dT%H:%M:%S");
    match nanos {
        0 => format!("{whole}Z"),
        _ => format!("{whole}.{}Z", format!("{nanos:09}").trim_end_matches('0')),
    }
}

/// Reads Go's durations: `1h30m`, `-1.5s`, `100ms`.
pub(in super::super) fn parse_duration(text: &str) -> Option<TimeDelta> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(TimeDelta::zero());
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (_, unit, length) = UNITS
            .iter()
            .find_map(|(unit, nanos)| after.starts_with(unit).then_some((unit, *nanos, unit.len())))?;
        nanos = nanos.checked_add(scaled(number, unit)?)?;
        rest = &after[length..];
    }
    Some(TimeDelta::nanoseconds(i64::try_from(sign * nanos).ok()?))
}

/// Longer names first.
const UNITS: &[(&str, i128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A decimal number of units, exactly.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    let fraction = &fraction[..fraction.len().min(18)];
    let part = match fraction {
        "" => 0,
        digits => digits.parse::<i128>().ok()? * unit / 10_i128.pow(digits.len() as u32),
    };
    (whole * unit).checked_add(part)
}

/// A duration as CEL writes it: seconds.
pub(in super::super) fn duration_text(span: &TimeDelta) -> String {
    let nanos = span.num_nanoseconds().unwrap_or(i64::MAX);
    let (whole, part) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let sign = if nanos < 0 { "-" } else { "" };
    match part {
        0 => format!("{sign}{whole}s"),
        _ => format!("{sign}{whole}.{}s", format!("{part:09}").trim_end_matches('0')),
    }
}

pub(super) fn add(a: Vec<Value<'_>>) -> Outcome<'_> {
    sum(&a[0], &a[1], Some)
}

pub(super) fn subtract(a: Vec<Value<'_>>) -> Outcome<'_> {
    if let (Value::Timestamp(x), Value::Timestamp(y)) = (&a[0], &a[1]) {
        return bounded(x.signed_duration_since(*y));
    }
    sum(&a[0], &a[1], |d| TimeDelta::zero().checked_sub(&d))
}

fn sum<'a>(a: &Value<'_>, b: &Value<'_>, sign: fn(TimeDelta) -> Option<TimeDelta>) -> Outcome<'a> {
    let overflow = || EvalError::failed("timestamp overflow");
    match (a, b) {
        (Value::Duration(x), Value::Duration(y)) => {
            bounded(sign(*y).and_then(|y| x.checked_add(&y)).ok_or_else(overflow)?)
        }
        (Value::Timestamp(at), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(at)) => {
            let at = sign(*d).and_then(|d| at.checked_add_signed(d));
            let at = at.filter(|at| (1..=9999).contains(&at.year()));
            at.map(Value::Timestamp).ok_or_else(overflow)
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// Durations are 64 bits of nanoseconds.
fn bounded<'a>(span: TimeDelta) -> Outcome<'a> {
    match span.num_nanoseconds() {
        Some(_) => Ok(Value::Duration(span)),
        None => Err(EvalError::failed("duration overflow")),
    }
}

fn part<'a>(a: &Vec<Value<'a>>, part: fn(DateTime<FixedOffset>) -> i64) -> Outcome<'a> {
    let Value::Timestamp(at) = &a[0] else { return Err(EvalError::no_overload()) };
    let offset = if a.len() > 1 { offset(a.text(1)?, at.naive_utc())? } else { Utc.fix() };
    Ok(Value::Int(part(at.with_timezone(&offset))))
}

/// A time zone by name, or as hours and minutes.
fn offset(zone: &str, at: NaiveDateTime) -> Result<FixedOffset, EvalError> {
    let failed = || EvalError::failed(format!("unknown time zone {zone}"));
    if let Some((hours, minutes)) = zone.split_once(':') {
        let seconds = hours.parse::<i32>().ok().zip(minutes.parse::<i32>().ok()).map(|(h, m)| {
            let sign = if hours.starts_with('-') { -1 } else { 1 };
            h.saturating_mul(3600).saturating_add(sign * m.saturating_mul(60))
        });
        return seconds.and_then(FixedOffset::east_opt).ok_or_else(failed);
    }
    let zone: chrono_tz::Tz = zone.parse().map_err(|_| failed())?;
    Ok(zone.offset_from_utc_datetime(&at).fix())
}

fn span<'a>(a: &[Value<'_>], part: fn(&TimeDelta) -> i64) -> Outcome<'a> {
    match &a[0] {
        Value::Duration(span) => Ok(Value::Int(part(span))),
        _ => Err(EvalError::no_overload()),
    }
}
