//! Walking over the JSON text of an object without building it.
//!
//! Only for text that the server encoded itself: it is valid and has no space between its parts. Where it is not
//! so, the walk ends early; nothing else happens.

use std::borrow::Cow;

/// The fields of an object, as their text stands: names without their quotes, values whole. Anything else has none.
pub(crate) fn fields(object: &[u8]) -> Fields<'_> {
    Fields { rest: object.strip_prefix(b"{").unwrap_or_default() }
}

/// The value of one field.
pub(crate) fn field<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    fields(object).find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
}

/// As [`field`], for what is looked into and not needed whole: what follows the value is not cut off, so that its end
/// need not be found. [`fields`] and [`enter`] read it all the same.
pub(crate) fn enter<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut fields = fields(object);
    loop {
        let (known, value) = fields.begin()?;
        if known == name.as_bytes() {
            return Some(value);
        }
        fields.rest = value;
        fields.end()?;
    }
}

/// The items of a list, as their text stands. Anything else has none.
pub(crate) fn items(list: &[u8]) -> Items<'_> {
    Items { rest: list.strip_prefix(b"[").unwrap_or_default() }
}

/// A field's name as it is meant.
pub(crate) fn name(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(plain) if !name.contains(&b'\\') => Cow::Borrowed(plain),
        Ok(escaped) => Cow::Owned(serde_json::from_str(&format!("\"{escaped}\"")).unwrap_or_default()),
        Err(_) => Cow::default(),
    }
}

/// What a text, a number or a boolean says; none of null, lists and objects.
pub(crate) fn scalar(value: &[u8]) -> Option<Cow<'_, str>> {
    match value.first()? {
        b'"' if value.contains(&b'\\') => serde_json::from_slice(value).ok().map(Cow::Owned),
        b'"' => std::str::from_utf8(value.get(1..value.len() - 1)?).ok().map(Cow::Borrowed),
        b'{' | b'[' | b'n' => None,
        _ => std::str::from_utf8(value).ok().map(Cow::Borrowed),
    }
}

pub(crate) struct Fields<'a> {
    /// What follows the brace or comma before the next field.
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The next field's name, and its value with all that follows.
    fn begin(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (name, rest) = self.rest.split_at_checked(text_end(self.rest)?)?;
        Some((&name[1..name.len() - 1], rest.strip_prefix(b":")?))
    }

    /// Cuts off the value that stands first.
    fn end(&mut self) -> Option<&'a [u8]> {
        let (value, rest) = self.rest.split_at_checked(value_end(self.rest)?)?;
        self.rest = rest.strip_prefix(b",").unwrap_or_default();
        Some(value)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.begin()?;
        self.rest = value;
        Some((name, self.end()?))
    }
}

pub(crate) struct Items<'a> {
    /// What follows the bracket or comma before the next item.
    rest: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (item, rest) = self.rest.split_at_checked(value_end(self.rest).filter(|end| *end > 0)?)?;
        self.rest = rest.strip_prefix(b",").unwrap_or_default();
        Some(item)
    }
}

/// Where the text that begins here ends, its quotes included.
fn text_end(text: &[u8]) -> Option<usize> {
    let mut at = text.first().filter(|first| **first == b'"').map(|_| 1)?;
    loop {
        at += find_special(text.get(at..)?)?;
        match text[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// Where the first quote or backslash is. Most of an object is inside texts, so eight bytes are looked at at once.
fn find_special(text: &[u8]) -> Option<usize> {
    /// The high bit of every byte that is `sought`; bytes after the first that is may have it, too.
    fn marks(word: u64, sought: u8) -> u64 {
        const LOW: u64 = u64::from_ne_bytes([1; 8]);
        const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
        let difference = word ^ (LOW * u64::from(sought));
        difference.wrapping_sub(LOW) & !difference & HIGH
    }
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = marks(word, b'"') | marks(word, b'\\');
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let special = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(words.len() * 8 + special)
}

/// Where the value that begins here ends.
fn value_end(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match *text.get(at)? {
            b'"' => at += text_end(&text[at..])?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            // A number or a word ends where its surroundings go on.
            b',' | b'}' | b']' if depth == 0 => return Some(at),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &[u8] = br#"{"a":"x\"},{","b":{"c":[1,{"d":null}],"e":"]"},"n":-1.5e3,"t":true,"z":[]}"#;

    #[test]
    fn fields_are_cut_where_they_end() {
        let found: Vec<_> = fields(OBJECT).map(|(name, value)| (text(name), text(value))).collect();
        let expected = [
            ("a", r#""x\"},{""#),
            ("b", r#"{"c":[1,{"d":null}],"e":"]"}"#),
            ("n", "-1.5e3"),
            ("t", "true"),
            ("z", "[]"),
        ];
        assert_eq!(found, expected);
        assert_eq!(field(field(OBJECT, "b").unwrap(), "e"), Some(&br#""]""#[..]));
    }

    #[test]
    fn what_is_entered_is_read_to_its_own_end_only() {
        let inner = enter(enter(OBJECT, "b").unwrap(), "c").unwrap();
        assert_eq!(items(inner).map(text).collect::<Vec<_>>(), ["1", r#"{"d":null}"#]);
        let names = |object| fields(object).map(|(name, _)| text(name)).collect::<Vec<_>>();
        assert_eq!(names(enter(OBJECT, "b").unwrap()), ["c", "e"]);
        assert_eq!((enter(OBJECT, "none"), items(b"[]").count(), items(b"{}").count()), (None, 0, 0));
        assert_eq!((name(b"a"), name(br#"a\"b"#)), ("a".into(), "a\"b".into()));
    }

    #[test]
    fn scalars_say_what_is_written() {
        let said = |name| field(OBJECT, name).and_then(scalar).map(Cow::into_owned);
        assert_eq!(said("a").as_deref(), Some("x\"},{"));
        assert_eq!((said("n").as_deref(), said("t").as_deref()), (Some("-1.5e3"), Some("true")));
        assert_eq!((said("b"), said("z"), said("none")), (None, None, None));
    }

    #[test]
    fn texts_of_any_length_end_at_their_quote() {
        for length in 0..40 {
            let plain = format!("\"{}\":", "ä".repeat(length));
            let escaped = format!("\"{}\\\"{}\":", "x".repeat(length), "y".repeat(40 - length));
            for text in [plain, escaped] {
                assert_eq!(text_end(text.as_bytes()), Some(text.len() - 1), "{text}");
            }
        }
    }

    #[test]
    fn text_that_is_cut_off_ends_the_walk() {
        for length in 0..OBJECT.len() {
            assert!(fields(&OBJECT[..length]).count() <= 5);
            assert_eq!(enter(&OBJECT[..length], "none"), None);
        }
        assert_eq!(
            (fields(b"[1]").count(), fields(b"{}").count(), fields(b"{ \"a\": 1 }").count()),
            (0, 0, 0)
        );
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }
}
