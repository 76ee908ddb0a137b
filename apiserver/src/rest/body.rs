//! Request bodies: JSON, YAML and protobuf into values, noting fields that stand twice.

use std::cell::RefCell;
use std::fmt;

use api_types::protobuf;
use api_types::status::Status;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A decoded body and the paths of fields that it names twice; the last one counts.
pub(crate) struct Decoded {
    pub(crate) value: Value,
    pub(crate) duplicates: Vec<String>,
}

const MEDIA: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Reads a body by its media type. A syntax error says line and column.
pub(crate) fn decode(media: &str, body: &[u8]) -> Result<Decoded, Status> {
    match media {
        "" | "application/json" | "*/*" => decode_json(body),
        "application/yaml" | "text/yaml" | "application/x-yaml" => decode_yaml(body),
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::decode(body).map_err(|e| {
                Status::bad_request(format!(
                    "the object provided is unrecognized: cannot read the body as protobuf: {e}"
                ))
            })?;
            Ok(Decoded { value, duplicates: Vec::new() })
        }
        _ => Err(Status::unsupported_media_type(MEDIA)),
    }
}

/// The value of a body, a patch's too, for those who only look at it.
pub(crate) fn decode_any(headers: &http::HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let media = super::media_type(headers);
    let media = if media.ends_with("patch+json") { "application/json" } else { media };
    let media = if media.ends_with("patch+yaml") { "application/yaml" } else { media };
    decode(media, body).map(|decoded| decoded.value)
}

/// Reads JSON.
pub(crate) fn decode_json(body: &[u8]) -> Result<Decoded, Status> {
    let duplicates = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = At { path: Path::Root, duplicates: &duplicates }.deserialize(&mut reader);
    let value = read.and_then(|v| reader.end().map(|()| v)).map_err(|e| {
        Status::bad_request(format!(
            "the object provided is unrecognized: cannot parse the body as JSON: {e}"
        ))
    })?;
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

/// Reads YAML, of which JSON is a part.
pub(crate) fn decode_yaml(body: &[u8]) -> Result<Decoded, Status> {
    let duplicates = RefCell::new(Vec::new());
    // As in Kubernetes, what follows the first document is not read.
    let Some(reader) = serde_yaml::Deserializer::from_slice(body).next() else {
        return Err(Status::bad_request("the object provided is unrecognized: the body is empty"));
    };
    let value = At { path: Path::Root, duplicates: &duplicates }.deserialize(reader).map_err(|e| {
        Status::bad_request(format!(
            "the object provided is unrecognized: cannot parse the body as YAML: {e}"
        ))
    })?;
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

/// Where a value stands; text is made only for a duplicate.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct At<'a> {
    path: Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
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
        while let Some(item) = items
            .next_element_seed(At { path: Path::Item(&self.path, out.len()), duplicates: self.duplicates })?
        {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = Path::Field(&self.path, &name);
            if out.contains_key(&name) {
                self.duplicates.borrow_mut().push(path.to_string());
            }
            let value = fields.next_value_seed(At { path, duplicates: self.duplicates })?;
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_stands_twice_is_noted_with_its_path() {
        let decoded = decode_json(br#"{"spec":{"a":[{"b":1,"b":2}]}}"#).unwrap();
        assert_eq!(decoded.duplicates, ["spec.a[0].b"]);
        assert_eq!(decoded.value["spec"]["a"][0]["b"], 2);
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let error = decode_json(b"{\n  \"a\": }").err().unwrap();
        assert!(error.message.contains("line 2 column 8"), "{}", error.message);
        let error = decode_yaml(b"a: [1\nb: 2").err().unwrap();
        assert!(error.message.contains("line 2"), "{}", error.message);
    }

    #[test]
    fn an_unknown_media_type_is_refused() {
        assert_eq!(decode("application/cbor", b"x").err().unwrap().code(), 415);
        assert_eq!(decode("application/vnd.kubernetes.protobuf", b"k8s").err().unwrap().code(), 400);
    }

    #[test]
    fn yaml_is_read_like_json() {
        let decoded = decode("application/yaml", b"a: 1\nb: [x, true, null]\n").unwrap();
        assert_eq!(decoded.value, serde_json::json!({ "a": 1, "b": ["x", true, null] }));
    }
}
