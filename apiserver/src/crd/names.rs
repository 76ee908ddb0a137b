//! Who gets a name that several definitions of a group want: who has it keeps it, then who came first.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};

/// Which names a definition has, and why not all that it wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Acceptance {
    /// As `status.acceptedNames`.
    pub(super) names: Value,
    pub(super) conflict: Option<Conflict>,
    /// Whether its objects are served.
    pub(super) established: bool,
}

/// The first name that is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    /// Of the condition: `PluralConflict`.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The names of a group that are taken.
#[derive(Default)]
struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

/// Decides for each definition, in their order.
pub(super) fn accept<'a>(definitions: impl Iterator<Item = &'a Value>) -> Vec<Acceptance> {
    let definitions: Vec<_> = definitions.collect();
    let mut by_group: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, definition) in definitions.iter().enumerate() {
        by_group.entry(definition["spec"]["group"].as_str().unwrap_or_default()).or_default().push(i);
    }
    let mut decided = HashMap::new();
    for members in by_group.values_mut() {
        members.sort_by_key(|i| seniority(definitions[*i]));
        let mut taken = Taken::default();
        // What somebody has already is not up for choice.
        members.iter().for_each(|i| taken.note(&definitions[*i]["status"]["acceptedNames"]));
        for i in members.iter() {
            decided.insert(*i, decide(definitions[*i], &mut taken));
        }
    }
    (0..definitions.len()).filter_map(|i| decided.remove(&i)).collect()
}

fn seniority(definition: &Value) -> (bool, String, String) {
    let text = |field: &str| definition["metadata"][field].as_str().unwrap_or_default().to_owned();
    let new = definition["status"]["acceptedNames"]["kind"].as_str().unwrap_or_default().is_empty();
    (new, text("creationTimestamp"), text("name"))
}

fn decide(definition: &Value, taken: &mut Taken) -> Acceptance {
    let wanted = &definition["spec"]["names"];
    let had = &definition["status"]["acceptedNames"];
    taken.release(had);
    let mut names = Map::new();
    let mut conflict = None;
    for (field, reason) in [
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
        ("shortNames", "ShortNamesConflict"),
        ("kind", "KindConflict"),
        ("listKind", "ListKindConflict"),
    ] {
        match taken.find(field, &wanted[field]) {
            None => put(&mut names, field, &wanted[field]),
            Some(name) => {
                put(&mut names, field, &had[field]);
                let message = format!("{name:?} is already in use");
                conflict.get_or_insert(Conflict { reason, message });
            }
        }
    }
    put(&mut names, "categories", &wanted["categories"]);
    let names = Value::Object(names);
    taken.note(&names);
    let was = is_condition(definition, "Established");
    Acceptance { names, established: was || conflict.is_none(), conflict }
}

/// Whether a condition of the definition is true.
pub(super) fn is_condition(definition: &Value, ty: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == ty && c["status"] == "True")
}

fn put(names: &mut Map<String, Value>, field: &str, value: &Value) {
    match value {
        Value::Null if matches!(field, "plural" | "kind") => drop(names.insert(field.to_owned(), json!(""))),
        Value::Null => {}
        value => drop(names.insert(field.to_owned(), value.clone())),
    }
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text.as_str()],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
    .into_iter()
    .filter(|text| !text.is_empty())
    .collect()
}

impl Taken {
    fn of(&mut self, field: &str) -> &mut HashSet<String> {
        if matches!(field, "kind" | "listKind") { &mut self.kinds } else { &mut self.resources }
    }

    fn find(&mut self, field: &str, wanted: &Value) -> Option<String> {
        let taken = self.of(field);
        texts(wanted).into_iter().find(|name| taken.contains(*name)).map(str::to_owned)
    }

    fn note(&mut self, names: &Value) {
        for field in ["plural", "singular", "shortNames", "kind", "listKind"] {
            self.of(field).extend(texts(&names[field]).into_iter().map(str::to_owned));
        }
    }

    fn release(&mut self, names: &Value) {
        for field in ["plural", "singular", "shortNames", "kind", "listKind"] {
            for name in texts(&names[field]) {
                self.of(field).remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &str, made: &str, accepted: Value) -> Value {
        json!({
            "metadata": {"name": format!("{plural}.x.io"), "creationTimestamp": made},
            "spec": {"group": "x.io", "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": [short]}},
            "status": {"acceptedNames": accepted},
        })
    }

    #[test]
    fn the_older_of_two_gets_a_name() {
        let young = definition("bulbs", "Lamp", "b", "2026-01-02", Value::Null);
        let old = definition("lamps", "Lamp", "l", "2026-01-01", Value::Null);
        let decided = accept([&young, &old].into_iter());
        assert_eq!(decided[0].conflict.as_ref().unwrap().message, "\"lamp\" is already in use");
        assert!(!decided[0].established);
        assert!(decided[1].established && decided[1].conflict.is_none());
    }

    #[test]
    fn who_has_a_name_keeps_it() {
        let has = json!({"plural": "bulbs", "kind": "Bulb", "shortNames": ["l"]});
        let young = definition("bulbs", "Bulb", "l", "2026-01-02", has);
        let old = definition("lamps", "Lamp", "l", "2026-01-01", Value::Null);
        let decided = accept([&young, &old].into_iter());
        assert_eq!(decided[0].conflict, None);
        assert_eq!(decided[1].conflict.as_ref().unwrap().reason, "ShortNamesConflict");
        assert_eq!(decided[1].names["kind"], "Lamp");
    }
}
