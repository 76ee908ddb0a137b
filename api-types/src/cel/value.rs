//! Values: JSON seen through a schema without a copy, and what expressions make.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value as Json;

use super::authorizer::{Authorizer, Decision, Query};
use super::error::EvalError;
use super::functions::format::NamedFormat;
use super::functions::net::Cidr;
use super::functions::semver::Semver;
use super::functions::url::Url;
use super::{Budget, names, types::Type};
use crate::quantity::Quantity;
use crate::schema::{self, Schema};

/// A value while it is evaluated. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(DateTime<Utc>),
    Duration(TimeDelta),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Rc<Value<'a>>>),
    Type(Type),
    Opaque(Opaque<'a>),
}

/// Text, borrowed from an object or made.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Made(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Made(text) => text,
        }
    }
}

/// A list, and what its schema says of it: sets and maps compare and add as such.
#[derive(Clone, Debug)]
pub struct List<'a> {
    pub(super) items: Items<'a>,
    pub(super) schema: Option<&'a Schema>,
}

#[derive(Clone, Debug)]
pub(super) enum Items<'a> {
    Json(&'a [Json]),
    Made(Rc<Vec<Value<'a>>>),
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Json(items) => items.len(),
            Items::Made(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, at: usize) -> Option<Value<'a>> {
        match &self.items {
            Items::Json(items) => Some(Value::below(items.get(at)?, self.schema.and_then(Schema::item))),
            Items::Made(items) => items.get(at).cloned(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

/// A map or an object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    Json(&'a serde_json::Map<String, Json>, Option<&'a Schema>),
    Made(Rc<BTreeMap<Key, Value<'a>>>),
    Lazy(&'a dyn Lazy<'a>),
}

/// Named values that are found only when they are asked for, such as a policy's variables.
pub trait Lazy<'a>: fmt::Debug {
    /// None if there is none of that name.
    fn get(&'a self, name: &str, budget: &mut Budget) -> Option<Result<Value<'a>, EvalError>>;
}

/// A map's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    /// Only what does not fit an `Int`: both compare equal in maps.
    Uint(u64),
    String(Arc<str>),
}

impl Key {
    pub(super) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Key::Uint(*u), Key::Int),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Key::Int(*d as i64),
            Value::String(s) => Key::String((&**s).into()),
            _ => return None,
        })
    }

    fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Uint(u) => Value::Uint(*u),
            Key::String(s) => Value::String(Text::Made(s.clone())),
        }
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Json(fields, _) => fields.len(),
            Map::Made(fields) => fields.len(),
            Map::Lazy(_) => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at a key as `map[key]` finds it.
    pub fn get(&self, key: &Key) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Json(fields, schema), Key::String(name)) => {
                Some(Value::below(fields.get(&**name)?, schema.and_then(|s| s.child(name))))
            }
            (Map::Made(fields), key) => fields.get(key).cloned(),
            _ => None,
        }
    }

    /// The value of a field as `map.field` finds it: fields of a schema's object are escaped, and what the
    /// schema does not have is not there.
    pub(super) fn field(&self, name: &str, budget: &mut Budget) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Map::Json(fields, Some(schema)) if schema.ty == schema::Type::Object => {
                let property: Cow<'_, str> = match name.contains("__") {
                    true => names::unescape(name)?.into(),
                    false => name.into(),
                };
                let schema = schema.properties.get(&*property)?;
                Some(Ok(Value::below(fields.get(&*property)?, Some(schema))))
            }
            Map::Lazy(lazy) => lazy.get(name, budget),
            Map::Json(fields, schema) => {
                Some(Ok(Value::below(fields.get(name)?, schema.and_then(|s| s.child(name)))))
            }
            Map::Made(fields) => fields.get(&Key::String(name.into())).cloned().map(Ok),
        }
    }

    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(fields, _) => fields.keys().map(|k| Value::String(Text::Borrowed(k))).collect(),
            Map::Made(fields) => fields.keys().map(Key::value).collect(),
            Map::Lazy(_) => Vec::new(),
        }
    }
}

/// A value of a library's type.
#[derive(Clone, Debug)]
pub enum Opaque<'a> {
    Quantity(Quantity),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Semver(Arc<Semver>),
    Format(&'static NamedFormat),
    Authorizer(&'a dyn Authorizer),
    /// A question to the authorizer as far as it is asked; the name is its type's.
    Query(&'a dyn Authorizer, &'static str, Arc<Query>),
    Decision(Arc<Decision>),
}

impl Opaque<'_> {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(_) => "net.CIDR",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Opaque::Query(_, name, _) => name,
            Opaque::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

impl<'a> Value<'a> {
    /// JSON of which nothing is known: numbers are ints where they are whole numbers.
    pub fn json(json: &'a Json) -> Value<'a> {
        Value::below(json, None)
    }

    /// JSON as its schema says: times, durations and bytes are read, whole numbers may be doubles.
    pub fn with_schema(json: &'a Json, schema: &'a Schema) -> Value<'a> {
        Value::below(json, Some(schema))
    }

    pub fn text(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Made(text.into()))
    }

    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List { items: Items::Made(Rc::new(items)), schema: None })
    }

    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Rc::new(value)))
    }

    pub fn none() -> Value<'a> {
        Value::Optional(None)
    }

    pub fn lazy(lazy: &'a dyn Lazy<'a>) -> Value<'a> {
        Value::Map(Map::Lazy(lazy))
    }

    pub fn authorizer(authorizer: &'a dyn Authorizer) -> Value<'a> {
        Value::Opaque(Opaque::Authorizer(authorizer))
    }

    /// `authorizer.requestResource`: the question is filled in, but for the verb.
    pub fn resource_check(authorizer: &'a dyn Authorizer, query: Query) -> Value<'a> {
        let name = "kubernetes.authorization.ResourceCheck";
        Value::Opaque(Opaque::Query(authorizer, name, Arc::new(query)))
    }

    pub(super) fn map(fields: BTreeMap<Key, Value<'a>>) -> Value<'a> {
        Value::Map(Map::Made(Rc::new(fields)))
    }

    fn below(json: &'a Json, schema: Option<&'a Schema>) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(number) => {
                let is_double = schema.is_some_and(|s| s.ty == schema::Type::Number);
                match number.as_i64().filter(|_| !is_double) {
                    Some(i) => Value::Int(i),
                    None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
                }
            }
            Json::String(text) => string_of(text, schema),
            Json::Array(items) => Value::List(List { items: Items::Json(items), schema }),
            Json::Object(fields) => Value::Map(Map::Json(fields, schema)),
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON; none if JSON has no such value.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => (*i).into(),
            Value::Uint(u) => (*u).into(),
            Value::Double(d) => serde_json::Number::from_f64(*d)?.into(),
            Value::String(s) => Json::String(s.to_string()),
            Value::Bytes(b) => Json::String(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, b)),
            Value::Timestamp(t) => Json::String(super::functions::time::timestamp_text(t)),
            Value::Duration(d) => Json::String(super::functions::time::duration_text(d)),
            Value::List(List { items: Items::Json(items), .. }) => Json::Array(items.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|i| i.to_json()).collect::<Option<Vec<_>>>()?),
            Value::Map(Map::Json(fields, _)) => Json::Object((*fields).clone()),
            Value::Map(Map::Made(fields)) => {
                let field = |(key, value): (&Key, &Value<'a>)| match key {
                    Key::String(name) => Some((name.to_string(), value.to_json()?)),
                    Key::Int(i) => Some((i.to_string(), value.to_json()?)),
                    _ => None,
                };
                Json::Object(fields.iter().map(field).collect::<Option<_>>()?)
            }
            Value::Opaque(Opaque::Quantity(quantity)) => Json::String(quantity.to_string()),
            _ => return None,
        })
    }

    /// The type as `type(x)` gives it.
    pub fn kind(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(_) => Type::Type(Arc::new(Type::Dyn)),
            Value::Opaque(opaque) => Type::Opaque(opaque.type_name()),
        }
    }

    /// What operations on the value cost by: its length, or 1.
    pub(super) fn size(&self) -> u64 {
        match self {
            Value::String(s) => s.chars().count() as u64,
            Value::Bytes(b) => b.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            _ => 1,
        }
    }
}

/// Text by its schema's format. Text that is not of the format stays text, and then fits no function.
fn string_of<'a>(text: &'a str, schema: Option<&Schema>) -> Value<'a> {
    use super::functions::time;
    let plain = || Value::String(Text::Borrowed(text));
    match schema.map_or("", |s| &*s.format) {
        "byte" => base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text)
            .map_or_else(|_| plain(), |b| Value::Bytes(b.into())),
        "duration" => time::parse_duration(text).map_or_else(plain, Value::Duration),
        "date-time" => time::parse_timestamp(text).map_or_else(plain, Value::Timestamp),
        "date" => time::parse_timestamp(&format!("{text}T00:00:00Z")).map_or_else(plain, Value::Timestamp),
        _ => plain(),
    }
}
