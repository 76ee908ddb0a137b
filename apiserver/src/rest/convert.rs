//! Between the form objects are stored in and the version that a request asks for.
//!
//! Rows that share a storage prefix show the same objects. When the request's row is the storing one,
//! which is nearly always, nothing is parsed.

use std::sync::Arc;

use api_types::kinds::Kind;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::discovery::Registry;
use crate::negotiate::encode;
use crate::strategy::conversion;

/// A stored object's bytes as `kind` shows them.
pub(super) fn bytes(registry: &Registry, kind: &Arc<Kind>, stored: &Bytes) -> Bytes {
    let storing = registry.storing(kind);
    if Arc::ptr_eq(&storing, kind) {
        return stored.clone();
    }
    match serde_json::from_slice(stored) {
        Ok(value) => encode(&read(registry, kind, value)),
        Err(_) => stored.clone(),
    }
}

/// A stored object as `kind` shows it.
pub(super) fn read(registry: &Registry, kind: &Arc<Kind>, object: Value) -> Value {
    let storing = registry.storing(kind);
    convert(&storing, kind, object)
}

/// An object of `kind` as it is stored, `kind` and `apiVersion` first.
pub(super) fn store(registry: &Registry, kind: &Arc<Kind>, object: Value) -> Value {
    let storing = registry.storing(kind);
    ordered(convert(kind, &storing, object))
}

/// An object of the one row as the other shows it.
pub(crate) fn convert(from: &Kind, to: &Kind, mut object: Value) -> Value {
    if (&from.group, &from.version) == (&to.group, &to.version) {
        return object;
    }
    conversion::convert(from, to, &mut object);
    object["kind"] = json!(to.kind);
    object["apiVersion"] = json!(to.api_version());
    object
}

/// Puts `kind`, `apiVersion` and `metadata` before the rest: lists rely on how stored objects begin.
pub(super) fn ordered(object: Value) -> Value {
    let Value::Object(mut fields) = object else { return object };
    let mut out = Map::with_capacity(fields.len());
    for name in ["kind", "apiVersion", "metadata"] {
        if let Some(value) = fields.shift_remove(name) {
            out.insert(name.into(), value);
        }
    }
    out.extend(fields);
    Value::Object(out)
}
