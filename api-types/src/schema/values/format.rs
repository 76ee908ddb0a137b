//! The formats of texts that Kubernetes checks; all others say nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use regex::Regex;

use crate::names;

type Check = fn(&str) -> bool;

/// Names without dashes, as Kubernetes compares them, and the checks.
static FORMATS: &[(&str, Check)] = &[
    ("bsonobjectid", |t| t.len() == 24 && is_hex(t)),
    ("uri", is_uri),
    ("email", is_email),
    ("hostname", is_hostname),
    ("ipv4", |t| t.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |t| t.parse::<Ipv6Addr>().is_ok()),
    ("cidr", is_cidr),
    ("mac", is_mac),
    ("uuid", |t| is_uuid(t, None)),
    ("uuid3", |t| is_uuid(t, Some('3'))),
    ("uuid4", |t| is_uuid(t, Some('4'))),
    ("uuid5", |t| is_uuid(t, Some('5'))),
    ("isbn", |t| is_isbn10(t) || is_isbn13(t)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", |t| matches(&SSN, t)),
    ("hexcolor", |t| matches(&HEX_COLOR, t)),
    ("rgbcolor", |t| matches(&RGB_COLOR, t)),
    ("byte", |t| STANDARD.decode(t).is_ok()),
    ("password", |_| true),
    ("date", |t| t.len() == 10 && NaiveDate::parse_from_str(t, "%Y-%m-%d").is_ok()),
    ("duration", is_duration),
    ("datetime", is_date_time),
    ("k8sshortname", |t| names::check_dns_label(t).is_empty()),
    ("k8slongname", |t| names::check_dns_subdomain(t).is_empty()),
];

/// Whether texts of this format are checked.
pub fn is_known(format: &str) -> bool {
    find(format).is_some()
}

/// Whether a text is of the format; any is of one that is not known.
pub(super) fn is_valid(format: &str, text: &str) -> bool {
    find(format).is_none_or(|check| check(text))
}

fn find(format: &str) -> Option<Check> {
    let plain = format.replace('-', "");
    FORMATS.iter().find(|(name, _)| *name == plain).map(|(_, check)| *check)
}

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("a test compiles the patterns of formats")
}

fn matches(pattern: &LazyLock<Regex>, text: &str) -> bool {
    pattern.is_match(text)
}

static SSN: LazyLock<Regex> = LazyLock::new(|| regex(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"));
static HEX_COLOR: LazyLock<Regex> = LazyLock::new(|| regex(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOR: LazyLock<Regex> = LazyLock::new(|| {
    const BYTE: &str = r"\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*";
    regex(&format!("^rgb\\({BYTE},{BYTE},{BYTE}\\)$"))
});
static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^([a-zA-Z0-9\p{L}]([a-zA-Z0-9\p{L}-]{0,61}[a-zA-Z0-9\p{L}])?)(\.[a-zA-Z0-9\p{L}]([a-zA-Z0-9\p{L}-]{0,61}[a-zA-Z0-9\p{L}])?)*\.?$",
    )
});
static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^([A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+)@([A-Za-z0-9\p{L}]([A-Za-z0-9\p{L}-]{0,61}[A-Za-z0-9\p{L}])?(\.[A-Za-z0-9\p{L}]([A-Za-z0-9\p{L}-]{0,61}[A-Za-z0-9\p{L}])?)*)$",
    )
});
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^(\d+(\.\d+)?\s*(ns|nano|nanosecond|us|µs|micro|microsecond|ms|milli|millisecond|s|sec|second|m|min|minute|h|hr|hour|d|day|w|wk|week)s?\s*)+$",
    )
});
static URI: LazyLock<Regex> = LazyLock::new(|| regex(r"^[a-zA-Z][a-zA-Z0-9+.-]*:[^\s]+$"));

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Go's `url.ParseRequestURI`: absolute, or a path from the root.
fn is_uri(text: &str) -> bool {
    let clean = !text.bytes().any(|b| b.is_ascii_control() || b == b' ');
    clean && (text.starts_with('/') || URI.is_match(text))
}

fn is_email(text: &str) -> bool {
    let address = text.rsplit_once('<').and_then(|(_, rest)| rest.strip_suffix('>')).unwrap_or(text);
    EMAIL.is_match(address)
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 255 && HOSTNAME.is_match(text)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let bits: u8 = match bits.parse() {
        Ok(bits) if plain => bits,
        _ => return false,
    };
    (address.parse::<Ipv4Addr>().is_ok() && bits <= 32)
        || (address.parse::<Ipv6Addr>().is_ok() && bits <= 128)
}

/// Go's `net.ParseMAC`: 6, 8 or 20 bytes in pairs with `:` or `-`, or in fours with `.`.
fn is_mac(text: &str) -> bool {
    let bytes = |separator: char, digits: usize| {
        let parts: Vec<_> = text.split(separator).collect();
        let good = parts.iter().all(|p| p.len() == digits && is_hex(p));
        good.then_some(parts.len() * digits / 2)
    };
    let found = bytes(':', 2).or_else(|| bytes('-', 2)).or_else(|| bytes('.', 4));
    found.is_some_and(|n| matches!(n, 6 | 8 | 20))
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let plain = text.replace('-', "");
    let dashes = text.len() == plain.len()
        || text.char_indices().all(|(i, c)| c != '-' || [8, 13, 18, 23].contains(&i));
    let right = version.is_none_or(|v| plain.chars().nth(12).is_some_and(|c| c == v));
    let variant =
        !matches!(version, Some('4' | '5')) || plain.chars().nth(16).is_some_and(|c| "89abAB".contains(c));
    plain.len() == 32 && is_hex(&plain) && dashes && right && variant
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits_of(text);
    let value = |(i, c): (usize, char)| match c {
        'X' | 'x' if i == 9 => Some(10),
        c => c.to_digit(10),
    };
    let digits: Option<Vec<u32>> = text.chars().enumerate().map(value).collect();
    digits.is_some_and(|d| d.len() == 10 && d.iter().zip(1..).map(|(d, n)| d * n).sum::<u32>() % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits: Option<Vec<u32>> = digits_of(text).chars().map(|c| c.to_digit(10)).collect();
    let weigh =
        |d: &[u32]| d.iter().enumerate().map(|(i, d)| d * if i % 2 == 0 { 1 } else { 3 }).sum::<u32>();
    digits.is_some_and(|d| d.len() == 13 && weigh(&d) % 10 == 0)
}

/// Luhn's sum over 13 to 19 digits.
fn is_credit_card(text: &str) -> bool {
    let digits: Option<Vec<u32>> = digits_of(text).chars().map(|c| c.to_digit(10)).collect();
    let Some(digits) = digits.filter(|d| (13..=19).contains(&d.len())) else { return false };
    let double = |(i, d): (usize, &u32)| match i % 2 {
        0 => *d,
        _ if *d > 4 => d * 2 - 9,
        _ => d * 2,
    };
    digits.iter().rev().enumerate().map(double).sum::<u32>() % 10 == 0
}

/// Go's durations (`1h30m`) and texts such as `2 days`.
fn is_duration(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    unsigned == "0" || DURATION.is_match(unsigned)
}

fn is_date_time(text: &str) -> bool {
    const PLAIN: &[&str] = &["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    DateTime::parse_from_rfc3339(text).is_ok() && text.contains(['T', 't'])
        || PLAIN.iter().any(|form| NaiveDateTime::parse_from_str(text.trim_end_matches('Z'), form).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: &str, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(is_valid(format, text), "{format}: {text}");
        }
        for text in bad {
            assert!(!is_valid(format, text), "{format}: {text}");
        }
    }

    #[test]
    fn each_format_tells_its_texts_from_others() {
        check("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f", "z07f1f77bcf86cd799439011"]);
        check("uri", &["http://a/b?c", "/x", "urn:x:y"], &["a b", "x", ""]);
        check("email", &["a.b@example.com"], &["a", "a@", "@b"]);
        check("hostname", &["a", "a.b-c.d"], &["-a", "a..b", "a_b"]);
        check("ipv4", &["1.2.3.4"], &["1.2.3", "::1"]);
        check("ipv6", &["::1"], &["1.2.3.4"]);
        check("cidr", &["10.0.0.0/8", "fe80::/10"], &["10.0.0.0", "10.0.0.0/33"]);
        check("mac", &["01:23:45:67:89:ab", "0123.4567.89ab"], &["01:23", "zz:23:45:67:89:ab"]);
        check("uuid", &["A987FBC9-4BED-3078-CF07-9141BA07C9F3"], &["A987FBC9"]);
        check("uuid3", &["A987FBC9-4BED-3078-CF07-9141BA07C9F3"], &["A987FBC9-4BED-4078-CF07-9141BA07C9F3"]);
        check("isbn10", &["0-306-40615-2"], &["0-306-40615-3"]);
        check("isbn13", &["978-0-306-40615-7"], &["978-0-306-40615-8"]);
        check("creditcard", &["4111111111111111"], &["4111111111111112"]);
        check("ssn", &["111-11-1111"], &["11-11"]);
        check("hexcolor", &["#fff", "#FFFFFF"], &["#ff"]);
        check("rgbcolor", &["rgb(1,2,255)"], &["rgb(1,2,256)"]);
        check("byte", &["aGk="], &["a"]);
        check("date", &["2006-01-02"], &["2006-13-02", "06-1-2"]);
        check("duration", &["22 ns", "1h30m", "3 days"], &["soon", "5"]);
        check("date-time", &["2014-12-15T19:30:20.000Z", "2020-01-02T03:04:05+01:00"], &["noon"]);
        check("k8s-short-name", &["a-b"], &["a.b"]);
        check("int32", &["anything"], &[]);
    }
}
