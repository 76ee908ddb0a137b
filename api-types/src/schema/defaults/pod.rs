//! Defaults of pods and of the templates they are made from.

use super::{at, each, ensure, is_empty, is_unset, put};
use crate::pods;
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::{Value, json};

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A pod: what every template gets, and what only becomes fixed when a pod is made of it.
pub(super) fn pod(object: &mut Value) {
    at(object, &["spec"], |spec| {
        pod_spec(spec);
        put(spec, "enableServiceLinks", true);
        for list in CONTAINER_LISTS {
            each(spec, list, request_limits);
        }
        if !is_empty(spec.get("resources")) {
            fill_pod_resources(spec);
        }
        if spec["hostNetwork"] == true {
            each(spec, "containers", host_ports);
            each(spec, "initContainers", host_ports);
        }
    });
    at(object, &["status"], agree_on_addresses);
}

/// One address and the list that it is the first of: the one is right where they differ.
fn agree_on_addresses(status: &mut Value) {
    for (one, list) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let Some(ip) = status[one].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned) else { continue };
        if status[list][0]["ip"] != ip.as_str() {
            status[list] = json!([{ "ip": ip }]);
        }
    }
}

/// The template of a workload, under `spec`.
pub(super) fn template(object: &mut Value) {
    at(object, &["spec", "template", "spec"], pod_spec);
}

pub(super) fn pod_spec(spec: &mut Value) {
    put(spec, "dnsPolicy", "ClusterFirst");
    put(spec, "restartPolicy", "Always");
    put(spec, "terminationGracePeriodSeconds", 30);
    put(spec, "schedulerName", "default-scheduler");
    ensure(spec, "securityContext");
    service_account(spec);
    for list in CONTAINER_LISTS {
        each(spec, list, container);
    }
    each(spec, "volumes", volume);
}

/// The field has an old name, which is still written.
fn service_account(spec: &mut Value) {
    for (from, to) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        if !is_unset(spec.get(from)) {
            let name = spec[from].clone();
            put(spec, to, name);
        }
    }
}

fn container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or("");
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    put(container, "imagePullPolicy", policy);
    put(container, "terminationMessagePath", "/dev/termination-log");
    put(container, "terminationMessagePolicy", "File");
    each(container, "ports", |port| put(port, "protocol", "TCP"));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        at(container, &[name], probe);
    }
    for name in ["postStart", "preStop"] {
        at(container, &["lifecycle", name, "httpGet"], http_get);
    }
    each(container, "env", |env| at(env, &["valueFrom"], source_refs));
}

/// Whether an image without a digest has the tag `latest`, in words or by having none.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return image.split('@').next().unwrap_or("").ends_with(":latest");
    }
    let last = image.rsplit('/').next().unwrap_or("");
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Value) {
    for (name, number) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(name).is_none_or(|v| v.is_null() || *v == 0) {
            probe[name] = number.into();
        }
    }
    at(probe, &["httpGet"], http_get);
    at(probe, &["grpc"], |grpc| put(grpc, "service", ""));
}

fn http_get(action: &mut Value) {
    put(action, "path", "/");
    put(action, "scheme", "HTTP");
}

/// What a variable or a file gets from the pod itself.
fn source_refs(source: &mut Value) {
    at(source, &["fieldRef"], |reference| put(reference, "apiVersion", "v1"));
    at(source, &["resourceFieldRef"], |reference| put(reference, "divisor", "0"));
}

fn volume(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|v| v.iter().any(|(k, v)| k != "name" && !v.is_null()));
    if !has_source {
        ensure(volume, "emptyDir");
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        at(volume, &[name], |source| put(source, "defaultMode", 0o644));
    }
    at(volume, &["downwardAPI"], |source| each(source, "items", source_refs));
    at(volume, &["hostPath"], |source| put(source, "type", ""));
    at(volume, &["projected"], |projected| each(projected, "sources", projection));
    at(volume, &["ephemeral", "volumeClaimTemplate", "spec"], |spec| put(spec, "volumeMode", "Filesystem"));
    at(volume, &["iscsi"], |source| put(source, "iscsiInterface", "default"));
    at(volume, &["image"], |image| {
        let policy =
            if is_latest(image["reference"].as_str().unwrap_or("")) { "Always" } else { "IfNotPresent" };
        put(image, "pullPolicy", policy);
    });
}

fn projection(source: &mut Value) {
    at(source, &["serviceAccountToken"], |token| put(token, "expirationSeconds", 3600));
    at(source, &["downwardAPI"], |source| each(source, "items", source_refs));
}

/// Who limits a resource and does not say how much of it is needed needs all of it.
fn request_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    let requests = ensure(&mut container["resources"], "requests");
    for (name, amount) in limits {
        put(requests, &name, amount);
    }
}

/// A pod that limits what it uses as a whole asks for what its containers ask for together, or else for its limit.
/// Huge pages are limited for the whole pod as they are for its containers.
fn fill_pod_resources(spec: &mut Value) {
    let Ok(pod) = PodSpec::deserialize(&*spec) else { return };
    let is_given = |part: &str| !is_empty(spec["resources"].get(part));
    let (has_limits, has_requests) = (is_given("limits"), is_given("requests"));
    let resources = &mut spec["resources"];
    let pages = pods::container_limits(&pod).into_iter().filter(|(name, _)| is_huge_page(name));
    for (name, amount) in pages.filter(|_| has_limits || has_requests) {
        if resources["requests"].get(&name).is_none() {
            put(ensure(resources, "limits"), &name, amount.to_string());
        }
    }
    if !has_limits {
        return;
    }
    let limits = resources["limits"].as_object().cloned().unwrap_or_default();
    let requests = ensure(resources, "requests");
    for (name, amount) in pods::container_requests(&pod) {
        if matches!(name.as_str(), "cpu" | "memory") {
            put(requests, &name, amount.to_string());
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || is_huge_page(&name) {
            put(requests, &name, amount);
        }
    }
    if is_empty(resources.get("requests"))
        && let Some(resources) = resources.as_object_mut()
    {
        resources.shift_remove("requests");
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn host_ports(container: &mut Value) {
    each(container, "ports", |port| {
        if port.get("hostPort").is_none_or(|p| p.is_null() || *p == 0) {
            port["hostPort"] = port["containerPort"].clone();
        }
    });
}
