//! Annotations that mean something to whoever runs a pod: the mark of a file's pod, the cost of its deletion, and the
//! security profiles from before they had fields.

use api_types::status::FieldError;
use serde_json::{Map, Value};

use crate::strategy::rules::{Errors, indexed, items};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Whether the pod shows one that a node runs from a file.
pub(super) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

fn annotations(metadata: &Value) -> impl Iterator<Item = (&String, &str)> {
    let all = metadata["annotations"].as_object().into_iter().flat_map(Map::iter);
    all.map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

/// Annotations of a pod or of a template of pods, whose metadata stand at `path`.
pub(super) fn validate(metadata: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    for (key, value) in annotations(metadata) {
        let at = format!("{path}.annotations[{key}]");
        match key.as_str() {
            MIRROR if spec["nodeName"].as_str().unwrap_or_default().is_empty() => {
                let why = "must set spec.nodeName if mirror pod annotation is set";
                errors.push(FieldError::invalid(at, value, why));
            }
            DELETION_COST if !is_cost(value) => {
                errors.push(FieldError::invalid(at, value, "must be a 32bit integer"));
            }
            key if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) => {
                check_seccomp(value, &format!("{path}.annotations.{key}"), errors);
            }
            key => {
                if let Some(container) = key.strip_prefix(APP_ARMOR) {
                    check_app_armor(container, value, spec, &at, errors);
                }
            }
        }
    }
}

/// A whole number of 32 bits without a plus sign or leading zeros.
fn is_cost(text: &str) -> bool {
    let starts_well = text == "0" || text.starts_with(|c: char| c == '-' || ('1'..='9').contains(&c));
    starts_well && text.parse::<i32>().is_ok()
}

fn check_seccomp(profile: &str, path: &str, errors: &mut Errors) {
    if matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        return;
    }
    match profile.strip_prefix("localhost/") {
        None => errors.push(FieldError::invalid(path, profile, "must be a valid seccomp profile")),
        Some(file) => {
            if file.starts_with('/') {
                errors.push(FieldError::invalid(path, file, "must be a relative path"));
            }
            if file.split('/').any(|part| part == "..") {
                errors.push(FieldError::invalid(path, file, "must not contain '..'"));
            }
        }
    }
}

fn check_app_armor(container: &str, profile: &str, spec: &Value, path: &str, errors: &mut Errors) {
    let mut containers = ["containers", "initContainers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| items(&spec[list]));
    if !containers.any(|other| other["name"] == container) {
        errors.push(FieldError::invalid(path, container, "container not found"));
    }
    let is_known =
        matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
    if !is_known {
        let why = format!("invalid AppArmor profile name: {profile:?}");
        errors.push(FieldError::invalid(path, profile, why));
    }
}

/// Where an annotation and the field that has replaced it both say something, they say the same.
pub(super) fn validate_agreement(metadata: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let said = |key: &str| metadata["annotations"][key].as_str();
    let whole = &spec["securityContext"];
    if let Some(said) = said(SECCOMP_POD) {
        check_same(said, &whole["seccompProfile"], &format!("{path}.securityContext.seccompProfile"), errors);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (path, container) in indexed(spec, path, list) {
            let name = container["name"].as_str().unwrap_or_default();
            let (own, at) = (&container["securityContext"], format!("{path}.securityContext"));
            if let Some(said) = said(&format!("{SECCOMP_CONTAINER}{name}")) {
                check_same(said, &own["seccompProfile"], &format!("{at}.seccompProfile"), errors);
            }
            let is_own = own["appArmorProfile"].is_object();
            let profile = if is_own { &own["appArmorProfile"] } else { &whole["appArmorProfile"] };
            let said = said(&format!("{APP_ARMOR}{name}")).filter(|_| spec["os"]["name"] != "windows");
            if let Some(said) = said {
                check_same(said, profile, &format!("{at}.appArmorProfile"), errors);
            }
        }
    }
}

fn check_same(said: &str, profile: &Value, path: &str, errors: &mut Errors) {
    let field = match (profile["type"].as_str(), said) {
        (Some("Unconfined"), "unconfined") => return,
        (Some("RuntimeDefault"), "runtime/default") => return,
        (Some("RuntimeDefault"), "docker/default") if path.ends_with("seccompProfile") => return,
        (Some("Localhost"), said) => match said.strip_prefix("localhost/") {
            Some(place) if profile["localhostProfile"] == place => return,
            Some(_) => "localhostProfile",
            None => "type",
        },
        (Some("Unconfined" | "RuntimeDefault"), _) => "type",
        _ => return,
    };
    let why = "what the annotation and the field say must match";
    errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
}

/// What of the annotations stays as it was when the pod was made.
pub(super) fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    let forbidden =
        |key: &str, why: String| FieldError::forbidden(format!("metadata.annotations[{key}]"), why);
    let (is, was) = (&new["metadata"], &old["metadata"]);
    let what = |key: &str, app_armor: &'static str, mirror: &'static str| match key {
        MIRROR => Some(mirror),
        key if key.starts_with(APP_ARMOR) => Some(app_armor),
        _ => None,
    };
    for (key, value) in annotations(was) {
        let changed = is["annotations"][key.as_str()] != value;
        if let Some(what) = what(key, "AppArmor annotations", "mirror pod annotation").filter(|_| changed) {
            errors.push(forbidden(key, format!("may not remove or update {what}")));
        }
    }
    for (key, _) in annotations(is) {
        let added = was["annotations"].get(key).is_none();
        if let Some(what) = what(key, "AppArmor annotations", "mirror pod annotation").filter(|_| added) {
            errors.push(forbidden(key, format!("may not add {what}")));
        }
    }
    // As in Kubernetes, what stands there is looked at once more.
    validate(is, &new["spec"], "metadata", errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(annotations: Value) -> Value {
        json!({"metadata": {"annotations": annotations}, "spec": {"nodeName": "n", "containers": [{"name": "c"}]}})
    }

    #[test]
    fn annotations_with_a_meaning_are_checked() {
        for (key, value, is_good) in [
            (DELETION_COST, "10", true),
            (DELETION_COST, "-10", true),
            (DELETION_COST, "+10", false),
            (DELETION_COST, "010", false),
            (DELETION_COST, "99999999999", false),
            (MIRROR, "x", true),
            ("container.apparmor.security.beta.kubernetes.io/c", "localhost/x", true),
            ("container.apparmor.security.beta.kubernetes.io/c", "odd", false),
            ("container.apparmor.security.beta.kubernetes.io/d", "unconfined", false),
            (SECCOMP_POD, "odd", false),
            (SECCOMP_POD, "localhost/a/../b", false),
        ] {
            let pod = pod(json!({ key: value }));
            let mut errors = Errors::new();
            validate(&pod["metadata"], &pod["spec"], "metadata", &mut errors);
            assert_eq!(errors.is_empty(), is_good, "{key}={value}: {errors:?}");
        }
    }

    #[test]
    fn the_mark_of_a_files_pod_neither_comes_nor_goes() {
        let (with, without) = (pod(json!({MIRROR: "x"})), pod(json!({})));
        for (new, old, wrong) in [
            (&with, &with, 0),
            (&with, &without, 1),
            (&without, &with, 1),
            (&pod(json!({MIRROR: "y"})), &with, 1),
        ] {
            let mut errors = Errors::new();
            validate_change(new, old, &mut errors);
            assert_eq!(errors.len(), wrong, "{errors:?}");
        }
    }
}
