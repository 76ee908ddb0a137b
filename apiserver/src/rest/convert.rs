//! Between the form objects are stored in and the version that a request asks for.
//!
//! Rows that share a storage prefix show the same objects. When the request's row is the storing one,
//! which is nearly always, nothing is parsed.

use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::status::Status;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::cache::Stored;
use crate::crd::versions;
use crate::discovery::Registry;
use crate::negotiate::encode;
use crate::server::Server;
use crate::strategy::conversion;

/// A stored object's bytes as `kind` shows them.
pub(super) async fn bytes(server: &Server, kind: &Arc<Kind>, stored: &Stored) -> Result<Bytes, Status> {
    if is_storing(&server.registry, kind) && is_written_today(kind, stored) {
        return Ok(stored.bytes.clone());
    }
    let object = read(server, kind, stored.value()).await?;
    Ok(encode(&ordered(object)))
}

/// As [`bytes`], of many: a version that needs help to convert asks for it once.
pub(super) async fn all_bytes(
    server: &Server,
    kind: &Arc<Kind>,
    stored: &[Arc<Stored>],
) -> Result<Vec<Bytes>, Status> {
    let mut all: Vec<Bytes> = stored.iter().map(|s| s.bytes.clone()).collect();
    let plain = is_storing(&server.registry, kind);
    let others: Vec<usize> =
        (0..stored.len()).filter(|i| !plain || !is_written_today(kind, &stored[*i])).collect();
    let objects: Vec<Value> = others.iter().map(|i| stored[*i].value()).collect();
    let shown = match &kind.custom {
        Some(custom) if !objects.is_empty() => versions::read(server, custom, objects).await?,
        _ => objects.into_iter().map(|o| read_builtin(&server.registry, kind, o)).collect(),
    };
    for (i, object) in others.into_iter().zip(shown) {
        all[i] = encode(&ordered(object));
    }
    Ok(all)
}

/// What was just written, from the bytes that went to the store.
pub(super) async fn written(server: &Server, kind: &Arc<Kind>, stored: &Bytes) -> Result<Bytes, Status> {
    if is_storing(&server.registry, kind) {
        return Ok(stored.clone());
    }
    let object = serde_json::from_slice(stored).map_err(Status::internal)?;
    Ok(encode(&ordered(read(server, kind, object).await?)))
}

/// A stored object as `kind` shows it.
pub(super) async fn read(server: &Server, kind: &Arc<Kind>, object: Value) -> Result<Value, Status> {
    match &kind.custom {
        Some(custom) => one(versions::read(server, custom, vec![object]).await?),
        None => Ok(read_builtin(&server.registry, kind, object)),
    }
}

/// As [`read`], of a kind that the server itself converts.
pub(super) fn read_builtin(registry: &Registry, kind: &Arc<Kind>, object: Value) -> Value {
    let storing = registry.storing(kind);
    convert(&storing, kind, object)
}

/// An object of `kind` as it is stored, `kind` and `apiVersion` first.
pub(super) async fn store(server: &Server, kind: &Arc<Kind>, object: Value) -> Result<Value, Status> {
    let object = match &kind.custom {
        Some(custom) => one(versions::store(server, custom, vec![object]).await?)?,
        None => convert(kind, &server.registry.storing(kind), object),
    };
    Ok(ordered(object))
}

/// Whether an object is stored in a form in which it would not be stored today.
pub(super) fn is_outdated(kind: &Kind, stored: &Stored) -> bool {
    let Some(custom) = kind.custom.as_ref().filter(|_| !is_written_today(kind, stored)) else { return false };
    stored.value()["apiVersion"] != custom.family.stored().api_version.as_str()
}

/// Whether `kind` is the version in which its objects are stored.
pub(super) fn is_storing(registry: &Registry, kind: &Arc<Kind>) -> bool {
    match &kind.custom {
        Some(custom) => custom.is_stored(),
        None => Arc::ptr_eq(&registry.storing(kind), kind),
    }
}

/// Whether the object was written since its kind's definition says what it says.
pub(super) fn is_written_today(kind: &Kind, stored: &Stored) -> bool {
    kind.custom.as_ref().is_none_or(|custom| stored.revision >= custom.family.since)
}

fn one(objects: Vec<Value>) -> Result<Value, Status> {
    objects.into_iter().next().ok_or_else(|| Status::internal("a conversion lost its object"))
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
    const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
    let Value::Object(mut fields) = object else { return object };
    if fields.keys().take(FIRST.len()).eq(FIRST) {
        return Value::Object(fields);
    }
    let mut out = Map::with_capacity(fields.len());
    for name in FIRST {
        if let Some(value) = fields.shift_remove(name) {
            out.insert(name.into(), value);
        }
    }
    out.extend(fields);
    Value::Object(out)
}
