//! Kubernetes' protobuf bodies, read into JSON values: some clients write nothing else.
//!
//! What a field is stands in the kind's schema; only its number has to be known besides (`fields.txt`, one
//! message a line; `2.1=hostPath` is field 1 of a part that JSON has no level for). Go writes fields that are no
//! pointers even when they hold nothing; the form in which objects are kept leaves those out. Answers are
//! never written in protobuf: every client that sends it reads JSON too.

mod json_schema;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Number, Value};

use crate::kinds;
use crate::schema::{self, Schema, Type};

/// How every body begins.
const MAGIC: &[u8] = b"k8s\0";

/// A body that is no protobuf of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("it does not begin as Kubernetes' protobuf does")]
    Magic,
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("field {number} of {message} has an unknown wire type")]
    WireType { message: String, number: u64 },
    #[error("{0} is not a kind that this server has in protobuf")]
    Unknown(String),
    #[error("schemas stand too deep in each other")]
    Depth,
    #[error("a JSON part of it cannot be read: {0}")]
    Json(String),
}

/// Reads a body: the envelope names the kind, whose schema and field numbers do the rest.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => version = text_of(text),
                        (2, Wire::Bytes(text)) => kind = text_of(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let schema =
        schema_of(&version, &kind).ok_or_else(|| ProtobufError::Unknown(format!("{kind} in {version}")))?;
    let mut fields = Map::new();
    fields.insert("kind".into(), kind.into());
    fields.insert("apiVersion".into(), version.into());
    message(&schema, raw, &mut fields)?;
    let mut object = Value::Object(fields);
    schema.normalize(&mut object);
    Ok(object)
}

fn schema_of(api_version: &str, kind: &str) -> Option<Schema> {
    let (group, version) = kinds::split_api_version(api_version);
    if let Some(row) = kinds::find_kind(group, version, kind) {
        return schema::builtin(row);
    }
    // Bodies of subresources are no rows of their own: their definition is named after group and version.
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    schema::builtin_definition(&format!("io.k8s.api.{package}.{version}.{kind}"))
        .or_else(|| schema::builtin_definition(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")))
}

/// Where the fields of a message go, by their numbers.
type Places = HashMap<u64, Place>;

enum Place {
    Field(&'static str),
    /// A message whose fields stand in the object itself.
    Part(Places),
}

/// The fields of a definition's message.
fn places(definition: &str) -> Option<&'static Places> {
    static TABLE: LazyLock<HashMap<&str, Places>> = LazyLock::new(|| {
        let lines = include_str!("protobuf/fields.txt").lines().filter(|l| !l.starts_with('#'));
        let rows = lines.filter_map(|line| {
            let mut words = line.split(' ');
            let definition = words.next()?;
            let mut places = Places::new();
            for (path, name) in words.filter_map(|word| word.split_once('=')) {
                set_place(&mut places, path, name)?;
            }
            Some((definition, places))
        });
        rows.collect()
    });
    TABLE.get(definition)
}

fn set_place(places: &mut Places, path: &str, name: &'static str) -> Option<()> {
    let Some((outer, inner)) = path.split_once('.') else {
        places.insert(path.parse().ok()?, Place::Field(name));
        return Some(());
    };
    match places.entry(outer.parse().ok()?).or_insert_with(|| Place::Part(Places::new())) {
        Place::Part(part) => set_place(part, inner, name),
        Place::Field(_) => None,
    }
}

enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed(u64),
}

/// The fields of a message as they stand on the wire.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Truncated)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtobufError> {
        let length = usize::try_from(length).map_err(|_| ProtobufError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Wire<'a>), ProtobufError> {
        let key = self.varint()?;
        let number = key >> 3;
        let little_endian = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed(little_endian(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(little_endian(self.take(4)?)),
            _ => return Err(ProtobufError::WireType { message: "a message".into(), number }),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn message(schema: &Schema, bytes: &[u8], out: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    if schema.definition.ends_with(json_schema::DEFINITION) {
        return json_schema::read(bytes, out);
    }
    let places =
        places(&schema.definition).ok_or_else(|| ProtobufError::Unknown(schema.definition.to_string()))?;
    part(schema, places, bytes, out)
}

fn part(
    schema: &Schema,
    places: &Places,
    bytes: &[u8],
    out: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    for field in Fields(bytes) {
        let (number, wire) = field?;
        match (places.get(&number), wire) {
            (Some(Place::Field(name)), wire) => put(schema, name, wire, out)?,
            (Some(Place::Part(below)), Wire::Bytes(bytes)) => part(schema, below, bytes, out)?,
            // A field from a later version.
            _ => {}
        }
    }
    Ok(())
}

fn put(
    schema: &Schema,
    name: &str,
    wire: Wire<'_>,
    out: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let open = Schema::default();
    let child = schema.child(name).unwrap_or(&open);
    match (child.ty, wire) {
        (Type::List, wire) => {
            let value = value(child.item().unwrap_or(&open), wire)?;
            add_item(out, name, value);
        }
        (Type::Map, Wire::Bytes(entry)) => {
            let (key, value) = map_entry(child.item().unwrap_or(&open), entry)?;
            add_entry(out, name, key, value);
        }
        (_, wire) => {
            let value = value(child, wire)?;
            if !value.is_null() {
                out.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn add_item(out: &mut Map<String, Value>, name: &str, item: Value) {
    if let Value::Array(list) = out.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
        list.push(item);
    }
}

fn add_entry(out: &mut Map<String, Value>, name: &str, key: String, value: Value) {
    if let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) {
        map.insert(key, value);
    }
}

fn map_entry(schema: &Schema, entry: &[u8]) -> Result<(String, Value), ProtobufError> {
    let (key, held) = entry_of(entry)?;
    // A value that holds nothing is what its type holds at the start: an empty text, mostly.
    Ok((key, value(schema, held.unwrap_or(Wire::Bytes(&[])))?))
}

/// The key of a map's entry, and its value if one stands there.
fn entry_of(entry: &[u8]) -> Result<(String, Option<Wire<'_>>), ProtobufError> {
    let (mut key, mut held) = (String::new(), None);
    for field in Fields(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = text_of(text),
            (2, wire) => held = Some(wire),
            _ => {}
        }
    }
    Ok((key, held))
}

fn value(schema: &Schema, wire: Wire<'_>) -> Result<Value, ProtobufError> {
    match (schema.ty, wire) {
        (Type::Boolean, Wire::Varint(number)) => Ok(Value::Bool(number != 0)),
        (Type::Number, Wire::Fixed(bits)) => Ok(float(f64::from_bits(bits))),
        (_, Wire::Varint(number)) => Ok(Value::from(number.cast_signed())),
        (_, Wire::Fixed(number)) => Ok(Value::from(number)),
        (Type::String, Wire::Bytes(bytes)) => text_value(schema, bytes),
        (Type::Quantity, Wire::Bytes(bytes)) => Ok(Value::String(first_text(bytes)?)),
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes),
        // A message without fields is an object of which nothing is known.
        (Type::Object | Type::Any, Wire::Bytes(bytes)) if places(&schema.definition).is_some() => {
            let mut fields = Map::new();
            message(schema, bytes, &mut fields)?;
            Ok(Value::Object(fields))
        }
        // A list that is a map's value has a message around it.
        (Type::List, Wire::Bytes(bytes)) => {
            let open = Schema::default();
            let item = schema.item().unwrap_or(&open);
            let items = Fields(bytes).map(|field| value(item, field?.1));
            Ok(Value::Array(items.collect::<Result<_, _>>()?))
        }
        // JSON as it is: raw extensions, field sets.
        (_, Wire::Bytes(bytes)) => embedded(bytes),
    }
}

/// A float as Go writes it: without a fraction if it has none.
fn float(number: f64) -> Value {
    const EXACT_MAX: f64 = 9.0e15;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
    match number.fract() == 0.0 && number.abs() < EXACT_MAX {
        true => Value::from(number as i64),
        false => Number::from_f64(number).map_or(Value::Null, Value::Number),
    }
}

fn embedded(bytes: &[u8]) -> Result<Value, ProtobufError> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(json)) = field? {
            return serde_json::from_slice(json).map_err(|e| ProtobufError::Json(e.to_string()));
        }
    }
    Ok(Value::Null)
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn first_text(bytes: &[u8]) -> Result<String, ProtobufError> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(text)) = field? {
            return Ok(text_of(text));
        }
    }
    Ok(String::new())
}

fn text_value(schema: &Schema, bytes: &[u8]) -> Result<Value, ProtobufError> {
    match &*schema.format {
        "byte" => Ok(Value::String(STANDARD.encode(bytes))),
        "date-time" => time(schema, bytes),
        _ => Ok(Value::String(text_of(bytes))),
    }
}

fn time(schema: &Schema, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(n)) => seconds = Some(n.cast_signed()),
            (2, Wire::Varint(n)) => nanos = u32::try_from(n).unwrap_or(0),
            _ => {}
        }
    }
    // Go's zero time is a message without fields, or the year 1.
    let at = seconds.filter(|s| *s > -62_135_596_800).and_then(|s| DateTime::<Utc>::from_timestamp(s, nanos));
    let precision =
        if schema.definition.ends_with("MicroTime") { SecondsFormat::Micros } else { SecondsFormat::Secs };
    Ok(at.map_or(Value::Null, |at| Value::String(at.to_rfc3339_opts(precision, true))))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = text_of(bytes),
            _ => {}
        }
    }
    Ok(if is_text { Value::String(text) } else { Value::from(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(number: u8, wire: u8) -> Vec<u8> {
        if number < 16 { vec![number << 3 | wire] } else { vec![number << 3 | wire | 0x80, number >> 4] }
    }

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = key(number, 2);
        out.push(u8::try_from(bytes.len()).unwrap());
        out.extend_from_slice(bytes);
        out
    }

    fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_is_read_with_its_metadata_and_map() {
        let metadata = [field(1, b"c"), field(8, &[])].concat();
        let entry = [field(1, b"a"), field(2, b"b")].concat();
        let raw = [field(1, &metadata), field(2, &entry)].concat();
        assert_eq!(
            decode(&body("v1", "ConfigMap", &raw)).unwrap(),
            json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "c" }, "data": { "a": "b" } })
        );
    }

    fn varint(number: u8, value: u8) -> Vec<u8> {
        [key(number, 0), vec![value]].concat()
    }

    #[test]
    fn a_zero_is_kept_only_where_go_has_a_pointer() {
        let probe = [field(1, &[]), varint(2, 0), varint(3, 0), varint(6, 3)].concat();
        let container = [field(1, b"c"), field(2, b"i"), field(10, &probe), varint(16, 0)].concat();
        let spec = [field(2, &container), varint(4, 0), varint(11, 0)].concat();
        let raw = field(2, &spec);
        assert_eq!(
            decode(&body("v1", "Pod", &raw)).unwrap()["spec"],
            json!({"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "image": "i", "livenessProbe": {"failureThreshold": 3}}]})
        );
        let raw = field(2, &[field(5, b""), field(3, b"")].concat());
        let claim = decode(&body("v1", "PersistentVolumeClaim", &raw)).unwrap();
        assert_eq!(claim["spec"]["storageClassName"], "");
        assert_eq!(claim["spec"].get("volumeName"), None);
    }

    #[test]
    fn parts_without_a_level_of_their_own_may_stand_in_each_other() {
        let rule = [field(1, b"apps"), field(2, b"v1"), field(3, b"deployments")].concat();
        let named = field(2, &[field(1, b"CREATE"), field(2, &rule)].concat());
        let spec = field(2, &field(2, &field(3, &named)));
        let policy = decode(&body("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", &spec));
        assert_eq!(
            policy.unwrap()["spec"]["matchConstraints"]["resourceRules"],
            json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}])
        );
    }

    #[test]
    fn schemas_of_custom_kinds_hold_themselves_and_plain_json() {
        let text = [field(5, b"string"), field(8, &field(1, b"\"red\""))].concat();
        let list = [field(5, b"array"), field(24, &field(1, &text))].concat();
        let entry = [field(1, b"colours"), field(2, &list)].concat();
        let schema = [field(5, b"object"), field(29, &entry)].concat();
        let status = field(5, &field(1, b""));
        let version =
            [field(1, b"v1"), varint(2, 1), varint(3, 1), field(4, &field(1, &schema)), status].concat();
        let raw = field(2, &[field(1, b"example.test"), field(7, &version)].concat());
        let definition = decode(&body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &raw)).unwrap();
        assert_eq!(
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
            json!({"type": "object", "properties": {"colours": {"type": "array", "items": {"type": "string", "default": "red"}}}})
        );
        assert_eq!(definition["spec"]["versions"][0]["subresources"], json!({"status": {}}));
        assert_eq!((float(10.0), float(0.5)), (json!(10), json!(0.5)));
    }

    #[test]
    fn what_is_cut_off_or_foreign_is_refused() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
        let whole = body("v1", "ConfigMap", &field(1, b"x"));
        assert!(decode(&whole[..whole.len() - 1]).is_err());
        assert!(matches!(decode(&body("v9", "Nothing", &[])), Err(ProtobufError::Unknown(_))));
    }
}
