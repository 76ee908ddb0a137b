//! Deployments, replica sets, stateful sets, daemon sets: what counts as a change, and how they are named.

use serde_json::Value;

use super::metadata::NameRule;
use super::{Context, Strategy, isolate};

pub(super) struct Deployments;
pub(super) struct StatefulSets;

impl Strategy for Deployments {
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        if context.subresource == "status" {
            new["metadata"]["labels"] = old["metadata"]["labels"].clone();
            if old["metadata"]["labels"].is_null() {
                new.get_mut("metadata").and_then(Value::as_object_mut).map(|m| m.shift_remove("labels"));
            }
        }
        // Rollouts are steered by annotations too, so that a change of them counts.
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        let annotations = |object: &Value| object["metadata"]["annotations"].clone();
        let is_counted = new["metadata"]["generation"] == generation;
        if context.subresource.is_empty() && is_counted && annotations(new) != annotations(old) {
            new["metadata"]["generation"] = (generation + 1).into();
        }
    }
}

impl Strategy for StatefulSets {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }
}
