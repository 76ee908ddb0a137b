//! Namespaces: they go when their content has gone, which their own finalizer waits for.

use api_types::names;
use api_types::status::FieldError;
use serde_json::{Value, json};

use super::metadata::NameRule;
use super::rules::{Errors, indexed, invalid_all, items};
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
            check_finalizer(finalizer, "spec.finalizers", &mut errors);
        }
        errors.extend(security_labels(new));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        match context.subresource {
            "finalize" => {
                for (path, finalizer) in indexed(&new["spec"], "spec", "finalizers") {
                    check_finalizer(finalizer.as_str().unwrap_or_default(), &path, &mut errors);
                }
            }
            "status" => check_phase(new, &mut errors),
            // What was wrong before stays as it is.
            "" if security_labels(old).is_empty() => errors = security_labels(new),
            _ => {}
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

fn check_finalizer(name: &str, path: &str, errors: &mut Errors) {
    invalid_all(names::check_label_key(name), path, name, errors);
    if !name.contains('/') && !matches!(name, FINALIZER | "orphan" | "foregroundDeletion") {
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, name, why));
    }
}

/// The phase says whether the namespace is being deleted, and nothing else.
fn check_phase(namespace: &Value, errors: &mut Errors) {
    let (phase, why) = match namespace["metadata"]["deletionTimestamp"].is_null() {
        true => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
        false => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    };
    let said = &namespace["status"]["phase"];
    if said != phase {
        errors.push(FieldError::invalid("status.Phase", said.as_str().unwrap_or_default(), why));
    }
}

/// What is wrong with the labels that say how secure pods have to be.
fn security_labels(namespace: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut check = |label: String, is_right: fn(&str) -> bool, why: &str| {
        if let Some(said) = namespace["metadata"]["labels"][&label].as_str().filter(|said| !is_right(said)) {
            errors.push(FieldError::invalid(format!("metadata.labels[{label}]"), said, why));
        }
    };
    for mode in ["enforce", "audit", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}");
        let version = format!("{label}-version");
        check(label, is_level, "must be one of privileged, baseline, restricted");
        check(version, is_version, "must be \"latest\" or \"v1.x\"");
    }
    errors
}

fn is_level(text: &str) -> bool {
    matches!(text, "privileged" | "baseline" | "restricted")
}

fn is_version(text: &str) -> bool {
    let is_minor = |minor: &str| {
        !minor.is_empty()
            && minor.bytes().all(|b| b.is_ascii_digit())
            && (minor == "0" || !minor.starts_with('0'))
    };
    text == "latest" || text.strip_prefix("v1.").is_some_and(is_minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_fits_the_deletion() {
        for (deleted, phase, fits) in [
            (false, "Active", true),
            (false, "Terminating", false),
            (true, "Terminating", true),
            (true, "Active", false),
            (false, "", false),
        ] {
            let mut namespace = json!({"metadata": {}, "status": {"phase": phase}});
            if deleted {
                namespace["metadata"]["deletionTimestamp"] = "now".into();
            }
            let mut errors = Errors::new();
            check_phase(&namespace, &mut errors);
            assert_eq!(errors.is_empty(), fits, "{deleted} {phase}");
        }
    }

    #[test]
    fn a_namespace_waits_for_its_finalizer() {
        let mut namespace = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        assert!(Namespaces.holds(&namespace));
        Namespaces.mark_deleted(&mut namespace);
        assert_eq!(namespace["status"]["phase"], "Terminating");
        namespace["spec"]["finalizers"] = json!([]);
        assert!(!Namespaces.holds(&namespace));
    }

    #[test]
    fn labels_for_the_security_of_pods_are_levels_and_versions() {
        let wrong = |label: &str, value: &str| {
            let label = format!("pod-security.kubernetes.io/{label}");
            security_labels(&json!({"metadata": {"labels": {label: value}}})).len()
        };
        for (label, value, expected) in [
            ("enforce", "baseline", 0),
            ("enforce", "odd", 1),
            ("warn-version", "v1.30", 0),
            ("warn-version", "latest", 0),
            ("warn-version", "v1.030", 1),
            ("audit-version", "1.30", 1),
        ] {
            assert_eq!(wrong(label, value), expected, "{label} {value}");
        }
    }

    #[test]
    fn finalizers_are_qualified_or_known() {
        for (name, expected) in [("kubernetes", 0), ("orphan", 0), ("a.b/c", 0), ("odd", 1), ("b_/d", 1)] {
            let mut errors = Errors::new();
            check_finalizer(name, "p", &mut errors);
            assert_eq!(errors.len(), expected, "{name}");
        }
    }
}
