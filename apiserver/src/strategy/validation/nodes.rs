//! Nodes: taints that differ, and a spec of which little changes.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::fields::is_same;
use super::quantities::check_amount;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

pub(super) fn node(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_taints(spec, errors);
    validate_amounts(&check.new["status"], errors);
    let ranges = items(&spec["podCIDRs"]);
    let families: Vec<bool> =
        ranges.iter().filter_map(Value::as_str).map(|range| range.contains(':')).collect();
    if families.len() > 2 || matches!(families.as_slice(), [a, b] if a == b) {
        let why = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid("spec.podCIDRs", spec["podCIDRs"].clone(), why));
    }
    if let Some(old) = check.old {
        // A change is looked at twice, as in Kubernetes.
        validate_taints(spec, errors);
        validate_addresses(&check.new["status"], errors);
        validate_change(spec, &old["spec"], errors);
    }
}

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Kubernetes speaks of taints as of metadata.
fn validate_taints(spec: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, taint) in indexed(spec, "metadata", "taints") {
        let text_of = |field: &str| taint[field].as_str().unwrap_or_default();
        let (key, value, effect) = (text_of("key"), text_of("value"), text_of("effect"));
        invalid_all(names::check_label_key(key), &format!("{path}.key"), key, errors);
        let wrong = names::check_label_value(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.value"), value, wrong.join(";")));
        }
        let at = format!("{path}.effect");
        match effect {
            "" => errors.push(FieldError::required(at, "")),
            effect if !EFFECTS.contains(&effect) => {
                errors.push(FieldError::not_supported(at, effect, EFFECTS));
            }
            _ => {}
        }
        if !seen.insert((key, effect)) {
            errors.push(FieldError::duplicate(path, taint.clone()));
        }
    }
}

/// Fields that are set once; all others may change.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    for (field, why) in [
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        if !is_same(&old[field], &Value::Null) && new[field] != old[field] {
            errors.push(FieldError::forbidden(format!("spec.{field}"), why));
        }
    }
    if new["externalID"] != old["externalID"] {
        errors.push(FieldError::forbidden("spec.externalID", "may not be updated"));
    }
}

pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    validate_amounts(&check.new["status"], errors);
    validate_addresses(&check.new["status"], errors);
}

fn validate_addresses(status: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, address) in indexed(status, "status", "addresses") {
        let kind = text(address, "type").unwrap_or_default();
        if !seen.insert((kind, text(address, "address").unwrap_or_default())) {
            errors.push(FieldError::duplicate(path, address.clone()));
        }
    }
}

fn validate_amounts(status: &Value, errors: &mut Errors) {
    for field in ["capacity", "allocatable"] {
        for (name, value) in status[field].as_object().into_iter().flatten() {
            check_amount(name, value, &format!("status.{field}.{name}"), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    #[test]
    fn a_nodes_mistakes_are_named_by_their_path() {
        let of = |node: Value| paths("", "nodes", "", &node, None);
        let tainted = |taints: Value| json!({"spec": {"taints": taints}});
        let cases = [
            (json!({}), vec![]),
            (tainted(json!([{"key": "a", "effect": "NoSchedule"}])), vec![]),
            (tainted(json!([{"key": "a b", "effect": "NoSchedule"}])), vec!["metadata.taints[0].key"]),
            (tainted(json!([{"key": "a"}])), vec!["metadata.taints[0].effect"]),
            (tainted(json!([{"key": "a", "effect": "Odd"}])), vec!["metadata.taints[0].effect"]),
            (
                tainted(
                    json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]),
                ),
                vec!["metadata.taints[1]"],
            ),
            (json!({"status": {"capacity": {"cpu": "-1"}}}), vec!["status.capacity.cpu"]),
        ];
        for (node, expected) in cases {
            assert_eq!(of(node.clone()), expected, "{node}");
        }
    }

    #[test]
    fn a_changed_nodes_taints_are_looked_at_twice() {
        let odd = json!({"spec": {"taints": [{"key": "a", "effect": "Odd"}]}});
        assert_eq!(paths("", "nodes", "", &odd, Some(&json!({}))), ["metadata.taints[0].effect"; 2]);
    }
}
