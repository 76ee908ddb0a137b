//! Objects and lists in the form that was asked for.
//!
//! Whole objects are the stored bytes, sent as they are; a list is their concatenation. Metadata alone is a
//! slice of them. Only tables, and rows that show another version of what is stored, parse.

use api_types::kinds::Kind;
use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Accept, Form, encode};
use crate::strategy::printers;

/// The objects of a list, with what the list's metadata says.
pub(crate) struct Items {
    pub(crate) objects: Vec<Bytes>,
    pub(crate) revision: u64,
    pub(crate) continues: Option<String>,
    pub(crate) remaining: Option<usize>,
}

/// One object in the form that was asked for; `include` is Table's `includeObject`.
pub(crate) fn object_body(
    kind: &Kind,
    bytes: &Bytes,
    accept: &Accept,
    include: &str,
    now: DateTime<Utc>,
) -> Bytes {
    match accept.form {
        Form::Whole => bytes.clone(),
        Form::Metadata => partial_bytes(bytes, &accept.form_version),
        Form::Table => {
            let object = parse(bytes);
            let revision = object["metadata"]["resourceVersion"].clone();
            let rows = vec![row(kind, &object, include, &accept.form_version, now)];
            encode(&table(kind, json!({ "resourceVersion": revision }), rows, true, &accept.form_version))
        }
    }
}

/// One object of a watch event: as [`object_body`], but a Table names its columns only when `first`.
pub(crate) fn watch_object(
    kind: &Kind,
    bytes: &Bytes,
    accept: &Accept,
    include: &str,
    now: DateTime<Utc>,
    first: bool,
) -> Bytes {
    if accept.form != Form::Table {
        return object_body(kind, bytes, accept, include, now);
    }
    let object = parse(bytes);
    let revision = object["metadata"]["resourceVersion"].clone();
    let rows = vec![row(kind, &object, include, &accept.form_version, now)];
    encode(&table(kind, json!({ "resourceVersion": revision }), rows, first, &accept.form_version))
}

/// A list in the form that was asked for.
pub(crate) fn list_body(
    kind: &Kind,
    items: &Items,
    accept: &Accept,
    include: &str,
    now: DateTime<Utc>,
) -> Bytes {
    let mut metadata = json!({ "resourceVersion": items.revision.to_string() });
    if let Some(token) = &items.continues {
        metadata["continue"] = json!(token);
    } else if kind.custom.is_some() && accept.form == Form::Whole {
        // Lists of custom objects always say it.
        metadata["continue"] = json!("");
    }
    if let Some(count) = items.remaining {
        metadata["remainingItemCount"] = json!(count);
    }
    match accept.form {
        Form::Whole => {
            let cut = if kind.definition.is_empty() { String::new() } else { type_prefix(kind) };
            let head = list_head(&kind.list_kind, &kind.api_version(), &metadata);
            concatenate(&head, &cut, &items.objects)
        }
        Form::Metadata => {
            let objects =
                items.objects.iter().map(|b| partial_bytes(b, &accept.form_version)).collect::<Vec<_>>();
            let version = format!("meta.k8s.io/{}", accept.form_version);
            concatenate(&list_head("PartialObjectMetadataList", &version, &metadata), "", &objects)
        }
        Form::Table => {
            let rows = items
                .objects
                .iter()
                .map(|b| row(kind, &parse(b), include, &accept.form_version, now))
                .collect();
            encode(&table(kind, metadata, rows, true, &accept.form_version))
        }
    }
}

/// How a list begins, up to its items.
fn list_head(kind: &str, version: &str, metadata: &Value) -> String {
    format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        json!(kind),
        json!(version)
    )
}

/// Joins encoded objects, each without `cut` at its beginning. Items of built-in kinds carry no `kind` and
/// `apiVersion`, as in Kubernetes: stored objects begin with both, so leaving them out is a slice.
fn concatenate(head: &str, cut: &str, objects: &[Bytes]) -> Bytes {
    let size = head.len() + 2 + objects.iter().map(|b| b.len() + 1).sum::<usize>();
    let mut out = BytesMut::with_capacity(size);
    out.put_slice(head.as_bytes());
    for (index, bytes) in objects.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        match bytes.strip_prefix(cut.as_bytes()) {
            Some(rest) if !cut.is_empty() => {
                out.put_u8(b'{');
                out.put_slice(rest);
            }
            _ => out.put_slice(bytes),
        }
    }
    out.put_slice(b"]}");
    out.freeze()
}

/// How every stored object of a kind begins.
fn type_prefix(kind: &Kind) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", kind.kind, kind.api_version())
}

fn parse(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}

/// The metadata of an encoded object, cut out of it.
#[derive(Deserialize)]
struct Described<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// As [`partial`], from bytes to bytes.
fn partial_bytes(bytes: &Bytes, version: &str) -> Bytes {
    let described: Result<Described<'_>, _> = serde_json::from_slice(bytes);
    let metadata = described.as_ref().map_or("{}", |object| object.metadata.get());
    let version = json!(format!("meta.k8s.io/{version}"));
    Bytes::from(format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":{version},\"metadata\":{metadata}}}"
    ))
}

fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

fn row(kind: &Kind, object: &Value, include: &str, version: &str, now: DateTime<Utc>) -> Value {
    let cells = printers::cells(kind, object, now);
    match include {
        "None" => json!({ "cells": cells }),
        "Object" => json!({ "cells": cells, "object": object }),
        _ => json!({ "cells": cells, "object": partial(object, version) }),
    }
}

fn table(kind: &Kind, metadata: Value, rows: Vec<Value>, with_columns: bool, version: &str) -> Value {
    let columns: Vec<_> = if with_columns {
        printers::columns(kind)
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "type": c.kind, "format": c.format,
                    "description": c.description, "priority": c.priority,
                })
            })
            .collect()
    } else {
        Vec::new()
    };
    let columns = if with_columns { Value::Array(columns) } else { Value::Null };
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}
