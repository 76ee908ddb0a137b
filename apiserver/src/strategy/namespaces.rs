//! Namespaces: they go when their content has gone, which their own finalizer waits for.

use api_types::status::FieldError;
use serde_json::{Value, json};

use super::metadata::NameRule;
use super::rules::{Errors, items};
use super::{Context, Strategy, isolate};

pub(super) struct Namespaces;

const FINALIZER: &str = "kubernetes";
const LABEL: &str = "kubernetes.io/metadata.name";

impl Strategy for Namespaces {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        new["status"] = json!({"phase": "Active"});
        if !new["spec"].is_object() {
            new["spec"] = json!({});
        }
        match new.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut) {
            Some(finalizers) if finalizers.iter().any(|f| f == FINALIZER) => {}
            Some(finalizers) => finalizers.push(FINALIZER.into()),
            None => new["spec"]["finalizers"] = json!([FINALIZER]),
        }
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        if context.subresource.is_empty() {
            new["spec"] = old["spec"].clone();
        }
    }

    fn default(&self, new: &mut Value) {
        let Some(name) = new["metadata"]["name"].as_str().filter(|n| !n.is_empty()).map(str::to_owned) else {
            return;
        };
        if !new["metadata"]["labels"].is_object() {
            new["metadata"]["labels"] = json!({});
        }
        new["metadata"]["labels"][LABEL] = name.into();
    }

    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for finalizer in items(&new["spec"]["finalizers"]).iter().filter_map(Value::as_str) {
            if !finalizer.contains('/') && finalizer != FINALIZER {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid("spec.finalizers", finalizer, why));
            }
        }
        for mode in ["enforce", "audit", "warn"] {
            let label = format!("pod-security.kubernetes.io/{mode}");
            if let Some(level) = new["metadata"]["labels"][&label].as_str()
                && !matches!(level, "privileged" | "baseline" | "restricted")
            {
                let why = "must be one of privileged, baseline, restricted";
                errors.push(FieldError::invalid(format!("metadata.labels[{label}]"), level, why));
            }
        }
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn holds(&self, object: &Value) -> bool {
        !items(&object["spec"]["finalizers"]).is_empty()
    }

    fn mark_deleted(&self, object: &mut Value) {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("deletionGracePeriodSeconds");
        }
        object["status"]["phase"] = "Terminating".into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_waits_for_its_finalizer() {
        let mut namespace = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        assert!(Namespaces.holds(&namespace));
        Namespaces.mark_deleted(&mut namespace);
        assert_eq!(namespace["status"]["phase"], "Terminating");
        namespace["spec"]["finalizers"] = json!([]);
        assert!(!Namespaces.holds(&namespace));
    }
}
