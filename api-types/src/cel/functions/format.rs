//! Named formats: `format.named('dns1123Label').value().validate(x)`.

use super::super::error::EvalError;
use super::super::value::{Opaque, Value};
use super::{Arguments, Cost, ONE, Outcome, Row, global, member, time};
use crate::names;

/// A format: what is wrong with a text that should be of it.
#[derive(Debug)]
pub struct NamedFormat {
    pub(super) name: &'static str,
    problems: fn(&str) -> Vec<String>,
}

const fn named(name: &'static str, problems: fn(&str) -> Vec<String>) -> NamedFormat {
    NamedFormat { name, problems }
}

static FORMATS: &[NamedFormat] = &[
    named("dns1123Label", names::check_dns_label),
    named("dns1123Subdomain", names::check_dns_subdomain),
    named("dns1035Label", names::check_dns_1035_label),
    named("qualifiedName", names::check_label_key),
    named("dns1123LabelPrefix", |text| names::check_dns_label(whole(text))),
    named("dns1123SubdomainPrefix", |text| names::check_dns_subdomain(whole(text))),
    named("dns1035LabelPrefix", |text| names::check_dns_1035_label(whole(text))),
    named("labelValue", names::check_label_value),
    named("uri", |text| unless(super::url::is_url(text), "invalid URL")),
    named("uuid", |text| unless(is_uuid(text), "does not match the UUID format")),
    named("byte", |text| {
        let decoded = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text);
        unless(decoded.is_ok(), "invalid base64")
    }),
    named("date", |text| {
        unless(time::parse_timestamp(&format!("{text}T00:00:00Z")).is_some(), "invalid date")
    }),
    named("datetime", |text| unless(time::parse_timestamp(text).is_some(), "invalid datetime")),
];

pub(super) static ROWS: &[Row] = &[
    global("format.named", "string", "optional(Format)", ONE, |a| {
        let found = FORMATS.iter().find(|format| Some(format.name) == a[0].as_str());
        Ok(found.map_or_else(Value::none, |format| Value::some(made(format))))
    }),
    member("validate", "Format, string", "optional(list(string))", Cost::Text(1), validate),
    global("format.dns1123Label", "", "Format", ONE, |_| constant("dns1123Label")),
    global("format.dns1123Subdomain", "", "Format", ONE, |_| constant("dns1123Subdomain")),
    global("format.dns1035Label", "", "Format", ONE, |_| constant("dns1035Label")),
    global("format.qualifiedName", "", "Format", ONE, |_| constant("qualifiedName")),
    global("format.dns1123LabelPrefix", "", "Format", ONE, |_| constant("dns1123LabelPrefix")),
    global("format.dns1123SubdomainPrefix", "", "Format", ONE, |_| constant("dns1123SubdomainPrefix")),
    global("format.dns1035LabelPrefix", "", "Format", ONE, |_| constant("dns1035LabelPrefix")),
    global("format.labelValue", "", "Format", ONE, |_| constant("labelValue")),
    global("format.uri", "", "Format", ONE, |_| constant("uri")),
    global("format.uuid", "", "Format", ONE, |_| constant("uuid")),
    global("format.byte", "", "Format", ONE, |_| constant("byte")),
    global("format.date", "", "Format", ONE, |_| constant("date")),
    global("format.datetime", "", "Format", ONE, |_| constant("datetime")),
];

fn made<'a>(format: &'static NamedFormat) -> Value<'a> {
    Value::Opaque(Opaque::Format(format))
}

fn constant<'a>(name: &str) -> Outcome<'a> {
    FORMATS.iter().find(|format| format.name == name).map(made).ok_or_else(EvalError::no_overload)
}

fn validate(a: Vec<Value<'_>>) -> Outcome<'_> {
    let Opaque::Format(format) = a.opaque(0)? else { return Err(EvalError::no_overload()) };
    let problems = (format.problems)(a.text(1)?);
    Ok(match problems.is_empty() {
        true => Value::none(),
        false => Value::some(Value::list(problems.into_iter().map(Value::text).collect())),
    })
}

/// A name to come has its dash stand for what will follow.
fn whole(prefix: &str) -> &str {
    prefix.strip_suffix('-').unwrap_or(prefix)
}

fn unless(good: bool, problem: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![problem.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let is_hex = text.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
    is_hex && (lengths == [8, 4, 4, 4, 12] || lengths == [32])
}
