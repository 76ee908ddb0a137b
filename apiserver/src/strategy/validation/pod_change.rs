//! Pods as they change: what an ordinary update, a resize, a debugger and the node agent may write.

use api_types::status::FieldError;
use serde_json::{Value, json};

use super::{Check, pod_spec};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

pub(super) fn pod(check: &Check<'_>, errors: &mut Errors) {
    let (new, Some(old)) = (&check.new["spec"], check.old) else {
        pod_spec::validate(&check.new["spec"], "spec", errors);
        pod_spec::validate_new(&check.new["spec"], errors);
        return;
    };
    let old = &old["spec"];
    match check.subresource {
        "" => {
            pod_spec::validate(new, "spec", errors);
            validate_change(new, old, errors);
        }
        "ephemeralcontainers" => {
            pod_spec::validate(new, "spec", errors);
            validate_debuggers(new, old, errors);
        }
        "resize" => {
            pod_spec::validate(new, "spec", errors);
            validate_resize(new, old, errors);
        }
        _ => {}
    }
}

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What an ordinary update changes of the spec must be among the few fields that may change.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
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
            errors.push(FieldError::invalid(path, new, "must be less than or equal to previous value"));
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
            let name = gate["name"].as_str().unwrap_or_default();
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
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

/// A resize changes amounts of processor time and memory, and takes none of them away.
fn validate_resize(new: &Value, old: &Value, errors: &mut Errors) {
    if old["os"]["name"] == "windows" {
        errors.push(FieldError::forbidden("", "windows pods cannot be resized"));
    }
    let mut masked = new.clone();
    for list in ["containers", "initContainers"] {
        let containers = masked.get_mut(list).and_then(Value::as_array_mut);
        for (container, old) in containers.into_iter().flatten().zip(items(&old[list])) {
            restore_amounts(container, old);
        }
        for ((path, container), old) in indexed(new, "spec", list).zip(items(&old[list])) {
            for part in ["limits", "requests"] {
                let (was, is) = (&old["resources"][part], &container["resources"][part]);
                if ["cpu", "memory"].into_iter().any(|name| !was[name].is_null() && is[name].is_null()) {
                    let why = format!("resource {part} cannot be removed");
                    errors.push(FieldError::forbidden(format!("{path}.resources.{part}"), why));
                }
            }
        }
    }
    keep(&mut masked, old, "resources");
    if masked != *old {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
    }
}

fn restore_amounts(container: &mut Value, old: &Value) {
    keep(container, old, "resizePolicy");
    for part in ["limits", "requests"] {
        let same_rest = |amounts: &Value| {
            let mut rest = amounts.as_object().cloned().unwrap_or_default();
            rest.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
            rest
        };
        if same_rest(&container["resources"][part]) != same_rest(&old["resources"][part]) {
            continue;
        }
        let Some(resources) = container.get_mut("resources") else { continue };
        keep(resources, &old["resources"], part);
    }
    // Resources may be given to a container that had none.
    if old["resources"].is_null() && container["resources"].as_object().is_some_and(serde_json::Map::is_empty)
    {
        keep(container, old, "resources");
    }
}

/// What the node agent may not say.
pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    let (new, old) = (&check.new["status"], check.old.map(|old| &old["status"]).unwrap_or(&Value::Null));
    if let Some(node) = text(new, "nominatedNodeName") {
        let wrong = api_types::names::check_dns_subdomain(node);
        invalid_all(wrong, "status.nominatedNodeName", node, errors);
    }
    if text(old, "qosClass").is_some() && old["qosClass"] != new["qosClass"] {
        errors.push(FieldError::immutable("status.qosClass", new["qosClass"].clone()));
    }
    for field in ["podIPs", "hostIPs"] {
        validate_addresses(new, field, errors);
    }
    for list in ["containerStatuses", "initContainerStatuses"] {
        for (path, container) in indexed(new, "status", list) {
            let before = items(&old[list]).iter().find(|other| other["name"] == container["name"]);
            let was_ended = before.is_some_and(|before| before["state"]["terminated"].is_object());
            let runs_again =
                matches!(check.new["spec"]["restartPolicy"].as_str(), Some("Always" | "OnFailure"));
            if was_ended
                && !container["state"]["terminated"].is_object()
                && !runs_again
                && list == "containerStatuses"
            {
                let why = "may not be transitioned to non-terminated state";
                errors.push(FieldError::forbidden(format!("{path}.state"), why));
            }
        }
    }
}

fn validate_addresses(status: &Value, field: &str, errors: &mut Errors) {
    let mut families = Vec::new();
    for (path, entry) in indexed(status, "status", field) {
        let text = entry["ip"].as_str().unwrap_or_default();
        match text.parse::<std::net::IpAddr>() {
            Err(_) => errors.push(FieldError::invalid(path, text, super::addresses::NOT_AN_IP)),
            Ok(ip) => families.push(ip.is_ipv4()),
        }
    }
    if families.len() > 2
        || families.first().is_some_and(|first| families.iter().skip(1).any(|next| next == first))
    {
        let why = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(format!("status.{field}"), status[field].clone(), why));
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
        assert_eq!(change(with("/tolerations", json!([])), old.clone()), ["spec"]);
        assert_eq!(change(with("/containers/0/name", json!("b")), old.clone()), ["spec"]);
        assert_eq!(change(with("/containers", json!([])), old.clone()), ["spec.containers"]);
    }

    #[test]
    fn a_resize_changes_amounts_only() {
        let of = |cpu: &str, image: &str| json!({"containers": [{"name": "a", "image": image, "resources": {"requests": {"cpu": cpu}}}]});
        let resize = |new: Value, old: Value| {
            let mut errors = Errors::new();
            validate_resize(&new, &old, &mut errors);
            errors.into_iter().map(|e| e.path).collect::<Vec<_>>()
        };
        assert!(resize(of("2", "i"), of("1", "i")).is_empty());
        assert_eq!(resize(of("2", "j"), of("1", "i")), ["spec"]);
        let mut none = of("1", "i");
        none["containers"][0]["resources"] = json!({"requests": {}});
        assert_eq!(resize(none, of("1", "i")), ["spec.containers[0].resources.requests"]);
        let mut disk = of("1", "i");
        disk["containers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("1Gi");
        assert_eq!(resize(disk, of("1", "i")), ["spec"]);
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

    #[test]
    fn addresses_of_a_status_are_addresses_of_different_families() {
        let mut errors = Errors::new();
        validate_addresses(
            &json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
            "podIPs",
            &mut errors,
        );
        assert!(errors.is_empty());
        validate_addresses(&json!({"podIPs": [{"ip": "x"}]}), "podIPs", &mut errors);
        validate_addresses(
            &json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
            "podIPs",
            &mut errors,
        );
        assert_eq!(
            errors.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(),
            ["status.podIPs[0]", "status.podIPs"]
        );
    }
}
