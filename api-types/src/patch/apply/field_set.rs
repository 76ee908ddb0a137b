//! Sets of field paths, as `managedFields` keeps them (FieldsV1).

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

/// A set of paths. Path elements are kept as FieldsV1 writes them: `f:NAME`, `k:{KEYS}`, `v:VALUE`, `i:INDEX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The path that leads here is in the set.
    pub(super) member: bool,
    pub(super) below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads `fieldsV1`; what it cannot contain is left out.
    pub fn parse(fields: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (element, below) in fields.as_object().into_iter().flatten() {
            if element == "." {
                set.member = true;
                continue;
            }
            let mut child = FieldSet::parse(below);
            child.member |= below.as_object().is_none_or(Map::is_empty);
            set.below.insert(element.clone(), child);
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.below.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, below) in &self.below {
            fields.insert(element.clone(), below.to_value());
        }
        Value::Object(fields)
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.values().all(FieldSet::is_empty)
    }

    /// As `is_empty`, of a set that has no empty ones below it.
    pub(super) fn is_nothing(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    pub(super) fn union(mut self, other: FieldSet) -> FieldSet {
        self.join(other);
        self
    }

    /// Takes all of `other` in.
    pub(super) fn join(&mut self, other: FieldSet) {
        self.member |= other.member;
        if self.below.is_empty() {
            self.below = other.below;
            return;
        }
        for (element, theirs) in other.below {
            match self.below.entry(element) {
                Entry::Vacant(place) => {
                    place.insert(theirs);
                }
                Entry::Occupied(mut ours) => ours.get_mut().join(theirs),
            }
        }
    }

    /// Whether any of its paths is among `fieldsV1` as they are written.
    pub(super) fn is_any_in(&self, fields: &Value) -> bool {
        let below = |fields: &Map<String, Value>| {
            self.below.iter().any(|(element, set)| fields.get(element).is_some_and(|f| set.is_in(f)))
        };
        fields.as_object().is_some_and(|fields| self.member && fields.contains_key(".") || below(fields))
    }

    fn is_in(&self, fields: &Value) -> bool {
        let is_leaf = fields.as_object().is_none_or(Map::is_empty);
        self.member && is_leaf || self.is_any_in(fields)
    }

    /// Loses what `other` has.
    pub(super) fn lose(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (element, theirs) in &other.below {
            let Some(ours) = self.below.get_mut(element) else { continue };
            ours.lose(theirs);
            if ours.is_empty() {
                self.below.remove(element);
            }
        }
    }

    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| ours && theirs)
    }

    pub(super) fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| ours && !theirs)
    }

    fn combine(&self, other: &FieldSet, keep: fn(bool, bool) -> bool) -> FieldSet {
        let nothing = FieldSet::default();
        let below = self.below.iter().map(|(element, ours)| {
            (element.clone(), ours.combine(other.below.get(element).unwrap_or(&nothing), keep))
        });
        let below = below.filter(|(_, set)| !set.is_empty()).collect();
        FieldSet { member: keep(self.member, other.member), below }
    }

    /// Without `path` and all that is below it.
    pub(super) fn without(mut self, path: &[&str]) -> FieldSet {
        self.cut(path);
        self
    }

    fn cut(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let is_first = |element: &str| element.strip_prefix("f:") == Some(*first);
        let Some((element, below)) = self.below.iter_mut().find(|(element, _)| is_first(element)) else {
            return;
        };
        below.cut(rest);
        if rest.is_empty() || below.is_empty() {
            let element = element.clone();
            self.below.remove(&element);
        }
    }

    /// All paths, written as conflicts name them: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: String, paths: &mut Vec<String>) {
        if self.member {
            paths.push(path.clone());
        }
        for (element, below) in &self.below {
            below.collect(format!("{path}{}", show(element)), paths);
        }
    }
}

/// A path element as error texts have it.
pub(in crate::patch) fn show(element: &str) -> String {
    match element.split_once(':').unwrap_or(("", element)) {
        ("f", name) => format!(".{name}"),
        ("v", value) => format!("[={value}]"),
        ("k", keys) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let mut out = String::new();
            for (name, value) in keys {
                let comma = if out.is_empty() { "" } else { "," };
                // Writing to a string cannot fail.
                write!(out, "{comma}{name}={value}").unwrap_or_default();
            }
            format!("[{out}]")
        }
        (_, index) => format!("[{index}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_are_read_and_written_unchanged() {
        let fields =
            json!({"f:a": {".": {}, "f:b": {}}, "f:l": {"k:{\"name\":\"x\"}": {"f:c": {}}, "v:\"y\"": {}}});
        assert_eq!(FieldSet::parse(&fields).to_value(), fields);
    }

    #[test]
    fn paths_read_as_in_error_texts() {
        let set =
            FieldSet::parse(&json!({"f:l": {"k:{\"name\":\"x\",\"port\":1}": {"f:c": {}}, "v:\"y\"": {}}}));
        assert_eq!(set.paths(), [".l[name=\"x\",port=1].c", ".l[=\"y\"]"]);
    }

    #[test]
    fn a_set_loses_what_another_has_but_not_what_is_below() {
        let set = FieldSet::parse(&json!({"f:a": {".": {}, "f:b": {}}}));
        let less = set.difference(&FieldSet::parse(&json!({"f:a": {}})));
        assert_eq!(less.to_value(), json!({"f:a": {"f:b": {}}}));
        assert_eq!(set.without(&["a", "b"]).to_value(), json!({"f:a": {}}));
    }
}
