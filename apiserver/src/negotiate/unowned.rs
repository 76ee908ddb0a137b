//! Reading an object without its `managedFields`, for those who never look at them: they are a third of its text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Reads one level of an object, with what is left out there or below.
#[derive(Clone, Copy)]
pub(super) struct Unowned {
    /// The field whose value is read in the same way.
    below: Option<&'static str>,
    left_out: Option<&'static str>,
}

const OBJECT: Unowned = Unowned { below: Some("metadata"), left_out: None };
const METADATA: Unowned = Unowned { below: None, left_out: Some("managedFields") };

impl Unowned {
    /// The object whose JSON this is.
    pub(super) fn read(bytes: &[u8]) -> serde_json::Result<Value> {
        OBJECT.deserialize(&mut serde_json::Deserializer::from_slice(bytes))
    }
}

impl<'de> DeserializeSeed<'de> for Unowned {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Unowned {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if self.left_out == Some(&*name) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match self.below == Some(&*name) {
                true => map.next_value_seed(METADATA)?,
                false => map.next_value()?,
            };
            fields.insert(name.into_owned(), value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_is_read_but_who_owns_it() {
        let object = json!({
            "kind": "Pod",
            "metadata": {"name": "a", "managedFields": [{"manager": "m"}], "labels": {"metadata": "b"}},
            "spec": {"metadata": {"managedFields": 1}},
        });
        let mut expected = object.clone();
        expected["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
        assert_eq!(Unowned::read(object.to_string().as_bytes()).unwrap(), expected);
    }
}
