//! Reads objects and notes the keys that occur twice, which a plain JSON value would hide.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// A value as it was read and the paths of fields that stood twice (`metadata.name`); the last one counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// Reads JSON text.
pub fn json(bytes: &[u8]) -> Result<Decoded, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let decoded = any(&mut reader)?;
    reader.end()?;
    Ok(decoded)
}

/// Reads from any deserializer that describes itself, such as a YAML document's.
pub fn any<'de, D: Deserializer<'de>>(reader: D) -> Result<Decoded, D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let value = Place { path: None, duplicates: &duplicates }.deserialize(reader)?;
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

/// Where the value that is being read stands; paths are written out only when something is wrong there.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: Option<&'a Step<'a>>,
    duplicates: &'a RefCell<Vec<String>>,
}

struct Step<'a> {
    above: Option<&'a Step<'a>>,
    at: At<'a>,
}

#[derive(Clone, Copy)]
enum At<'a> {
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
        }
        match (self.at, self.above) {
            (At::Index(i), _) => write!(f, "[{i}]"),
            (At::Key(key), None) => f.write_str(key),
            (At::Key(key), Some(_)) => write!(f, ".{key}"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let step = Step { above: self.path, at: At::Index(out.len()) };
            match items.next_element_seed(Place { path: Some(&step), duplicates: self.duplicates })? {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let step = Step { above: self.path, at: At::Key(&key) };
            let value = entries.next_value_seed(Place { path: Some(&step), duplicates: self.duplicates })?;
            if out.contains_key(&key) {
                self.duplicates.borrow_mut().push(step.to_string());
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stand_twice_are_named_and_the_last_counts() {
        let decoded = json(br#"{"a":{"x":1,"x":2},"l":[{"b":1,"b":1.5}],"a":{"x":3}}"#).unwrap();
        assert_eq!(decoded.duplicates, ["a.x", "l[0].b", "a"]);
        assert_eq!(decoded.value.to_string(), r#"{"a":{"x":3},"l":[{"b":1.5}]}"#);
    }

    #[test]
    fn what_follows_the_value_is_refused() {
        assert!(json(b"{} {}").is_err());
    }
}
