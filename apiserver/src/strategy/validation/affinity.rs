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
        // What is only preferred may ask for values that no label has.
        validate_node_term(&term["preference"], &format!("{path}.preference"), false, errors);
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
        validate_node_term(term, &path, true, errors);
    }
}

fn validate_node_term(term: &Value, path: &str, is_required: bool, errors: &mut Errors) {
    for (path, requirement) in indexed(term, path, "matchExpressions") {
        validate_expression(requirement, &path, errors);
        let values = indexed(requirement, &path, "values").filter(|_| is_required);
        for (path, value) in values {
            let value = value.as_str().unwrap_or_default();
            invalid_all(names::check_label_value(value), &path, value, errors);
        }
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
        validate_term_keys(term, field, path, errors);
    }
    check_selected_twice(term, path, errors);
    for (path, key) in indexed(term, path, "matchLabelKeys") {
        if items(&term["mismatchLabelKeys"]).contains(key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(path, key.clone(), why));
        }
    }
    let (key, path) = (term["topologyKey"].as_str().unwrap_or_default(), format!("{path}.topologyKey"));
    if key.is_empty() {
        errors.push(FieldError::required(&path, "can not be empty"));
    }
    invalid_all(names::check_label_key(key), &path, key, errors);
}

const NOTHING_SELECTED: &str = "must not be specified when labelSelector is not set";

/// Keys of labels whose values of the pod itself are added to the selector.
fn validate_term_keys(term: &Value, field: &str, path: &str, errors: &mut Errors) {
    if items(&term[field]).is_empty() {
        return;
    }
    if !term["labelSelector"].is_object() {
        return errors.push(FieldError::forbidden(format!("{path}.{field}"), NOTHING_SELECTED));
    }
    for (path, key) in indexed(term, path, field) {
        let key = key.as_str().unwrap_or_default();
        invalid_all(names::check_label_key(key), &path, key, errors);
    }
}

/// A key whose value was added to the selector must not have been there. Kubernetes names the term by the index of
/// the key.
fn check_selected_twice(term: &Value, path: &str, errors: &mut Errors) {
    let wanted = &term["labelSelector"];
    let labels = wanted["matchLabels"].as_object().into_iter().flat_map(|labels| labels.keys());
    let mut seen: BTreeSet<&str> = labels.map(String::as_str).collect();
    for key in items(&wanted["matchExpressions"]).iter().filter_map(|term| term["key"].as_str()) {
        let index = items(&term["matchLabelKeys"]).iter().rposition(|other| other == key);
        if let (false, Some(index)) = (seen.insert(key), index) {
            let why = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(format!("{path}[{index}]"), key, why));
        }
    }
}

fn validate_spread(spec: &Value, path: &str, errors: &mut Errors) {
    let all = items(&spec["topologySpreadConstraints"]);
    for (index, (path, constraint)) in indexed(spec, path, "topologySpreadConstraints").enumerate() {
        let text_of = |field: &str| constraint[field].as_str().unwrap_or_default();
        let skew = constraint["maxSkew"].as_i64().unwrap_or_default();
        for (field, number) in [("maxSkew", Some(skew)), ("minDomains", constraint["minDomains"].as_i64())] {
            if let Some(number) = number.filter(|number| *number <= 0) {
                errors.push(FieldError::invalid(
                    format!("{path}.{field}"),
                    number,
                    "must be greater than zero",
                ));
            }
        }
        if text(constraint, "topologyKey").is_none() {
            errors.push(FieldError::required(format!("{path}.topologyKey"), "can not be empty"));
        }
        let action = text_of("whenUnsatisfiable");
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        if !known.contains(&action) {
            errors.push(FieldError::not_supported(format!("{path}.whenUnsatisfiable"), action, &known));
        }
        if let Some(domains) = constraint["minDomains"].as_i64().filter(|_| action != "DoNotSchedule") {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(format!("{path}.minDomains"), domains, why));
        }
        let is_same = |other: &Value| {
            other["topologyKey"] == text_of("topologyKey") && other["whenUnsatisfiable"] == action
        };
        if all[index + 1..].iter().any(is_same) {
            let shown = format!("{{{}, {action}}}", text_of("topologyKey"));
            errors.push(FieldError::duplicate(format!("{path}.{{topologyKey, whenUnsatisfiable}}"), shown));
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(constraint, &path, field, &["Honor", "Ignore"], errors);
        }
        validate_spread_keys(constraint, &path, errors);
        selector(&constraint["labelSelector"], &format!("{path}.labelSelector"), errors);
    }
}

/// As `validate_term_keys`. In a pod itself the values were added to the selector before, once each; there and in
/// templates the labels that the selector names by itself are others.
fn validate_spread_keys(constraint: &Value, path: &str, errors: &mut Errors) {
    let wanted = &constraint["labelSelector"];
    let keys = items(&constraint["matchLabelKeys"]);
    if keys.is_empty() {
        return;
    }
    if !wanted.is_object() {
        errors.push(FieldError::forbidden(format!("{path}.matchLabelKeys"), NOTHING_SELECTED));
    }
    for (path, key) in indexed(constraint, path, "matchLabelKeys") {
        let key = key.as_str().unwrap_or_default();
        invalid_all(names::check_label_key(key), &path, key, errors);
        let expressions = items(&wanted["matchExpressions"]).iter().filter(|term| term["key"] == key);
        let added = |term: &Value| term["operator"] == "In" && items(&term["values"]).len() == 1;
        let foreign = expressions.clone().filter(|term| !added(term)).count();
        if wanted["matchLabels"].get(key).is_some() || foreign > 0 || expressions.count() > 1 {
            errors.push(FieldError::invalid(path, key, "exists in both matchLabelKeys and labelSelector"));
        }
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
                let wrong = names::check_label_value(text("value"));
                if !wrong.is_empty() {
                    errors.push(FieldError::invalid(at("operator"), text("value"), wrong.join(";")));
                }
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
        let topology = format!("{at}.podAffinityTerm.topologyKey");
        assert_eq!(paths(spec), [format!("{at}.weight"), topology.clone(), topology.clone(), topology]);
    }

    #[test]
    fn spread_constraints_differ_and_make_sense() {
        let good = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        assert!(paths(json!({"topologySpreadConstraints": [good]})).is_empty());
        let at = "spec.topologySpreadConstraints";
        assert_eq!(
            paths(json!({"topologySpreadConstraints": [good, good]})),
            [format!("{at}[0].{{topologyKey, whenUnsatisfiable}}")]
        );
        let bad = json!({"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Odd"});
        let fields = ["maxSkew", "topologyKey", "whenUnsatisfiable"];
        assert_eq!(
            paths(json!({"topologySpreadConstraints": [bad]})),
            fields.map(|field| format!("{at}[0].{field}"))
        );
    }
}
