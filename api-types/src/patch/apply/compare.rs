//! Which fields an object has, and in which two objects differ, by the schema's notion of a field.

use super::field_set::FieldSet;
use crate::schema::{ListType, Schema, Type};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The element of a path that leads to a list's item. Says what is wrong if the item has no identity.
pub(in crate::patch) fn item_element(list: &Schema, item: &Value, index: usize) -> Result<String, String> {
    let ListType::Map(keys) = &list.list else {
        return Ok(match list.list {
            ListType::Set => format!("v:{item}"),
            _ => format!("i:{index}"),
        });
    };
    let mut id = BTreeMap::new();
    for key in keys {
        let default = || list.item().and_then(|s| s.default_of(key)).cloned();
        let value = item.get(key).filter(|v| !v.is_null()).cloned().or_else(default);
        let missing = || {
            format!(
                "element {index}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
            )
        };
        id.insert(key.as_str(), value.ok_or_else(missing)?);
    }
    let id: Map<String, Value> = id.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    Ok(format!("k:{}", Value::Object(id)))
}

fn element_or_index(list: &Schema, item: &Value, index: usize) -> String {
    item_element(list, item, index).unwrap_or_else(|_| format!("i:{index}"))
}

/// Lists and maps that are shared have their parts as fields; null and empty ones are fields themselves.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// All fields of `value`: what somebody who applies it owns.
pub(super) fn fields_of(schema: &Schema, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    if schema.is_leaf_as(value) {
        set.member = true;
        return set;
    }
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let declared = schema.properties.get(key);
                let below = schema.child(key).unwrap_or(&OPEN);
                let mut child = fields_of(below, value);
                child.member |= is_nothing(value) || declared.is_none();
                set.below.insert(format!("f:{key}"), child);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let mut child = schema.item().map(|s| fields_of(s, item)).unwrap_or_default();
                child.member = true;
                set.below.insert(element_or_index(schema, item, i), child);
            }
        }
        _ => {}
    }
    set
}

/// Makes members of all declared fields on the way to a member, so that emptied objects go too.
pub(super) fn with_named_fields(schema: &Schema, set: &FieldSet) -> FieldSet {
    let below = set.below.iter().map(|(element, below)| {
        let name = element.strip_prefix("f:");
        let declared = name.and_then(|n| schema.properties.get(n));
        let child = declared.or_else(|| schema.item());
        let mut below = child.map_or_else(|| below.clone(), |s| with_named_fields(s, below));
        below.member |= declared.is_some();
        (element.clone(), below)
    });
    FieldSet { member: set.member, below: below.collect() }
}

/// In what two objects differ.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    fn is_nothing(&self) -> bool {
        self.added.is_nothing() && self.modified.is_nothing() && self.removed.is_nothing()
    }

    /// Adds what was found below `element`.
    fn put(&mut self, element: &str, below: Comparison) {
        let Comparison { added, modified, removed } = below;
        for (into, found) in
            [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)]
        {
            if !found.is_nothing() {
                into.below.insert(element.to_owned(), found);
            }
        }
    }
}

pub(super) fn compare(schema: &Schema, old: &Value, new: &Value) -> Comparison {
    both(schema, Some(old), Some(new))
}

/// Of what no schema says anything.
static OPEN: LazyLock<Schema> = LazyLock::new(Schema::default);

fn both(schema: &Schema, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    // Most of an object is not what a write changes.
    if old.is_some() && old == new {
        return Comparison::default();
    }
    let nothing = |v: Option<&Value>| v.is_none_or(is_nothing);
    let same_shape = |v: Option<&Value>| match schema.ty {
        Type::List => v.is_none_or(|v| v.is_array() || v.is_null()),
        _ => v.is_none_or(|v| v.is_object() || v.is_null()),
    };
    let whole = |v: Option<&Value>| v.is_some_and(|v| !v.is_null() && schema.is_leaf_as(v));
    let leaf =
        whole(old) || whole(new) || (nothing(old) && nothing(new)) || !same_shape(old) || !same_shape(new);
    let mut found = match schema.ty {
        _ if leaf => Comparison::default(),
        Type::List => items(schema, old, new),
        _ => fields(schema, old, new),
    };
    match (old, new) {
        (None, Some(_)) => found.added.member = true,
        (Some(_), None) => found.removed.member = true,
        (Some(old), Some(new)) if leaf && old != new => found.modified.member = true,
        _ => {}
    }
    found
}

fn fields(schema: &Schema, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let mut found = Comparison::default();
    let mut look = |name: &str, was: Option<&Value>, is: Option<&Value>| {
        let below = both(schema.child(name).unwrap_or(&OPEN), was, is);
        if !below.is_nothing() {
            found.put(&format!("f:{name}"), below);
        }
    };
    for (name, was) in old.into_iter().flatten() {
        look(name, Some(was), new.and_then(|new| new.get(name)));
    }
    for (name, is) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name)) {
            look(name, None, Some(is));
        }
    }
    found
}

fn items(schema: &Schema, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let item = schema.item().unwrap_or(&OPEN);
    let (old, mut new) = (index(schema, old), index(schema, new));
    let mut found = Comparison::default();
    for (element, was) in old {
        let is = new.remove(&element);
        found.put(&element, both(item, Some(was), is));
    }
    for (element, is) in new {
        found.put(&element, both(item, None, Some(is)));
    }
    found
}

fn index<'a>(schema: &Schema, list: Option<&'a Value>) -> BTreeMap<String, &'a Value> {
    let items = list.and_then(Value::as_array).into_iter().flatten().enumerate();
    let mut index = BTreeMap::new();
    for (i, item) in items {
        index.entry(element_or_index(schema, item, i)).or_insert(item);
    }
    index
}
