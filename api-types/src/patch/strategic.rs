//! Strategic merge patch: a merge patch that knows which lists are keyed, with directives of its own.
//!
//! Directives: `$patch` (`replace`, `delete`) in objects and list items, `$retainKeys` in objects,
//! `$setElementOrder/FIELD` and `$deleteFromPrimitiveList/FIELD` beside a list.

use super::{PatchError, go_text};
use crate::schema::{PatchStrategy, Schema};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_ITEMS: &str = "$deleteFromPrimitiveList/";

/// Applies `patch` to `object`.
pub fn apply(schema: &Schema, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if patch.is_null() {
        return Ok(object.clone());
    }
    let (Value::Object(fields), Value::Object(patch)) = (object, patch) else {
        return Err(PatchError::Malformed("a strategic merge patch must be an object".to_owned()));
    };
    merge_object(Some(schema), fields.clone(), patch).map(Value::Object)
}

type Fields = Map<String, Value>;

fn merge_object(schema: Option<&Schema>, mut old: Fields, patch: &Fields) -> Result<Fields, PatchError> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or("")) {
        Some("replace") => return clean_object(patch),
        Some("delete") => return Ok(Fields::new()),
        None => {}
        Some(other) => {
            let shown = go_text(&Value::Object(patch.clone()));
            return Err(PatchError::Unmergeable(format!("unknown patch type: {other} in map: {shown}")));
        }
    }
    retain_keys(&mut old, patch)?;
    let changed = patch.keys().filter_map(|key| field_of(key));
    let mut seen = Vec::new();
    for key in changed {
        if !seen.contains(&key) {
            merge_field(schema.and_then(|s| s.child(key)), &mut old, patch, key)?;
            seen.push(key);
        }
    }
    Ok(old)
}

/// The field that a key of a patch is about.
fn field_of(key: &str) -> Option<&str> {
    match key {
        DIRECTIVE | RETAIN_KEYS => None,
        _ => Some(key.strip_prefix(SET_ORDER).or(key.strip_prefix(DELETE_ITEMS)).unwrap_or(key)),
    }
}

fn retain_keys(old: &mut Fields, patch: &Fields) -> Result<(), PatchError> {
    let Some(names) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let names = names.as_array().ok_or_else(|| bad("$retainKeys must be a list of names".into()))?;
    let named = |key: &str| names.iter().any(|n| n == key);
    if patch.iter().any(|(k, v)| !v.is_null() && !k.starts_with('$') && !named(k)) {
        return Err(bad("invalid patch format of retainKeys".to_owned()));
    }
    old.retain(|key, _| named(key));
    Ok(())
}

fn merge_field(
    schema: Option<&Schema>,
    old: &mut Fields,
    patch: &Fields,
    key: &str,
) -> Result<(), PatchError> {
    let order = directive(patch, SET_ORDER, key)?;
    let deleted = directive(patch, DELETE_ITEMS, key)?;
    let value = match (patch.get(key), old.remove_keeping_place(key)) {
        (Some(Value::Null), _) => None,
        (Some(Value::Object(new)), Some(Value::Object(was))) => {
            Some(Value::Object(merge_object(schema, was, new)?))
        }
        (Some(Value::Object(new)), _) => match new.get(DIRECTIVE).map(|d| d == "delete") {
            Some(true) => None,
            _ => Some(Value::Object(clean_object(new)?)),
        },
        (Some(Value::Array(new)), Some(Value::Array(was))) => {
            Some(Value::Array(merge_list(schema, was, new, order, deleted)?))
        }
        (Some(Value::Array(new)), _) => Some(Value::Array(merge_list(schema, vec![], new, order, deleted)?)),
        (Some(scalar), _) => Some(scalar.clone()),
        (None, Some(Value::Array(was))) => Some(Value::Array(merge_list(schema, was, &[], order, deleted)?)),
        (None, was) => was,
    };
    match value {
        Some(value) => drop(old.insert(key.to_owned(), value)),
        None => drop(old.shift_remove(key)),
    }
    Ok(())
}

/// Takes a value out of an object without moving its neighbours: it is put back in its place.
trait RemoveKeepingPlace {
    fn remove_keeping_place(&mut self, key: &str) -> Option<Value>;
}

impl RemoveKeepingPlace for Fields {
    fn remove_keeping_place(&mut self, key: &str) -> Option<Value> {
        self.get_mut(key).map(Value::take)
    }
}

fn directive<'a>(patch: &'a Fields, prefix: &str, key: &str) -> Result<&'a [Value], PatchError> {
    match patch.get(&format!("{prefix}{key}")) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(bad(format!("{prefix}{key} must be a list"))),
    }
}

fn merge_list(
    schema: Option<&Schema>,
    old: Vec<Value>,
    patch: &[Value],
    order: &[Value],
    deleted: &[Value],
) -> Result<Vec<Value>, PatchError> {
    let item = schema.and_then(Schema::item);
    let key = match schema.map(|s| &s.patch) {
        Some(PatchStrategy { merge: true, merge_key, .. }) => merge_key.as_deref(),
        _ => return patch.iter().filter(|v| !is_deletion(v)).map(clean).collect(),
    };
    if !order.is_empty() {
        check_order(key, patch, order)?;
    }
    let server_order = old.clone();
    let merged = match key {
        Some(key) => merge_keyed(item, key, old, patch)?,
        None => merge_scalars(old, patch, deleted),
    };
    let replaced = patch.iter().any(|p| p.get(DIRECTIVE).is_some_and(|d| d == "replace"));
    let mentioned: Vec<_> = patch.iter().filter(|p| p.get(DIRECTIVE).is_none()).cloned().collect();
    let merged = if replaced { merged } else { reorder(merged, &server_order, &mentioned, key) };
    Ok(if order.is_empty() { merged } else { reorder(merged, &server_order, order, key) })
}

/// What a patch changes stands in the order that it gives, one after the other.
fn check_order(key: Option<&str>, patch: &[Value], order: &[Value]) -> Result<(), PatchError> {
    let id = |item: &Value| match key {
        None => Ok(item.clone()),
        Some(key) => item.get(key).cloned().ok_or_else(|| no_key(item, key)),
    };
    let mut places = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let wanted = id(item)?;
        let mut found = false;
        while !found && let Some(place) = places.next() {
            found = id(place)? == wanted;
        }
        if !found {
            let [patch, order] = [patch, order].map(|list| go_text(&Value::from(list.to_vec())));
            let why =
                format!("The order in patch list:\n{patch}\n doesn't match {SET_ORDER} list:\n{order}\n");
            return Err(PatchError::Unmergeable(why));
        }
    }
    Ok(())
}

fn no_key(item: &Value, key: &str) -> PatchError {
    let why = format!("map: {} does not contain declared merge key: {key}", go_text(item));
    PatchError::Unmergeable(why)
}

fn merge_scalars(mut old: Vec<Value>, patch: &[Value], deleted: &[Value]) -> Vec<Value> {
    old.retain(|v| !deleted.contains(v));
    for value in patch {
        if !old.contains(value) {
            old.push(value.clone());
        }
    }
    old
}

fn merge_keyed(
    schema: Option<&Schema>,
    key: &str,
    mut old: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>, PatchError> {
    if patch.iter().any(|p| p.get(DIRECTIVE).is_some_and(|d| d == "replace")) {
        return patch.iter().filter(|p| p.get(DIRECTIVE).is_none()).map(clean).collect();
    }
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(bad(format!("item of a list merged by {key:?} must be an object")));
        };
        let name = fields.get(key).ok_or_else(|| no_key(item, key))?;
        if let Some(other) = fields.get(DIRECTIVE).filter(|directive| *directive != "delete") {
            let why = format!("unknown patch type: {} in map: {}", go_text(other), go_text(item));
            return Err(PatchError::Unmergeable(why));
        }
        let at = old.iter().position(|o| o.get(key) == Some(name));
        match (fields.get(DIRECTIVE).is_some_and(|d| d == "delete"), at) {
            (true, _) => old.retain(|o| o.get(key) != Some(name)),
            (false, Some(at)) => {
                let was = old[at].as_object().cloned().unwrap_or_default();
                old[at] = Value::Object(merge_object(schema, was, fields)?);
            }
            (false, None) => old.push(Value::Object(clean_object(fields)?)),
        }
    }
    Ok(old)
}

fn is_deletion(item: &Value) -> bool {
    item.get(DIRECTIVE).is_some_and(|d| d == "delete")
}

/// What a patch's value becomes where nothing was: without directives and nulls.
fn clean(value: &Value) -> Result<Value, PatchError> {
    match value {
        Value::Object(fields) => clean_object(fields).map(Value::Object),
        Value::Array(items) => items.iter().filter(|i| !is_deletion(i)).map(clean).collect(),
        scalar => Ok(scalar.clone()),
    }
}

fn clean_object(fields: &Fields) -> Result<Fields, PatchError> {
    let kept = fields.iter().filter(|(key, value)| {
        let directive = *key == DIRECTIVE
            || *key == RETAIN_KEYS
            || key.starts_with(SET_ORDER)
            || key.starts_with(DELETE_ITEMS);
        !directive && !value.is_null()
    });
    kept.map(|(key, value)| Ok((key.clone(), clean(value)?))).collect()
}

/// Puts the items that the patch speaks of in its order and those that only the server has between them, where
/// they stood; new items come before what the server has left.
fn reorder(merged: Vec<Value>, server: &[Value], order: &[Value], key: Option<&str>) -> Vec<Value> {
    let id = |v: &Value| key.map_or_else(|| v.clone(), |k| v.get(k).cloned().unwrap_or(Value::Null));
    let place = |list: &[Value], v: &Value| list.iter().position(|o| id(o) == id(v));
    let (mut patched, own): (Vec<_>, Vec<_>) = merged.into_iter().partition(|v| place(order, v).is_some());
    patched.sort_by_key(|v| place(order, v));
    let (mut out, mut own, mut patched) =
        (Vec::new(), own.into_iter().peekable(), patched.into_iter().peekable());
    while let (Some(left), Some(right)) = (own.peek(), patched.peek()) {
        let first = match (place(server, left), place(server, right)) {
            (Some(l), Some(r)) => l < r,
            _ => false,
        };
        out.extend(if first { own.next() } else { patched.next() });
    }
    out.extend(own);
    out.extend(patched);
    out
}

fn bad(why: String) -> PatchError {
    PatchError::Malformed(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find_kind;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(kind: &str, object: Value, patch: Value, expect: Expect) {
        let group = if kind == "Deployment" { "apps" } else { "" };
        let schema = crate::schema::builtin(find_kind(group, "v1", kind).unwrap()).unwrap();
        let text = match apply(&schema, &object, &patch) {
            Ok(value) => value.to_string(),
            Err(e) => format!("error: {e}"),
        };
        expect.assert_eq(&text);
    }

    fn pod(containers: Value) -> Value {
        json!({"spec": {"containers": containers}})
    }

    #[test]
    fn containers_merge_by_name() {
        let old =
            pod(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]));
        let patch = pod(json!([{"name": "a", "image": "2", "env": [{"name": "Y"}]}, {"name": "c"}]));
        check(
            "Pod",
            old,
            patch,
            expect![[
                r#"{"spec":{"containers":[{"name":"a","image":"2","env":[{"name":"Y"},{"name":"X","value":"1"}]},{"name":"c"},{"name":"b"}]}}"#
            ]],
        );
    }

    #[test]
    fn an_item_is_deleted_by_directive_and_a_list_replaced() {
        let old = pod(json!([{"name": "a"}, {"name": "b"}]));
        check(
            "Pod",
            old.clone(),
            pod(json!([{"name": "a", "$patch": "delete"}])),
            expect![[r#"{"spec":{"containers":[{"name":"b"}]}}"#]],
        );
        check(
            "Pod",
            old.clone(),
            pod(json!([{"$patch": "replace"}, {"name": "z"}])),
            expect![[r#"{"spec":{"containers":[{"name":"z"}]}}"#]],
        );
        check(
            "Pod",
            old,
            pod(json!([{"image": "no name"}])),
            expect![[r#"error: map: map[image:no name] does not contain declared merge key: name"#]],
        );
    }

    #[test]
    fn atomic_lists_are_replaced() {
        let old = pod(json!([{"name": "a", "args": ["1", "2"]}]));
        check(
            "Pod",
            old,
            pod(json!([{"name": "a", "args": ["3"]}])),
            expect![[r#"{"spec":{"containers":[{"name":"a","args":["3"]}]}}"#]],
        );
    }

    #[test]
    fn retained_keys_drop_the_others() {
        let old = json!({"spec": {"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        check(
            "Deployment",
            old,
            patch,
            expect![[r#"{"spec":{"replicas":1,"strategy":{"type":"Recreate"}}}"#]],
        );
    }

    #[test]
    fn the_order_of_the_patch_is_kept_with_the_servers_own_between() {
        let old = pod(json!([{"name": "a"}, {"name": "own"}, {"name": "b"}]));
        let order = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new"}]}});
        check(
            "Pod",
            old,
            order,
            expect![[r#"{"spec":{"containers":[{"name":"own"},{"name":"b"},{"name":"new"},{"name":"a"}]}}"#]],
        );
    }

    #[test]
    fn scalars_are_added_and_deleted_by_value() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"],
            "$setElementOrder/finalizers": ["c", "b"]}});
        check("Pod", old.clone(), patch, expect![[r#"{"metadata":{"finalizers":["c","b"]}}"#]]);
        let only = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
        check("Pod", old, only, expect![[r#"{"metadata":{"finalizers":["b"]}}"#]]);
    }

    #[test]
    fn a_patch_out_of_its_own_order_and_an_unknown_directive_are_refused() {
        let order = |order: Value, patch: Value| json!({"spec": {"$setElementOrder/containers": order, "containers": patch}});
        for (patch, fits) in [
            (order(json!([{"name": "a"}, {"name": "b"}]), json!([{"name": "b", "image": "x"}])), true),
            (order(json!([{"name": "a"}]), json!([{"name": "b", "$patch": "delete"}])), true),
            (order(json!([{"name": "a"}]), json!([{"name": "b"}])), false),
            (order(json!([{"name": "a"}, {"name": "b"}]), json!([{"name": "b"}, {"name": "a"}])), false),
            (order(json!([{"image": "a"}]), json!([{"name": "b"}])), false),
            (pod(json!([{"name": "a", "$patch": "frob"}])), false),
            (Value::Null, true),
        ] {
            let schema = crate::schema::builtin(find_kind("", "v1", "Pod").unwrap()).unwrap();
            let done = apply(&schema, &pod(json!([{"name": "a"}, {"name": "b"}])), &patch);
            let is_refused = matches!(done, Err(PatchError::Unmergeable(_)));
            assert_eq!((done.is_ok(), is_refused), (fits, !fits), "{patch}");
        }
    }

    #[test]
    fn null_deletes_and_replace_takes_all() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}}});
        let patch = json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}, "annotations": null, "name": null}});
        check("Pod", old, patch, expect![[r#"{"metadata":{"labels":{"c":"3"}}}"#]]);
    }

    #[test]
    fn new_parts_come_without_nulls_and_directives() {
        let patch = json!({"spec": {"securityContext": {"runAsUser": null, "fsGroup": 1},
            "containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "image": null}]}});
        check(
            "Pod",
            json!({}),
            patch,
            expect![[r#"{"spec":{"securityContext":{"fsGroup":1},"containers":[{"name":"b"}]}}"#]],
        );
    }
}
