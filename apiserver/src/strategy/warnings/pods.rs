//! Warnings about pods and the templates of pods.

use std::collections::BTreeSet;

use api_types::quantity::Quantity;
use serde_json::Value;

use crate::strategy::rules::{indexed, items, join};

/// Node labels that have other names now, or none.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];

const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

const OLD_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn warn(pod: &Value, path: &str, out: &mut Vec<String>) {
    let (spec, at) = (&pod["spec"], join(path, "spec"));
    placement(spec, &at, out);
    for (name, why) in OLD_ANNOTATIONS {
        if !pod["metadata"]["annotations"][*name].is_null() {
            out.push(format!("{}: {why}", join(path, &format!("metadata.annotations[{name}]"))));
        }
    }
    for (path, volume) in indexed(spec, &at, "volumes") {
        for (source, why) in OLD_VOLUMES.iter().filter(|(source, _)| volume[*source].is_object()) {
            let shown = if *source == "storageos" { "storageOS" } else { source };
            out.push(format!("{path}.{shown}: {why}"));
        }
    }
    duplicates(spec, &at, out);
    fractions(&spec["overhead"], &format!("{at}.overhead"), out);
    profiles(pod, path, out);
    let mut ports = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (path, container) in indexed(spec, &at, list) {
            for part in ["limits", "requests"] {
                fractions(&container["resources"][part], &format!("{path}.resources.{part}"), out);
            }
            environment(container, &path, out);
            ports.extend(indexed(container, &path, "ports"));
        }
    }
    overlaps(&ports, out);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let why = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{at}.terminationGracePeriodSeconds: {why}"));
    }
}

fn old_label(name: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(label, _)| *label == name).map(|(_, why)| *why)
}

fn placement(spec: &Value, at: &str, out: &mut Vec<String>) {
    for name in spec["nodeSelector"].as_object().into_iter().flatten().map(|(name, _)| name) {
        out.extend(old_label(name).map(|why| format!("{at}.nodeSelector[{name}]: {why}")));
    }
    let (nodes, path) = (&spec["affinity"]["nodeAffinity"], format!("{at}.affinity.nodeAffinity"));
    for (path, term) in indexed(&nodes[REQUIRED], &format!("{path}.{REQUIRED}"), "nodeSelectorTerms") {
        node_term(term, &path, out);
    }
    for (path, term) in indexed(nodes, &path, PREFERRED) {
        node_term(&term["preference"], &format!("{path}.preference"), out);
    }
    const NOTHING: &str = "a null labelSelector results in matching no pod";
    for (path, constraint) in indexed(spec, at, "topologySpreadConstraints") {
        let key = constraint["topologyKey"].as_str().unwrap_or_default();
        out.extend(old_label(key).map(|why| format!("{path}.topologyKey: {key} is {why}")));
        if constraint["labelSelector"].is_null() {
            out.push(format!("{path}.labelSelector: {NOTHING}"));
        }
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let (pods, path) = (&spec["affinity"][field], format!("{at}.affinity.{field}"));
        for (path, _) in indexed(pods, &path, REQUIRED).filter(|(_, term)| term["labelSelector"].is_null()) {
            out.push(format!("{path}.labelSelector: {NOTHING}"));
        }
        for (path, term) in indexed(pods, &path, PREFERRED) {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                out.push(format!("{path}.podAffinityTerm.labelSelector: {NOTHING}"));
            }
        }
    }
}

pub(super) fn node_term(term: &Value, path: &str, out: &mut Vec<String>) {
    for (path, expression) in indexed(term, path, "matchExpressions") {
        let key = expression["key"].as_str().unwrap_or_default();
        out.extend(old_label(key).map(|why| format!("{path}.key: {key} is {why}")));
    }
}

/// As `node_term`, for the terms of storage classes.
pub(super) fn topology_term(term: &Value, path: &str, out: &mut Vec<String>) {
    for (path, expression) in indexed(term, path, "matchLabelExpressions") {
        let key = expression["key"].as_str().unwrap_or_default();
        out.extend(old_label(key).map(|why| format!("{path}.key: {key} is {why}")));
    }
}

fn duplicates(spec: &Value, at: &str, out: &mut Vec<String>) {
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = BTreeSet::new();
        for (path, item) in indexed(spec, at, list) {
            let value = item[field].as_str().unwrap_or_default();
            if !seen.insert(value) {
                out.push(format!("{path}.{field}: duplicate {field} {value:?}"));
            }
        }
    }
    for (path, secret) in indexed(spec, at, "imagePullSecrets") {
        if secret["name"].as_str().is_none_or(str::is_empty) {
            out.push(format!("{path}.name: invalid empty name \"\""));
        }
    }
}

/// Parts of bytes make no sense.
fn fractions(amounts: &Value, path: &str, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let Some(text) = amounts[name].as_str() else { continue };
        if Quantity::parse(text).is_ok_and(|amount| amount.milli() % 1000 != 0) {
            out.push(format!(
                "{path}[{name}]: fractional byte value {text:?} is invalid, must be an integer"
            ));
        }
    }
}

/// Annotations that fields have replaced.
fn profiles(pod: &Value, path: &str, out: &mut Vec<String>) {
    let annotations = &pod["metadata"]["annotations"];
    let mut old = |name: &str, why: &str| {
        if !annotations[name].is_null() {
            out.push(format!("{}: {why}", join(path, &format!("metadata.annotations[{name}]"))));
        }
    };
    const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    const APPARMOR: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
    let context = &pod["spec"]["securityContext"];
    if context["seccompProfile"].is_null() {
        old("seccomp.security.alpha.kubernetes.io/pod", SECCOMP);
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    for container in containers.iter().flat_map(|list| items(&pod["spec"][*list])) {
        let name = container["name"].as_str().unwrap_or_default();
        let own = &container["securityContext"];
        if own["seccompProfile"].is_null() {
            old(&format!("container.seccomp.security.alpha.kubernetes.io/{name}"), SECCOMP);
        }
        if own["appArmorProfile"].is_null() && context["appArmorProfile"].is_null() {
            old(&format!("container.apparmor.security.beta.kubernetes.io/{name}"), APPARMOR);
        }
    }
}

fn environment(container: &Value, path: &str, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (path, variable) in indexed(container, path, "env") {
        let name = variable["name"].as_str().unwrap_or_default();
        if seen.insert(name) {
            continue;
        }
        // A later value may build on the earlier one.
        let earlier = format!("$({name})");
        let value = variable["value"].as_str().unwrap_or_default();
        if variable["valueFrom"].is_object() || value == earlier || !value.contains(&earlier) {
            let why = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            out.push(format!("{path}: {why}"));
        }
    }
}

/// Ports of any containers that stand in each other's way.
fn overlaps(ports: &[(String, &Value)], out: &mut Vec<String>) {
    for (index, (path, port)) in ports.iter().enumerate() {
        let text = |port: &Value, field: &str| port[field].as_str().unwrap_or_default().to_owned();
        let number = |port: &Value, field: &str| port[field].as_i64().unwrap_or_default();
        let (host_ip, host_port) = (text(port, "hostIP"), number(port, "hostPort"));
        if !host_ip.is_empty() && host_port == 0 {
            let shown = format!(
                "{{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{host_ip}}}",
                text(port, "name"),
                number(port, "containerPort"),
                text(port, "protocol")
            );
            out.push(format!("{path}: hostIP set without hostPort: {shown}"));
        }
        let same = |other: &Value| {
            other["containerPort"] == port["containerPort"] && other["protocol"] == port["protocol"]
        };
        for (other_path, other) in ports[..index].iter().filter(|(_, other)| same(other)) {
            let (other_ip, other_port) = (text(other, "hostIP"), number(other, "hostPort"));
            let how = if host_ip == other_ip && host_port == other_port {
                "duplicate"
            } else if host_port == 0 || other_port == 0 {
                "overlapping"
            } else if host_port == other_port && host_ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{path}: {how} port definition with {other_path}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: Value) -> Vec<String> {
        let mut out = Vec::new();
        warn(&json!({ "spec": spec }), "", &mut out);
        out
    }

    #[test]
    fn what_is_most_likely_a_mistake_is_told() {
        let env = |env: Value| json!({"containers": [{"name": "c", "env": env}]});
        let ports = |ports: Value| json!({"containers": [{"name": "c", "ports": ports}]});
        let cases = [
            (json!({"containers": [{"name": "c"}]}), vec![]),
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                vec!["spec.nodeSelector[beta.kubernetes.io/os]"],
            ),
            (json!({"imagePullSecrets": [{}]}), vec!["spec.imagePullSecrets[0].name"]),
            (json!({"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}]}), vec!["spec.hostAliases[1].ip"]),
            (json!({"volumes": [{"name": "v", "gitRepo": {}}]}), vec!["spec.volumes[0].gitRepo"]),
            (json!({"overhead": {"memory": "100m"}}), vec!["spec.overhead[memory]"]),
            (json!({"terminationGracePeriodSeconds": -1}), vec!["spec.terminationGracePeriodSeconds"]),
            (
                json!({"topologySpreadConstraints": [{"topologyKey": "z"}]}),
                vec!["spec.topologySpreadConstraints[0].labelSelector"],
            ),
            (
                env(json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}])),
                vec!["spec.containers[0].env[1]"],
            ),
            (env(json!([{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}])), vec![]),
            (ports(json!([{"containerPort": 1}, {"containerPort": 1}])), vec!["spec.containers[0].ports[1]"]),
            (ports(json!([{"containerPort": 1, "hostIP": "1.1.1.1"}])), vec!["spec.containers[0].ports[0]"]),
        ];
        for (spec, expected) in cases {
            let paths: Vec<String> =
                of(spec.clone()).iter().map(|text| text.split(": ").next().unwrap().to_owned()).collect();
            assert_eq!(paths, expected, "{spec}");
        }
    }
}
