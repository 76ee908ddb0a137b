//! Warnings about services and what stands beside pods.

use std::net::IpAddr;

use serde_json::Value;

use crate::strategy::rules::{indexed, items, text};

pub(super) fn service(service: &Value, out: &mut Vec<String>) {
    let spec = &service["spec"];
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    if !service["metadata"]["annotations"][HINTS].is_null() {
        let mode = "service.kubernetes.io/topology-mode";
        out.push(format!("annotation {HINTS} is deprecated, please use {mode} instead"));
    }
    let is_name = spec["type"] == "ExternalName";
    let is_headless = spec["type"] == "ClusterIP" && spec["clusterIP"] == "None";
    let has_external = !items(&spec["externalIPs"]).is_empty();
    if !is_headless && !is_name {
        addresses(spec, "clusterIPs", out);
    }
    if is_headless {
        let ignored = [
            (text(spec, "loadBalancerIP").is_some(), "spec.loadBalancerIP"),
            (has_external, "spec.externalIPs"),
            (spec["sessionAffinity"] == "ClientIP", "spec.SessionAffinity"),
        ];
        out.extend(
            ignored
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, field)| format!("{field} is ignored for headless services")),
        );
    }
    addresses(spec, "externalIPs", out);
    if has_external && !is_headless && !is_name {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if let Some(ip) = text(spec, "loadBalancerIP") {
        out.extend(address(ip, "spec.loadBalancerIP"));
    }
    if is_name && has_external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_name && text(spec, "externalName").is_some() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        out.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
}

fn addresses(object: &Value, field: &str, out: &mut Vec<String>) {
    for (path, value) in indexed(object, "spec", field) {
        out.extend(value.as_str().and_then(|text| address(text, &path)));
    }
}

/// Addresses that are written in another form than the usual one.
fn address(value: &str, path: &str) -> Option<String> {
    let ip: IpAddr = value.parse().ok()?;
    let usual = ip.to_string();
    (ip.is_ipv6() && usual != value)
        .then(|| format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({usual:?})"))
}

pub(super) fn endpoints(endpoints: &Value, out: &mut Vec<String>) {
    for (path, subset) in indexed(endpoints, "", "subsets") {
        for list in ["addresses", "notReadyAddresses"] {
            for (path, entry) in indexed(subset, &path, list) {
                out.extend(text(entry, "ip").and_then(|ip| address(ip, &format!("{path}.ip"))));
            }
        }
    }
}

pub(super) fn ingress(ingress: &Value, out: &mut Vec<String>) {
    const CLASS: &str = "kubernetes.io/ingress.class";
    if !ingress["metadata"]["annotations"][CLASS].is_null() {
        out.push(format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"));
    }
}

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn claim(claim: &Value, out: &mut Vec<String>) {
    let annotations = &claim["metadata"]["annotations"];
    if !annotations[CLASS].is_null() {
        out.push(format!(
            "metadata.annotations[{CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    let storage = claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or("0");
    if api_types::quantity::Quantity::parse(storage).is_ok_and(|amount| amount.milli() % 1000 != 0) {
        let path = "spec.resources.requests[storage]";
        out.push(format!("{path}: fractional byte value {storage:?} is invalid, must be an integer"));
    }
}

pub(super) fn volume(volume: &Value, out: &mut Vec<String>) {
    let annotations = &volume["metadata"]["annotations"];
    if !annotations[CLASS].is_null() {
        out.push(format!(
            "metadata.annotations[{CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    const OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
    if !annotations[OPTIONS].is_null() {
        out.push(format!(
            "metadata.annotations[{OPTIONS}]: deprecated since v1.31; use \"mountOptions\" attribute instead"
        ));
    }
    let spec = &volume["spec"];
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    for (source, why) in [
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if spec[source].is_object() {
            let shown = if source == "storageos" { "storageOS" } else { source };
            out.push(format!("spec.{shown}: {why}"));
        }
    }
    let terms = &spec["nodeAffinity"]["required"];
    for (path, term) in indexed(terms, "spec.nodeAffinity.required", "nodeSelectorTerms") {
        super::pods::node_term(term, &path, out);
    }
}

pub(super) fn storage_class(class: &Value, out: &mut Vec<String>) {
    for (path, term) in indexed(class, "", "allowedTopologies") {
        super::pods::topology_term(term, &path, out);
    }
}
