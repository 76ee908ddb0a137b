//! What a YAML scalar without quotes stands for, by the rules of YAML 1.1 that Kubernetes' clients and servers share:
//! `yes` and `off` are booleans, `0777` is octal, `1_000` has a separator.
//!
//! The reader under this module knows YAML 1.2 alone and hands everything else over as text, but a text that it did
//! not have to unescape is a piece of the input. So the input itself says whether quotes stood around it.

use serde_json::{Number, Value};

/// A text that was read, as a piece of the input.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    before: &'a [u8],
}

/// Where in `input` a text was read, unless it was made while reading.
pub(super) fn find<'a>(input: &'a [u8], text: &str) -> Option<Piece<'a>> {
    let offset = (text.as_ptr() as usize).checked_sub(input.as_ptr() as usize)?;
    let end = offset.checked_add(text.len())?;
    (end <= input.len()).then(|| Piece { before: &input[..offset] })
}

impl Piece<'_> {
    /// Whether nothing says that this is a text.
    pub(super) fn is_plain(self) -> bool {
        !matches!(self.before.last(), Some(b'"' | b'\'')) && !self.before.trim_ascii_end().ends_with(b"!!str")
    }

    /// Counted from one.
    pub(super) fn line(self) -> usize {
        1 + self.before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// What a plain scalar means that YAML 1.2 takes for a text.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

/// A float as its shortest text reads: what is whole is an integer.
pub(super) fn float(value: f64) -> Option<Value> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        // Whole and small enough to be exact.
        return Some(Value::from(value as i64));
    }
    Number::from_f64(value).map(Value::Number)
}

fn number(text: &str) -> Option<Value> {
    let first = *text.as_bytes().first()?;
    if !first.is_ascii_digit() && !matches!(first, b'+' | b'-' | b'.') {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    integer(&digits).or_else(|| decimal(&digits))
}

fn integer(text: &str) -> Option<Value> {
    let (sign, digits) = match text.as_bytes() {
        [b'-', ..] => (-1, &text[1..]),
        [b'+', ..] => (1, &text[1..]),
        _ => (1, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = sign * i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(value).map(Value::from).or_else(|_| u64::try_from(value).map(Value::from)).ok()
}

fn decimal(text: &str) -> Option<Value> {
    let looks_like_one =
        text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse().ok().filter(|_| looks_like_one).and_then(float)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_and_numbers_are_those_of_yaml_1_1() {
        for (text, value) in [
            ("y", json!(true)),
            ("Yes", json!(true)),
            ("ON", json!(true)),
            ("n", json!(false)),
            ("off", json!(false)),
            ("yEs", json!("yEs")),
            ("0777", json!(511)),
            ("-0777", json!(-511)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("08", json!(8)),
            ("1_0.5", json!(10.5)),
            ("12:30:45", json!("12:30:45")),
            ("2001-01-01", json!("2001-01-01")),
            ("1.2.3", json!("1.2.3")),
            ("0xZZ", json!("0xZZ")),
            ("10Gi", json!("10Gi")),
            ("-", json!("-")),
            ("_1", json!("_1")),
            ("", json!("")),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
    }

    #[test]
    fn a_whole_float_is_an_integer() {
        assert_eq!(float(1000.0), Some(json!(1000)));
        assert_eq!(float(0.5), Some(json!(0.5)));
        assert_eq!(float(f64::NAN), None);
    }
}
