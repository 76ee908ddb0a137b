//! Property names in expressions: what is not an identifier is escaped, as Kubernetes documents it.

use super::parse::RESERVED;

const ESCAPES: &[(&str, &str)] =
    &[("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// The name of a property in expressions; none if no expression can name it.
pub fn escape(property: &str) -> Option<String> {
    if RESERVED.contains(&property) {
        return Some(format!("__{property}__"));
    }
    let mut out = String::new();
    let mut rest = property;
    while let Some(c) = rest.chars().next() {
        if let Some((plain, escaped)) = ESCAPES.iter().find(|(plain, _)| rest.starts_with(plain)) {
            out.push_str(escaped);
            rest = &rest[plain.len()..];
        } else if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    let starts_well = out.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well.then_some(out)
}

/// The property that a name in an expression stands for; none if no property is escaped to it.
pub fn unescape(name: &str) -> Option<String> {
    let inner = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"));
    if let Some(word) = inner.filter(|word| RESERVED.contains(word)) {
        return Some(word.to_owned());
    }
    if RESERVED.contains(&name) {
        return None;
    }
    if !name.contains("__") {
        return Some(name.to_owned());
    }
    let mut out = String::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some((plain, escaped)) = ESCAPES.iter().find(|(_, escaped)| rest.starts_with(escaped)) {
            out.push_str(plain);
            rest = &rest[escaped.len()..];
        } else if rest.starts_with("__") {
            return None;
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    Some(out)
}

/// Whether a text can be the name of a variable.
pub fn is_identifier(text: &str) -> bool {
    let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_word
        && !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && !RESERVED.contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_escaped_name_is_read_back() {
        for name in ["a", "namespace", "a.b", "a-b/c", "a__b", "__", "x_y", "if"] {
            let escaped = escape(name).unwrap();
            assert_eq!(unescape(&escaped).as_deref(), Some(name), "{escaped}");
        }
        assert_eq!(escape("a b"), None);
        assert_eq!(unescape("namespace"), None);
    }
}
