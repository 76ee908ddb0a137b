//! An object as printers read it: its own text, cut into parts where a printer looks.
//!
//! A table of many objects is read far more often than anything in it changes, and a printer looks at little of
//! each. So the parts borrow the text, a list or fields are cut apart only when somebody asks for what is in them,
//! and most of an object, `managedFields` above all, is only skipped.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Index;

use serde_json::Value;

use crate::json_text;

/// A part of an object. It answers as `serde_json::Value` does.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(Cow<'a, str>),
    List(Uncut<'a, Self>),
    Fields(Uncut<'a, (Cow<'a, str>, Self)>),
}

/// The text of a list or of fields, and what is in it once that was asked for.
#[derive(Debug)]
pub(super) struct Uncut<'a, T> {
    text: &'a [u8],
    parts: OnceCell<Vec<T>>,
}

impl<'a, T> Uncut<'a, T> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, parts: OnceCell::new() }
    }
}

impl<'a> Node<'a> {
    /// The object, or part of one, whose JSON this is, as the server itself encodes it. What cannot be read is null.
    pub(super) fn read(text: &'a [u8]) -> Self {
        match text.first() {
            Some(b'{') => Self::Fields(Uncut::new(text)),
            Some(b'[') => Self::List(Uncut::new(text)),
            Some(b'"') => json_text::scalar(text).map_or(Self::Null, Self::Text),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') | None => Self::Null,
            _ => serde_json::from_slice(text).map_or(Self::Null, Self::Number),
        }
    }

    /// The JSON of a list or of fields.
    pub(super) fn text(&self) -> Option<&'a [u8]> {
        match self {
            Self::List(list) => Some(list.text),
            Self::Fields(fields) => Some(fields.text),
            _ => None,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.as_object()?.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The part at a path of names, each after a slash.
    pub(super) fn pointer(&self, pointer: &str) -> Option<&Self> {
        pointer.split('/').skip(1).try_fold(self, |at, name| at.get(name))
    }

    pub(super) fn as_object(&self) -> Option<&[(Cow<'a, str>, Self)]> {
        match self {
            Self::Fields(fields) => Some(fields.parts.get_or_init(|| {
                let parts = json_text::fields(fields.text);
                parts.map(|(name, value)| (json_text::name(name), Node::read(value))).collect()
            })),
            _ => None,
        }
    }

    pub(super) fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => {
                Some(list.parts.get_or_init(|| json_text::items(list.text).map(Node::read).collect()))
            }
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.as_i64(),
            _ => None,
        }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn is_true(&self) -> bool {
        matches!(self, Self::Bool(true))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Self::Fields(_))
    }

    /// The part by itself, as a cell shows it.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone().into_owned()),
            Self::List(Uncut { text, .. }) | Self::Fields(Uncut { text, .. }) => {
                serde_json::from_slice(text).unwrap_or_default()
            }
        }
    }
}

impl<'a> Index<&str> for Node<'a> {
    type Output = Self;

    fn index(&self, name: &str) -> &Self {
        self.get(name).unwrap_or(&Node::Null)
    }
}

impl PartialEq<bool> for Node<'_> {
    fn eq(&self, other: &bool) -> bool {
        self.as_bool() == Some(*other)
    }
}

impl PartialEq<i64> for Node<'_> {
    fn eq(&self, other: &i64) -> bool {
        self.as_i64() == Some(*other)
    }
}

impl PartialEq<str> for Node<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Node<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self.text(), other.text()) {
            (None, None) => self.to_value() == other.to_value(),
            (one, other) => one == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_is_read_as_it_is_written() {
        let object = json!({
            "kind": "Pod",
            "metadata": {"name": "a\n\"", "labels": {"metadata": "b", "a\"b": ""}},
            "spec": {"n": [-1, 1.5, u64::MAX, null, true, false, [], {}]},
        });
        let text = object.to_string();
        let node = Node::read(text.as_bytes());
        assert_eq!(node.to_value(), object);
        let labels = node["metadata"]["labels"].as_object().unwrap();
        assert_eq!(labels.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["metadata", "a\"b"]);
        let numbers: Vec<_> = node["spec"]["n"].as_array().unwrap().iter().map(Node::to_value).collect();
        assert_eq!(Value::Array(numbers), object["spec"]["n"]);
    }

    #[test]
    fn parts_are_found_by_their_paths() {
        let node = Node::read(br#"{"spec":{"n":[{"a":1}],"t":"x"}}"#);
        assert_eq!(node.pointer("/spec/t").and_then(Node::as_str), Some("x"));
        assert!(node.pointer("/spec/n/a").is_none() && node["spec"]["none"]["at all"].is_null());
        assert!(node["spec"]["n"].as_array().unwrap()[0]["a"] == 1);
    }
}
