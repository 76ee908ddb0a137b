//! Answers in YAML as Kubernetes writes them: fields by name, and every text so that a reader of YAML 1.1 takes it
//! for a text (`y` and `on` are booleans there).

use serde_json::{Map, Value};

/// The document.
pub(super) fn encode(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => write_fields(fields, 0, &mut text),
        Value::Array(items) if !items.is_empty() => write_items(items, 0, &mut text),
        other => text.push_str(&scalar(other, 0)),
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn write_fields(fields: &Map<String, Value>, depth: usize, text: &mut String) {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    for (index, (name, value)) in fields.into_iter().enumerate() {
        // The first field of an item stands behind its dash.
        if index > 0 || text.is_empty() || text.ends_with('\n') {
            indent(depth, text);
        }
        text.push_str(&quoted(name));
        text.push(':');
        match value {
            Value::Object(below) if !below.is_empty() => {
                text.push('\n');
                write_fields(below, depth + 1, text);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                write_items(items, depth, text);
            }
            other => write_scalar(other, depth, text),
        }
    }
}

fn write_items(items: &[Value], depth: usize, text: &mut String) {
    for item in items {
        indent(depth, text);
        text.push('-');
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                text.push(' ');
                write_fields(fields, depth + 1, text);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                write_items(items, depth + 1, text);
            }
            other => write_scalar(other, depth, text),
        }
    }
}

fn write_scalar(value: &Value, depth: usize, text: &mut String) {
    text.push(' ');
    text.push_str(&scalar(value, depth + 1));
    text.push('\n');
}

fn indent(depth: usize, text: &mut String) {
    text.push_str(&"  ".repeat(depth));
}

fn scalar(value: &Value, depth: usize) -> String {
    match value {
        Value::String(text) => block(text, depth).unwrap_or_else(|| quoted(text)),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Lines of text as they are, if nothing of them would be lost.
fn block(text: &str, depth: usize) -> Option<String> {
    let is_plain =
        |c: char| c == '\n' || (!c.is_control() && c != '\u{feff}' && c != '\u{2028}' && c != '\u{2029}');
    let body = text.trim_end_matches('\n');
    if !text.contains('\n') || body.is_empty() || text.starts_with([' ', '\n']) || !text.chars().all(is_plain)
    {
        return None;
    }
    let chomping = match text.len() - body.len() {
        0 => "-",
        1 => "",
        _ => "+",
    };
    let mut out = format!("|{chomping}");
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, &mut out);
            out.push_str(line);
        }
    }
    out.push_str(&"\n".repeat((text.len() - body.len()).saturating_sub(1)));
    Some(out)
}

/// A text on one line, in quotes where it could be read as something else.
fn quoted(text: &str) -> String {
    if text.is_empty() || resolves(text) || text.chars().any(is_special) {
        // What JSON writes is a text of YAML.
        return Value::from(text).to_string();
    }
    let first = text.starts_with(|c: char| ",[]{}#&*!|>'\"%@`".contains(c));
    let mut chars = text.chars();
    let is_indicator = matches!((chars.next(), chars.next()), (Some('-' | '?' | ':'), None | Some(' ')));
    let is_mark = text.starts_with("---") || text.starts_with("...");
    let is_torn = text.contains(": ") || text.contains(" #") || text.ends_with(':');
    if first || is_indicator || is_mark || is_torn || text.starts_with(' ') || text.ends_with(' ') {
        return format!("'{}'", text.replace('\'', "''"));
    }
    text.to_owned()
}

fn is_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether YAML 1.1 takes the plain text for something else than a text.
fn resolves(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "~", "null", "y", "yes", "true", "on", "n", "no", "false", "off", ".nan", ".inf", "+.inf", "-.inf",
        "<<", "=",
    ];
    let lower = text.to_ascii_lowercase();
    // Any text of numbers, dates, times and digits in other bases; a few of them would be texts all the same.
    let is_number_like = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && text.contains(|c: char| c.is_ascii_digit())
        && (is_number(&lower) || is_time(text));
    WORDS.contains(&lower.as_str()) || is_number_like
}

fn is_number(lower: &str) -> bool {
    let plain = lower.trim_start_matches(['+', '-']).replace('_', "");
    let based = ["0x", "0b", "0o"].iter().any(|prefix| {
        plain.strip_prefix(prefix).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_ascii_hexdigit()))
    });
    let is_sexagesimal =
        plain.contains(':') && plain.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | '.'));
    let is_decimal = plain.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-'));
    based || is_sexagesimal || (is_decimal && plain.parse::<f64>().is_ok())
}

fn is_time(text: &str) -> bool {
    let date: Vec<&str> = text.get(..10).map(|date| date.split('-').collect()).unwrap_or_default();
    let digits = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    date.len() == 3
        && date[0].len() == 4
        && date.iter().all(digits)
        && text[10..].chars().all(|c| c.is_ascii_digit() || "Tt :.Zz+-".contains(c))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_stand_by_name_and_items_under_their_list() {
        let object = json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "data": {"empty": "", "script": "a\n\n  b\n", "tail": "x\ny", "odd": " a\nb"},
            "metadata": {"name": "c", "labels": {}, "finalizers": ["a", "b"],
                "managedFields": [{"time": "2026-01-02T03:04:05Z", "fieldsV1": {"f:data": {".": {}, "k:{\"a\":1}": {}}}}, [1, [2]]]},
        });
        let text = encode(&object);
        expect![[r#"
            apiVersion: v1
            data:
              empty: ""
              odd: " a\nb"
              script: |
                a

                  b
              tail: |-
                x
                y
            kind: ConfigMap
            metadata:
              finalizers:
              - a
              - b
              labels: {}
              managedFields:
              - fieldsV1:
                  f:data:
                    .: {}
                    k:{"a":1}: {}
                time: "2026-01-02T03:04:05Z"
              -
                - 1
                -
                  - 2
              name: c
        "#]]
        .assert_eq(&text);
        assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap(), object);
    }

    #[test]
    fn a_text_stays_a_text() {
        for (text, written) in [
            ("y", "\"y\""),
            ("on", "\"on\""),
            ("No", "\"No\""),
            ("12", "\"12\""),
            ("1e3", "\"1e3\""),
            ("0x1F", "\"0x1F\""),
            ("12:30:45", "\"12:30:45\""),
            ("2026-01-02", "\"2026-01-02\""),
            ("1.36.0", "1.36.0"),
            ("10Gi", "10Gi"),
            ("-", "'-'"),
            ("*", "'*'"),
            ("a: b", "'a: b'"),
            ("it's #1", "'it''s #1'"),
            ("f:x", "f:x"),
            ("http://a.b", "http://a.b"),
            ("tab\there", "\"tab\\there\""),
            ("{}", "'{}'"),
            ("null", "\"null\""),
            ("yes please", "yes please"),
        ] {
            assert_eq!(quoted(text), written);
            let read: Value = serde_yaml::from_str(&format!("a: {written}")).unwrap();
            assert_eq!(read["a"], text);
        }
    }

    #[test]
    fn texts_of_many_lines_come_back_as_they_were() {
        for text in [
            "a\n",
            "a\nb",
            "a\n\n\n",
            "\n",
            "a\n b\n",
            " a\nb\n",
            "a\tb\nc",
            "a: b\n# c\n",
            "x\r\ny",
            "a\n\nb\n\n",
        ] {
            let object = json!({"l": [{"a": text, "b": text}], "z": text});
            assert_eq!(serde_yaml::from_str::<Value>(&encode(&object)).unwrap(), object, "{text:?}");
        }
    }
}
