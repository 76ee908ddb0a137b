//! The `metadata.managedFields` of an object: who owns which fields.

use super::field_set::FieldSet;
use serde_json::{Map, Value, json};
use std::cell::OnceCell;

/// How an owner came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One owner.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) fields: Fields,
}

/// The fields of an owner as they are written, and read once somebody has to look at them: most writes concern
/// one owner of several.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    written: Option<Value>,
    read: OnceCell<FieldSet>,
}

impl Fields {
    pub(super) fn get(&self) -> &FieldSet {
        self.read.get_or_init(|| self.written.as_ref().map(FieldSet::parse).unwrap_or_default())
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.written {
            Some(written) => written.as_object().is_none_or(Map::is_empty),
            None => self.get().is_empty(),
        }
    }

    pub(super) fn join(&mut self, other: FieldSet) {
        self.change(|fields| fields.join(other));
    }

    pub(super) fn lose(&mut self, other: &FieldSet) {
        if self.written.as_ref().is_none_or(|written| other.is_any_in(written)) {
            self.change(|fields| fields.lose(other));
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut FieldSet)) {
        let mut fields = match self.read.take() {
            Some(fields) => fields,
            None => self.written.as_ref().map(FieldSet::parse).unwrap_or_default(),
        };
        change(&mut fields);
        *self = fields.into();
    }

    fn into_value(self) -> Value {
        let read = self.read;
        self.written.unwrap_or_else(|| read.into_inner().unwrap_or_default().to_value())
    }
}

impl From<FieldSet> for Fields {
    fn from(fields: FieldSet) -> Self {
        Self { written: None, read: fields.into() }
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Entry {
    /// Whether two entries are of the same owner. Who applies is the same whatever the version.
    pub(super) fn is_same_owner(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The owner as conflicts name it.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        match self.operation {
            Operation::Apply => text,
            Operation::Update => format!("{text} using {}", self.api_version),
        }
    }
}

/// How many owners by update an object remembers; the oldest are joined into one.
const UPDATE_MANAGERS_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// All owners of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managed {
    pub(super) entries: Vec<Entry>,
}

impl Managed {
    /// Reads the entries of an object; none if any of them makes no sense.
    pub(super) fn of(object: &Value) -> Managed {
        let entries = object["metadata"]["managedFields"].as_array();
        let entries: Option<Vec<_>> = entries.into_iter().flatten().map(read).collect();
        Managed { entries: entries.unwrap_or_default() }
    }

    /// As `of`, and the object has none of them any more.
    pub(super) fn take(object: &mut Value) -> Managed {
        let entries = object.get_mut("metadata").and_then(|m| m.get_mut("managedFields")).map(Value::take);
        let Some(Value::Array(entries)) = entries else { return Managed::default() };
        let entries: Option<Vec<_>> = entries.into_iter().map(read_owned).collect();
        Managed { entries: entries.unwrap_or_default() }
    }

    /// A client resets all ownership by sending one empty entry.
    pub(super) fn is_reset(object: &Value) -> bool {
        match object["metadata"]["managedFields"].as_array().map(Vec::as_slice) {
            Some([Value::Object(only)]) => only.is_empty(),
            _ => false,
        }
    }

    pub(super) fn position(&self, owner: &Entry) -> Option<usize> {
        self.entries.iter().position(|e| e.is_same_owner(owner))
    }

    pub(super) fn drop_empty(&mut self) {
        self.entries.retain(|e| !e.fields.is_empty());
    }

    /// Writes the entries into the object, in Kubernetes' order.
    pub(super) fn write(mut self, object: &mut Value) {
        self.join_ancient();
        fn key(e: &Entry) -> impl Ord {
            (e.operation, &e.time, &e.manager, &e.api_version, &e.subresource)
        }
        self.entries.sort_by(|a, b| key(a).cmp(&key(b)));
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.entries.is_empty() {
            metadata.shift_remove("managedFields");
        } else {
            let entries: Vec<_> = self.entries.into_iter().map(write).collect();
            metadata.insert("managedFields".to_owned(), entries.into());
        }
    }

    fn join_ancient(&mut self) {
        let updates = |m: &Managed| m.entries.iter().filter(|e| e.operation == Operation::Update).count();
        while updates(self) > UPDATE_MANAGERS_MAX {
            let oldest = self
                .entries
                .iter()
                .enumerate()
                .filter(|(_, e)| e.operation == Operation::Update && e.manager != ANCIENT)
                .min_by_key(|(_, e)| e.time.clone())
                .map(|(i, _)| i);
            let Some(mut old) = oldest.map(|i| self.entries.remove(i)) else { return };
            old.manager = ANCIENT.to_owned();
            old.subresource.clear();
            match self.position(&old) {
                Some(i) => {
                    let into = &mut self.entries[i];
                    into.fields.join(old.fields.get().clone());
                    into.time = into.time.take().max(old.time);
                }
                None => self.entries.push(old),
            }
        }
    }
}

fn read(entry: &Value) -> Option<Entry> {
    let written = entry.get("fieldsV1").cloned();
    read_with(entry, written)
}

fn read_owned(mut entry: Value) -> Option<Entry> {
    let written = entry.get_mut("fieldsV1").map(Value::take);
    read_with(&entry, written)
}

fn read_with(entry: &Value, written: Option<Value>) -> Option<Entry> {
    let text = |key: &str| entry[key].as_str().unwrap_or("").to_owned();
    let operation = match entry["operation"].as_str()? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    Some(Entry {
        manager: text("manager"),
        operation,
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: entry["time"].as_str().map(str::to_owned),
        fields: Fields { written, read: OnceCell::new() },
    })
}

fn write(entry: Entry) -> Value {
    let mut out = Map::new();
    out.insert("manager".to_owned(), entry.manager.into());
    out.insert("operation".to_owned(), json!(format!("{:?}", entry.operation)));
    out.insert("apiVersion".to_owned(), entry.api_version.into());
    if let Some(time) = entry.time {
        out.insert("time".to_owned(), time.into());
    }
    out.insert("fieldsType".to_owned(), json!("FieldsV1"));
    out.insert("fieldsV1".to_owned(), entry.fields.into_value());
    if !entry.subresource.is_empty() {
        out.insert("subresource".to_owned(), entry.subresource.into());
    }
    Value::Object(out)
}
