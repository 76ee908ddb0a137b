//! URLs, read as Go's `url.ParseRequestURI` reads them: absolute, or a path.

use std::collections::BTreeMap;

use super::super::error::EvalError;
use super::super::value::{Key, Opaque, Value};
use super::{Arguments, Cost, ONE, Outcome, Row, bool, global, member, text};

#[derive(Debug)]
pub struct Url {
    pub(super) text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

const READ: Cost = Cost::Text(0);

pub(super) static ROWS: &[Row] = &[
    global("url", "string", "URL", READ, |a| {
        parse(a.text(0)?).map(|url| Value::Opaque(Opaque::Url(url.into())))
    }),
    global("isURL", "string", "bool", READ, |a| bool(is_url(a.text(0)?))),
    member("getScheme", "URL", "string", ONE, |a| of(&a, |url| url.scheme.clone())),
    member("getHost", "URL", "string", ONE, |a| of(&a, |url| url.host.clone())),
    member("getHostname", "URL", "string", ONE, |a| of(&a, |url| split_port(&url.host).0.to_owned())),
    member("getPort", "URL", "string", ONE, |a| of(&a, |url| split_port(&url.host).1.to_owned())),
    member("getEscapedPath", "URL", "string", ONE, |a| of(&a, |url| url.path.clone())),
    member("getQuery", "URL", "map(string, list(string))", ONE, query),
];

fn of<'a>(a: &Vec<Value<'a>>, part: fn(&Url) -> String) -> Outcome<'a> {
    match a.opaque(0)? {
        Opaque::Url(url) => text(part(url)),
        _ => Err(EvalError::no_overload()),
    }
}

pub(super) fn is_url(text: &str) -> bool {
    parse(text).is_ok()
}

fn parse(whole: &str) -> Result<Url, EvalError> {
    let wrong = |why: &str| {
        EvalError::failed(format!("URL parse error during conversion from string: parse \"{whole}\": {why}"))
    };
    if whole.is_empty() {
        return Err(wrong("empty url"));
    }
    if whole.chars().any(|c| c.is_ascii_control()) {
        return Err(wrong("net/url: invalid control character in URL"));
    }
    let (scheme, rest) = match whole.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_lowercase(), rest),
        _ if whole.starts_with('/') => (String::new(), whole),
        _ => return Err(wrong("invalid URI for request")),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) if !scheme.is_empty() => {
            let end = rest.find('/').unwrap_or(rest.len());
            (&rest[..end], &rest[end..])
        }
        _ if !rest.starts_with('/') => return Err(wrong("invalid URI for request")),
        _ => ("", rest),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if !host_is_valid(host) {
        return Err(wrong("invalid character in host name"));
    }
    let path = path.to_owned();
    Ok(Url { text: whole.to_owned(), scheme, host: host.to_owned(), path, query: query.to_owned() })
}

fn is_scheme(scheme: &str) -> bool {
    let mut chars = scheme.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn host_is_valid(host: &str) -> bool {
    let port = split_port(host).1;
    !host.contains([' ', '<', '>', '"', '^', '`', '{', '}', '|', '\\'])
        && port.chars().all(|c| c.is_ascii_digit())
}

/// Host name without brackets, and port.
fn split_port(host: &str) -> (&str, &str) {
    if let Some((name, rest)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        return (name, rest.strip_prefix(':').unwrap_or(""));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn query(a: Vec<Value<'_>>) -> Outcome<'_> {
    let Opaque::Url(url) = a.opaque(0)? else { return Err(EvalError::no_overload()) };
    let mut fields: BTreeMap<String, Vec<Value<'_>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.entry(decode(name)).or_default().push(Value::text(decode(value)));
    }
    let entries = fields.into_iter().map(|(name, values)| (Key::String(name.into()), Value::list(values)));
    Ok(Value::map(entries.collect()))
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
