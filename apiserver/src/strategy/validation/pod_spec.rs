//! What a pod's spec must hold to, alone and inside a template.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::{Value, json};

use super::addresses::NOT_AN_IP;
use super::{Check, affinity, containers, pod_annotations, pod_resources, security_contexts, volumes};
use crate::strategy::metadata::check_labels;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, join, one_of, text};

/// A template's labels, annotations and spec.
pub(super) fn validate_template(template: &Value, path: &str, errors: &mut Errors) {
    validate_description(template, path, errors);
    validate(&template["spec"], &format!("{path}.spec"), None, errors);
    pod_annotations::validate_agreement(
        &template["metadata"],
        &template["spec"],
        &format!("{path}.spec"),
        errors,
    );
    if !items(&template["spec"]["ephemeralContainers"]).is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{path}.spec.ephemeralContainers"), why));
    }
}

/// A template's labels and annotations.
pub(super) fn validate_description(template: &Value, path: &str, errors: &mut Errors) {
    check_labels(&format!("{path}.labels"), &template["metadata"]["labels"], errors);
    let annotations = &template["metadata"]["annotations"];
    crate::strategy::metadata::check_annotations(&format!("{path}.annotations"), annotations, errors);
    pod_annotations::validate(&template["metadata"], &template["spec"], path, errors);
}

/// The template of a kind whose objects are nothing else.
pub(super) fn pod_template(check: &Check<'_>, errors: &mut Errors) {
    validate_template(&check.new["template"], "template", errors);
}

/// The rules that hold wherever a pod's spec stands. `pod` is the name of the pod itself, where the spec is not part
/// of a template.
pub(super) fn validate(spec: &Value, path: &str, pod: Option<&str>, errors: &mut Errors) {
    let mounted = volumes::validate(spec, path, pod, errors);
    containers::validate(spec, path, &mounted, pod.is_some(), errors);
    one_of(spec, path, "restartPolicy", &["Always", "Never", "OnFailure"], errors);
    one_of(spec, path, "preemptionPolicy", &["Never", "PreemptLowerPriority"], errors);
    validate_deadline(spec, path, errors);
    validate_references(spec, path, errors);
    validate_dns(spec, path, errors);
    validate_host_aliases(spec, path, errors);
    affinity::validate(spec, path, errors);
    affinity::validate_tolerations(spec, path, errors);
    security_contexts::validate_pod(spec, path, errors);
    validate_gates(spec, path, errors);
    validate_claims(spec, path, errors);
    check_labels(&format!("{path}.nodeSelector"), &spec["nodeSelector"], errors);
    let overhead = json!({ "limits": spec["overhead"] });
    containers::validate_resources(&overhead, &format!("{path}.overhead"), errors);
    if spec["resources"].is_object() {
        pod_resources::validate(spec, &format!("{path}.resources"), errors);
    }
}

fn validate_deadline(spec: &Value, path: &str, errors: &mut Errors) {
    let range = 1..=i64::from(i32::MAX);
    if let Some(deadline) = spec["activeDeadlineSeconds"].as_i64().filter(|d| !range.contains(d)) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), deadline, why));
    }
}

fn validate_references(spec: &Value, path: &str, errors: &mut Errors) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        if let Some(name) = text(spec, field) {
            invalid_all(names::check_dns_subdomain(name), &format!("{path}.{field}"), name, errors);
        }
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = text(spec, field) {
            invalid_all(names::check_dns_label(name), &format!("{path}.{field}"), name, errors);
        }
    }
    const HOSTNAME_BYTES_MAX: usize = 64;
    if let Some(name) = spec["hostnameOverride"].as_str() {
        let path = format!("{path}.hostnameOverride");
        invalid_all(names::check_dns_subdomain(name), &path, name, errors);
        if name.len() > HOSTNAME_BYTES_MAX {
            errors.push(FieldError::too_long(path, HOSTNAME_BYTES_MAX));
        }
    }
}

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

fn validate_dns(spec: &Value, path: &str, errors: &mut Errors) {
    one_of(spec, path, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    let (config, path) = (&spec["dnsConfig"], format!("{path}.dnsConfig"));
    let servers = items(&config["nameservers"]);
    if spec["dnsPolicy"] == "None" {
        if !config.is_object() {
            errors.push(FieldError::required(&path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        } else if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.push(FieldError::required(format!("{path}.nameservers"), why));
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        let why = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(format!("{path}.nameservers"), servers.to_vec(), why));
    }
    for (path, server) in indexed(config, &path, "nameservers") {
        check_ip(server, &path, errors);
    }
    validate_searches(config, &path, errors);
    for (path, option) in indexed(config, &path, "options") {
        if text(option, "name").is_none() {
            errors.push(FieldError::required(path, "must not be empty"));
        }
    }
}

fn check_ip(value: &Value, path: &str, errors: &mut Errors) {
    let ip = value.as_str().unwrap_or_default();
    if ip.parse::<std::net::IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, ip, NOT_AN_IP));
    }
}

fn validate_searches(config: &Value, path: &str, errors: &mut Errors) {
    let searches = items(&config["searches"]);
    let at = format!("{path}.searches");
    if searches.len() > SEARCHES_MAX {
        let why = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(&at, searches.to_vec(), why));
    }
    let chars: usize = searches.iter().filter_map(Value::as_str).map(|search| search.len() + 1).sum();
    if chars > SEARCH_CHARS_MAX + 1 {
        let why = format!(
            "must not have more than {SEARCH_CHARS_MAX} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(&at, searches.to_vec(), why));
    }
    for (path, search) in indexed(config, path, "searches") {
        let search = search.as_str().unwrap_or_default();
        // A lone dot is the root, and underscores name services.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if search != "." {
            invalid_all(names::check_dns_subdomain(&name), &path, search, errors);
        }
    }
}

fn validate_host_aliases(spec: &Value, path: &str, errors: &mut Errors) {
    for (path, alias) in indexed(spec, path, "hostAliases") {
        check_ip(&alias["ip"], &format!("{path}.ip"), errors);
        for (path, name) in indexed(alias, &path, "hostnames") {
            let name = name.as_str().unwrap_or_default();
            invalid_all(names::check_dns_subdomain(name), &path, name, errors);
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

fn validate_claims(spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, claim) in indexed(spec, path, "resourceClaims") {
        match text(claim, "name") {
            None => errors.push(FieldError::required(format!("{path}.name"), "")),
            Some(name) => match seen.insert(name) {
                true => invalid_all(names::check_dns_label(name), &format!("{path}.name"), name, errors),
                false => errors.push(FieldError::duplicate(format!("{path}.name"), name)),
            },
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let given: Vec<&str> = sources.into_iter().filter(|field| !claim[*field].is_null()).collect();
        for field in &given {
            let name = claim[*field].as_str().unwrap_or_default();
            invalid_all(names::check_dns_subdomain(name), &join(&path, field), name, errors);
        }
        let known = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
        match given.len() {
            0 => errors.push(FieldError::invalid(path, claim.clone(), known)),
            1 => {}
            _ => errors.push(FieldError::invalid(
                path,
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
        }
    }
}

/// Rules for pods that are created by themselves.
pub(super) fn validate_new(pod: &Value, errors: &mut Errors) {
    let spec = &pod["spec"];
    pod_annotations::validate_agreement(&pod["metadata"], spec, "spec", errors);
    if !items(&spec["ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    if !items(&spec["schedulingGates"]).is_empty() && text(spec, "nodeName").is_some() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&spec, "spec", Some("p"), &mut errors);
        errors.into_iter().map(|e| e.path.trim_start_matches("spec.").to_owned()).collect()
    }

    fn plain() -> Value {
        json!({"name": "a", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"})
    }

    fn merged(mut base: Value, extra: Value) -> Value {
        base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        base
    }

    #[test]
    fn a_containers_mistakes_are_named_by_their_path() {
        let cases = [
            (json!({}), vec![]),
            (json!({"name": "A_b"}), vec!["name"]),
            (json!({"name": ""}), vec!["name"]),
            (json!({"image": ""}), vec!["image"]),
            (json!({"image": " "}), vec!["image"]),
            (json!({"imagePullPolicy": "Odd"}), vec!["imagePullPolicy"]),
            (json!({"terminationMessagePolicy": "Odd"}), vec!["terminationMessagePolicy"]),
            (json!({"volumeMounts": [{"name": "no", "mountPath": "/x"}]}), vec!["volumeMounts[0].name"]),
            (json!({"volumeMounts": [{"name": "v", "mountPath": ""}]}), vec!["volumeMounts[0].mountPath"]),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "/a"}]}),
                vec!["volumeMounts.subPath"],
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "mountPropagation": "Bidirectional"}]}),
                vec!["volumeMounts.mountPropagation"],
            ),
            (json!({"volumeDevices": [{"name": "v", "devicePath": "/x"}]}), vec!["volumeDevices[0].name"]),
            (json!({"ports": [{"containerPort": 70000}]}), vec!["ports[0].containerPort"]),
            (json!({"ports": [{"containerPort": 1, "protocol": "ICMP"}]}), vec!["ports[0].protocol"]),
            (
                json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
                vec!["resources.requests"],
            ),
            (json!({"resources": {"requests": {"example.com/gpu": "1"}}}), vec!["resources.limits"]),
            (json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}), vec!["resources"]),
            (json!({"resources": {"claims": [{"name": "c"}]}}), vec!["resources.claims[0]"]),
            (json!({"livenessProbe": {}}), vec!["livenessProbe"]),
            (
                json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}),
                vec!["livenessProbe.successThreshold"],
            ),
            (json!({"readinessProbe": {"tcpSocket": {"port": 0}}}), vec!["readinessProbe.tcpSocket.port"]),
            (
                json!({"startupProbe": {"grpc": {"port": 1}, "tcpSocket": {"port": 1}}}),
                vec!["startupProbe.grpc"],
            ),
            (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 99}}}}), vec!["lifecycle.preStop.sleep"]),
            (
                json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}),
                vec!["resizePolicy"],
            ),
            (json!({"restartPolicy": "Odd"}), vec!["restartPolicy"]),
            (json!({"envFrom": [{}]}), vec!["envFrom"]),
        ];
        for (extra, expected) in cases {
            let spec = json!({"containers": [merged(plain(), extra.clone())], "volumes": [{"name": "v", "emptyDir": {}}]});
            let expected: Vec<String> = expected.iter().map(|path| format!("containers[0].{path}")).collect();
            assert_eq!(paths(spec), expected, "{extra}");
        }
    }

    #[test]
    fn a_specs_mistakes_are_named_by_their_path() {
        let cases = [
            (json!({"containers": []}), vec!["containers"]),
            (json!({"restartPolicy": "Odd"}), vec!["restartPolicy"]),
            (json!({"activeDeadlineSeconds": 0}), vec!["activeDeadlineSeconds"]),
            (json!({"dnsPolicy": "Odd"}), vec!["dnsPolicy"]),
            (json!({"dnsPolicy": "None"}), vec!["dnsConfig"]),
            (json!({"dnsPolicy": "None", "dnsConfig": {}}), vec!["dnsConfig.nameservers"]),
            (
                json!({"dnsConfig": {"nameservers": ["x"], "searches": ["a b"], "options": [{}]}}),
                vec!["dnsConfig.nameservers[0]", "dnsConfig.searches[0]", "dnsConfig.options[0]"],
            ),
            (
                json!({"hostAliases": [{"ip": "x", "hostnames": ["A b"]}]}),
                vec!["hostAliases[0].ip", "hostAliases[0].hostnames[0]"],
            ),
            (json!({"hostname": "a.b"}), vec!["hostname"]),
            (json!({"runtimeClassName": "A"}), vec!["runtimeClassName"]),
            (json!({"nodeSelector": {"a b": "c"}}), vec!["nodeSelector"]),
            (json!({"overhead": {"cpu": "-1"}}), vec!["overhead.limits[cpu]"]),
            (json!({"os": {"name": "plan9"}}), vec!["os"]),
            (json!({"readinessGates": [{"conditionType": "a b"}]}), vec!["readinessGates[0].conditionType"]),
            (json!({"schedulingGates": [{"name": "x"}, {"name": "x"}]}), vec!["schedulingGates[1]"]),
            (json!({"resourceClaims": [{"name": "c"}]}), vec!["resourceClaims[0]"]),
            (
                json!({"initContainers": [merged(plain(), json!({"name": "b", "lifecycle": {}}))]}),
                vec!["initContainers[0].lifecycle"],
            ),
            (
                json!({"ephemeralContainers": [merged(plain(), json!({"name": "b", "targetContainerName": "no", "lifecycle": {"preStop": {}}}))]}),
                vec!["ephemeralContainers[0].lifecycle", "ephemeralContainers[0].targetContainerName"],
            ),
            (json!({"initContainers": [plain()]}), vec!["initContainers[0].name"]),
        ];
        for (extra, expected) in cases {
            let spec = merged(json!({"containers": [plain()]}), extra.clone());
            assert_eq!(paths(spec), expected, "{extra}");
        }
    }
}
