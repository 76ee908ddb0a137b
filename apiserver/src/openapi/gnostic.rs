//! A version 2 document as protobuf, which is the only form of it that kubectl and helm ask for.
//!
//! The messages are those of gnostic's `OpenAPIv2.proto`: one field for each key of the JSON form, maps as
//! lists of names and values, free values as YAML text (which JSON is). So a table of keys and numbers and
//! one walk over the JSON do it, and no message types are needed.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

/// How the value of a key is written.
enum Shape {
    Text,
    Texts,
    Flag,
    Integer,
    Number,
    /// Any value, as text.
    Free,
    Frees,
    One(&'static Message),
    Many(&'static Message),
    /// A message with one list of named messages, at this number.
    Named(u32, &'static Message),
    /// A message whose only field, a list, has one or several of these.
    Listed(&'static Message),
    /// One name or several.
    Type,
    SchemaOrFlag,
    Parameters,
    Response,
}

/// Keys, their numbers and shapes; and where keys that begin with `x-` go.
struct Message {
    fields: &'static [(&'static str, u32, Shape)],
    extensions: u32,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Shape::Text),
        ("info", 2, Shape::One(&INFO)),
        ("paths", 8, Shape::Named(2, &PATH)),
        ("definitions", 9, Shape::Named(1, &SCHEMA)),
    ],
    extensions: 16,
};

static INFO: Message = Message {
    fields: &[("title", 1, Shape::Text), ("version", 2, Shape::Text), ("description", 3, Shape::Text)],
    extensions: 7,
};

static PATH: Message = Message {
    fields: &[
        ("get", 2, Shape::One(&OPERATION)),
        ("put", 3, Shape::One(&OPERATION)),
        ("post", 4, Shape::One(&OPERATION)),
        ("delete", 5, Shape::One(&OPERATION)),
        ("options", 6, Shape::One(&OPERATION)),
        ("head", 7, Shape::One(&OPERATION)),
        ("patch", 8, Shape::One(&OPERATION)),
        ("parameters", 9, Shape::Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Shape::Texts),
        ("summary", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("operationId", 5, Shape::Text),
        ("produces", 6, Shape::Texts),
        ("consumes", 7, Shape::Texts),
        ("parameters", 8, Shape::Parameters),
        ("responses", 9, Shape::Response),
        ("schemes", 10, Shape::Texts),
        ("deprecated", 11, Shape::Flag),
    ],
    extensions: 13,
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Flag),
        ("schema", 5, Shape::One(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Shape::Flag),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("allowEmptyValue", 5, Shape::Flag),
        ("type", 6, Shape::Text),
        ("format", 7, Shape::Text),
        ("uniqueItems", 20, Shape::Flag),
    ],
    extensions: 23,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Shape::Flag),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 5, Shape::Text),
        ("format", 6, Shape::Text),
        ("uniqueItems", 19, Shape::Flag),
    ],
    extensions: 22,
};

static REFERENCE: Message =
    Message { fields: &[("$ref", 1, Shape::Text), ("description", 2, Shape::Text)], extensions: 0 };

static RESPONSE: Message = Message {
    fields: &[("description", 1, Shape::Text), ("schema", 2, Shape::Listed(&SCHEMA))],
    extensions: 5,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("title", 3, Shape::Text),
        ("description", 4, Shape::Text),
        ("default", 5, Shape::Free),
        ("multipleOf", 6, Shape::Number),
        ("maximum", 7, Shape::Number),
        ("exclusiveMaximum", 8, Shape::Flag),
        ("minimum", 9, Shape::Number),
        ("exclusiveMinimum", 10, Shape::Flag),
        ("maxLength", 11, Shape::Integer),
        ("minLength", 12, Shape::Integer),
        ("pattern", 13, Shape::Text),
        ("maxItems", 14, Shape::Integer),
        ("minItems", 15, Shape::Integer),
        ("uniqueItems", 16, Shape::Flag),
        ("maxProperties", 17, Shape::Integer),
        ("minProperties", 18, Shape::Integer),
        ("required", 19, Shape::Texts),
        ("enum", 20, Shape::Frees),
        ("additionalProperties", 21, Shape::SchemaOrFlag),
        ("type", 22, Shape::Type),
        ("items", 23, Shape::Listed(&SCHEMA)),
        ("allOf", 24, Shape::Many(&SCHEMA)),
        ("properties", 25, Shape::Named(1, &SCHEMA)),
    ],
    extensions: 31,
};

/// The document `openapi/v2` as a gnostic `Document`. Keys that the table does not have are left out.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&DOCUMENT, document, &mut out);
    out
}

fn message(shape: &Message, value: &Value, out: &mut Vec<u8>) {
    let Some(object) = value.as_object() else { return };
    for (key, number, shape) in shape.fields {
        if let Some(value) = object.get(*key) {
            field(*number, shape, value, out);
        }
    }
    let extensions = object.iter().filter(|(key, _)| shape.extensions != 0 && key.starts_with("x-"));
    for (key, value) in extensions {
        named(shape.extensions, key, out, |out| free(value, out));
    }
}

fn field(number: u32, shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    match shape {
        Shape::Text => text(number, value, out),
        Shape::Texts => values(value).for_each(|value| text(number, value, out)),
        Shape::Flag => flag(number, value, out),
        Shape::Integer => integer(number, value, out),
        Shape::Number => double(number, value, out),
        Shape::Free => nested(number, out, |out| free(value, out)),
        Shape::Frees => values(value).for_each(|value| nested(number, out, |out| free(value, out))),
        Shape::One(of) => nested(number, out, |out| message(of, value, out)),
        Shape::Many(of) => values(value).for_each(|value| nested(number, out, |out| message(of, value, out))),
        Shape::Named(inner, of) => nested(number, out, |out| {
            for (name, value) in entries(value) {
                named(*inner, name, out, |out| message(of, value, out));
            }
        }),
        Shape::Listed(of) => nested(number, out, |out| {
            values(value).for_each(|value| nested(1, out, |out| message(of, value, out)));
        }),
        Shape::Type => nested(number, out, |out| values(value).for_each(|value| text(1, value, out))),
        Shape::SchemaOrFlag => nested(number, out, |out| match value {
            Value::Bool(_) => flag(2, value, out),
            _ => nested(1, out, |out| message(&SCHEMA, value, out)),
        }),
        Shape::Parameters => {
            values(value).for_each(|value| nested(number, out, |out| parameter(value, out)));
        }
        Shape::Response => nested(number, out, |out| {
            for (code, value) in entries(value) {
                named(1, code, out, |out| nested(1, out, |out| message(&RESPONSE, value, out)));
            }
        }),
    }
}

/// A `ParametersItem`: a reference, or a body, path or query parameter, each in wrappers of its own.
fn parameter(value: &Value, out: &mut Vec<u8>) {
    if value.get("$ref").is_some() {
        return nested(2, out, |out| message(&REFERENCE, value, out));
    }
    nested(1, out, |out| match value.get("in").and_then(Value::as_str) {
        Some("body") => nested(1, out, |out| message(&BODY_PARAMETER, value, out)),
        Some("path") => nested(2, out, |out| nested(4, out, |out| message(&PATH_PARAMETER, value, out))),
        _ => nested(2, out, |out| nested(3, out, |out| message(&QUERY_PARAMETER, value, out))),
    });
}

/// The elements of a list, or the one value that stands for such a list.
fn values(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn nested(number: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    bytes(number, &inner, out);
}

fn named(number: u32, name: &str, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    nested(number, out, |out| {
        bytes(1, name.as_bytes(), out);
        nested(2, out, fill);
    });
}

fn free(value: &Value, out: &mut Vec<u8>) {
    bytes(2, value.to_string().as_bytes(), out);
}

fn text(number: u32, value: &Value, out: &mut Vec<u8>) {
    if let Some(text) = value.as_str() {
        bytes(number, text.as_bytes(), out);
    }
}

fn flag(number: u32, value: &Value, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(u64::from(value.as_bool().unwrap_or(false)), out);
}

fn integer(number: u32, value: &Value, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value.as_i64().unwrap_or(0).cast_unsigned(), out);
}

fn double(number: u32, value: &Value, out: &mut Vec<u8>) {
    encode_key(number, WireType::SixtyFourBit, out);
    out.extend(value.as_f64().unwrap_or(0.0).to_le_bytes());
}

fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(prost::Message)]
    struct Document {
        #[prost(string, tag = "1")]
        swagger: String,
        #[prost(message, optional, tag = "9")]
        definitions: Option<Definitions>,
    }

    #[derive(prost::Message)]
    struct Definitions {
        #[prost(message, repeated, tag = "1")]
        all: Vec<Named>,
    }

    #[derive(prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, optional, tag = "2")]
        value: Option<Schema>,
    }

    #[derive(prost::Message)]
    struct Schema {
        #[prost(string, tag = "4")]
        description: String,
        #[prost(double, tag = "9")]
        minimum: f64,
        #[prost(string, repeated, tag = "19")]
        required: Vec<String>,
        #[prost(message, optional, tag = "22")]
        kind: Option<Texts>,
        #[prost(message, optional, tag = "25")]
        properties: Option<Definitions>,
        #[prost(message, repeated, tag = "31")]
        extensions: Vec<Extension>,
    }

    #[derive(prost::Message)]
    struct Texts {
        #[prost(string, repeated, tag = "1")]
        all: Vec<String>,
    }

    #[derive(prost::Message)]
    struct Extension {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(message, optional, tag = "2")]
        value: Option<Free>,
    }

    #[derive(prost::Message)]
    struct Free {
        #[prost(string, tag = "2")]
        yaml: String,
    }

    #[test]
    fn a_definition_reads_back_as_the_message_that_clients_know() {
        let group = json!([{"group": "", "version": "v1", "kind": "Box"}]);
        let schema = json!({"description": "A box.", "type": "object", "required": ["size"],
            "properties": {"size": {"type": "integer", "minimum": 1.5}}, "x-kubernetes-group-version-kind": group});
        let bytes = encode(&json!({"swagger": "2.0", "definitions": {"v1.Box": schema}}));
        let document = <Document as prost::Message>::decode(bytes.as_slice()).unwrap();
        assert_eq!(document.swagger, "2.0");
        let found = &document.definitions.unwrap().all[0];
        let schema = found.value.as_ref().unwrap();
        assert_eq!((found.name.as_str(), schema.description.as_str()), ("v1.Box", "A box."));
        assert_eq!(schema.required, ["size"]);
        assert_eq!(schema.kind.as_ref().unwrap().all, ["object"]);
        let size = &schema.properties.as_ref().unwrap().all[0];
        assert_eq!((size.name.as_str(), size.value.as_ref().unwrap().minimum), ("size", 1.5));
        assert_eq!(schema.extensions[0].name, "x-kubernetes-group-version-kind");
        assert_eq!(schema.extensions[0].value.as_ref().unwrap().yaml, group.to_string());
    }
}
