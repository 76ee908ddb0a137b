//! OpenAPI version 2 is one document: what other servers add to it must not change what stands there already.
//!
//! A path that is served already stays. A definition of the same name that says something else gets a name of its
//! own (`NAME_v2`), and what refers to it follows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const KINDS: &str = "x-kubernetes-group-version-kind";
const REFERENCE: &str = "#/definitions/";

/// Adds to `document` the paths of `more` that it does not have, with all that they refer to.
pub(super) fn merge(document: &mut Value, more: &Value) {
    let (Some(all), Some(own)) = (more["paths"].as_object(), document["paths"].as_object()) else { return };
    let paths: Map<String, Value> = all
        .iter()
        .filter(|(path, _)| !own.contains_key(*path))
        .map(|(p, item)| (p.clone(), item.clone()))
        .collect();
    if paths.is_empty() {
        return;
    }
    let nothing = Map::new();
    let source = more["definitions"].as_object().unwrap_or(&nothing);
    let wanted = match paths.len() == all.len() {
        true => source.iter().collect(),
        false => reachable(&paths, source),
    };
    let Some(definitions) = document.get_mut("definitions").and_then(Value::as_object_mut) else { return };
    let renames = renames(definitions, &wanted);
    for (name, definition) in wanted {
        let mut definition = definition.clone();
        rename(&mut definition, &renames);
        match definitions.get_mut(renames.get(name).unwrap_or(name)) {
            Some(known) => add_kinds(known, &definition),
            None => {
                definitions.insert(renames.get(name).unwrap_or(name).clone(), definition);
            }
        }
    }
    let Some(own) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    for (path, mut item) in paths {
        rename(&mut item, &renames);
        own.insert(path, item);
    }
}

/// The definitions that `paths` refer to, directly and through each other.
fn reachable<'a>(
    paths: &Map<String, Value>,
    source: &'a Map<String, Value>,
) -> BTreeMap<&'a String, &'a Value> {
    let mut found = BTreeMap::new();
    let mut open: Vec<String> = paths.values().flat_map(references).collect();
    while let Some(name) = open.pop() {
        let Some((name, definition)) = source.get_key_value(&name) else { continue };
        if found.insert(name, definition).is_none() {
            open.extend(references(definition));
        }
    }
    found
}

fn references(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(value, &mut |name| {
        found.insert(name.to_owned());
    });
    found
}

fn visit(value: &Value, see: &mut dyn FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            if let Some(name) =
                fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE))
            {
                see(name);
            }
            fields.values().for_each(|value| visit(value, see));
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, see)),
        _ => {}
    }
}

/// New names for definitions that clash with others; one that was renamed before keeps that name.
fn renames(definitions: &Map<String, Value>, wanted: &BTreeMap<&String, &Value>) -> BTreeMap<String, String> {
    let mut renames = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (name, definition) in wanted {
        if definitions.get(*name).is_none_or(|known| is_same(known, definition)) {
            continue;
        }
        let candidates = (2..).map(|number: u64| format!("{name}_v{number}"));
        let fits = |new: &String| match definitions.get(new) {
            Some(known) => is_same(known, definition),
            None => !taken.contains(new) && !wanted.contains_key(new),
        };
        if let Some(new) = candidates.into_iter().find(fits) {
            taken.insert(new.clone());
            renames.insert((*name).clone(), new);
        }
    }
    renames
}

/// Whether two definitions say the same, whatever kinds they are said to be of.
fn is_same(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let says = |fields: &&String| *fields != KINDS;
    a.keys().filter(says).count() == b.keys().filter(says).count()
        && a.keys().filter(says).all(|field| a.get(field) == b.get(field))
}

fn rename(value: &mut Value, renames: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut() {
                let new =
                    value.as_str().and_then(|r| r.strip_prefix(REFERENCE)).and_then(|name| renames.get(name));
                match new.filter(|_| field == "$ref") {
                    Some(new) => *value = format!("{REFERENCE}{new}").into(),
                    None => rename(value, renames),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renames)),
        _ => {}
    }
}

/// A definition that several servers have is of all the kinds that they say.
fn add_kinds(known: &mut Value, more: &Value) {
    let Some(kinds) = more[KINDS].as_array().filter(|kinds| !kinds.is_empty()) else { return };
    let Some(fields) = known.as_object_mut() else { return };
    let into = fields.entry(KINDS).or_insert_with(|| Value::Array(Vec::new()));
    let Some(into) = into.as_array_mut() else { return };
    for kind in kinds {
        if !into.contains(kind) {
            into.push(kind.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(name: &str) -> Value {
        json!({ "$ref": format!("{REFERENCE}{name}") })
    }

    fn own() -> Value {
        json!({
            "paths": {"/a": {"get": {"schema": reference("Meta")}}},
            "definitions": {"Meta": {"type": "object", KINDS: [{"kind": "A"}]}, "Same": {"type": "string"}},
        })
    }

    #[test]
    fn a_definition_that_clashes_gets_another_name_and_its_references_follow() {
        let more = json!({
            "paths": {"/b": {"get": {"schema": reference("List")}}},
            "definitions": {
                "List": {"items": reference("Meta"), "also": [reference("Same")]},
                "Meta": {"type": "object", "description": "older"},
                "Same": {"type": "string"},
            },
        });
        let mut document = own();
        merge(&mut document, &more);
        let definitions = &document["definitions"];
        assert_eq!(definitions["Meta"], own()["definitions"]["Meta"]);
        assert_eq!(definitions["Meta_v2"], more["definitions"]["Meta"]);
        assert_eq!(definitions["List"], json!({"items": reference("Meta_v2"), "also": [reference("Same")]}));
        assert_eq!(document["paths"]["/b"], more["paths"]["/b"]);
    }

    #[test]
    fn what_was_renamed_for_one_server_serves_the_next_and_a_third_says_a_third_thing() {
        let more = |path: &str, description: &str| {
            json!({
                "paths": {path: {"get": {"schema": reference("Meta")}}},
                "definitions": {"Meta": {"type": "object", "description": description}},
            })
        };
        let mut document = own();
        for (path, description) in [("/b", "older"), ("/c", "older"), ("/d", "newer")] {
            merge(&mut document, &more(path, description));
        }
        let refers = |path: &str| document["paths"][path]["get"]["schema"].clone();
        assert_eq!(
            ["/a", "/b", "/c", "/d"].map(refers),
            [reference("Meta"), reference("Meta_v2"), reference("Meta_v2"), reference("Meta_v3")]
        );
    }

    #[test]
    fn kinds_of_one_definition_are_gathered() {
        let more = json!({
            "paths": {"/b": {}},
            "definitions": {"Meta": {"type": "object", KINDS: [{"kind": "A"}, {"kind": "B"}]}},
        });
        let mut document = own();
        merge(&mut document, &more);
        assert_eq!(document["definitions"]["Meta"][KINDS], json!([{"kind": "A"}, {"kind": "B"}]));
    }

    #[test]
    fn paths_that_are_served_already_stay_and_bring_nothing() {
        let more = json!({
            "paths": {"/a": {"get": {"schema": reference("Only")}}, "/b": {"get": {"schema": reference("Used")}}},
            "definitions": {"Only": {}, "Used": {"items": reference("Deep")}, "Deep": {}},
        });
        let mut document = own();
        merge(&mut document, &more);
        assert_eq!(document["paths"]["/a"], own()["paths"]["/a"]);
        let names: Vec<_> = document["definitions"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["Meta", "Same", "Deep", "Used"]);
        let before = document.clone();
        merge(&mut document, &more);
        assert_eq!(document, before);
    }
}
