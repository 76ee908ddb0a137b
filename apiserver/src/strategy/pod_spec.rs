//! What a pod's spec must hold to, alone and inside a template.

use std::collections::BTreeSet;

use api_types::names;
use api_types::quantity::Quantity;
use api_types::status::FieldError;
use serde_json::{Value, json};

use super::container;
use super::rules::{Errors, indexed, invalid_all, items, not_negative, one_of, text};

/// The rules that hold wherever a pod's spec stands.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    let volumes = validate_volumes(spec, path, errors);
    container::validate_all(spec, path, &volumes, errors);
    one_of(spec, path, "restartPolicy", &["Always", "Never", "OnFailure"], errors);
    one_of(spec, path, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    not_negative(spec, path, &["terminationGracePeriodSeconds"], errors);
    if let Some(deadline) =
        spec["activeDeadlineSeconds"].as_i64().filter(|d| !(1..=i64::from(i32::MAX)).contains(d))
    {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), deadline, why));
    }
    if let Some(os) = spec["os"]["name"].as_str().filter(|os| !matches!(*os, "linux" | "windows")) {
        errors.push(FieldError::not_supported(format!("{path}.os"), os, &["linux", "windows"]));
    }
    validate_references(spec, path, errors);
    validate_tolerations(spec, path, errors);
    validate_gates(spec, path, errors);
    super::metadata::check_labels(&format!("{path}.nodeSelector"), &spec["nodeSelector"], errors);
}

fn validate_references(spec: &Value, path: &str, errors: &mut Errors) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName"] {
        if let Some(name) = text(spec, field) {
            invalid_all(names::check_dns_subdomain(name), &format!("{path}.{field}"), name, errors);
        }
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = text(spec, field) {
            invalid_all(names::check_dns_label(name), &format!("{path}.{field}"), name, errors);
        }
    }
}

fn validate_gates(spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, gate) in indexed(spec, path, "schedulingGates") {
        let name = gate["name"].as_str().unwrap_or_default();
        invalid_all(names::check_label_key(name), &path, name, errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
    for (path, gate) in indexed(spec, path, "readinessGates") {
        let name = gate["conditionType"].as_str().unwrap_or_default();
        invalid_all(names::check_label_key(name), &format!("{path}.conditionType"), name, errors);
    }
}

/// Rules for pods that are created by themselves.
pub(super) fn validate_new(spec: &Value, errors: &mut Errors) {
    if !items(&spec["ephemeralContainers"]).is_empty() {
        let why = "cannot be set on create";
        errors.push(FieldError::forbidden("spec.ephemeralContainers", why));
    }
    if !items(&spec["schedulingGates"]).is_empty() && text(spec, "nodeName").is_some() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", why));
    }
}

/// Names of the volumes; what is wrong with them goes to `errors`.
fn validate_volumes<'a>(spec: &'a Value, path: &str, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (path, volume) in indexed(spec, path, "volumes") {
        match text(volume, "name") {
            None => errors.push(FieldError::required(format!("{path}.name"), "")),
            Some(name) => {
                invalid_all(names::check_dns_label(name), &format!("{path}.name"), name, errors);
                if !seen.insert(name) {
                    errors.push(FieldError::duplicate(format!("{path}.name"), name));
                }
            }
        }
        validate_source(volume, &path, errors);
    }
    seen
}

fn validate_source(volume: &Value, path: &str, errors: &mut Errors) {
    let sources: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(key, _)| key).filter(|k| *k != "name").collect();
    match sources.as_slice() {
        [] => errors.push(FieldError::required(path, "must specify a volume type")),
        [_first, more @ ..] => {
            for source in more {
                errors.push(FieldError::forbidden(
                    format!("{path}.{source}"),
                    "may not specify more than 1 volume type",
                ));
            }
        }
    }
    for (source, field) in [
        ("secret", "secretName"),
        ("configMap", "name"),
        ("persistentVolumeClaim", "claimName"),
        ("hostPath", "path"),
    ] {
        if volume[source].is_object() && text(&volume[source], field).is_none() {
            errors.push(FieldError::required(format!("{path}.{source}.{field}"), ""));
        }
    }
    if let Some(size) = volume["emptyDir"]["sizeLimit"].as_str()
        && Quantity::parse(size).is_ok_and(|q| q.is_negative())
    {
        errors.push(FieldError::forbidden(
            format!("{path}.emptyDir.sizeLimit"),
            "SizeLimit field must be a valid resource quantity",
        ));
    }
}

/// Rules for `tolerations` under `path`.
pub(super) fn validate_tolerations(spec: &Value, path: &str, errors: &mut Errors) {
    const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
    for (path, toleration) in indexed(spec, path, "tolerations") {
        let text = |field: &str| toleration[field].as_str().unwrap_or_default();
        if !text("key").is_empty() {
            invalid_all(names::check_label_key(text("key")), &format!("{path}.key"), text("key"), errors);
        }
        if text("key").is_empty() && text("operator") != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(format!("{path}.operator"), text("operator"), why));
        }
        if !toleration["tolerationSeconds"].is_null() && text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(format!("{path}.effect"), text("effect"), why));
        }
        match text("operator") {
            "" | "Equal" => invalid_all(
                names::check_label_value(text("value")),
                &format!("{path}.operator"),
                text("value"),
                errors,
            ),
            "Exists" if text("value").is_empty() => {}
            "Exists" => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{path}.operator"), toleration.clone(), why));
            }
            other => errors.push(FieldError::not_supported(
                format!("{path}.operator"),
                other,
                &["Equal", "Exists"],
            )),
        }
        if !text("effect").is_empty() && !EFFECTS.contains(&text("effect")) {
            errors.push(FieldError::not_supported(format!("{path}.effect"), text("effect"), EFFECTS));
        }
    }
}

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What an ordinary update changes of the spec must be among the few fields that may change.
pub(super) fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    for list in ["containers", "initContainers"] {
        if items(&new[list]).len() != items(&old[list]).len() {
            errors.push(FieldError::forbidden(
                format!("spec.{list}"),
                "pod updates may not add or remove containers",
            ));
            return;
        }
    }
    let before = errors.len();
    check_deadline(new, old, errors);
    check_gates(new, old, errors);
    let is_gated = !items(&old["schedulingGates"]).is_empty();
    let mut masked = new.clone();
    mask(&mut masked, old);
    if is_gated {
        check_selector_narrows(new, old, errors);
        keep(&mut masked, old, "nodeSelector");
        if is_narrower_affinity(new, old) {
            keep(&mut masked, old, "affinity");
        }
    }
    if masked != *old && errors.len() == before {
        errors.push(FieldError::forbidden("spec", MAY_CHANGE));
    }
}

fn keep(masked: &mut Value, old: &Value, field: &str) {
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
    for field in ["activeDeadlineSeconds", "schedulingGates"] {
        keep(masked, old, field);
    }
    let kept_all = items(&old["tolerations"])
        .iter()
        .all(|t| items(&masked["tolerations"]).iter().any(|n| extends(n, t)));
    if kept_all {
        keep(masked, old, "tolerations");
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

fn check_deadline(new: &Value, old: &Value, errors: &mut Errors) {
    let path = "spec.activeDeadlineSeconds";
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            errors.push(FieldError::invalid(
                path,
                new,
                format!("must be less than or equal to previous value: {old}"),
            ));
        }
        (None, Some(_)) => errors.push(FieldError::invalid(
            path,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
}

fn check_gates(new: &Value, old: &Value, errors: &mut Errors) {
    for (index, gate) in items(&new["schedulingGates"]).iter().enumerate() {
        if !items(&old["schedulingGates"]).contains(gate) {
            let why = "only deletion is allowed, but found new scheduling gate";
            errors.push(FieldError::forbidden(format!("spec.schedulingGates[{index}].name"), why));
        }
    }
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

fn is_narrower_affinity(new: &Value, old: &Value) -> bool {
    let required = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    match (old["affinity"].pointer(required), new["affinity"].pointer(required)) {
        (None, Some(_)) => true,
        (old, new) => old == new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&spec, "spec", &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    fn container(extra: Value) -> Value {
        let mut container = json!({"name": "a", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"containers": [container]})
    }

    #[test]
    fn mistakes_are_named_by_their_path() {
        let cases = [
            (container(json!({})), vec![]),
            (container(json!({"name": "A_b"})), vec!["spec.containers[0].name"]),
            (container(json!({"image": " "})), vec!["spec.containers[0].image"]),
            (
                container(json!({"volumeMounts": [{"name": "no", "mountPath": "/x"}]})),
                vec!["spec.containers[0].volumeMounts[0].name"],
            ),
            (
                container(json!({"ports": [{"containerPort": 70000}]})),
                vec!["spec.containers[0].ports[0].containerPort"],
            ),
            (
                container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
                vec!["spec.containers[0].resources.requests"],
            ),
            (container(json!({"livenessProbe": {}})), vec!["spec.containers[0].livenessProbe"]),
            (json!({"containers": []}), vec!["spec.containers"]),
        ];
        for (spec, expected) in cases {
            assert_eq!(paths(spec.clone()), expected, "{spec}");
        }
    }

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
        assert_eq!(change(with("/tolerations", json!([])), old.clone()), ["spec"]);
        assert_eq!(change(with("/containers/0/name", json!("b")), old.clone()), ["spec"]);
        assert_eq!(change(with("/containers", json!([])), old.clone()), ["spec.containers"]);
    }
}
