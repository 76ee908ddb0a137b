//! The checks that the restricted standard adds: what a hardened pod says of itself.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{added_capabilities, bad_seccomp, seccomp as baseline_seccomp};
use super::checks::{Subject, counted, found, named, quoted, text};

type Finding = Option<(String, String)>;

fn unless_windows(pod: &Subject<'_>, check: fn(&Subject<'_>) -> Finding) -> Finding {
    if pod.is_windows() { None } else { check(pod) }
}

fn without_own_users(pod: &Subject<'_>, check: fn(&Subject<'_>) -> Finding) -> Finding {
    if pod.has_own_users() { None } else { check(pod) }
}

pub(super) fn privilege_escalation(pod: &Subject<'_>) -> Finding {
    let names = pod.names(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    let detail =
        format!("{} must set securityContext.allowPrivilegeEscalation=false", named("container", &names));
    found("allowPrivilegeEscalation != false", detail)
}

pub(super) fn privilege_escalation_unless_windows(pod: &Subject<'_>) -> Finding {
    unless_windows(pod, privilege_escalation)
}

pub(super) fn capabilities(pod: &Subject<'_>) -> Finding {
    let drops_all = |container: &Value| {
        let dropped = container["securityContext"]["capabilities"]["drop"].as_array();
        dropped.into_iter().flatten().any(|capability| capability == "ALL")
    };
    let undropped = pod.names(|container| !drops_all(container));
    let (names, added) = added_capabilities(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !undropped.is_empty() {
        let who = named("container", &undropped);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !names.is_empty() {
        let (who, what) = (named("container", &names), quoted(&added));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn capabilities_unless_windows(pod: &Subject<'_>) -> Finding {
    unless_windows(pod, capabilities)
}

const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn volumes(pod: &Subject<'_>) -> Finding {
    let kind = |volume: &Value| -> Option<String> {
        let fields = volume.as_object()?;
        if fields.keys().any(|field| VOLUMES.contains(&field.as_str())) {
            return None;
        }
        let kind = fields.keys().find(|field| *field != "name");
        Some(kind.map_or_else(|| "unknown".to_owned(), Clone::clone))
    };
    let bad: Vec<(&Value, String)> = pod.volumes().filter_map(|v| Some((v, kind(v)?))).collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<String> = bad.iter().map(|(volume, _)| text(&volume["name"]).to_owned()).collect();
    let types: BTreeSet<String> = bad.into_iter().map(|(_, kind)| kind).collect();
    let types: Vec<String> = types.into_iter().collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let what = format!("restricted volume {} {}", counted("type", &types), quoted(&types));
    found("restricted volume types", format!("{} {uses} {what}", named("volume", &names)))
}

pub(super) fn run_as_non_root(pod: &Subject<'_>) -> Finding {
    const REASON: &str = "runAsNonRoot != true";
    let setters = pod.setters(|context| context["runAsNonRoot"] == false);
    if !setters.is_empty() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", setters.join(" and "));
        return found(REASON, detail);
    }
    if pod.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let silent = pod.names(|container| !container["securityContext"]["runAsNonRoot"].is_boolean());
    if silent.is_empty() {
        return None;
    }
    let who = named("container", &silent);
    found(REASON, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

pub(super) fn run_as_non_root_without_own_users(pod: &Subject<'_>) -> Finding {
    without_own_users(pod, run_as_non_root)
}

pub(super) fn run_as_user(pod: &Subject<'_>) -> Finding {
    let setters = pod.setters(|context| context["runAsUser"] == 0);
    if setters.is_empty() {
        return None;
    }
    found("runAsUser=0", format!("{} must not set runAsUser=0", setters.join(" and ")))
}

pub(super) fn run_as_user_without_own_users(pod: &Subject<'_>) -> Finding {
    without_own_users(pod, run_as_user)
}

pub(super) fn seccomp(pod: &Subject<'_>) -> Finding {
    let explicit = baseline_seccomp(pod);
    let pod_says = pod.spec["securityContext"]["seccompProfile"].is_object()
        && bad_seccomp(&pod.spec["securityContext"]).is_none();
    if explicit.is_some() || pod_says {
        return explicit;
    }
    let silent = pod.names(|container| !container["securityContext"]["seccompProfile"].is_object());
    if silent.is_empty() {
        return None;
    }
    let who = named("container", &silent);
    let what = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    found("seccompProfile", format!("pod or {who} {what}"))
}

pub(super) fn seccomp_unless_windows(pod: &Subject<'_>) -> Finding {
    unless_windows(pod, seccomp)
}
