//! Volumes and claims: what the server notes beside what the client says.

use serde_json::{Value, json};

use super::{Context, Strategy, isolate};
use crate::rest::timestamp;

pub(super) struct Claims;
pub(super) struct Volumes;

impl Strategy for Claims {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        drop_sources(new, &Value::Null);
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        if context.subresource.is_empty() {
            drop_sources(new, &old["spec"]);
        }
    }

    fn default(&self, new: &mut Value) {
        let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
        // Two names of one fact; nobody owns the one that was not said.
        for (from, to) in [("dataSource", "dataSourceRef"), ("dataSourceRef", "dataSource")] {
            let Some(source) = spec.get(from).filter(|source| source.is_object()).cloned() else { continue };
            // The older name cannot point into another namespace.
            let is_local = source.get("namespace").is_none_or(Value::is_null);
            if is_local && spec.get(to).is_none_or(Value::is_null) {
                spec.insert(to.to_owned(), source);
            }
        }
    }
}

/// Sources that nobody may name: in another namespace, and by the older name what is neither a claim nor a snapshot
/// of one. A claim that has a source keeps it.
fn drop_sources(claim: &mut Value, old: &Value) {
    let has = |spec: &Value, field: &str| spec.get(field).is_some_and(Value::is_object);
    let Some(spec) = claim.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let is_foreign =
        spec["dataSourceRef"]["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty());
    let mut gone = Vec::new();
    if is_foreign && !has(old, "dataSourceRef") {
        gone.push("dataSourceRef");
    }
    let has_reference = has(spec, "dataSourceRef") && gone.is_empty();
    let had_source = has(old, "dataSource") || has(old, "dataSourceRef");
    if !had_source && !has_reference && !is_claim_or_snapshot(&spec["dataSource"]) {
        gone.push("dataSource");
    }
    let Some(spec) = spec.as_object_mut() else { return };
    gone.iter().for_each(|field| drop(spec.shift_remove(*field)));
}

fn is_claim_or_snapshot(source: &Value) -> bool {
    matches!(
        (source["kind"].as_str(), source["apiGroup"].as_str().unwrap_or_default()),
        (Some("PersistentVolumeClaim"), "") | (Some("VolumeSnapshot"), "snapshot.storage.k8s.io")
    )
}

impl Strategy for Volumes {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        let now = timestamp(context.now);
        new["status"] = json!({ "phase": "Pending", "lastPhaseTransitionTime": now });
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        let phase = |object: &Value| object.pointer("/status/phase").cloned();
        if phase(new) != phase(old) && new["status"].is_object() {
            new["status"]["lastPhaseTransitionTime"] = json!(timestamp(context.now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_nobody_may_name_is_dropped() {
        let snapshot =
            json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "a" });
        let odd = json!({ "apiGroup": "example.com", "kind": "Odd", "name": "a" });
        let mut foreign = odd.clone();
        foreign["namespace"] = json!("elsewhere");
        let none = json!({});
        for (spec, old, left) in [
            (json!({ "dataSource": snapshot }), &none, vec!["dataSource"]),
            (json!({ "dataSource": odd }), &none, vec![]),
            (json!({ "dataSourceRef": odd }), &none, vec!["dataSourceRef"]),
            (json!({ "dataSourceRef": foreign }), &none, vec![]),
            (json!({ "dataSource": odd }), &json!({ "dataSource": odd }), vec!["dataSource"]),
        ] {
            let mut claim = json!({ "spec": spec });
            drop_sources(&mut claim, old);
            let fields: Vec<_> = claim["spec"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(fields, left, "{claim}");
        }
    }

    #[test]
    fn a_source_stands_under_both_of_its_names() {
        let source = json!({ "kind": "PersistentVolumeClaim", "name": "a" });
        let mut claim = json!({ "spec": { "dataSource": source } });
        Claims.default(&mut claim);
        assert_eq!(claim["spec"]["dataSourceRef"], source);
        let mut claim =
            json!({ "spec": { "dataSourceRef": { "kind": "X", "name": "a", "namespace": "n" } } });
        Claims.default(&mut claim);
        assert!(claim["spec"].get("dataSource").is_none());
    }
}
