//! Where pods may run: node selectors, affinity terms, spread over topologies, tolerations.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::{Errors, indexed, invalid_all, items, one_of, selector, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    let (affinity, at) = (&spec["affinity"], format!("{path}.affinity"));
    validate_node_affinity(&affinity["nodeAffinity"], &format!("{at}.nodeAffinity"), errors);
    for field in ["podAffinity", "podAntiAffinity"] {
        validate_pod_affinity(&affinity[field], &format!("{at}.{field}"), errors);
    }
    validate_spread(spec, path, errors);
}

fn validate_node_affinity(affinity: &Value, path: &str, errors: &mut Errors) {
    if affinity[REQUIRED].is_object() {
        validate_node_selector(&affinity[REQUIRED], &format!("{path}.{REQUIRED}"), errors);
    }
    for (path, term) in indexed(affinity, path, PREFERRED) {
        check_weight(term, &path, errors);
        validate_node_term(&term["preference"], &format!("{path}.preference"), errors);
    }
}

fn check_weight(term: &Value, path: &str, errors: &mut Errors) {
    let weight = term["weight"].as_i64().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(format!("{path}.weight"), weight, "must be in the range 1-100"));
    }
}

pub(super) fn validate_node_selector(wanted: &Value, path: &str, errors: &mut Errors) {
    if items(&wanted["nodeSelectorTerms"]).is_empty() {
        let why = "must have at least one node selector term";
        errors.push(FieldError::required(format!("{path}.nodeSelectorTerms"), why));
    }
    for (path, term) in indexed(wanted, path, "nodeSelectorTerms") {
        validate_node_term(term, &path, errors);
    }
}

fn validate_node_term(term: &Value, path: &str, errors: &mut Errors) {
    for (path, requirement) in indexed(term, path, "matchExpressions") {
        validate_expression(requirement, &path, errors);
    }
    for (path, requirement) in indexed(term, path, "matchFields") {
        validate_field_requirement(requirement, &path, errors);
    }
}

const NOT_AN_OPERATOR: &str = "not a valid selector operator";

fn validate_expression(requirement: &Value, path: &str, errors: &mut Errors) {
    let operator = requirement["operator"].as_str().unwrap_or_default();
    let values = format!("{path}.values");
    match (operator, items(&requirement["values"]).len()) {
        ("In" | "NotIn", 0) => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(values, why));
        }
        ("Exists" | "DoesNotExist", 1..) => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(values, why));
        }
        ("Gt" | "Lt", 0 | 2..) => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(values, why));
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
        _ => errors.push(FieldError::invalid(format!("{path}.operator"), operator, NOT_AN_OPERATOR)),
    }
    let key = requirement["key"].as_str().unwrap_or_default();
    invalid_all(names::check_label_key(key), &format!("{path}.key"), key, errors);
    for (path, value) in indexed(requirement, path, "values") {
        let value = value.as_str().unwrap_or_default();
        invalid_all(names::check_label_value(value), &path, value, errors);
    }
}

fn validate_field_requirement(requirement: &Value, path: &str, errors: &mut Errors) {
    let operator = requirement["operator"].as_str().unwrap_or_default();
    match (operator, items(&requirement["values"]).len()) {
        ("In" | "NotIn", 1) => {}
        ("In" | "NotIn", _) => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(format!("{path}.values"), why));
        }
        _ => errors.push(FieldError::invalid(format!("{path}.operator"), operator, NOT_AN_OPERATOR)),
    }
    let key = requirement["key"].as_str().unwrap_or_default();
    if key != "metadata.name" {
        errors.push(FieldError::invalid(format!("{path}.key"), key, "not a valid field selector key"));
        return;
    }
    for (path, value) in indexed(requirement, path, "values") {
        let value = value.as_str().unwrap_or_default();
        invalid_all(names::check_dns_subdomain(value), &path, value, errors);
    }
}

fn validate_pod_affinity(affinity: &Value, path: &str, errors: &mut Errors) {
    for (path, term) in indexed(affinity, path, REQUIRED) {
        validate_pod_term(term, &path, errors);
    }
    for (path, weighted) in indexed(affinity, path, PREFERRED) {
        check_weight(weighted, &path, errors);
        validate_pod_term(&weighted["podAffinityTerm"], &format!("{path}.podAffinityTerm"), errors);
    }
}

fn validate_pod_term(term: &Value, path: &str, errors: &mut Errors) {
    for field in ["labelSelector", "namespaceSelector"] {
        selector(&term[field], &format!("{path}.{field}"), errors);
    }
    for name in items(&term["namespaces"]).iter().filter_map(Value::as_str) {
        invalid_all(names::check_dns_label(name), &format!("{path}.namespace"), name, errors);
    }
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        validate_label_keys(term, field, path, errors);
    }
    for (path, key) in indexed(term, path, "mismatchLabelKeys") {
        if items(&term["matchLabelKeys"]).contains(key) {
            errors.push(FieldError::invalid(
                path,
                key.clone(),
                "exists in both matchLabelKeys and mismatchLabelKeys",
            ));
        }
    }
    check_topology_key(term, path, errors);
}

fn check_topology_key(term: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.topologyKey");
    match text(term, "topologyKey") {
        None => errors.push(FieldError::required(path, "can not be empty")),
        Some(key) => invalid_all(names::check_label_key(key), &path, key, errors),
    }
}

/// Keys of labels whose values of the pod itself are added to the selector.
fn validate_label_keys(term: &Value, field: &str, path: &str, errors: &mut Errors) {
    let wanted = &term["labelSelector"];
    if items(&term[field]).is_empty() {
        return;
    }
    if !wanted.is_object() {
        let why = "must not be specified when labelSelector is not set";
        errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
        return;
    }
    for (path, key) in indexed(term, path, field) {
        let key = key.as_str().unwrap_or_default();
        invalid_all(names::check_label_key(key), &path, key, errors);
        let is_selected = wanted["matchLabels"].get(key).is_some()
            || items(&wanted["matchExpressions"]).iter().any(|term| term["key"] == key);
        if field == "matchLabelKeys" && is_selected && !path.contains("ffinity") {
            errors.push(FieldError::invalid(path, key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}

fn validate_spread(spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, constraint) in indexed(spec, path, "topologySpreadConstraints") {
        let text_of = |field: &str| constraint[field].as_str().unwrap_or_default();
        for field in ["maxSkew", "minDomains"] {
            if let Some(number) = constraint[field].as_i64().filter(|number| *number <= 0) {
                errors.push(FieldError::invalid(
                    format!("{path}.{field}"),
                    number,
                    "must be greater than zero",
                ));
            }
        }
        check_topology_key(constraint, &path, errors);
        let action = text_of("whenUnsatisfiable");
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        if !known.contains(&action) {
            errors.push(FieldError::not_supported(format!("{path}.whenUnsatisfiable"), action, &known));
        }
        if let Some(domains) = constraint["minDomains"].as_i64().filter(|_| action == "ScheduleAnyway") {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(format!("{path}.minDomains"), domains, why));
        }
        if !seen.insert((text_of("topologyKey"), action)) {
            let shown = format!("{{{}, {action}}}", text_of("topologyKey"));
            errors.push(FieldError::duplicate(format!("{path}.{{topologyKey, whenUnsatisfiable}}"), shown));
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(constraint, &path, field, &["Honor", "Ignore"], errors);
        }
        validate_label_keys(constraint, "matchLabelKeys", &path, errors);
        selector(&constraint["labelSelector"], &format!("{path}.labelSelector"), errors);
    }
}

/// Terms that say on what parts of a topology volumes may be made.
pub(super) fn validate_topology_terms(object: &Value, path: &str, field: &str, errors: &mut Errors) {
    let mut terms = Vec::new();
    for (path, term) in indexed(object, path, field) {
        let mut keys = Vec::new();
        for (path, expression) in indexed(term, &path, "matchLabelExpressions") {
            let key = expression["key"].as_str().unwrap_or_default();
            let values = items(&expression["values"]);
            if values.is_empty() {
                errors.push(FieldError::required(format!("{path}.values"), ""));
            }
            for (index, value) in values.iter().enumerate() {
                if values[..index].contains(value) {
                    errors.push(FieldError::duplicate(format!("{path}.values[{index}]"), value.clone()));
                }
            }
            invalid_all(names::check_label_key(key), &format!("{path}.key"), key, errors);
            if keys.contains(&key) {
                errors.push(FieldError::duplicate(format!("{path}.key"), key));
            }
            keys.push(key);
        }
        if terms.contains(&term) {
            errors.push(FieldError::duplicate(path, ""));
        }
        terms.push(term);
    }
}

/// Rules for `tolerations` under `path`.
pub(super) fn validate_tolerations(spec: &Value, path: &str, errors: &mut Errors) {
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    for (path, toleration) in indexed(spec, path, "tolerations") {
        let text = |field: &str| toleration[field].as_str().unwrap_or_default();
        let at = |field: &str| format!("{path}.{field}");
        if !text("key").is_empty() {
            invalid_all(names::check_label_key(text("key")), &at("key"), text("key"), errors);
        }
        if text("key").is_empty() && text("operator") != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(at("operator"), text("operator"), why));
        }
        if !toleration["tolerationSeconds"].is_null() && text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(at("effect"), text("effect"), why));
        }
        match text("operator") {
            "" | "Equal" => {
                invalid_all(names::check_label_value(text("value")), &at("operator"), text("value"), errors);
            }
            "Exists" if text("value").is_empty() => {}
            "Exists" => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(at("operator"), text("value"), why));
            }
            other => errors.push(FieldError::not_supported(at("operator"), other, &["Equal", "Exists"])),
        }
        if !text("effect").is_empty() && !EFFECTS.contains(&text("effect")) {
            errors.push(FieldError::not_supported(at("effect"), text("effect"), EFFECTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&spec, "spec", &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn node_selectors_ask_what_can_be_answered() {
        let term = |requirement: Value| json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}});
        let at = |field: &str| {
            format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].{field}")
        };
        assert!(paths(term(json!({"key": "a", "operator": "In", "values": ["b"]}))).is_empty());
        assert_eq!(paths(term(json!({"key": "a", "operator": "In"}))), [at("values")]);
        assert_eq!(paths(term(json!({"key": "a", "operator": "Exists", "values": ["b"]}))), [at("values")]);
        assert_eq!(paths(term(json!({"key": "a", "operator": "Gt", "values": []}))), [at("values")]);
        assert_eq!(paths(term(json!({"key": "a b", "operator": "Odd"}))), [at("operator"), at("key")]);
        let empty = json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}});
        assert_eq!(paths(empty), [format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms")]);
    }

    #[test]
    fn pod_terms_need_a_topology_and_a_weight_in_range() {
        let spec =
            json!({"affinity": {"podAntiAffinity": {PREFERRED: [{"weight": 0, "podAffinityTerm": {}}]}}});
        let at = format!("spec.affinity.podAntiAffinity.{PREFERRED}[0]");
        assert_eq!(paths(spec), [format!("{at}.weight"), format!("{at}.podAffinityTerm.topologyKey")]);
    }

    #[test]
    fn spread_constraints_differ_and_make_sense() {
        let good = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        assert!(paths(json!({"topologySpreadConstraints": [good]})).is_empty());
        let at = "spec.topologySpreadConstraints";
        assert_eq!(
            paths(json!({"topologySpreadConstraints": [good, good]})),
            [format!("{at}[1].{{topologyKey, whenUnsatisfiable}}")]
        );
        let bad = json!({"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Odd"});
        let fields = ["maxSkew", "topologyKey", "whenUnsatisfiable"];
        assert_eq!(
            paths(json!({"topologySpreadConstraints": [bad]})),
            fields.map(|field| format!("{at}[0].{field}"))
        );
    }
}
