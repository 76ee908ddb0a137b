//! Nodes: taints that differ, and a spec of which little changes.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::fields::is_same;
use super::quantities::{amounts, check_amount, check_name};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

pub(super) fn node(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let mut seen = BTreeSet::new();
    for (path, taint) in indexed(spec, "spec", "taints") {
        let text_of = |field: &str| taint[field].as_str().unwrap_or_default();
        invalid_all(
            names::check_label_value(text_of("value")),
            &format!("{path}.value"),
            text_of("value"),
            errors,
        );
        if !seen.insert((text_of("key"), text_of("effect"))) {
            errors.push(FieldError::duplicate(path, taint.clone()));
        }
    }
    let ranges = items(&spec["podCIDRs"]);
    let families: Vec<bool> =
        ranges.iter().filter_map(Value::as_str).map(|range| range.contains(':')).collect();
    if families.len() > 2 || matches!(families.as_slice(), [a, b] if a == b) {
        let why = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid("spec.podCIDRs", spec["podCIDRs"].clone(), why));
    }
    if let Some(old) = check.old {
        validate_change(spec, &old["spec"], errors);
    }
}

/// Fields that are set once, what may change at any time, and nothing else.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    for (field, why) in [
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        if !is_same(&old[field], &Value::Null) && new[field] != old[field] {
            errors.push(FieldError::forbidden(format!("spec.{field}"), why));
        }
    }
    let may_change = ["podCIDR", "podCIDRs", "providerID", "taints", "unschedulable", "configSource"];
    let rest = |spec: &Value| {
        let mut rest = spec.as_object().cloned().unwrap_or_default();
        rest.retain(|field, _| !may_change.contains(&field.as_str()));
        rest
    };
    if rest(new) != rest(old) {
        let why = "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)";
        errors.push(FieldError::forbidden("spec", why));
    }
}

pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    let status = &check.new["status"];
    let mut seen = BTreeSet::new();
    for (path, address) in indexed(status, "status", "addresses") {
        let kind = text(address, "type").unwrap_or_default();
        if !seen.insert((kind, text(address, "address").unwrap_or_default())) {
            errors.push(FieldError::duplicate(path, address.clone()));
        }
    }
    for field in ["capacity", "allocatable"] {
        for (path, name, value) in amounts(&status[field], &format!("status.{field}")) {
            check_name(name, &path, errors);
            check_amount(name, value, &path, errors);
        }
    }
}
