//! The checks of the baseline standard: what is known to give a pod its node.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Subject, counted, found, named, quoted, text};

type Finding = Option<(String, String)>;

pub(super) fn app_armor(pod: &Subject<'_>) -> Finding {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let bad_type = |context: &Value| {
        let kind = context["appArmorProfile"]["type"].as_str();
        kind.filter(|kind| !["RuntimeDefault", "Localhost"].contains(kind)).map(str::to_owned)
    };
    let mut setters = pod.setters(|context| bad_type(context).is_some());
    let mut values = pod.values(bad_type);
    let allowed = |value: &str| matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let bad = annotations.filter(|(key, value)| key.starts_with(PREFIX) && !allowed(text(value)));
    let mut bad: Vec<String> = bad.map(|(key, value)| format!("{key}={:?}", text(value))).collect();
    if !bad.is_empty() {
        bad.sort();
        setters.push(counted("annotation", &bad));
        values.extend(bad);
    }
    if setters.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&values));
    found(&counted("forbidden AppArmor profile", &values), detail)
}

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn capabilities(pod: &Subject<'_>) -> Finding {
    let (names, added) = added_capabilities(pod, CAPABILITIES);
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        named("container", &names),
        quoted(&added)
    );
    found("non-default capabilities", detail)
}

/// Containers that add other capabilities than `allowed`, and which.
pub(super) fn added_capabilities(pod: &Subject<'_>, allowed: &[&str]) -> (Vec<String>, Vec<String>) {
    let bad = |context: &Value| -> Vec<String> {
        let added = context["capabilities"]["add"].as_array().into_iter().flatten();
        added.map(text).filter(|c| !allowed.contains(c)).map(str::to_owned).collect()
    };
    let names = pod.names(|container| !bad(&container["securityContext"]).is_empty());
    let added: BTreeSet<String> =
        pod.containers().flat_map(|container| bad(&container["securityContext"])).collect();
    (names, added.into_iter().collect())
}

pub(super) fn host_namespaces(pod: &Subject<'_>) -> Finding {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    if set.is_empty() { None } else { found("host namespaces", set.join(", ")) }
}

pub(super) fn host_path_volumes(pod: &Subject<'_>) -> Finding {
    let bad = pod.volumes().filter(|volume| volume["hostPath"].is_object());
    let names: Vec<String> = bad.map(|volume| text(&volume["name"]).to_owned()).collect();
    if names.is_empty() { None } else { found("hostPath volumes", named("volume", &names)) }
}

pub(super) fn host_ports(pod: &Subject<'_>) -> Finding {
    let ports = |container: &Value| -> Vec<String> {
        let ports = container["ports"].as_array().into_iter().flatten();
        let ports = ports.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0);
        ports.map(|port| port.to_string()).collect()
    };
    let names = pod.names(|container| !ports(container).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: Vec<String> = pod.containers().flat_map(ports).collect::<BTreeSet<_>>().into_iter().collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let noun = counted("hostPort", &all);
    found(&noun, format!("{} {uses} {noun} {}", named("container", &names), all.join(", ")))
}

pub(super) fn host_probes(pod: &Subject<'_>) -> Finding {
    const HANDLERS: &[&str] =
        &["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let hosts = |container: &Value| -> Vec<String> {
        let handlers = HANDLERS.iter().filter_map(|path| container.pointer(path));
        let hosts = handlers.flat_map(|h| [text(&h["httpGet"]["host"]), text(&h["tcpSocket"]["host"])]);
        hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let mut names = pod.names(|container| !hosts(container).is_empty());
    if names.is_empty() {
        return None;
    }
    names.sort();
    let all: Vec<String> = pod.containers().flat_map(hosts).collect::<BTreeSet<_>>().into_iter().collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let what = named("probe or lifecycle host", &all);
    found("probe or lifecycle host", format!("{} {uses} {what}", named("container", &names)))
}

pub(super) fn privileged(pod: &Subject<'_>) -> Finding {
    let names = pod.names(|container| container["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.privileged=true", named("container", &names));
    found("privileged", detail)
}

pub(super) fn proc_mount(pod: &Subject<'_>) -> Finding {
    let bad = |context: &Value| {
        context["procMount"].as_str().filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let names = pod.names(|container| bad(&container["securityContext"]).is_some());
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        named("container", &names),
        quoted(&pod.values(bad))
    );
    found("procMount", detail)
}

pub(super) fn proc_mount_without_own_users(pod: &Subject<'_>) -> Finding {
    if pod.has_own_users() { None } else { proc_mount(pod) }
}

pub(super) fn selinux_without_engine(pod: &Subject<'_>) -> Finding {
    selinux_types(pod, &["", "container_t", "container_init_t", "container_kvm_t"])
}

pub(super) fn selinux(pod: &Subject<'_>) -> Finding {
    selinux_types(pod, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}

fn selinux_types(pod: &Subject<'_>, allowed: &[&str]) -> Finding {
    let bad_type = |context: &Value| {
        let kind = context["seLinuxOptions"]["type"].as_str();
        kind.filter(|kind| !allowed.contains(kind)).map(str::to_owned)
    };
    let names = |context: &Value, field: &str| !text(&context["seLinuxOptions"][field]).is_empty();
    let setters = pod
        .setters(|context| bad_type(context).is_some() || names(context, "user") || names(context, "role"));
    if setters.is_empty() {
        return None;
    }
    let types = pod.values(bad_type);
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(named("type", &types));
    }
    for field in ["user", "role"] {
        if !pod.values(|context| names(context, field).then(String::new)).is_empty() {
            data.push(format!("{field} may not be set"));
        }
    }
    let detail = format!(
        "{} set forbidden securityContext.seLinuxOptions: {}",
        setters.join(" and "),
        data.join("; ")
    );
    found("seLinuxOptions", detail)
}

pub(super) fn seccomp_annotations(pod: &Subject<'_>) -> Finding {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let allowed = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let keys = pod.containers().map(|container| format!("{CONTAINER}{}", text(&container["name"])));
    let set = keys.chain([POD.to_owned()]).filter_map(|key| {
        let value = pod.metadata["annotations"][key.as_str()].as_str().filter(|value| !allowed(value))?;
        Some(format!("{key}={value:?}"))
    });
    let bad: Vec<String> = set.collect::<BTreeSet<_>>().into_iter().collect();
    if bad.is_empty() {
        return None;
    }
    found("seccompProfile", format!("forbidden {} {}", counted("annotation", &bad), bad.join(", ")))
}

pub(super) fn bad_seccomp(context: &Value) -> Option<String> {
    let profile = context["seccompProfile"].as_object()?;
    let kind = profile.get("type").map_or("", text);
    (!["RuntimeDefault", "Localhost"].contains(&kind)).then(|| kind.to_owned())
}

pub(super) fn seccomp(pod: &Subject<'_>) -> Finding {
    let setters = pod.setters(|context| bad_seccomp(context).is_some());
    if setters.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        setters.join(" and "),
        quoted(&pod.values(bad_seccomp))
    );
    found("seccompProfile", detail)
}

/// The safe ones, each with the minor version in which it became one.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls_safe_in(pod: &Subject<'_>, minor: u32) -> Finding {
    let is_safe = |name: &str| SYSCTLS.iter().any(|(safe, since)| *safe == name && *since <= minor);
    let set = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let bad: Vec<&str> = set.map(|sysctl| text(&sysctl["name"])).filter(|name| !is_safe(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

pub(super) fn sysctls(pod: &Subject<'_>) -> Finding {
    sysctls_safe_in(pod, 0)
}

pub(super) fn sysctls_of_27(pod: &Subject<'_>) -> Finding {
    sysctls_safe_in(pod, 27)
}

pub(super) fn sysctls_of_29(pod: &Subject<'_>) -> Finding {
    sysctls_safe_in(pod, 29)
}

pub(super) fn sysctls_of_32(pod: &Subject<'_>) -> Finding {
    sysctls_safe_in(pod, 32)
}

pub(super) fn host_process(pod: &Subject<'_>) -> Finding {
    let setters = pod.setters(|context| context["windowsOptions"]["hostProcess"] == true);
    if setters.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.join(" and "));
    found("hostProcess", detail)
}
