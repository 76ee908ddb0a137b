//! Services: ports, which fields go with which type, and addresses that stay.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api_types::names;
use api_types::status::FieldError;
use serde_json::{Value, json};

use super::Check;
use super::addresses::{NOT_AN_IP, check_cidr, check_not_special};
use crate::strategy::metadata::check_labels;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, one_of, port_number, port_or_name, text};

pub(super) fn service(check: &Check<'_>, errors: &mut Errors) {
    validate_annotations(check.new, errors);
    validate(&check.new["spec"], errors);
    if let Some(old) = check.old {
        validate_change(&check.new["spec"], &old["spec"], errors);
    }
}

/// What a load balancer says of itself belongs to a Service that has one.
pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    let path = "status.loadBalancer.ingress";
    let points = items(&check.new["status"]["loadBalancer"]["ingress"]);
    if !points.is_empty() && check.new["spec"]["type"] != "LoadBalancer" {
        errors.push(FieldError::forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'"));
    }
    for (index, point) in points.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match (text(point, "ip").is_some(), point["ipMode"].is_null()) {
            (true, true) => {
                errors.push(FieldError::required(
                    format!("{path}.ipMode"),
                    "must be specified when `ip` is set",
                ));
            }
            (false, false) => {
                let why = "may not be specified when `ip` is not set";
                errors.push(FieldError::forbidden(format!("{path}.ipMode"), why));
            }
            _ => {}
        }
        if let Some(name) = text(point, "hostname").filter(|name| name.parse::<IpAddr>().is_ok()) {
            let why = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(format!("{path}.hostname"), name, why));
        }
    }
}

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Annotations from before there were fields for them.
fn validate_annotations(service: &Value, errors: &mut Errors) {
    let annotation = |key: &str| service["metadata"]["annotations"][key].as_str();
    if let (Some(mode), Some(hints)) = (annotation(TOPOLOGY_MODE), annotation(TOPOLOGY_HINTS))
        && mode != hints
    {
        let why = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.push(FieldError::invalid(format!("metadata.annotations[{TOPOLOGY_MODE}]"), mode, why));
    }
    let has_field = !items(&service["spec"]["loadBalancerSourceRanges"]).is_empty();
    let Some(ranges) = annotation(SOURCE_RANGES).filter(|_| !has_field) else { return };
    let path = format!("metadata.annotations[{SOURCE_RANGES}]");
    if service["spec"]["type"] != "LoadBalancer" {
        errors.push(FieldError::forbidden(&path, BALANCER_ONLY));
    }
    for range in ranges.trim().split(',').filter(|_| !ranges.trim().is_empty()) {
        check_cidr(range.trim(), &path, errors);
    }
}

fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    validate_address_change(new, old, errors);
    let both_balanced = old["type"] == "LoadBalancer" && new["type"] == "LoadBalancer";
    if both_balanced && old["loadBalancerClass"] != new["loadBalancerClass"] {
        let shown = new["loadBalancerClass"].clone();
        errors.push(FieldError::invalid("spec.loadBalancerClass", shown, "may not change once set"));
    }
    let checked = |spec: &Value| spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    if checked(old) && checked(new) && old["healthCheckNodePort"] != new["healthCheckNodePort"] {
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
}

/// Addresses and families stay while the service has any; only one that is headless may change its families.
fn validate_address_change(new: &Value, old: &Value, errors: &mut Errors) {
    if new["type"] == "ExternalName" || old["type"] == "ExternalName" {
        return;
    }
    let [is, was] = [new, old].map(|spec| &spec["clusterIPs"]);
    let is_headless = |addresses: &Value| items(addresses) == [json!("None")];
    for (index, _) in items(was).iter().zip(items(is)).enumerate().filter(|(_, (was, is))| was != is) {
        let path = format!("spec.clusterIPs[{index}]");
        errors.push(FieldError::invalid(path, is.clone(), "may not change once set"));
    }
    let [is, was] = [new, old].map(|spec| &spec["ipFamilies"]);
    if is_headless(&new["clusterIPs"]) || is_headless(&old["clusterIPs"]) {
        return;
    }
    for _ in items(was).iter().zip(items(is)).filter(|(was, is)| was != is) {
        errors.push(FieldError::invalid("spec.ipFamilies[0]", is.clone(), "may not change once set"));
    }
}

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn validate(spec: &Value, errors: &mut Errors) {
    let kind = spec["type"].as_str().unwrap_or("ClusterIP");
    one_of(spec, "spec", "type", TYPES, errors);
    one_of(spec, "spec", "internalTrafficPolicy", &["Cluster", "Local"], errors);
    one_of(spec, "spec", "trafficDistribution", &["PreferClose", "PreferSameZone", "PreferSameNode"], errors);
    check_labels("spec.selector", &spec["selector"], errors);
    validate_ports(spec, kind, errors);
    validate_affinity(spec, errors);
    match kind {
        "ExternalName" => validate_external_name(spec, errors),
        "NodePort" | "LoadBalancer" if spec["clusterIP"] == "None" => {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", why));
        }
        _ => {}
    }
    validate_traffic(spec, kind, errors);
    validate_balancer(spec, kind, errors);
    validate_addresses(spec, errors);
    validate_external_ips(spec, errors);
}

fn validate_affinity(spec: &Value, errors: &mut Errors) {
    one_of(spec, "spec", "sessionAffinity", &["ClientIP", "None"], errors);
    let (config, path) = (&spec["sessionAffinityConfig"], "spec.sessionAffinityConfig");
    if spec["sessionAffinity"] == "None" && config.is_object() {
        let why = "must not be set when session affinity is None";
        errors.push(FieldError::forbidden(path, why));
    }
    let timeout = &config["clientIP"]["timeoutSeconds"];
    if let Some(seconds) = timeout.as_i64().filter(|s| !(1..=86400).contains(s)) {
        let why = "must be greater than 0 and less than 86400";
        errors.push(FieldError::invalid(format!("{path}.clientIP.timeoutSeconds"), seconds, why));
    }
}

fn validate_external_name(spec: &Value, errors: &mut Errors) {
    match text(spec, "externalName") {
        None => errors.push(FieldError::required("spec.externalName", "")),
        Some(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            invalid_all(names::check_dns_subdomain(name), "spec.externalName", name, errors);
        }
    }
    let why = "may not be set for ExternalName services";
    if !items(&spec["clusterIPs"]).is_empty() || text(spec, "clusterIP").is_some() {
        errors.push(FieldError::forbidden("spec.clusterIPs", why));
    }
    for field in ["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|field| !spec[*field].is_null()) {
        errors.push(FieldError::forbidden(format!("spec.{field}"), why));
    }
}

fn validate_traffic(spec: &Value, kind: &str, errors: &mut Errors) {
    let is_external = matches!(kind, "NodePort" | "LoadBalancer") || !items(&spec["externalIPs"]).is_empty();
    match (text(spec, "externalTrafficPolicy"), is_external) {
        (Some(policy), true) if !matches!(policy, "Cluster" | "Local") => {
            let known = ["Cluster", "Local"];
            errors.push(FieldError::not_supported("spec.externalTrafficPolicy", policy, &known));
        }
        (Some(policy), false) => {
            let why = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid("spec.externalTrafficPolicy", policy, why));
        }
        _ => {}
    }
    let is_checked = kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    if let Some(port) = spec["healthCheckNodePort"].as_i64().filter(|p| *p != 0 && !is_checked) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", port, why));
    }
}

const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

fn validate_balancer(spec: &Value, kind: &str, errors: &mut Errors) {
    let ranges = items(&spec["loadBalancerSourceRanges"]);
    if kind != "LoadBalancer" {
        if !ranges.is_empty() {
            errors.push(FieldError::forbidden("spec.LoadBalancerSourceRanges", BALANCER_ONLY));
        }
        for field in ["loadBalancerClass", "allocateLoadBalancerNodePorts"] {
            if !spec[field].is_null() {
                errors.push(FieldError::forbidden(format!("spec.{field}"), BALANCER_ONLY));
            }
        }
    }
    for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
        check_cidr(range.trim(), &format!("spec.LoadBalancerSourceRanges[{index}]"), errors);
    }
    if let Some(class) = text(spec, "loadBalancerClass").filter(|_| kind == "LoadBalancer") {
        invalid_all(names::check_label_key(class), "spec.loadBalancerClass", class, errors);
    }
}

/// Cluster addresses and their families. Also looked at before addresses are given.
pub(in crate::strategy) fn validate_addresses(spec: &Value, errors: &mut Errors) {
    if spec["type"] == "ExternalName" {
        return;
    }
    let listed = &spec["clusterIPs"];
    let addresses: Vec<&str> = items(listed).iter().filter_map(Value::as_str).collect();
    let mut wrong = |why: &str| errors.push(FieldError::invalid("spec.clusterIPs", listed.clone(), why));
    match (text(spec, "clusterIP"), addresses.first()) {
        (Some(_), None) => errors.push(FieldError::required("spec.clusterIPs", "")),
        (Some(one), Some(first)) if one != *first => wrong("first value must match `clusterIP`"),
        (None, Some(_)) => wrong("must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    validate_families(spec, errors);
    if !validate_each_address(&addresses, listed, errors) {
        return;
    }
    let are_alike = match addresses.as_slice() {
        [_] | [] => false,
        [a, b] => a.contains(':') == b.contains(':'),
        _ => true,
    };
    if are_alike {
        let why = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid("spec.clusterIPs", listed.clone(), why));
    }
    validate_address_families(spec, &addresses, errors);
}

/// Whether each is an address, or the first and only one the word that there is none.
fn validate_each_address(addresses: &[&str], listed: &Value, errors: &mut Errors) -> bool {
    let before = errors.len();
    for (index, address) in addresses.iter().enumerate() {
        if index == 0 && *address == "None" {
            if addresses.len() > 1 {
                let why = "'None' must be the first and only value";
                errors.push(FieldError::invalid("spec.clusterIPs", listed.clone(), why));
            }
        } else if address.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), *address, NOT_AN_IP));
        }
    }
    let are_addresses = errors.len() == before;
    if addresses.len() > 2 {
        let why = "may only hold up to 2 values";
        errors.push(FieldError::invalid("spec.clusterIPs", listed.clone(), why));
    }
    are_addresses
}

fn validate_families(spec: &Value, errors: &mut Errors) {
    let families: Vec<&str> = items(&spec["ipFamilies"]).iter().filter_map(Value::as_str).collect();
    for (index, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        if !matches!(*family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&path, *family, &["IPv4", "IPv6"]));
        }
        if families[..index].contains(family) {
            errors.push(FieldError::duplicate(path, *family));
        }
    }
    one_of(spec, "spec", "ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
}

fn validate_address_families(spec: &Value, addresses: &[&str], errors: &mut Errors) {
    let families = items(&spec["ipFamilies"]).iter().filter_map(Value::as_str);
    for (index, (family, address)) in families.zip(addresses).enumerate() {
        let Ok(ip) = address.parse::<IpAddr>() else { continue };
        if matches!(family, "IPv4" | "IPv6") && (family == "IPv4") != ip.is_ipv4() {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), *address, why));
        }
    }
}

fn validate_external_ips(spec: &Value, errors: &mut Errors) {
    for (index, address) in items(&spec["externalIPs"]).iter().filter_map(Value::as_str).enumerate() {
        check_not_special(address, &format!("spec.externalIPs[{index}]"), errors);
    }
}

fn validate_ports(spec: &Value, kind: &str, errors: &mut Errors) {
    let ports = items(&spec["ports"]);
    if ports.is_empty() && kind != "ExternalName" && spec["clusterIP"] != "None" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let (mut names_seen, mut seen, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (path, port) in indexed(spec, "spec", "ports") {
        match text(port, "name") {
            None if ports.len() > 1 => errors.push(FieldError::required(format!("{path}.name"), "")),
            None => {}
            Some(name) => {
                invalid_all(names::check_dns_label(name), &format!("{path}.name"), name, errors);
                if !names_seen.insert(name) {
                    errors.push(FieldError::duplicate(format!("{path}.name"), name));
                }
            }
        }
        validate_port(port, kind, &path, errors);
        let protocol = port["protocol"].as_str().unwrap_or_default();
        if port["nodePort"].as_i64().is_some_and(|p| p != 0)
            && !node_ports.insert((protocol, port["nodePort"].to_string()))
        {
            errors.push(FieldError::duplicate(format!("{path}.nodePort"), port["nodePort"].clone()));
        }
        if !seen.insert((protocol, port["port"].to_string())) {
            let shown = json!({"port": port["port"], "protocol": port["protocol"]});
            errors.push(FieldError::duplicate(path, shown));
        }
    }
}

fn validate_port(port: &Value, kind: &str, path: &str, errors: &mut Errors) {
    port_number(&port["port"], &format!("{path}.port"), errors);
    one_of(port, path, "protocol", &["SCTP", "TCP", "UDP"], errors);
    if !port["targetPort"].is_null() {
        port_or_name(&port["targetPort"], &format!("{path}.targetPort"), errors);
    }
    if let Some(protocol) = port["appProtocol"].as_str() {
        invalid_all(names::check_label_key(protocol), &format!("{path}.appProtocol"), protocol, errors);
    }
    if port["nodePort"].as_i64().is_some_and(|p| p != 0) && kind == "ClusterIP" {
        let why = "may not be used when `type` is 'ClusterIP'";
        errors.push(FieldError::forbidden(format!("{path}.nodePort"), why));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::paths;
    use super::*;

    #[test]
    fn a_balancers_status_and_annotations_belong_to_services_with_one() {
        let service = |kind: &str, ingress: Value| json!({"metadata": {"annotations": {SOURCE_RANGES: "x"}}, "spec": {"type": kind, "clusterIP": "None", "clusterIPs": ["None"]}, "status": {"loadBalancer": {"ingress": [ingress]}}});
        let path = "status.loadBalancer.ingress";
        for (kind, point, wrong) in [
            ("LoadBalancer", json!({"ip": "10.0.0.1", "ipMode": "VIP"}), vec![]),
            ("LoadBalancer", json!({"ip": "10.0.0.1"}), vec![format!("{path}[0].ipMode")]),
            ("LoadBalancer", json!({"hostname": "10.0.0.1"}), vec![format!("{path}[0].hostname")]),
            ("ClusterIP", json!({"hostname": "a"}), vec![path.to_owned()]),
        ] {
            assert_eq!(paths("", "services", "status", &service(kind, point), None), wrong, "{kind}");
        }
        let annotation = format!("metadata.annotations[{SOURCE_RANGES}]");
        assert_eq!(
            paths("", "services", "", &service("ClusterIP", json!({})), None),
            [annotation.clone(), annotation]
        );
    }

    #[test]
    fn mistakes_are_named_by_their_path() {
        let ports = json!([{"port": 80, "protocol": "TCP"}]);
        let with = |extra: Value| {
            let mut spec = json!({"type": "ClusterIP", "ports": ports});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        let cases = [
            (with(json!({})), vec![]),
            (json!({"type": "Nope", "ports": [{"port": 80}]}), vec!["spec.type"]),
            (json!({"type": "ClusterIP"}), vec!["spec.ports"]),
            (json!({"type": "ExternalName"}), vec!["spec.externalName"]),
            (
                json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30000}]}),
                vec!["spec.ports[0].nodePort"],
            ),
            (json!({"type": "ClusterIP", "ports": [{"port": 0}]}), vec!["spec.ports[0].port"]),
            (json!({"ports": [{"port": 1, "name": "a"}, {"port": 2}]}), vec!["spec.ports[1].name"]),
            (json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}), vec!["spec.ports[1]"]),
            (
                json!({"ports": [{"port": 1, "targetPort": "a_b", "appProtocol": "a b"}]}),
                vec!["spec.ports[0].targetPort", "spec.ports[0].appProtocol"],
            ),
            (
                with(json!({"sessionAffinity": "None", "sessionAffinityConfig": {}})),
                vec!["spec.sessionAffinityConfig"],
            ),
            (with(json!({"loadBalancerClass": "a/b"})), vec!["spec.loadBalancerClass"]),
            (
                with(json!({"loadBalancerSourceRanges": ["x"]})),
                vec!["spec.LoadBalancerSourceRanges", "spec.LoadBalancerSourceRanges[0]"],
            ),
            (
                with(json!({"externalIPs": ["0.0.0.0", "nope"]})),
                vec!["spec.externalIPs[0]", "spec.externalIPs[1]"],
            ),
            (
                with(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]})),
                vec!["spec.clusterIPs"],
            ),
            (with(json!({"clusterIPs": ["10.0.0.1"]})), vec!["spec.clusterIPs"]),
            (with(json!({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.2"]})), vec!["spec.clusterIPs"]),
            (with(json!({"ipFamilies": ["IPv4", "IPv4"]})), vec!["spec.ipFamilies[1]"]),
            (
                with(json!({"ipFamilies": ["IPv6"], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]})),
                vec!["spec.clusterIPs[0]"],
            ),
            (
                json!({"type": "ExternalName", "externalName": "a.", "ports": [{"port": 1, "nodePort": 2}]}),
                vec![],
            ),
        ];
        for (spec, expected) in cases {
            let mut errors = Errors::new();
            validate(&spec, &mut errors);
            assert_eq!(errors.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), expected, "{spec}");
        }
    }
}
