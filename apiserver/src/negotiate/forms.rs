//! Objects and lists in the form that was asked for.
//!
//! Whole objects are the stored bytes, sent as they are; a list is their concatenation. Metadata alone is a
//! slice of them. Only tables, and rows that show another version of what is stored, parse.

use api_types::kinds::Kind;
use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Accept, Form};
use crate::json_text;
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
        Form::Table => watch_object(kind, bytes, accept, include, now, true),
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
    let revision = Revised::of(bytes).map_or(Value::Null, Value::from);
    let rows = Rows { kind, include, version: &accept.form_version, now };
    rows.table(&json!({ "resourceVersion": revision }), std::slice::from_ref(bytes), first)
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
            let rows = Rows { kind, include, version: &accept.form_version, now };
            rows.table(&metadata, &items.objects, true)
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

/// The metadata's text, cut out of an encoded object; one that cannot be read has none.
fn metadata_of(bytes: &[u8]) -> &[u8] {
    json_text::field(bytes, "metadata").unwrap_or(b"{}")
}

/// The revision that an encoded object says it is of.
#[derive(Deserialize)]
struct Revised {
    metadata: RevisedMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RevisedMetadata {
    resource_version: Option<String>,
}

impl Revised {
    fn of(bytes: &[u8]) -> Option<String> {
        serde_json::from_slice::<Self>(bytes).ok()?.metadata.resource_version
    }
}

/// The metadata of an object, as an object of its own.
fn partial_bytes(bytes: &Bytes, version: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(bytes.len());
    put_partial(&mut out, metadata_of(bytes), version);
    out.freeze()
}

fn put_partial(out: &mut BytesMut, metadata: &[u8], version: &str) {
    let head = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/"#;
    for part in [head, version.as_bytes(), br#"","metadata":"#, metadata, b"}"] {
        out.put_slice(part);
    }
}

/// How the rows of a Table are written.
struct Rows<'a> {
    kind: &'a Kind,
    /// What of its object each row carries: `None`, `Metadata` or `Object`.
    include: &'a str,
    version: &'a str,
    now: DateTime<Utc>,
}

impl Rows<'_> {
    fn table(&self, metadata: &Value, objects: &[Bytes], with_columns: bool) -> Bytes {
        let columns = if with_columns { self.columns() } else { Value::Null };
        let mut out = BytesMut::with_capacity(objects.iter().map(Bytes::len).sum());
        let version = self.version;
        let head = format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{metadata},"columnDefinitions":{columns},"rows":["#
        );
        out.put_slice(head.as_bytes());
        for (index, bytes) in objects.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            self.put(&mut out, bytes);
        }
        out.put_slice(b"]}");
        out.freeze()
    }

    fn columns(&self) -> Value {
        let columns = printers::columns(self.kind).iter().map(|c| {
            json!({
                "name": c.name, "type": c.kind, "format": c.format,
                "description": c.description, "priority": c.priority,
            })
        });
        columns.collect()
    }

    /// One row; what it carries of the object is cut out of the object's own text.
    fn put(&self, out: &mut BytesMut, bytes: &Bytes) {
        let row = printers::row(self.kind, bytes, self.now);
        out.put_slice(br#"{"cells":"#);
        serde_json::to_writer(out.writer(), &row.cells).expect("cells always encode into memory");
        if !row.conditions.is_empty() {
            out.put_slice(br#","conditions":"#);
            serde_json::to_writer(out.writer(), &row.conditions)
                .expect("conditions always encode into memory");
        }
        if self.include != "None" {
            out.put_slice(br#","object":"#);
        }
        match self.include {
            "None" => {}
            "Object" => out.put_slice(bytes),
            _ => put_partial(out, row.metadata, self.version),
        }
        out.put_u8(b'}');
    }
}
