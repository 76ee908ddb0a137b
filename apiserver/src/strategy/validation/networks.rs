//! Network policies, and the addresses and ranges that services take theirs from.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::addresses::{Range, check_canonical_cidr, check_canonical_ip, check_cidr};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, port_number, selector, text};

pub(super) fn policy(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (path, rule) in indexed(spec, "spec", direction) {
            for (path, port) in indexed(rule, &path, "ports") {
                validate_port(port, &path, errors);
            }
            for (path, peer) in indexed(rule, &path, peers) {
                validate_peer(peer, &path, errors);
            }
        }
    }
    let types = items(&spec["policyTypes"]);
    if types.len() > POLICY_TYPES.len() {
        let why = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid("spec.policyTypes", spec["policyTypes"].clone(), why));
        return;
    }
    for (index, kind) in types.iter().filter_map(Value::as_str).enumerate() {
        if !POLICY_TYPES.contains(&kind) {
            errors.push(FieldError::not_supported(format!("spec.policyTypes[{index}]"), kind, POLICY_TYPES));
        }
    }
}

const POLICY_TYPES: &[&str] = &["Ingress", "Egress"];

fn validate_port(port: &Value, path: &str, errors: &mut Errors) {
    let end = port["endPort"].as_i64();
    let mut wrong_end = |shown: &Value, why: &str| {
        if end.is_some() {
            errors.push(FieldError::invalid(format!("{path}.endPort"), shown.clone(), why));
        }
    };
    match &port["port"] {
        Value::Number(number) => {
            if end.is_some_and(|end| end < number.as_i64().unwrap_or_default()) {
                wrong_end(&port["port"], "must be greater than or equal to `port`");
            }
            port_number(&port["port"], &format!("{path}.port"), errors);
            port_number(&port["endPort"], &format!("{path}.endPort"), errors);
        }
        Value::String(name) => {
            wrong_end(&port["endPort"], "may not be specified when `port` is non-numeric");
            invalid_all(names::check_port_name(name), &format!("{path}.port"), name, errors);
        }
        _ => wrong_end(&port["endPort"], "may not be specified when `port` is not specified"),
    }
}

fn validate_peer(peer: &Value, path: &str, errors: &mut Errors) {
    let selectors = ["podSelector", "namespaceSelector"];
    let given = selectors.iter().filter(|field| peer[**field].is_object());
    for field in given.clone() {
        selector(&peer[*field], &format!("{path}.{field}"), errors);
    }
    let block = &peer["ipBlock"];
    if block.is_object() {
        validate_block(block, &format!("{path}.ipBlock"), errors);
    }
    match (given.count(), block.is_object()) {
        (0, false) => errors.push(FieldError::required(path, "must specify a peer")),
        (1.., true) => {
            errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        _ => {}
    }
}

fn validate_block(block: &Value, path: &str, errors: &mut Errors) {
    let Some(cidr) = text(block, "cidr") else {
        errors.push(FieldError::required(format!("{path}.cidr"), ""));
        return;
    };
    check_cidr(cidr, &format!("{path}.cidr"), errors);
    let Some(range) = Range::parse(cidr) else { return };
    for (path, except) in indexed(block, path, "except") {
        let except = except.as_str().unwrap_or_default();
        check_cidr(except, &path, errors);
        if Range::parse(except).is_some_and(|except| !range.strictly_contains(&except)) {
            errors.push(FieldError::invalid(path, except, "must be a strict subset of `cidr`"));
        }
    }
}

pub(super) fn ip_address(check: &Check<'_>, errors: &mut Errors) {
    if let Some(name) = text(&check.new["metadata"], "name") {
        check_canonical_ip(name, "metadata.name", errors);
    }
}

pub(super) fn service_cidr(check: &Check<'_>, errors: &mut Errors) {
    let cidrs = items(&check.new["spec"]["cidrs"]);
    let path = "spec.cidrs";
    let before = check.old.map(|old| items(&old["spec"]["cidrs"]));
    match before.map(<[Value]>::len) {
        Some(count) if count == cidrs.len() || (count, cidrs.len()) == (1, 2) => {
            for (index, old) in before.into_iter().flatten().enumerate() {
                if cidrs.get(index).is_some_and(|cidr| cidr != old) {
                    errors.push(FieldError::immutable(format!("{path}[{index}]"), cidrs[index].clone()));
                }
            }
            if count == cidrs.len() {
                return;
            }
        }
        Some(_) => {
            errors.push(FieldError::immutable(path, check.new["spec"]["cidrs"].clone()));
            return;
        }
        None => {}
    }
    validate_cidrs(cidrs, path, errors);
}

fn validate_cidrs(cidrs: &[Value], path: &str, errors: &mut Errors) {
    match cidrs {
        [] => errors.push(FieldError::required(path, "at least one CIDR required")),
        [_, _, _, ..] => {
            let why = "may only hold up to 2 values";
            errors.push(FieldError::invalid(path, cidrs.to_vec(), why));
        }
        few => {
            for (index, cidr) in few.iter().filter_map(Value::as_str).enumerate() {
                check_canonical_cidr(cidr, &format!("{path}[{index}]"), errors);
            }
            let ranges: Vec<Range> =
                few.iter().filter_map(|cidr| cidr.as_str().and_then(Range::parse)).collect();
            if let [a, b] = ranges.as_slice()
                && a.is_ipv4() == b.is_ipv4()
            {
                let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.push(FieldError::invalid(path, cidrs.to_vec(), why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    #[test]
    fn a_policys_mistakes_are_named_by_their_path() {
        let of =
            |spec: Value| paths("networking.k8s.io", "networkpolicies", "", &json!({ "spec": spec }), None);
        let cases = [
            (json!({"podSelector": {}}), vec![]),
            (json!({"policyTypes": ["Odd"]}), vec!["spec.policyTypes[0]"]),
            (json!({"policyTypes": ["Ingress", "Egress", "Ingress"]}), vec!["spec.policyTypes"]),
            (json!({"ingress": [{"from": [{}]}]}), vec!["spec.ingress[0].from[0]"]),
            (
                json!({"ingress": [{"from": [{"ipBlock": {"cidr": "x"}}]}]}),
                vec!["spec.ingress[0].from[0].ipBlock.cidr"],
            ),
            (
                json!({"egress": [{"to": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}),
                vec!["spec.egress[0].to[0].ipBlock.except[0]", "spec.egress[0].to[0]"],
            ),
            (
                json!({"egress": [{"ports": [{"port": 90, "endPort": 80}]}]}),
                vec!["spec.egress[0].ports[0].endPort"],
            ),
            (
                json!({"egress": [{"ports": [{"port": "web", "endPort": 80}]}]}),
                vec!["spec.egress[0].ports[0].endPort"],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(of(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn ranges_of_services_stay_and_may_get_the_other_family() {
        let of = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        let check =
            |new: &Value, old: Option<&Value>| paths("networking.k8s.io", "servicecidrs", "", new, old);
        let four = of(json!(["10.0.0.0/16"]));
        assert!(check(&four, None).is_empty());
        assert_eq!(check(&of(json!([])), None), ["spec.cidrs"]);
        assert_eq!(check(&of(json!(["10.0.0.1/16"])), None), ["spec.cidrs[0]"]);
        assert_eq!(check(&of(json!(["10.0.0.0/16", "10.1.0.0/16"])), None), ["spec.cidrs"]);
        assert!(check(&of(json!(["10.0.0.0/16", "fd00::/64"])), Some(&four)).is_empty());
        assert_eq!(check(&of(json!(["10.1.0.0/16"])), Some(&four)), ["spec.cidrs[0]"]);
    }
}
