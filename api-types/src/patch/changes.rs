//! In which fields two states of an object differ, and how to take one change back from a later state.
//!
//! A field is what the schema calls one: items of lists that are sets or maps are told apart as in server-side
//! apply; all other lists are one field. What the server keeps for itself is not looked at.

use super::apply::{item_element, show_element};
use crate::schema::{ListType, Schema};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Metadata that says nothing about what a writer wanted.
const UNSAID: [&str; 3] = ["resourceVersion", "managedFields", "generation"];
/// Metadata that a client cannot set back.
const FIXED: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];

/// One field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldChange {
    /// Elements as `managedFields` writes them.
    elements: Vec<String>,
    /// None: the field was not there.
    pub from: Option<Value>,
    /// None: the field is not there any more.
    pub to: Option<Value>,
}

impl FieldChange {
    /// `.spec.containers[name="a"].image`
    pub fn path(&self) -> String {
        self.elements.iter().map(|element| show_element(element)).collect()
    }

    /// `{"path": …, "from": …, "to": …}`, without what was not there.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        out.insert("path".to_owned(), self.path().into());
        for (name, value) in [("from", &self.from), ("to", &self.to)] {
            if let Some(value) = value {
                out.insert(name.to_owned(), value.clone());
            }
        }
        Value::Object(out)
    }

    fn is_below(&self, names: &[&str]) -> bool {
        let fields = self.elements.iter().map(|element| element.strip_prefix("f:").unwrap_or_default());
        self.elements.len() >= names.len() && names.iter().copied().eq(fields.take(names.len()))
    }
}

/// The fields in which `new` differs from `old`, in the order of their paths.
pub fn changes(schema: &Schema, old: &Value, new: &Value) -> Vec<FieldChange> {
    let mut walk = Walk { elements: Vec::new(), found: Vec::new() };
    walk.both(schema, Some(old), Some(new));
    walk.found.retain(|change| !UNSAID.iter().any(|name| change.is_below(&["metadata", name])));
    walk.found
}

struct Walk {
    elements: Vec<String>,
    found: Vec<FieldChange>,
}

impl Walk {
    fn both(&mut self, schema: &Schema, old: Option<&Value>, new: Option<&Value>) {
        if old == new {
            return;
        }
        match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => self.fields(schema, old, new),
            // An object that came or went is told by its fields, so that taking it back leaves those of others.
            (None, Some(Value::Object(new))) if !new.is_empty() && !self.at_item() => {
                self.fields(schema, &Map::new(), new);
            }
            (Some(Value::Object(old)), None) if !old.is_empty() && !self.at_item() => {
                self.fields(schema, old, &Map::new());
            }
            (Some(Value::Array(old)), Some(Value::Array(new))) if is_shared(schema) => {
                self.items(schema, old, new);
            }
            _ => self.found.push(FieldChange {
                elements: self.elements.clone(),
                from: old.cloned(),
                to: new.cloned(),
            }),
        }
    }

    fn at_item(&self) -> bool {
        self.elements.last().is_some_and(|element| !element.starts_with("f:"))
    }

    fn fields(&mut self, schema: &Schema, old: &Map<String, Value>, new: &Map<String, Value>) {
        let open = Schema::default();
        for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            self.elements.push(format!("f:{name}"));
            self.both(schema.child(name).unwrap_or(&open), old.get(name), new.get(name));
            self.elements.pop();
        }
    }

    fn items(&mut self, schema: &Schema, old: &[Value], new: &[Value]) {
        let open = Schema::default();
        let (old, new) = (by_element(schema, old), by_element(schema, new));
        for element in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            self.elements.push(element.clone());
            let (was, is) = (old.get(element).copied(), new.get(element).copied());
            self.both(schema.item().unwrap_or(&open), was, is);
            self.elements.pop();
        }
    }
}

fn is_shared(list: &Schema) -> bool {
    list.list != ListType::Atomic
}

fn element_of(list: &Schema, item: &Value, index: usize) -> String {
    item_element(list, item, index).unwrap_or_else(|_| format!("i:{index}"))
}

fn by_element<'a>(list: &Schema, items: &'a [Value]) -> BTreeMap<String, &'a Value> {
    items.iter().enumerate().map(|(index, item)| (element_of(list, item, index), item)).collect()
}

/// A field that is no longer what the change to take back had made it.
#[derive(Clone, Debug, PartialEq)]
pub struct UndoConflict {
    pub path: String,
    /// What the change had made of it.
    pub left: Option<Value>,
    /// What it is now.
    pub now: Option<Value>,
}

/// Sets the fields that differ between `before` and `after` back in `current`. A field that somebody changed
/// since is a conflict, unless `force`; one that is back already is left alone. What a client cannot set, and
/// what is below `skip`, is not touched.
pub fn undo(
    schema: &Schema,
    before: &Value,
    after: &Value,
    current: &Value,
    skip: &[&[&str]],
    force: bool,
) -> Result<Value, Vec<UndoConflict>> {
    let (mut object, mut conflicts) = (current.clone(), Vec::new());
    let fixed = FIXED.map(|name| ["metadata", name]);
    let skipped = |change: &FieldChange| {
        fixed.iter().any(|path| change.is_below(path)) || skip.iter().any(|path| change.is_below(path))
    };
    for change in changes(schema, before, after).into_iter().filter(|change| !skipped(change)) {
        let now = find(schema, current, &change.elements);
        match now {
            now if now == change.from.as_ref() => {}
            now if now == change.to.as_ref() || force => {
                set(schema, &mut object, &change.elements, change.from.as_ref());
            }
            now => conflicts.push(UndoConflict {
                path: change.path(),
                left: change.to.clone(),
                now: now.cloned(),
            }),
        }
    }
    if conflicts.is_empty() { Ok(object) } else { Err(conflicts) }
}

fn find<'a>(schema: &Schema, value: &'a Value, elements: &[String]) -> Option<&'a Value> {
    let Some((first, rest)) = elements.split_first() else { return Some(value) };
    let open = Schema::default();
    match (first.strip_prefix("f:"), value) {
        (Some(name), Value::Object(fields)) => {
            find(schema.child(name).unwrap_or(&open), fields.get(name)?, rest)
        }
        (None, Value::Array(items)) => {
            let (_, item) =
                items.iter().enumerate().find(|(index, item)| element_of(schema, item, *index) == *first)?;
            find(schema.item().unwrap_or(&open), item, rest)
        }
        _ => None,
    }
}

/// Puts `wanted` at a path, making what is missing on the way; what is emptied by taking a field out goes too.
fn set(schema: &Schema, value: &mut Value, elements: &[String], wanted: Option<&Value>) {
    let Some((first, rest)) = elements.split_first() else { return };
    let open = Schema::default();
    match (first.strip_prefix("f:"), value) {
        (Some(name), Value::Object(fields)) => {
            let child = schema.child(name).unwrap_or(&open);
            match (rest, wanted) {
                ([], None) => drop(fields.shift_remove(name)),
                ([], Some(wanted)) => drop(fields.insert(name.to_owned(), wanted.clone())),
                _ => set_below(child, fields, name, rest, wanted),
            }
        }
        (None, Value::Array(items)) => set_item(schema, items, first, rest, wanted),
        _ => {}
    }
}

fn set_below(
    child: &Schema,
    fields: &mut Map<String, Value>,
    name: &str,
    rest: &[String],
    wanted: Option<&Value>,
) {
    let is_list = rest.first().is_some_and(|element| !element.starts_with("f:"));
    if wanted.is_some() && !fields.contains_key(name) {
        fields.insert(name.to_owned(), if is_list { Value::Array(Vec::new()) } else { Map::new().into() });
    }
    let Some(below) = fields.get_mut(name) else { return };
    set(child, below, rest, wanted);
    let is_empty = match below {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if is_empty && wanted.is_none() {
        fields.shift_remove(name);
    }
}

fn set_item(schema: &Schema, items: &mut Vec<Value>, element: &str, rest: &[String], wanted: Option<&Value>) {
    let open = Schema::default();
    let place =
        items.iter().enumerate().find(|(i, item)| element_of(schema, item, *i) == element).map(|(i, _)| i);
    match (place, rest, wanted) {
        (Some(place), [], None) => drop(items.remove(place)),
        (Some(place), [], Some(wanted)) => items[place] = wanted.clone(),
        (None, [], Some(wanted)) => items.push(wanted.clone()),
        (Some(place), rest, wanted) => {
            set(schema.item().unwrap_or(&open), &mut items[place], rest, wanted);
        }
        (None, _, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn schema(kind: &str) -> Schema {
        let group = if kind == "Deployment" { "apps" } else { "" };
        crate::schema::builtin(crate::kinds::find_kind(group, "v1", kind).unwrap()).unwrap()
    }

    fn pod(image: &str, labels: Value) -> Value {
        json!({
            "metadata": { "name": "a", "labels": labels, "resourceVersion": image },
            "spec": { "containers": [{ "name": "c", "image": image }, { "name": "d", "image": "x" }] },
        })
    }

    fn check(old: &Value, new: &Value, expect: Expect) {
        let found: Vec<_> =
            changes(&schema("Pod"), old, new).iter().map(|c| c.to_value().to_string()).collect();
        expect.assert_eq(&found.join("\n"));
    }

    #[test]
    fn items_are_told_by_their_keys_and_the_servers_own_fields_not_at_all() {
        check(
            &pod("1", json!({"a": "1"})),
            &pod("2", json!({"b": "1"})),
            expect![[r#"
                {"path":".metadata.labels.a","from":"1"}
                {"path":".metadata.labels.b","to":"1"}
                {"path":".spec.containers[name=\"c\"].image","from":"1","to":"2"}"#]],
        );
    }

    #[test]
    fn an_item_that_came_is_one_change() {
        let mut new = pod("1", json!({}));
        new["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "e"}));
        check(
            &pod("1", json!({})),
            &new,
            expect![[r#"{"path":".spec.containers[name=\"e\"]","to":{"name":"e"}}"#]],
        );
    }

    #[test]
    fn a_change_is_taken_back_and_later_ones_stay() {
        let (before, after) = (pod("1", json!({})), pod("2", json!({"a": "1"})));
        let current = pod("2", json!({"a": "1", "b": "2"}));
        let undone = undo(&schema("Pod"), &before, &after, &current, &[], false).unwrap();
        assert_eq!(undone["spec"], before["spec"]);
        assert_eq!(undone["metadata"]["labels"], json!({"b": "2"}));
    }

    #[test]
    fn a_field_that_was_changed_since_is_a_conflict_until_forced() {
        let (before, after, current) = (pod("1", json!({})), pod("2", json!({})), pod("3", json!({})));
        let conflicts = undo(&schema("Pod"), &before, &after, &current, &[], false).unwrap_err();
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].path, ".spec.containers[name=\"c\"].image");
        assert_eq!((&conflicts[0].left, &conflicts[0].now), (&Some(json!("2")), &Some(json!("3"))));
        let forced = undo(&schema("Pod"), &before, &after, &current, &[], true).unwrap();
        assert_eq!(forced["spec"], before["spec"]);
    }

    #[test]
    fn an_item_that_went_comes_back_and_one_that_came_goes() {
        let mut after = pod("1", json!({}));
        after["spec"]["containers"] = json!([{"name": "c", "image": "1"}, {"name": "n"}]);
        let before = pod("1", json!({}));
        let undone = undo(&schema("Pod"), &before, &after, &after, &[], false).unwrap();
        assert_eq!(undone["spec"]["containers"], before["spec"]["containers"]);
    }

    #[test]
    fn what_was_said_to_be_skipped_stays() {
        let (before, after) = (json!({"status": {"x": 1}}), json!({"status": {"x": 2}}));
        let undone = undo(&schema("Pod"), &before, &after, &after, &[&["status"]], false).unwrap();
        assert_eq!(undone, after);
    }
}
