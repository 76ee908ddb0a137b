//! The `metadata.managedFields` of an object: who owns which fields.

use super::field_set::FieldSet;
use serde_json::{Map, Value, json};

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
    pub(super) fields: FieldSet,
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
        self.entries.sort_by(|a, b| {
            let key = |e: &Entry| {
                (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.entries.is_empty() {
            metadata.shift_remove("managedFields");
        } else {
            let entries: Vec<_> = self.entries.iter().map(write).collect();
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
                    into.fields = into.fields.union(&old.fields);
                    into.time = into.time.clone().max(old.time);
                }
                None => self.entries.push(old),
            }
        }
    }
}

fn read(entry: &Value) -> Option<Entry> {
    let text = |key: &str| entry[key].as_str().unwrap_or("").to_owned();
    let operation = match entry["operation"].as_str()? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    let fields = FieldSet::parse(&entry["fieldsV1"]);
    Some(Entry {
        manager: text("manager"),
        operation,
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: entry["time"].as_str().map(str::to_owned),
        fields,
    })
}

fn write(entry: &Entry) -> Value {
    let mut out = Map::new();
    out.insert("manager".to_owned(), json!(entry.manager));
    out.insert("operation".to_owned(), json!(format!("{:?}", entry.operation)));
    out.insert("apiVersion".to_owned(), json!(entry.api_version));
    if let Some(time) = &entry.time {
        out.insert("time".to_owned(), json!(time));
    }
    out.insert("fieldsType".to_owned(), json!("FieldsV1"));
    out.insert("fieldsV1".to_owned(), entry.fields.to_value());
    if !entry.subresource.is_empty() {
        out.insert("subresource".to_owned(), json!(entry.subresource));
    }
    Value::Object(out)
}
