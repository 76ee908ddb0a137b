//! Deployments, replica sets, stateful sets, daemon sets: what counts as a change, and how they are named.

use serde_json::Value;

use super::metadata::NameRule;
use super::{Context, Strategy, isolate};

pub(super) struct Deployments;
pub(super) struct StatefulSets;
pub(super) struct DaemonSets;

/// How often the template of a daemon set has changed; clients see it as an annotation that they cannot set.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Strategy for Deployments {
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
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

impl Strategy for DaemonSets {
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        let before = old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str();
        let before: i64 = before.and_then(|text| text.parse().ok()).unwrap_or(1);
        let changed = context.subresource.is_empty() && new["spec"]["template"] != old["spec"]["template"];
        let count = if changed { before + 1 } else { before };
        if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
            let annotations = meta.entry("annotations").or_insert(Value::Null);
            if annotations.is_null() {
                *annotations = Value::Object(serde_json::Map::new());
            }
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(TEMPLATE_GENERATION.to_owned(), count.to_string().into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::service_ip::{ServiceAddresses, ServiceCidr};

    fn check(annotations: Value, image: &str, expected: &str) {
        let set = |annotations: Value, image: &str| {
            let meta = json!({"name": "d", "generation": 1, "annotations": annotations});
            json!({"metadata": meta, "spec": {"template": {"image": image}}})
        };
        let kind = api_types::kinds::find_resource("apps", "v1", "daemonsets").unwrap();
        let services = ServiceAddresses::new(ServiceCidr::usual());
        let context = Context::fixture(kind, &services);
        let mut new = set(annotations, image);
        let old = set(json!({TEMPLATE_GENERATION: "4"}), "a");
        DaemonSets.prepare_for_update(&context, &mut new, &old);
        assert_eq!(new["metadata"]["annotations"][TEMPLATE_GENERATION], expected);
    }

    #[test]
    fn changes_of_a_daemon_sets_template_are_counted_whatever_the_client_says() {
        check(json!({TEMPLATE_GENERATION: "4"}), "b", "5");
        check(json!({TEMPLATE_GENERATION: "9"}), "a", "4");
        check(json!(null), "a", "4");
    }
}
