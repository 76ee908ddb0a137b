//! Security contexts of pods and containers, and what does not go with the pod's operating system.

use std::collections::BTreeSet;

use api_types::status::FieldError;
use serde_json::Value;

use super::pod_systems;
use super::volumes::check_descending;
use crate::strategy::rules::{Errors, indexed, items, one_of, text};

pub(super) fn validate_pod(spec: &Value, path: &str, errors: &mut Errors) {
    let (context, at) = (&spec["securityContext"], format!("{path}.securityContext"));
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{at}.shareProcessNamespace"), true, why));
    }
    check_ids(context, &at, &["fsGroup", "runAsUser", "runAsGroup"], errors);
    for (path, group) in indexed(context, &at, "supplementalGroups") {
        check_id(group, &path, errors);
    }
    for (field, known) in [
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        one_of(context, &at, field, &known, errors);
    }
    validate_sysctls(context, spec, &at, errors);
    validate_profiles(context, &at, errors);
    pod_systems::validate_windows_options(context, &at, errors);
    validate_host_users(spec, path, errors);
    pod_systems::validate(spec, path, errors);
}

fn check_ids(context: &Value, path: &str, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        check_id(&context[*field], &format!("{path}.{field}"), errors);
    }
}

pub(super) fn check_id(id: &Value, path: &str, errors: &mut Errors) {
    if let Some(id) = id.as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.push(FieldError::invalid(path, id, "must be between 0 and 2147483647, inclusive"));
    }
}

const SYSCTL_BYTES_MAX: usize = 253;

/// Words of lower case letters, digits, `-` and `_`, between dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let is_word = |word: &str| {
        word.chars().all(inner)
            && !word.is_empty()
            && !word.starts_with(['-', '_'])
            && !word.ends_with(['-', '_'])
    };
    name.len() <= SYSCTL_BYTES_MAX && name.split(['.', '/']).all(is_word)
}

fn validate_sysctls(context: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, sysctl) in indexed(context, path, "sysctls") {
        let path = format!("{path}.name");
        let Some(name) = text(sysctl, "name") else {
            errors.push(FieldError::required(path, ""));
            continue;
        };
        if !is_sysctl(name) {
            let why = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9]$";
            errors.push(FieldError::invalid(&path, name, why));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        let dotted = name.replace('/', ".");
        let starts = |prefix: &str| dotted.starts_with(prefix);
        if spec["hostNetwork"] == true && starts("net.") {
            errors.push(FieldError::invalid(&path, name, "may not be set when hostNetwork is true"));
        }
        if spec["hostIPC"] == true
            && (starts("kernel.shm")
                || starts("kernel.msg")
                || dotted == "kernel.sem"
                || starts("fs.mqueue."))
        {
            errors.push(FieldError::invalid(&path, name, "may not be set when hostIPC is true"));
        }
    }
}

/// The profiles that confine what processes may call and open.
fn validate_profiles(context: &Value, path: &str, errors: &mut Errors) {
    validate_profile(&context["seccompProfile"], "seccomp", &format!("{path}.seccompProfile"), errors);
    let (profile, path) = (&context["appArmorProfile"], format!("{path}.appArmorProfile"));
    validate_profile(profile, "AppArmor", &path, errors);
    const PLACE_BYTES_MAX: usize = 4095;
    if profile["localhostProfile"].as_str().is_some_and(|place| place.len() > PLACE_BYTES_MAX) {
        errors.push(FieldError::too_long(format!("{path}.localhostProfile"), PLACE_BYTES_MAX));
    }
}

fn validate_profile(profile: &Value, what: &str, path: &str, errors: &mut Errors) {
    const KINDS: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
    if !profile.is_object() {
        return;
    }
    let (kind, is_seccomp) = (profile["type"].as_str().unwrap_or_default(), what == "seccomp");
    let at = format!("{path}.type");
    match kind {
        "" => errors.push(FieldError::required(at, "type is required when the profile is set")),
        kind if !KINDS.contains(&kind) => errors.push(FieldError::not_supported(at, kind, KINDS)),
        _ => {}
    }
    let at = format!("{path}.localhostProfile");
    match profile["localhostProfile"].as_str() {
        // An odd kind of AppArmor profile is told of alone.
        Some(_) if kind != "Localhost" && !is_seccomp && !KINDS.contains(&kind) => {}
        Some(place) if kind != "Localhost" => {
            let why = format!("can only be set when {what} type is Localhost");
            errors.push(FieldError::invalid(at, place, why));
        }
        Some(place) if kind == "Localhost" && is_seccomp => check_descending(place, &at, errors),
        Some(place) if place.trim() != place => {
            errors.push(FieldError::invalid(at, place, "must not be padded with whitespace"));
        }
        None | Some("") if kind == "Localhost" => {
            errors.push(FieldError::required(at, format!("must be set when {what} type is Localhost")));
        }
        _ => {}
    }
}

fn validate_host_users(spec: &Value, path: &str, errors: &mut Errors) {
    if spec["hostUsers"] != false {
        return;
    }
    for field in ["hostPID", "hostIPC", "hostNetwork"].into_iter().filter(|field| spec[*field] == true) {
        errors.push(FieldError::forbidden(format!("{path}.{field}"), "when `hostUsers` is false"));
    }
}

/// `spec` is that of the pod that the container is of.
pub(super) fn validate_container(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let (context, path) = (&container["securityContext"], format!("{path}.securityContext"));
    check_ids(context, &path, &["runAsUser", "runAsGroup"], errors);
    one_of(context, &path, "procMount", &["Default", "Unmasked"], errors);
    if context["procMount"] == "Unmasked" && spec["hostUsers"] != false {
        let why = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(format!("{path}.procMount"), "Unmasked", why));
    }
    validate_profiles(context, &path, errors);
    pod_systems::validate_windows_options(context, &path, errors);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(&path, context.clone(), why));
        }
        if items(&context["capabilities"]["add"]).iter().any(|added| added == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(&path, context.clone(), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate_pod(&spec, "spec", &mut errors);
        errors.into_iter().map(|e| e.path.trim_start_matches("spec.").to_owned()).collect()
    }

    #[test]
    fn a_pods_context_is_checked_field_by_field() {
        let context = |context: Value| pod(json!({"securityContext": context}));
        assert_eq!(context(json!({"runAsUser": -1})), ["securityContext.runAsUser"]);
        assert_eq!(
            context(json!({"supplementalGroups": [1, -1]})),
            ["securityContext.supplementalGroups[1]"]
        );
        assert_eq!(context(json!({"fsGroupChangePolicy": "Odd"})), ["securityContext.fsGroupChangePolicy"]);
        assert_eq!(context(json!({"sysctls": [{"name": "a..b"}]})), ["securityContext.sysctls[0].name"]);
        assert_eq!(
            context(json!({"sysctls": [{"name": "a/b"}, {"name": "a.b"}, {"name": "a/b"}]})),
            ["securityContext.sysctls[2].name"]
        );
        assert_eq!(
            context(json!({"seccompProfile": {"type": "Odd"}})),
            ["securityContext.seccompProfile.type"]
        );
        assert_eq!(
            context(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/x"}})),
            ["securityContext.seccompProfile.localhostProfile"]
        );
    }

    #[test]
    fn a_privileged_container_can_gain_privileges() {
        let mut errors = Errors::new();
        let container = json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}});
        validate_container(&container, &Value::Null, "c", &mut errors);
        assert_eq!(errors[0].path, "c.securityContext");
    }
}
