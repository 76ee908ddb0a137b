//! Volumes and claims: what the server notes beside what the client says.

use serde_json::{Value, json};

use super::{Context, Strategy, isolate};
use crate::rest::timestamp;

pub(super) struct Claims;
pub(super) struct Volumes;

impl Strategy for Claims {
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
