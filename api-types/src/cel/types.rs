//! Types of expressions, and what a schema says of a value's type.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::names;
use crate::schema::{self, Schema};

/// The type of an expression or of a declared variable.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Known only when evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// The type of a type: `type(1)`.
    Type(Arc<Type>),
    Object(Arc<ObjectType>),
    /// A type of a Kubernetes library, by its name.
    Opaque(&'static str),
    /// A type parameter of a declaration or, while checking, a type not yet known.
    #[doc(hidden)]
    Param(usize),
}

/// A type with named fields.
#[derive(Debug)]
pub struct ObjectType {
    pub name: String,
    fields: Fields,
}

#[derive(Debug)]
enum Fields {
    Named(BTreeMap<String, Type>),
    Of { schema: Schema, is_resource: bool },
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &ObjectType) -> bool {
        self.name == other.name
    }
}

/// What rules may read of the metadata of a custom object.
const METADATA_READABLE: &[&str] = &["name", "generateName"];

impl ObjectType {
    /// The type of a field by the name that expressions use.
    pub fn field(&self, name: &str) -> Option<Type> {
        match &self.fields {
            Fields::Named(fields) => fields.get(name).cloned(),
            Fields::Of { schema, is_resource } => {
                let property = names::unescape(name)?;
                let child = schema.properties.get(&property)?;
                let below = format!("{}.{name}", self.name);
                let is_metadata = property == "metadata" && !schema.builtin && child.builtin;
                if is_metadata && (*is_resource || schema.embedded) {
                    let readable = METADATA_READABLE.iter().map(|f| ((*f).to_owned(), Type::String));
                    return Some(Type::object(below, readable));
                }
                Type::of_value(child, below, false)
            }
        }
    }
}

impl Type {
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn optional(value: Type) -> Type {
        Type::Optional(Arc::new(value))
    }

    /// A type with these fields.
    pub fn object(name: impl Into<String>, fields: impl IntoIterator<Item = (String, Type)>) -> Type {
        let fields = Fields::Named(fields.into_iter().collect());
        Type::Object(Arc::new(ObjectType { name: name.into(), fields }))
    }

    /// The type of a value below the root of an object; none if expressions cannot see such a value, because
    /// the schema says nothing of it.
    pub fn of_schema(schema: &Schema, name: &str) -> Option<Type> {
        Type::of_value(schema, name.to_owned(), false)
    }

    /// The type of a whole object: as `of_schema`, and its metadata can be read.
    pub fn of_resource(schema: &Schema, name: &str) -> Option<Type> {
        Type::of_value(schema, name.to_owned(), true)
    }

    fn of_value(schema: &Schema, name: String, is_resource: bool) -> Option<Type> {
        Some(match schema.ty {
            schema::Type::Any
                if schema.builtin || schema.preserve_unknown && schema.definition.starts_with("io.") =>
            {
                Type::Dyn
            }
            schema::Type::Any => return None,
            schema::Type::Object => {
                let fields = Fields::Of { schema: schema.clone(), is_resource };
                Type::Object(Arc::new(ObjectType { name, fields }))
            }
            schema::Type::Map => {
                Type::map(Type::String, Type::of_value(schema.item()?, format!("{name}.@elem"), false)?)
            }
            schema::Type::List => {
                Type::list(Type::of_value(schema.item()?, format!("{name}.@items"), false)?)
            }
            schema::Type::String => match &*schema.format {
                "byte" => Type::Bytes,
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Timestamp,
                _ => Type::String,
            },
            schema::Type::Integer => Type::Int,
            schema::Type::Number => Type::Double,
            schema::Type::Boolean => Type::Bool,
            schema::Type::IntOrString | schema::Type::Quantity => Type::Dyn,
        })
    }

    pub(super) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    /// Reads a declaration's type: `list(A)`, `map(string, dyn)`, `Quantity`.
    pub(super) fn parse(text: &str) -> Type {
        let text = text.trim();
        if let Some((name, rest)) = text.split_once('(') {
            let inner = split(rest.strip_suffix(')').unwrap_or(rest));
            let item = |i: usize| Arc::new(inner.get(i).map_or(Type::Dyn, |t| Type::parse(t)));
            return match name {
                "list" => Type::List(item(0)),
                "map" => Type::Map(item(0), item(1)),
                "optional" => Type::Optional(item(0)),
                _ => Type::Type(item(0)),
            };
        }
        match text {
            "A" => Type::Param(0),
            "B" => Type::Param(1),
            "C" => Type::Param(2),
            _ => Type::named(text).unwrap_or(Type::Dyn),
        }
    }

    /// The type that a name in an expression stands for.
    pub(super) fn named(name: &str) -> Option<Type> {
        let scalar = match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "dyn" => Type::Dyn,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "null_type" => Type::Null,
            "type" => Type::Type(Arc::new(Type::Dyn)),
            "google.protobuf.Timestamp" | "timestamp" => Type::Timestamp,
            "google.protobuf.Duration" | "duration" => Type::Duration,
            "optional_type" => Type::optional(Type::Dyn),
            _ => {
                let (_, full) = OPAQUE.iter().find(|(short, full)| *short == name || *full == name)?;
                return Some(Type::Opaque(full));
            }
        };
        Some(scalar)
    }
}

/// The libraries' types: what the declarations here call them, and what expressions do.
const OPAQUE: &[(&str, &str)] = &[
    ("Quantity", "kubernetes.Quantity"),
    ("URL", "kubernetes.URL"),
    ("IP", "net.IP"),
    ("CIDR", "net.CIDR"),
    ("Semver", "kubernetes.Semver"),
    ("Format", "kubernetes.NamedFormat"),
    ("Authorizer", "kubernetes.authorization.Authorizer"),
    ("PathCheck", "kubernetes.authorization.PathCheck"),
    ("GroupCheck", "kubernetes.authorization.GroupCheck"),
    ("ResourceCheck", "kubernetes.authorization.ResourceCheck"),
    ("Decision", "kubernetes.authorization.Decision"),
];

/// `authorizer` in an environment.
pub const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
/// `authorizer.requestResource` in an environment.
pub const RESOURCE_CHECK: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");

/// Splits at the commas that stand in no parenthesis.
pub(super) fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Optional(value) => write!(f, "optional_type({value})"),
            Type::Type(inner) => write!(f, "type({inner})"),
            Type::Object(object) => f.write_str(&object.name),
            Type::Opaque(name) => f.write_str(name),
            Type::Param(_) => f.write_str("dyn"),
        }
    }
}
