//! Pods as they change: what an ordinary update and a debugger may write.

use api_types::status::FieldError;
use serde_json::{Value, json};

use super::affinity::validate_tolerations;
use super::{Check, pod_annotations, pod_resize, pod_spec};
use crate::strategy::rules::{Errors, indexed, items};

pub(super) fn pod(check: &Check<'_>, errors: &mut Errors) {
    let pod = check.new;
    pod_annotations::validate(&pod["metadata"], &pod["spec"], "metadata", errors);
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    pod_spec::validate(&pod["spec"], "spec", Some(name), errors);
    let Some(old) = check.old else { return pod_spec::validate_new(pod, errors) };
    if check.subresource != "resize" {
        pod_annotations::validate_change(pod, old, errors);
    }
    match check.subresource {
        "" => validate_change(&pod["spec"], &old["spec"], errors),
        "ephemeralcontainers" if pod_annotations::is_mirror(old) => {
            *errors = vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
        }
        "ephemeralcontainers" => validate_debuggers(&pod["spec"], &old["spec"], errors),
        "resize" => pod_resize::validate(pod, old, errors),
        _ => {}
    }
}

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What an ordinary update changes of the spec must be among the few fields that may change.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    for list in ["containers", "initContainers"] {
        if items(&new[list]).len() != items(&old[list]).len() {
            let why = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{list}"), why));
            return;
        }
        check_images(new, list, errors);
    }
    if !check_deadline(new, old, errors) {
        return;
    }
    check_tolerations(new, old, errors);
    check_gates(new, old, errors);
    let mut masked = new.clone();
    mask(&mut masked, old);
    if !items(&old["schedulingGates"]).is_empty() {
        check_selector_narrows(new, old, errors);
        keep(&mut masked, old, "nodeSelector");
        check_affinity_narrows(new, old, errors);
        mask_node_affinity(&mut masked, old);
    }
    if masked != *old {
        errors.push(FieldError::forbidden("spec", MAY_CHANGE));
    }
}

fn check_images(new: &Value, list: &str, errors: &mut Errors) {
    for (path, container) in indexed(new, "spec", list) {
        let image = container["image"].as_str().unwrap_or_default();
        if image.is_empty() {
            errors.push(FieldError::required(format!("{path}.image"), ""));
        }
        if image.trim() != image {
            let why = "must not have leading or trailing whitespace";
            errors.push(FieldError::invalid(format!("{path}.image"), image, why));
        }
    }
}

/// A deadline may be set, and then only come closer. False if nothing else is worth looking at.
fn check_deadline(new: &Value, old: &Value, errors: &mut Errors) -> bool {
    let path = "spec.activeDeadlineSeconds";
    let range = 0..=i64::from(i32::MAX);
    let why = match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), _) if !range.contains(&new) => "must be between 0 and 2147483647, inclusive",
        (Some(new), Some(old)) if new > old => "must be less than or equal to previous value",
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, why));
            return true;
        }
        _ => return true,
    };
    errors.push(FieldError::invalid(path, new["activeDeadlineSeconds"].clone(), why));
    false
}

/// Of a toleration that is there only its seconds may change.
fn check_tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let kept = |old: &Value| items(&new["tolerations"]).iter().any(|new| extends(new, old));
    if !items(&old["tolerations"]).iter().all(kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", why));
        return;
    }
    validate_tolerations(new, "spec", errors);
}

fn check_gates(new: &Value, old: &Value, errors: &mut Errors) {
    for (index, gate) in items(&new["schedulingGates"]).iter().enumerate() {
        if !items(&old["schedulingGates"]).iter().any(|old| old["name"] == gate["name"]) {
            let name = gate["name"].as_str().unwrap_or_default();
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(format!("spec.schedulingGates[{index}].name"), why));
        }
    }
}

const REQUIRED_TERMS: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// While a pod waits at its gates the nodes that it may go to may only become fewer.
fn check_affinity_narrows(new: &Value, old: &Value, errors: &mut Errors) {
    let terms = |spec: &Value| spec["affinity"]["nodeAffinity"][REQUIRED_TERMS]["nodeSelectorTerms"].clone();
    let (new, old) = (terms(new), terms(old));
    let path = format!("spec.affinity.nodeAffinity.{REQUIRED_TERMS}.nodeSelectorTerms");
    if items(&old).is_empty() || new == old {
        return;
    }
    if items(&new).len() != items(&old).len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(path, new, why));
        return;
    }
    let extends = |new: &Value, old: &Value| {
        let starts = |list: &str| items(&new[list]).starts_with(items(&old[list]));
        let is_empty =
            |term: &Value| ["matchExpressions", "matchFields"].iter().all(|l| items(&term[*l]).is_empty());
        starts("matchExpressions") && starts("matchFields") && (!is_empty(old) || is_empty(new))
    };
    for (index, (new, old)) in items(&new).iter().zip(items(&old)).enumerate() {
        if !extends(new, old) {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(format!("{path}[{index}]"), new.clone(), why));
        }
    }
}

fn mask_node_affinity(masked: &mut Value, old: &Value) {
    let Some(spec) = masked.as_object_mut() else { return };
    let before = old["affinity"].get("nodeAffinity");
    match (spec.get_mut("affinity").and_then(Value::as_object_mut), before) {
        (Some(affinity), Some(before)) => {
            affinity.insert("nodeAffinity".to_owned(), before.clone());
        }
        (Some(affinity), None) => {
            affinity.shift_remove("nodeAffinity");
            if affinity.is_empty() && old.get("affinity").is_none() {
                spec.shift_remove("affinity");
            }
        }
        (None, Some(before)) => {
            spec.insert("affinity".to_owned(), json!({ "nodeAffinity": before }));
        }
        (None, None) => {}
    }
}

pub(super) fn keep(masked: &mut Value, old: &Value, field: &str) {
    let Some(object) = masked.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => object.insert(field.to_owned(), value.clone()),
        None => object.shift_remove(field),
    };
}

/// Puts what may change back to what it was.
fn mask(masked: &mut Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        let Some(containers) = masked.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for (container, old) in containers.iter_mut().zip(items(&old[list])) {
            keep(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(masked, old, field);
    }
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0)
        && masked["terminationGracePeriodSeconds"] == 1
    {
        keep(masked, old, "terminationGracePeriodSeconds");
    }
}

/// Whether the toleration is the old one, at most with other seconds.
fn extends(new: &Value, old: &Value) -> bool {
    let strip = |toleration: &Value| {
        let mut stripped = toleration.clone();
        if let Some(object) = stripped.as_object_mut() {
            object.shift_remove("tolerationSeconds");
        }
        stripped
    };
    strip(new) == strip(old)
}

/// While a pod waits at its gates its node selector may only get narrower.
fn check_selector_narrows(new: &Value, old: &Value, errors: &mut Errors) {
    let empty = json!({});
    let labels = |spec: &Value| spec["nodeSelector"].as_object().cloned().unwrap_or_default();
    let new = labels(new);
    for (key, value) in labels(old) {
        if new.get(&key) != Some(&value) {
            let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            let shown = if new.is_empty() { empty.clone() } else { Value::Object(new.clone()) };
            errors.push(FieldError::invalid("spec.nodeSelector", shown, why));
            return;
        }
    }
}

/// Debuggers are added; those that are there stay as they are.
fn validate_debuggers(new: &Value, old: &Value, errors: &mut Errors) {
    let list = "ephemeralContainers";
    for debugger in items(&old[list]) {
        let name = debugger["name"].as_str().unwrap_or_default();
        let why = match items(&new[list]).iter().find(|other| other["name"] == name) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(other) if other != debugger => {
                format!("existing ephemeral containers {name:?} may not be changed\n")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(format!("spec.{list}"), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(new: Value, old: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate_change(&new, &old, &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn only_a_few_fields_of_a_pod_may_change() {
        let old = json!({"containers": [{"name": "a", "image": "i:1"}], "tolerations": [{"key": "k"}]});
        let with = |pointer: &str, value: Value| {
            let mut new = old.clone();
            *new.pointer_mut(pointer).unwrap() = value;
            new
        };
        assert!(change(with("/containers/0/image", json!("i:2")), old.clone()).is_empty());
        assert!(change(with("/tolerations", json!([{"key": "k"}, {"key": "l"}])), old.clone()).is_empty());
        assert_eq!(change(with("/tolerations", json!([])), old.clone()), ["spec.tolerations"]);
        assert_eq!(
            change(with("/containers/0/image", json!(" i")), old.clone()),
            ["spec.containers[0].image"]
        );
        assert_eq!(change(with("/containers/0/name", json!("b")), old.clone()), ["spec"]);
        assert_eq!(change(with("/containers", json!([])), old.clone()), ["spec.containers"]);
    }

    #[test]
    fn a_pod_at_its_gates_goes_to_fewer_nodes() {
        let affinity = |terms: Value| json!({"nodeAffinity": {REQUIRED_TERMS: {"nodeSelectorTerms": terms}}});
        let pod = |affinity: Value| json!({"schedulingGates": [{"name": "g"}], "affinity": affinity});
        let zone = json!({"matchExpressions": [{"key": "zone"}]});
        let both = json!({"matchExpressions": [{"key": "zone"}, {"key": "arch"}]});
        let terms = format!("spec.affinity.nodeAffinity.{REQUIRED_TERMS}.nodeSelectorTerms");
        assert!(change(pod(affinity(json!([both]))), pod(affinity(json!([zone])))).is_empty());
        assert!(change(pod(affinity(json!([both]))), json!({"schedulingGates": [{"name": "g"}]})).is_empty());
        assert_eq!(
            change(pod(affinity(json!([zone]))), pod(affinity(json!([both])))),
            [format!("{terms}[0]")]
        );
        assert_eq!(change(pod(affinity(json!([zone, both]))), pod(affinity(json!([both])))), [terms]);
    }

    #[test]
    fn debuggers_stay_as_they_were() {
        let of = |names: &[&str]| json!({"ephemeralContainers": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
        let mut errors = Errors::new();
        validate_debuggers(&of(&["a", "b"]), &of(&["a"]), &mut errors);
        assert!(errors.is_empty());
        validate_debuggers(&of(&["b"]), &of(&["a"]), &mut errors);
        assert_eq!(errors[0].path, "spec.ephemeralContainers");
    }
}
