//! Pods that are resized: the processor time and memory of containers that run may change, and nothing else.

use api_types::k8s_openapi::api::core::v1::PodSpec;
use api_types::pods::qos;
use api_types::status::FieldError;
use serde::Deserialize as _;
use serde_json::Value;

use super::pod_annotations::is_mirror;
use super::pod_change::keep;
use crate::strategy::rules::{Errors, indexed, items};

pub(super) fn validate(pod: &Value, old_pod: &Value, errors: &mut Errors) {
    let (new, old) = (&pod["spec"], &old_pod["spec"]);
    let refused = match () {
        () if is_mirror(old_pod) => Some("static pods cannot be resized"),
        () if old["os"]["name"] == "windows" => Some("windows pods cannot be resized"),
        () => None,
    };
    if let Some(why) = refused {
        *errors = vec![FieldError::forbidden("", why)];
        return;
    }
    check_class(new, old, errors);
    if !is_supported(old_pod) {
        errors.push(FieldError::forbidden("spec", "Pod running on node without support for resize"));
    }
    let before = errors.len();
    let mut masked = new.clone();
    for list in ["initContainers", "containers"] {
        check_removals(new, old, list, errors);
        check_containers(&mut masked, old, list, errors);
    }
    keep(&mut masked, old, "resources");
    if masked != *old && errors.len() == before {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
    }
}

fn check_class(new: &Value, old: &Value, errors: &mut Errors) {
    let class = |spec: &Value| PodSpec::deserialize(spec).ok().map(|spec| qos(&spec));
    if let (Some(is), Some(was)) = (class(new), class(old))
        && is.as_str() != was.as_str()
    {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", is.as_str(), why));
    }
}

/// An agent that can resize says what the containers that run have.
fn is_supported(pod: &Value) -> bool {
    let mut containers = items(&pod["status"]["containerStatuses"]).iter();
    let running = containers.find(|container| container["state"]["running"].is_object());
    running.is_none_or(|container| container["resources"].is_object())
}

fn runs_along(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn check_removals(new: &Value, old: &Value, list: &str, errors: &mut Errors) {
    for ((path, container), old) in indexed(new, "spec", list).zip(items(&old[list])) {
        if list == "initContainers" && !runs_along(old) {
            continue;
        }
        for part in ["requests", "limits"] {
            let is = &container["resources"][part];
            let mut was = old["resources"][part].as_object().into_iter().flatten();
            if was.any(|(name, _)| is.get(name).is_none()) {
                let why = format!("resource {part} cannot be removed");
                errors.push(FieldError::forbidden(format!("{path}.resources.{part}"), why));
            }
        }
    }
}

fn check_containers(masked: &mut Value, old: &Value, list: &str, errors: &mut Errors) {
    let containers = masked.get_mut(list).and_then(Value::as_array_mut);
    for (container, old) in containers.into_iter().flatten().zip(items(&old[list])) {
        let why = match (list, runs_along(old)) {
            ("containers", _) => "only cpu and memory resources are mutable",
            (_, true) => "only cpu and memory resources for sidecar containers are mutable",
            (_, false) => "resources for non-sidecar init containers are immutable",
        };
        if list == "containers" || runs_along(old) {
            restore_amounts(container, old);
        }
        if container != old {
            errors.push(FieldError::forbidden("spec", why));
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, image: &str) -> Value {
        json!({"spec": {"containers": [{"name": "a", "image": image, "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn resize(new: Value, old: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&new, &old, &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn a_resize_changes_amounts_only() {
        assert!(resize(pod("2", "i"), pod("1", "i")).is_empty());
        assert_eq!(resize(pod("2", "j"), pod("1", "i")), ["spec"]);
        let mut none = pod("1", "i");
        none["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "1"}});
        assert_eq!(resize(none, pod("1", "i")), ["spec.containers[0].resources.requests"]);
        let mut disk = pod("1", "i");
        disk["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("1Gi");
        assert_eq!(resize(disk, pod("1", "i")), ["spec"]);
    }

    #[test]
    fn a_resize_keeps_the_class_and_needs_an_agent_that_knows_how() {
        let mut guaranteed = pod("1", "i");
        guaranteed["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(resize(guaranteed, pod("1", "i")), ["spec"]);
        let mut running = pod("1", "i");
        running["status"] = json!({"containerStatuses": [{"state": {"running": {}}}]});
        assert_eq!(resize(pod("2", "i"), running.clone()), ["spec"]);
        running["status"]["containerStatuses"][0]["resources"] = json!({});
        assert!(resize(pod("2", "i"), running).is_empty());
    }

    #[test]
    fn pods_of_files_are_not_resized() {
        let mut mirror = pod("1", "i");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        assert_eq!(resize(pod("2", "i"), mirror), [""]);
    }
}
