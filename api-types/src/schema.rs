//! The one structural-schema engine, for built-in and custom kinds alike.
//!
//! A built-in kind's schema is made of k8s-openapi's JSON schema (`roots`, `build`) and a table of the facts that
//! it lacks (`overlay`). The engine checks types and finds unknown fields (`check`), brings objects into the
//! form that Kubernetes stores (`normalize`), fills in defaults (`defaults`), and says what is a set, a map or
//! atomic, which server-side apply and strategic merge need. `openapi` publishes the same schemas.
//! Rules that span fields are not here: they are the API server's strategies.

mod build;
mod check;
pub mod decode;
mod defaults;
mod normalize;
mod openapi;
mod overlay;
mod roots;
pub mod validations;
pub mod values;

use crate::kinds::Kind;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

pub use build::SchemaError;
pub use check::{Findings, Strict, TypeError};
pub use defaults::set_defaults;
pub use openapi::{openapi_definitions, openapi_discovery, openapi_v3};

/// What a value may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// Anything, kept as it is.
    #[default]
    Any,
    /// Named fields.
    Object,
    /// Free keys, one type of value.
    Map,
    List,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    Quantity,
}

/// How the items of a list are told apart when several writers share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// They are not: the list is replaced as a whole.
    #[default]
    Atomic,
    /// By their value.
    Set,
    /// By these fields of theirs.
    Map(Vec<String>),
}

/// How strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists are merged rather than replaced.
    pub merge: bool,
    /// Keys of the old object that `$retainKeys` does not name are dropped.
    pub retain_keys: bool,
    /// Which field tells items apart; none for lists of scalars.
    pub merge_key: Option<String>,
}

/// The schema of a value. Cheap to clone: what is below is shared.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The definition that it comes from (`io.k8s.api.core.v1.Container`), empty if it has no name.
    pub definition: Arc<str>,
    pub ty: Type,
    /// OpenAPI's format (`int32`, `date-time`, `byte`), empty if there is none.
    pub format: Arc<str>,
    pub properties: Arc<BTreeMap<String, Schema>>,
    /// Fields that a custom kind must have, and that a built-in one always writes: Kubernetes does not hold its
    /// own kinds to them when it reads.
    pub required: Arc<Vec<String>>,
    /// Fields of a built-in kind that are null where there is nothing, because Go writes them always.
    pub written: Arc<Vec<String>>,
    /// Items of a list, values of a map.
    pub items: Option<Arc<Schema>>,
    pub list: ListType,
    /// The object or map has one owner as a whole.
    pub atomic: bool,
    pub patch: PatchStrategy,
    pub default: Option<Arc<Value>>,
    /// Fields that are not in the schema are kept.
    pub preserve_unknown: bool,
    /// The value is an object with `apiVersion`, `kind` and `metadata` of its own.
    pub embedded: bool,
    pub nullable: bool,
    /// A built-in scalar that may be empty, zero or false and yet be said: a pointer in Go.
    pub pointer: bool,
    /// A built-in text that is left out when it is empty, and empty when it is left out.
    pub optional: bool,
    /// Null and empty values are dropped as Kubernetes' Go types drop them.
    pub builtin: bool,
}

impl Schema {
    /// The schema of a field or of a map's value.
    pub fn child(&self, key: &str) -> Option<&Schema> {
        match self.ty {
            Type::Map => self.items.as_deref(),
            _ => self.properties.get(key),
        }
    }

    /// The schema of a list's items.
    pub fn item(&self) -> Option<&Schema> {
        self.items.as_deref()
    }

    /// A value with one owner: a scalar, or whatever is replaced as a whole.
    pub fn is_leaf(&self) -> bool {
        match self.ty {
            Type::Object | Type::Map => self.atomic,
            Type::List => self.list == ListType::Atomic,
            _ => true,
        }
    }

    /// As `is_leaf`, of this value: an object of which a custom kind's schema says nothing has fields all the same.
    pub fn is_leaf_as(&self, value: &Value) -> bool {
        self.is_leaf() && !(self.ty == Type::Any && !self.builtin && value.is_object())
    }

    /// What a new object holds at `key` if nobody says otherwise.
    pub fn default_of(&self, key: &str) -> Option<&Value> {
        static EMPTY: Value = Value::String(String::new());
        let child = self.properties.get(key)?;
        child.default.as_deref().or(child.optional.then_some(&EMPTY))
    }

    /// A schema that knows nothing of the object but its metadata: for kinds without one.
    pub fn open() -> Schema {
        let metadata = builtin_definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        let text = Schema { ty: Type::String, ..Schema::default() };
        let properties = [("metadata", metadata), ("apiVersion", Some(text.clone())), ("kind", Some(text))];
        Schema {
            ty: Type::Object,
            preserve_unknown: true,
            properties: Arc::new(
                properties
                    .into_iter()
                    .filter_map(|(name, schema)| Some((name.to_owned(), schema?)))
                    .collect(),
            ),
            ..Schema::default()
        }
    }

    /// Reads the `openAPIV3Schema` of a custom kind.
    pub fn from_openapi(schema: &Value) -> Result<Schema, SchemaError> {
        build::custom(schema)
    }

    /// Finds values of the wrong type and fields that the schema does not have.
    pub fn check(&self, object: &Value) -> Findings {
        check::check(self, object, &[])
    }

    /// Whether every value is of its type.
    pub fn is_typed(&self, object: &Value) -> bool {
        check::is_typed(self, object)
    }

    /// As `check`, of a document in which fields stood twice: these are found where they stand.
    pub fn check_repeated(&self, object: &Value, repeated: &[String]) -> Findings {
        check::check(self, object, repeated)
    }

    /// Drops the fields that the schema does not have.
    pub fn prune(&self, object: &mut Value) {
        normalize::prune(self, object);
    }

    /// Brings the object into the form in which Kubernetes keeps it: nulls and empty lists gone, quantities
    /// canonical, unknown fields dropped.
    pub fn normalize(&self, object: &mut Value) {
        normalize::normalize(self, object);
    }

    /// Brings a normalized object into the form in which it is stored: an empty list that is always written is
    /// null there. Before that, it tells a client that said "none" from one that said nothing.
    pub fn settle(&self, object: &mut Value) {
        normalize::settle(self, object);
    }

    /// As `normalize` and `default_fields`, for objects of custom kinds.
    pub fn conform(&self, object: &mut Value) {
        normalize::conform(self, object);
    }

    /// What Kubernetes makes of an object in which nothing was said: empty structures, zero values, and nulls in
    /// the place of lists and references that are always written.
    pub fn empty(&self) -> Value {
        let mut object = Value::Object(serde_json::Map::new());
        self.default_fields(&mut object);
        defaults::fill_nulls(self, &mut object);
        object
    }

    /// Fills in the schema's own defaults. Built-in kinds have more: see `set_defaults`.
    pub fn default_fields(&self, object: &mut Value) {
        defaults::fill(self, object);
    }
}

/// The schema of a built-in kind.
pub fn builtin(kind: &Kind) -> Option<Schema> {
    builtin_definition(&kind.definition)
}

/// As `builtin`, the one that all have in common.
pub fn shared(kind: &Kind) -> Option<Arc<Schema>> {
    static MADE: LazyLock<RwLock<HashMap<String, Arc<Schema>>>> = LazyLock::new(RwLock::default);
    if let Some(schema) = MADE.read().unwrap_or_else(PoisonError::into_inner).get(&kind.definition) {
        return Some(schema.clone());
    }
    let schema = Arc::new(builtin(kind)?);
    MADE.write().unwrap_or_else(PoisonError::into_inner).insert(kind.definition.clone(), schema.clone());
    Some(schema)
}

/// The schema of a built-in definition by its name (`io.k8s.api.autoscaling.v1.Scale`).
pub fn builtin_definition(name: &str) -> Option<Schema> {
    static MADE: LazyLock<Mutex<HashMap<String, Schema>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(schema) = made.get(name) {
        return Some(schema.clone());
    }
    let definitions = roots::definitions_of(name)?;
    build::definition(name, &definitions, &mut made)
}

#[cfg(test)]
mod tests;
