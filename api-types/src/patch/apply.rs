//! Server-side apply, and the bookkeeping of field ownership for all other writes.
//!
//! Everything follows Kubernetes' structured-merge-diff: who applies owns the fields of the configuration and
//! loses (and, if nobody else has them, deletes) those that an earlier one had; who updates owns what changed.
//! Ownership is computed from the object as its client means it, defaults included, before the server sets what is
//! its own (cluster addresses, generated selectors); call these functions at that point.

mod client_side;
mod compare;
mod field_set;
mod managed;
mod merge;
mod versions;

use super::same_but;
use crate::schema::Schema;
use crate::status::{Cause, Details, Reason, Status};
use chrono::{DateTime, SecondsFormat, Utc};
pub(super) use compare::item_element;
use compare::{Comparison, compare, fields_of};
pub use field_set::FieldSet;
pub(super) use field_set::show as show_element;
use managed::{Entry, Fields, Managed, Operation};
use serde_json::{Map, Value};
use std::sync::Arc;
use versions::{Differences, Versions, prune};

/// The owner that gets the fields of an object which nobody tracked before it was first applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What the server keeps itself and nobody owns.
const UNOWNED: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// What an object is in another version of its kind.
pub enum Translation {
    /// This, and the schema of that version.
    To(Arc<Schema>, Value),
    /// The kind has no such version: who wrote through it owns nothing any more.
    NoVersion,
    /// Nobody can tell yet. What is computed then is provisional; whoever translates computes it again.
    Pending,
}

/// Gives an object (which says what version it is of) in the version of an `apiVersion`.
pub type Translate<'a> = &'a dyn Fn(&str, &Value) -> Translation;

/// Who writes, and through what.
#[derive(Clone)]
pub struct Writer<'a> {
    /// The `fieldManager`, or what stands for it (the first part of the user agent).
    pub manager: &'a str,
    /// Of the request's object (`apps/v1`).
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub now: DateTime<Utc>,
    /// Fields that this way of writing cannot change: `["status"]` for the object itself.
    pub reset: &'a [&'a [&'a str]],
    /// Owners through another version lose what changed in that version. None where a kind has only one.
    pub translate: Option<Translate<'a>>,
}

/// A configuration that cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    #[error("failed to create typed patch object ({object}): {why}")]
    Untyped { object: String, why: String },
    #[error("{}", describe(.0))]
    Conflicts(Vec<Conflict>),
}

/// A field that somebody else owns and has a different value for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// As texts have it: `"kubectl" using apps/v1`.
    pub owner: String,
    /// `.spec.replicas`.
    pub path: String,
}

fn describe(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner, one.path);
    }
    let mut lines = Vec::new();
    let mut owners: Vec<_> = conflicts.iter().map(|c| &c.owner).collect();
    owners.sort();
    owners.dedup();
    for owner in owners {
        lines.push(format!("conflicts with {owner}:"));
        lines.extend(conflicts.iter().filter(|c| c.owner == *owner).map(|c| format!("- {}", c.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl ApplyError {
    /// The answer to the request that brought the configuration.
    pub fn to_status(&self) -> Status {
        match self {
            ApplyError::ManagedFields => Status::bad_request(self.to_string()),
            ApplyError::Untyped { .. } => Status::unexplained(500, self.to_string()),
            ApplyError::Conflicts(conflicts) => {
                let cause = |c: &Conflict| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", c.owner),
                    field: c.path.clone(),
                };
                let causes = conflicts.iter().map(cause).collect();
                Status::new(Reason::Conflict, self.to_string())
                    .with_details(Details { causes, ..Details::default() })
            }
        }
    }
}

/// What an apply makes of the live object.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The object with its `managedFields`; not yet normalized and defaulted.
    pub object: Value,
}

/// Notes in `new` who owns what after an ordinary create (`live` is none), update or patch.
pub fn track(schema: &Schema, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let is_kept = |live: &Value| {
        let path = "/metadata/managedFields";
        live.pointer(path) == new.pointer(path)
    };
    let managed = match live {
        Some(live) if !writer.subresource.is_empty() && !is_kept(live) => Managed::of(live),
        Some(_) if !writer.subresource.is_empty() => Managed::take(new),
        _ if Managed::is_reset(new) => Managed::default(),
        live => match (Managed::take(new), live) {
            (ours, Some(live)) if ours.entries.is_empty() => Managed::of(live),
            (ours, _) => ours,
        },
    };
    // Whose ownership is unknown stays so: only what is tracked from the start is worth tracking.
    let untracked = live.is_some() && managed.entries.is_empty();
    let managed = if untracked {
        managed
    } else {
        let empty = empty_object(schema, new);
        update(schema, live.unwrap_or(&empty), new, managed, writer)
    };
    managed.write(new);
}

/// Applies `config` to `live`. `force` takes fields from their owners where there would be conflicts.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied, ApplyError> {
    if !config["metadata"]["managedFields"].is_null() {
        return Err(ApplyError::ManagedFields);
    }
    merge::check(schema, config).map_err(|why| ApplyError::Untyped { object: object_name(config), why })?;
    let empty = empty_object(schema, config);
    let old = live.unwrap_or(&empty);
    let managed = match live {
        Some(live) if Managed::of(live).entries.is_empty() => {
            let before = Writer { manager: BEFORE_FIRST_APPLY, subresource: "", ..writer.clone() };
            update(schema, &empty, live, Managed::default(), &before)
        }
        Some(live) => Managed::of(live),
        None => Managed::default(),
    };
    let mut applied = match reconcile(schema, old, config, managed.clone(), writer, force) {
        Err(ApplyError::Conflicts(conflicts)) => {
            let left = client_side::unexplained(schema, old, writer, conflicts);
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            reconcile(schema, old, config, managed, writer, true)?
        }
        applied => applied?,
    };
    client_side::keep_up(&mut applied.object, config, writer);
    Ok(applied)
}

/// The path of a list, map or structure in `config` that can only be replaced as a whole; none if all of it can
/// be merged.
pub fn find_atomic(schema: &Schema, config: &Value) -> Option<String> {
    if schema.is_leaf() {
        return (config.is_array() || config.is_object() && !schema.preserve_unknown).then(String::new);
    }
    match config {
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| Some(format!(".{name}{}", find_atomic(schema.child(name)?, value)?))),
        Value::Array(items) => items.iter().find_map(|item| find_atomic(schema.item()?, item)),
        _ => None,
    }
}

/// `config` laid over `live` as an apply would, with no thought of who owns what; or why it cannot be.
pub fn overlay(schema: &Schema, live: &Value, config: &Value) -> Result<Value, String> {
    merge::check(schema, config)?;
    Ok(merge::merge(schema, Some(live), config))
}

fn reconcile(
    schema: &Schema,
    old: &Value,
    config: &Value,
    mut managed: Managed,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied, ApplyError> {
    let mut mine = entry(writer, Operation::Apply);
    let last = managed.position(&mine).map(|i| managed.entries.remove(i));
    // What a configuration says stays, also what nobody comes to own by it, such as the name.
    let said = writer.reset.iter().fold(fields_of(schema, config), |set, path| set.without(path));
    managed.entries.push(Entry { fields: said.clone().into(), ..mine.clone() });
    let merged = merge::merge(schema, Some(old), config);
    let pruned = match &last {
        Some(last) => prune(&Versions { schema, writer }, merged, &managed, last),
        None => merged,
    };
    mine.fields = own(said, writer).into();
    if let Some(entry) = managed.entries.last_mut() {
        entry.fields.clone_from(&mine.fields);
    }
    let differences = Differences::between(&Versions { schema, writer }, old, &pruned, &managed);
    let conflicts = conflicts(&managed, &mine, &differences);
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    yield_to(&mut managed, Some(&mine), &differences);
    let changed = !is_same_but_owners(old, &pruned);
    if let Some(i) = managed.position(&mine) {
        let before = last.and_then(|l| l.time);
        // As in Kubernetes, who only joins the owners of what is there already has no time.
        managed.entries[i].time = if changed { Some(stamp(writer)) } else { before };
    }
    managed.drop_empty();
    let mut object = pruned;
    if object.get("metadata").is_none_or(|m| !m.is_object()) {
        object["metadata"] = Value::Object(Map::new());
    }
    managed.write(&mut object);
    Ok(Applied { object })
}

fn conflicts(managed: &Managed, mine: &Entry, differences: &Differences) -> Vec<Conflict> {
    let others = managed.entries.iter().filter(|e| !e.is_same_owner(mine));
    others
        .flat_map(|e| {
            let owner = e.describe();
            let changed = differences.seen_by(e).map(|d| d.modified.clone().union(d.added.clone()));
            let paths = e.fields.get().intersection(&changed.unwrap_or_default()).paths();
            paths.into_iter().map(move |path| Conflict { owner: owner.clone(), path })
        })
        .collect()
}

/// All but `mine` lose what changed, and everybody else what is gone.
fn yield_to(managed: &mut Managed, mine: Option<&Entry>, differences: &Differences) {
    managed.entries.retain(|e| differences.seen_by(e).is_some());
    for e in &mut managed.entries {
        if !mine.is_some_and(|mine| e.is_same_owner(mine))
            && let Some(d) = differences.seen_by(e)
        {
            [&d.modified, &d.added, &d.removed].into_iter().for_each(|changed| e.fields.lose(changed));
        }
    }
    managed.drop_empty();
}

fn update(schema: &Schema, old: &Value, new: &Value, mut managed: Managed, writer: &Writer<'_>) -> Managed {
    let differences = Differences::between(&Versions { schema, writer }, old, new, &managed);
    yield_to(&mut managed, None, &differences);
    let taken = differences.own.modified.union(differences.own.added);
    if taken.is_empty() {
        return managed;
    }
    let mine = entry(writer, Operation::Update);
    match managed.position(&mine) {
        Some(i) => {
            let ours = &mut managed.entries[i];
            ours.fields.join(taken);
            ours.time = mine.time;
        }
        None => managed.entries.push(Entry { fields: taken.into(), ..mine }),
    }
    managed
}

fn entry(writer: &Writer<'_>, operation: Operation) -> Entry {
    Entry {
        manager: writer.manager.to_owned(),
        operation,
        api_version: writer.api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: Some(stamp(writer)),
        fields: Fields::default(),
    }
}

fn stamp(writer: &Writer<'_>) -> String {
    writer.now.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn changes(schema: &Schema, old: &Value, new: &Value, writer: &Writer<'_>) -> Comparison {
    let found = compare(schema, old, new);
    Comparison {
        added: own(found.added, writer),
        modified: own(found.modified, writer),
        removed: own(found.removed, writer),
    }
}

/// What a writer can own: nothing of the server's own, nothing that it cannot write.
fn own(set: FieldSet, writer: &Writer<'_>) -> FieldSet {
    if set.is_nothing() {
        return set;
    }
    let mut set = UNOWNED.iter().chain(writer.reset).fold(set, |set, path| set.without(path));
    set.member = false;
    if let Some(metadata) = set.below.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            set.below.remove("f:metadata");
        }
    }
    set
}

/// Whether two states of an object differ in nothing but `managedFields`.
fn is_same_but_owners(old: &Value, new: &Value) -> bool {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return old == new };
    same_but(old, new, &["metadata"]) && {
        match (old.get("metadata"), new.get("metadata")) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => same_but(old, new, &["managedFields"]),
            (old, new) => old == new,
        }
    }
}

/// What a create changes: an object that has what every object of its kind has, and nothing else.
fn empty_object(schema: &Schema, like: &Value) -> Value {
    let mut empty = schema.empty();
    for key in ["apiVersion", "kind"] {
        empty[key] = like[key].clone();
    }
    empty
}

fn object_name(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("");
    let (group, version) = crate::kinds::split_api_version(text("/apiVersion"));
    let (namespace, name, kind) = (text("/metadata/namespace"), text("/metadata/name"), text("/kind"));
    format!("{namespace}/{name}; {group}/{version}, Kind={kind}")
}

#[cfg(test)]
mod tests;
