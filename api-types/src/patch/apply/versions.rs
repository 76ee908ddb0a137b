//! One change as the owners through each version of a kind see it.
//!
//! Fields have owners in a version, so what an owner loses, what conflicts with it, and what goes because an
//! applier no longer names it, is found in that version.
//!
//! Source: `merge/update.go` of Kubernetes' structured-merge-diff.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::compare::{Comparison, fields_of, with_named_fields};
use super::managed::{Entry, Managed};
use super::{FieldSet, Schema, Translation, Writer, changes, merge};

/// The version of the request, and the way to the others.
pub(super) struct Versions<'a> {
    pub(super) schema: &'a Schema,
    pub(super) writer: &'a Writer<'a>,
}

/// An object in one version.
struct Versioned<'a> {
    schema: VersionSchema<'a>,
    object: Cow<'a, Value>,
}

enum VersionSchema<'a> {
    Own(&'a Schema),
    Other(Arc<Schema>),
}

impl Deref for VersionSchema<'_> {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        match self {
            Self::Own(schema) => schema,
            Self::Other(schema) => schema,
        }
    }
}

/// Why an object cannot be had in a version.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Version,
    Answer,
}

impl Versions<'_> {
    /// The object in a version: as it is where that is its own, or where there are no others.
    fn find<'o>(&'o self, api_version: &str, object: &'o Value) -> Result<Versioned<'o>, Missing> {
        let is_there = object["apiVersion"].as_str().is_none_or(|version| version == api_version);
        let is_own = is_there && api_version == self.writer.api_version;
        let Some(translate) = self.writer.translate.filter(|_| !is_own) else {
            return Ok(Versioned { schema: VersionSchema::Own(self.schema), object: Cow::Borrowed(object) });
        };
        match translate(api_version, object) {
            Translation::To(schema, object) => {
                Ok(Versioned { schema: VersionSchema::Other(schema), object: Cow::Owned(object) })
            }
            Translation::NoVersion => Err(Missing::Version),
            Translation::Pending => Err(Missing::Answer),
        }
    }

    /// A change in a version; none if there is no such version.
    fn compare(&self, api_version: &str, old: &Value, new: &Value) -> Option<Comparison> {
        // Both are asked for, so that whoever translates learns of both at once.
        match (self.find(api_version, old), self.find(api_version, new)) {
            (Ok(old), Ok(new)) => Some(changes(&new.schema, &old.object, &new.object, self.writer)),
            (Err(Missing::Version), _) | (_, Err(Missing::Version)) => None,
            (Err(Missing::Answer), _) | (_, Err(Missing::Answer)) => Some(Comparison::default()),
        }
    }
}

/// One change as the owners through each version see it.
pub(super) struct Differences {
    /// As the request sees it.
    pub(super) own: Comparison,
    /// By other versions that owners have; none for what is no version of the kind.
    others: BTreeMap<String, Option<Comparison>>,
}

impl Differences {
    pub(super) fn between(versions: &Versions<'_>, old: &Value, new: &Value, managed: &Managed) -> Self {
        let own_version = versions.writer.api_version;
        let mut others = BTreeMap::new();
        for e in managed.entries.iter().filter(|e| e.api_version != own_version) {
            others.entry(e.api_version.clone()).or_insert_with(|| versions.compare(&e.api_version, old, new));
        }
        Self { own: changes(versions.schema, old, new, versions.writer), others }
    }

    /// As an owner sees it; none if its version is none of the kind's.
    pub(super) fn seen_by(&self, owner: &Entry) -> Option<&Comparison> {
        match self.others.get(&owner.api_version) {
            Some(other) => other.as_ref(),
            None => Some(&self.own),
        }
    }
}

/// Takes out what the owner applied last time and not now, unless somebody else has it.
pub(super) fn prune(versions: &Versions<'_>, merged: Value, managed: &Managed, last: &Entry) -> Value {
    match try_prune(versions, &merged, managed, last) {
        Ok(pruned) => pruned,
        // What was applied through a version that is gone, nobody can tell any more.
        Err(Missing::Version | Missing::Answer) => merged,
    }
}

fn try_prune(
    versions: &Versions<'_>,
    merged: &Value,
    managed: &Managed,
    last: &Entry,
) -> Result<Value, Missing> {
    let then = versions.find(&last.api_version, merged)?;
    let last_fields = with_named_fields(&then.schema, last.fields.get());
    let mut whole = then.object.clone().into_owned();
    let mut pruned = remove(&then.schema, &whole, &last_fields);
    for (version, claimed) in claims(managed, &last.api_version) {
        let (at, pruned_at) = match (versions.find(version, &whole), versions.find(version, &pruned)) {
            (Ok(whole), Ok(pruned)) => (whole, pruned),
            (Err(Missing::Answer), _) | (_, Err(Missing::Answer)) => return Err(Missing::Answer),
            _ => continue,
        };
        let named = |set: &FieldSet| with_named_fields(&at.schema, set);
        let kept = named(&fields_of(&at.schema, &pruned_at.object)).union(named(&claimed));
        let gone = named(&fields_of(&at.schema, &at.object)).difference(&kept);
        let left = remove(&at.schema, &at.object, &gone);
        let at = at.object.into_owned();
        drop(pruned_at);
        (whole, pruned) = (at, left);
    }
    let left = versions.find(&last.api_version, &pruned)?;
    let named = |object: &Value| with_named_fields(&then.schema, &fields_of(&then.schema, object));
    let gone = named(&then.object).difference(&named(&left.object)).intersection(&last_fields);
    let out = remove(&then.schema, &then.object, &gone);
    Ok(versions.find(versions.writer.api_version, &out)?.object.into_owned())
}

/// What all owners together have, by version: the one in which the owner applied last comes first.
fn claims<'m>(managed: &'m Managed, first: &str) -> Vec<(&'m str, FieldSet)> {
    let mut claims: BTreeMap<(bool, &str), FieldSet> = BTreeMap::new();
    for e in &managed.entries {
        let claimed = claims.entry((e.api_version != first, &e.api_version)).or_default();
        claimed.join(e.fields.get().clone());
    }
    claims.into_iter().map(|((_, version), claimed)| (version, claimed)).collect()
}

fn remove(schema: &Schema, object: &Value, fields: &FieldSet) -> Value {
    merge::remove(schema, object.clone(), fields).unwrap_or_else(|| Value::Object(Map::new()))
}
