//! Endpoints of services, in slices and in the older form.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::addresses::{NOT_AN_IP, check_ip, check_not_special};
use crate::strategy::rules::{
    Errors, immutable, indexed, invalid_all, items, one_of, port_number, required, text,
};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

pub(super) fn slice(check: &Check<'_>, errors: &mut Errors) {
    let slice = check.new;
    required(slice, "", "addressType", errors);
    if text(slice, "addressType").is_some() {
        one_of(slice, "", "addressType", &["FQDN", "IPv4", "IPv6"], errors);
    }
    let count = items(&slice["endpoints"]).len();
    if count > ENDPOINTS_MAX {
        errors.push(FieldError::too_many("endpoints", count, ENDPOINTS_MAX));
    } else {
        for (path, endpoint) in indexed(slice, "", "endpoints") {
            validate_endpoint(slice, endpoint, &path, errors);
        }
    }
    validate_ports(slice, errors);
    if let Some(old) = check.old {
        immutable(slice, old, "addressType", errors);
    }
}

type NameCheck = fn(&str) -> Vec<String>;

fn validate_endpoint(slice: &Value, endpoint: &Value, path: &str, errors: &mut Errors) {
    validate_addresses(slice, endpoint, &format!("{path}.addresses"), errors);
    if let Some(node) = text(endpoint, "nodeName") {
        invalid_all(names::check_dns_subdomain(node), &format!("{path}.nodeName"), node, errors);
    }
    if let Some(host) = endpoint["hostname"].as_str() {
        invalid_all(names::check_dns_label(host), &format!("{path}.hostname"), host, errors);
    }
    if let Some(zone) = endpoint["zone"].as_str() {
        invalid_all(names::check_label_value(zone), &format!("{path}.zone"), zone, errors);
    }
    let (hints, path) = (&endpoint["hints"], format!("{path}.hints"));
    let rules: [(&str, NameCheck); 2] =
        [("forZones", names::check_label_value), ("forNodes", names::check_dns_subdomain)];
    for (field, rule) in rules {
        let count = items(&hints[field]).len();
        if count > HINTS_MAX {
            errors.push(FieldError::too_many(format!("{path}.{field}"), count, HINTS_MAX));
            continue;
        }
        let mut seen = BTreeSet::new();
        for (path, hint) in indexed(hints, &path, field) {
            let name = hint["name"].as_str().unwrap_or_default();
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            invalid_all(rule(name), &format!("{path}.name"), name, errors);
        }
    }
}

fn validate_addresses(slice: &Value, endpoint: &Value, path: &str, errors: &mut Errors) {
    let addresses = items(&endpoint["addresses"]);
    if addresses.is_empty() {
        errors.push(FieldError::required(path, "must contain at least 1 address"));
    }
    if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(path, addresses.len(), ADDRESSES_MAX));
        return;
    }
    let family = slice["addressType"].as_str().unwrap_or_default();
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let at = format!("{path}[{index}]");
        match (family, address.parse::<IpAddr>()) {
            ("FQDN", _) => check_full_domain(address, &at, errors),
            ("IPv4" | "IPv6", Err(_)) => errors.push(FieldError::invalid(at, address, NOT_AN_IP)),
            ("IPv4" | "IPv6", Ok(ip)) if ip.is_ipv4() != (family == "IPv4") => {
                errors.push(FieldError::invalid(path, address, format!("must be an {family} address")));
            }
            ("IPv4" | "IPv6", Ok(_)) => check_not_special(address, &at, errors),
            _ => {}
        }
    }
}

/// Two labels at least, at most with a dot after the last.
fn check_full_domain(name: &str, path: &str, errors: &mut Errors) {
    let wrong = names::check_dns_subdomain(name.strip_suffix('.').unwrap_or(name));
    if !wrong.is_empty() {
        invalid_all(wrong, path, name, errors);
    } else if !name.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, name, why));
    }
}

fn validate_ports(slice: &Value, errors: &mut Errors) {
    let count = items(&slice["ports"]).len();
    if count > PORTS_MAX {
        errors.push(FieldError::too_many("ports", count, PORTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for (path, port) in indexed(slice, "", "ports") {
        let name = port["name"].as_str().unwrap_or_default();
        if !name.is_empty() {
            invalid_all(names::check_dns_label(name), &format!("{path}.name"), name, errors);
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        validate_port(port, &path, errors);
        port_number(&port["port"], &format!("{path}.port"), errors);
    }
}

fn validate_port(port: &Value, path: &str, errors: &mut Errors) {
    one_of(port, path, "protocol", &["SCTP", "TCP", "UDP"], errors);
    if let Some(protocol) = port["appProtocol"].as_str() {
        invalid_all(names::check_label_key(protocol), &format!("{path}.appProtocol"), protocol, errors);
    }
}

pub(super) fn endpoints(check: &Check<'_>, errors: &mut Errors) {
    for (path, subset) in indexed(check.new, "", "subsets") {
        if items(&subset["addresses"]).is_empty() && items(&subset["notReadyAddresses"]).is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (path, address) in indexed(subset, &path, list) {
                validate_address(address, &path, errors);
            }
        }
        let count = items(&subset["ports"]).len();
        for (path, port) in indexed(subset, &path, "ports") {
            match text(port, "name") {
                None if count > 1 => errors.push(FieldError::required(format!("{path}.name"), "")),
                None => {}
                Some(name) => {
                    invalid_all(names::check_dns_label(name), &format!("{path}.name"), name, errors)
                }
            }
            let number = port["port"].as_i64().unwrap_or_default();
            port_number(&number.into(), &format!("{path}.port"), errors);
            validate_port(port, &path, errors);
        }
    }
}

fn validate_address(address: &Value, path: &str, errors: &mut Errors) {
    let ip = address["ip"].as_str().unwrap_or_default();
    let (before, at) = (errors.len(), format!("{path}.ip"));
    check_ip(ip, &at, errors);
    if errors.len() == before {
        check_not_special(ip, &at, errors);
    } else if ip.parse::<IpAddr>().is_err() {
        // Said once more by the check of what kind of address it is.
        errors.push(FieldError::invalid(at, ip, "must be a valid IP address"));
    }
    if let Some(host) = text(address, "hostname") {
        invalid_all(names::check_dns_label(host), &format!("{path}.hostname"), host, errors);
    }
    if let Some(node) = address["nodeName"].as_str() {
        invalid_all(names::check_dns_subdomain(node), &format!("{path}.nodeName"), node, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    #[test]
    fn a_slices_mistakes_are_named_by_their_path() {
        let one = |kind: &str, endpoint: Value| json!({"addressType": kind, "endpoints": [endpoint]});
        let at = |address: &str| one("IPv4", json!({"addresses": [address]}));
        let cases = [
            (at("192.0.2.1"), vec![]),
            (at("2001:db8::1"), vec!["endpoints[0].addresses"]),
            (at("nope"), vec!["endpoints[0].addresses[0]"]),
            (at("127.0.0.1"), vec!["endpoints[0].addresses[0]"]),
            (at("169.254.1.1"), vec!["endpoints[0].addresses[0]"]),
            (json!({}), vec!["addressType"]),
            (json!({"addressType": "Odd"}), vec!["addressType"]),
            (one("IPv4", json!({})), vec!["endpoints[0].addresses"]),
            (one("FQDN", json!({"addresses": ["Bad_name"]})), vec!["endpoints[0].addresses[0]"]),
            (
                one("IPv4", json!({"addresses": ["192.0.2.1"], "nodeName": "A b", "hostname": "A"})),
                vec!["endpoints[0].nodeName", "endpoints[0].hostname"],
            ),
            (
                one("IPv4", json!({"addresses": ["192.0.2.1"], "hints": {"forZones": [{"name": "a b"}]}})),
                vec!["endpoints[0].hints.forZones[0].name"],
            ),
            (
                json!({"addressType": "IPv4", "ports": [{"name": "a", "protocol": "ICMP"}, {"name": "a", "port": 70000}]}),
                vec!["ports[0].protocol", "ports[1].name", "ports[1].port"],
            ),
        ];
        for (slice, expected) in cases {
            assert_eq!(paths("discovery.k8s.io", "endpointslices", "", &slice, None), expected, "{slice}");
        }
    }

    #[test]
    fn a_subsets_mistakes_are_named_by_their_path() {
        let of = |subset: Value| paths("", "endpoints", "", &json!({"subsets": [subset]}), None);
        assert!(of(json!({"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 1}]})).is_empty());
        assert_eq!(of(json!({})), ["subsets[0]"]);
        assert_eq!(of(json!({"addresses": [{"ip": "x"}]})), ["subsets[0].addresses[0].ip"; 2]);
        assert_eq!(
            of(json!({"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 0}, {"name": "a", "port": 1}]})),
            ["subsets[0].ports[0].name", "subsets[0].ports[0].port"]
        );
    }
}
