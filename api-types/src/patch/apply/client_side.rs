//! The way from `kubectl apply` to `kubectl apply --server-side` and back.
//!
//! The annotation in which client-side apply keeps its configuration says which fields were kubectl's: they are no
//! conflict for kubectl's server-side apply. The annotation then follows each configuration, so that client-side
//! apply finds the last one again. Both are for the manager `kubectl` alone.
//!
//! Source: `managedfields/internal/lastappliedmanager.go` and `lastappliedupdater.go` in Kubernetes' apimachinery.

use super::{Conflict, FieldSet, Schema, Writer, compare, fields_of};
use serde_json::Value;

const MANAGER: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Of all annotations of an object, keys and values.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Those of the conflicts that client-side apply does not explain: all of them where it never wrote.
pub(super) fn unexplained(
    schema: &Schema,
    live: &Value,
    writer: &Writer<'_>,
    mut conflicts: Vec<Conflict>,
) -> Vec<Conflict> {
    if let Some(own) = unchanged_since(schema, live, writer) {
        let own = own.paths();
        conflicts.retain(|conflict| !own.contains(&conflict.path));
    }
    conflicts
}

/// What client-side apply wrote last and is as it wrote it.
fn unchanged_since(schema: &Schema, live: &Value, writer: &Writer<'_>) -> Option<FieldSet> {
    if writer.manager != MANAGER {
        return None;
    }
    let last: Value = serde_json::from_str(last_applied(live)?).ok()?;
    if last["apiVersion"] != writer.api_version {
        return None;
    }
    let since = compare(schema, &last, live);
    let changed = since.modified.union(since.added).union(since.removed);
    Some(fields_of(schema, &last).difference(&changed))
}

/// Keeps `config` in the annotation of an object that has one.
pub(super) fn keep_up(object: &mut Value, config: &Value, writer: &Writer<'_>) {
    if writer.manager != MANAGER || last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = annotations_mut(&mut config) {
        annotations.shift_remove(LAST_APPLIED);
    }
    let text = go_text(config);
    let Some(annotations) = annotations_mut(object) else { return };
    annotations.insert(LAST_APPLIED.to_owned(), text.into());
    let bytes = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    if bytes.sum::<usize>() > ANNOTATIONS_BYTES_MAX {
        annotations.shift_remove(LAST_APPLIED);
    }
}

fn last_applied(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())
}

fn annotations_mut(object: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}

/// As Go's encoder writes JSON, to the byte: kubectl compares the text.
fn go_text(mut value: Value) -> String {
    value.sort_all_objects();
    let mut text = value.to_string();
    for (plain, escaped) in [
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u{2028}", "\\u2028"),
        ("\u{2029}", "\\u2029"),
    ] {
        text = text.replace(plain, escaped);
    }
    text.push('\n');
    text
}
