//! Request bodies: JSON, YAML and protobuf into values, noting fields that stand twice.

mod plain;
pub(super) mod syntax;

use std::cell::RefCell;
use std::fmt;

use api_types::protobuf;
use api_types::status::Status;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// So many fields that stand twice are told; as in Kubernetes, nobody reads more.
const NOTES_MAX: usize = 100;

/// A decoded body and what is to be said of fields that it names twice; the last one counts.
pub(crate) struct Decoded {
    pub(crate) value: Value,
    pub(crate) duplicates: Duplicates,
}

/// Fields that a body names twice, as readers of its form tell of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// JSON: their paths.
    Paths(Vec<String>),
    /// YAML: a sentence each, with its line.
    Lines(Vec<String>),
    /// A JSON patch, whose fields are none of the object's: a sentence each.
    Operations(Vec<String>),
}

impl Default for Duplicates {
    fn default() -> Self {
        Self::Paths(Vec::new())
    }
}

impl Duplicates {
    /// A sentence for each.
    pub(crate) fn notes(&self) -> Vec<String> {
        match self {
            Self::Paths(paths) => paths.iter().map(|path| format!("duplicate field {path:?}")).collect(),
            Self::Lines(lines) | Self::Operations(lines) => lines.clone(),
        }
    }

    /// The notes as the parts of one error.
    pub(crate) fn errors(&self) -> Vec<String> {
        match self {
            Self::Lines(lines) if !lines.is_empty() => {
                vec![format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))]
            }
            _ => self.notes(),
        }
    }
}

const MEDIA: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Reads a body, which is to be of the kind `wanted`, by its media type.
pub(crate) fn decode(media: &str, body: &[u8], wanted: &str) -> Result<Decoded, Status> {
    let decoded = match media {
        "" | "application/json" | "*/*" => {
            decode_json(body).map_err(|why| format!("couldn't get version/kind; json parse error: {why}"))
        }
        "application/yaml" | "text/yaml" | "application/x-yaml" => decode_yaml(body),
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::decode(body).map_err(|e| format!("cannot read the body as protobuf: {e}"));
            value.map(|value| Decoded { value, duplicates: Duplicates::default() })
        }
        _ => return Err(Status::unsupported_media_type(MEDIA)),
    };
    let typed = decoded.and_then(|decoded| check_type_names(&decoded.value).map(|()| decoded));
    typed.map_err(|why| {
        let body = summary(body);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {wanted}): {why} ({body})"
        ))
    })
}

/// Whether version and kind can be read out of a body. Null is a body without either.
fn check_type_names(value: &Value) -> Result<(), String> {
    const INTO: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let fail = |why: String| {
        Err(format!("couldn't get version/kind; json parse error: json: cannot unmarshal {why}"))
    };
    let Value::Object(fields) = value else {
        return match value {
            Value::Null => Ok(()),
            other => fail(format!("{} into Go value of type {INTO}", syntax::go_name(other))),
        };
    };
    let wrong = ["apiVersion", "kind"].iter().find_map(|name| {
        fields.get(*name).filter(|value| !value.is_string() && !value.is_null()).map(|value| (name, value))
    });
    match wrong {
        Some((name, value)) => {
            fail(format!("{} into Go struct field .{name} of type string", syntax::go_name(value)))
        }
        None => Ok(()),
    }
}

/// How a body begins, for the message that it cannot be read.
fn summary(body: &[u8]) -> String {
    const BYTES_MAX: usize = 30;
    let (start, rest) =
        (&body[..body.len().min(BYTES_MAX)], if body.len() > BYTES_MAX { " ..." } else { "" });
    match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{rest}", String::from_utf8_lossy(start)),
        Some(_) => {
            let digits: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digits}{rest}")
        }
    }
}

/// The value of a body, a patch's too, for those who only look at it.
pub(crate) fn decode_any(headers: &http::HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let media = super::media_type(headers);
    let decoded = match media {
        _ if media.ends_with("patch+json") => decode_json(body).map_err(Status::bad_request),
        _ if media.ends_with("patch+yaml") => decode_yaml(body).map_err(Status::bad_request),
        _ => decode(media, body, "object"),
    };
    decoded.map(|decoded| decoded.value)
}

/// Reads JSON, or says what is wrong with it.
pub(crate) fn decode_json(body: &[u8]) -> Result<Decoded, String> {
    let notes = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = At { path: Path::Root, notes: &notes, yaml: None }.deserialize(&mut reader);
    // What Go would read all the same is deeper or larger than is taken here.
    let value = read
        .and_then(|v| reader.end().map(|()| v))
        .map_err(|error| syntax::fault(body).unwrap_or_else(|| error.to_string()))?;
    Ok(Decoded { value, duplicates: Duplicates::Paths(notes.into_inner()) })
}

/// Reads YAML, of which JSON is a part, or says what is wrong with it.
pub(crate) fn decode_yaml(body: &[u8]) -> Result<Decoded, String> {
    let notes = RefCell::new(Vec::new());
    // As in Kubernetes, what follows the first document is not read.
    let Some(reader) = serde_yaml::Deserializer::from_slice(body).next() else {
        return Err("the body is empty".to_owned());
    };
    let at = At { path: Path::Root, notes: &notes, yaml: Some(body) };
    let value =
        at.deserialize(reader).map_err(|e| format!("error converting YAML to JSON: {}", yaml_fault(&e)))?;
    Ok(Decoded { value, duplicates: Duplicates::Lines(notes.into_inner()) })
}

/// The line in front, where Kubernetes' reader has it.
fn yaml_fault(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let problem = text.split(" at line ").next().unwrap_or_default();
    match error.location() {
        Some(place) if !problem.starts_with("yaml:") => format!("yaml: line {}: {problem}", place.line()),
        _ => problem.to_owned(),
    }
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

#[derive(Clone, Copy)]
struct At<'a> {
    path: Path<'a>,
    notes: &'a RefCell<Vec<String>>,
    /// The input, if it is YAML.
    yaml: Option<&'a [u8]>,
}

impl<'a> At<'a> {
    fn below<'b>(&self, path: Path<'b>) -> At<'b>
    where
        'a: 'b,
    {
        At { path, notes: self.notes, yaml: self.yaml }
    }

    fn note(&self, duplicate: &Path<'_>, key: &Key<'_>) {
        let mut notes = self.notes.borrow_mut();
        if notes.len() == NOTES_MAX {
            return;
        }
        notes.push(match key.piece {
            Some(piece) => format!("line {}: key {:?} already set in map", piece.line(), key.name),
            None => duplicate.to_string(),
        });
    }
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

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        let value =
            if self.yaml.is_some() { plain::float(v) } else { Number::from_f64(v).map(Value::Number) };
        value.ok_or_else(|| E::custom(format_args!("json: unsupported value: {v}")))
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Value, E> {
        let piece = self.yaml.and_then(|input| plain::find(input, v));
        Ok(match piece.is_some_and(plain::Piece::is_plain) {
            true => plain::resolve(v),
            false => Value::String(v.to_owned()),
        })
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
        while let Some(item) = items.next_element_seed(self.below(Path::Item(&self.path, out.len())))? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = fields.next_key_seed(KeyAt { yaml: self.yaml })? {
            let path = Path::Field(&self.path, &key.name);
            if key.is_merge {
                merge(fields.next_value_seed(self.below(path))?, &mut out).map_err(A::Error::custom)?;
                continue;
            }
            if out.contains_key(&key.name) {
                self.note(&path, &key);
            }
            let value = fields.next_value_seed(self.below(path))?;
            out.insert(key.name, value);
        }
        Ok(Value::Object(out))
    }
}

/// A field's name. YAML may give it as something else than a text.
struct Key<'a> {
    name: String,
    /// `<<`: the fields of its value stand here.
    is_merge: bool,
    /// Where it stands in the input, if that is YAML.
    piece: Option<plain::Piece<'a>>,
}

struct KeyAt<'a> {
    yaml: Option<&'a [u8]>,
}

impl<'de, 'a> DeserializeSeed<'de> for KeyAt<'a> {
    type Value = Key<'a>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Key<'a>, D::Error> {
        match self.yaml {
            Some(_) => reader.deserialize_any(self),
            None => reader.deserialize_str(self),
        }
    }
}

impl<'de, 'a> Visitor<'de> for KeyAt<'a> {
    type Value = Key<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Key<'a>, E> {
        Ok(Key { name: v.to_string(), is_merge: false, piece: None })
    }

    fn visit_i64<E>(self, v: i64) -> Result<Key<'a>, E> {
        Ok(Key { name: v.to_string(), is_merge: false, piece: None })
    }

    fn visit_u64<E>(self, v: u64) -> Result<Key<'a>, E> {
        Ok(Key { name: v.to_string(), is_merge: false, piece: None })
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Key<'a>, E> {
        Ok(Key { name: v.to_string(), is_merge: false, piece: None })
    }

    fn visit_str<E>(self, v: &str) -> Result<Key<'a>, E> {
        Ok(Key { name: v.to_owned(), is_merge: false, piece: None })
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Key<'a>, E> {
        let piece = self.yaml.and_then(|input| plain::find(input, v));
        let is_plain = piece.is_some_and(plain::Piece::is_plain);
        let name = match plain::resolve(v) {
            Value::Bool(meant) if is_plain => meant.to_string(),
            Value::Number(meant) if is_plain => meant.to_string(),
            _ => v.to_owned(),
        };
        Ok(Key { is_merge: is_plain && v == "<<", name, piece })
    }
}

/// Adds the fields of a mapping, or of several of which the first counts most.
fn merge(from: Value, into: &mut Map<String, Value>) -> Result<(), &'static str> {
    const WHY: &str = "yaml: map merge requires map or sequence of maps as the value";
    match from {
        Value::Object(fields) => into.extend(fields),
        Value::Array(maps) => {
            for map in maps.into_iter().rev() {
                let Value::Object(fields) = map else { return Err(WHY) };
                into.extend(fields);
            }
        }
        _ => return Err(WHY),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_stands_twice_is_noted_with_its_path() {
        let decoded = decode_json(br#"{"spec":{"a":[{"b":1,"b":2}]}}"#).unwrap();
        assert_eq!(decoded.duplicates.errors(), ["duplicate field \"spec.a[0].b\""]);
        assert_eq!(decoded.value["spec"]["a"][0]["b"], 2);
    }

    #[test]
    fn a_body_that_cannot_be_read_is_told_with_its_beginning() {
        let refused = |media: &str, body: &str| decode(media, body.as_bytes(), "Pod").err().unwrap().message;
        const START: &str = "the object provided is unrecognized (must be of type Pod): ";
        const PARSE: &str = "couldn't get version/kind; json parse error: ";
        for (body, expected) in [
            ("{\"a\": }", "invalid character '}' looking for beginning of value ({\"a\": })"),
            ("", "unexpected end of JSON input (<empty>)"),
            ("no", "invalid character 'o' in literal null (expecting 'u') (6e6f)"),
            (
                "{\"metadata\":{\"name\":\"abcdefghijklm\"",
                "unexpected end of JSON input ({\"metadata\":{\"name\":\"abcdefghi ...)",
            ),
            (
                "[]",
                r#"json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b5d)"#,
            ),
            (
                "{\"kind\":7}",
                "json: cannot unmarshal number into Go struct field .kind of type string ({\"kind\":7})",
            ),
        ] {
            assert_eq!(refused("application/json", body), format!("{START}{PARSE}{expected}"));
        }
        let yaml = refused("application/yaml", "a: [1\nb: 2");
        assert!(yaml.starts_with(&format!("{START}error converting YAML to JSON: yaml: line ")), "{yaml}");
    }

    #[test]
    fn an_unknown_media_type_is_refused() {
        assert_eq!(decode("application/cbor", b"x", "Pod").err().unwrap().code(), 415);
        assert_eq!(decode("application/vnd.kubernetes.protobuf", b"k8s", "Pod").err().unwrap().code(), 400);
    }

    #[test]
    fn yaml_is_read_like_json() {
        let decoded = decode("application/yaml", b"a: 1\nb: [x, true, null]\n", "Pod").unwrap();
        assert_eq!(decoded.value, serde_json::json!({ "a": 1, "b": ["x", true, null] }));
    }

    #[test]
    fn yaml_without_quotes_is_read_as_kubernetes_does() {
        for (text, value) in [
            (
                "{a: yes, b: 'yes', c: \"no\", d: !!str on, e: off}",
                serde_json::json!({"a": true, "b": "yes", "c": "no", "d": "on", "e": false}),
            ),
            (
                "a: 0777\nb: 1e3\nc: \"0777\"\nd: 1_000",
                serde_json::json!({"a": 511, "b": 1000, "c": "0777", "d": 1000}),
            ),
            ("y: 1\n1: a\n'n': b", serde_json::json!({"true": 1, "1": "a", "n": "b"})),
            (
                "a: &x {k: 1, l: y}\nb:\n  <<: *x\n  k: 2\n",
                serde_json::json!({"a": {"k": 1, "l": true}, "b": {"k": 2, "l": true}}),
            ),
            (
                "a: [&x {k: 1}, &y {k: 2, l: 3}]\nb: {<<: [*x, *y]}",
                serde_json::json!({"a": [{"k": 1}, {"k": 2, "l": 3}], "b": {"k": 1, "l": 3}}),
            ),
            ("a: |\n  yes\nb: >-\n  no", serde_json::json!({"a": "yes\n", "b": "no"})),
            ("a: &q yes\nb: *q", serde_json::json!({"a": true, "b": true})),
        ] {
            assert_eq!(decode_yaml(text.as_bytes()).unwrap().value, value, "{text}");
        }
    }

    #[test]
    fn yaml_that_json_cannot_say_is_refused() {
        for text in ["a: .nan", "a: {<<: 1}"] {
            assert!(decode_yaml(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_first_of_many_repeated_fields_are_told() {
        let many = "a: 1\n".repeat(1000);
        let Duplicates::Lines(lines) = decode_yaml(many.as_bytes()).unwrap().duplicates else { panic!() };
        assert_eq!(lines.len(), NOTES_MAX);
        assert_eq!(lines.last().unwrap(), "line 101: key \"a\" already set in map");
    }

    #[test]
    fn a_field_that_stands_twice_in_yaml_is_noted_with_its_line() {
        let decoded = decode_yaml(b"a: 1\nb:\n  x: 1\n  x: 2\n").unwrap();
        assert_eq!(decoded.duplicates.notes(), ["line 4: key \"x\" already set in map"]);
        assert_eq!(
            decoded.duplicates.errors(),
            ["yaml: unmarshal errors:\n  line 4: key \"x\" already set in map"]
        );
    }
}
