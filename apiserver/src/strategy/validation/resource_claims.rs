//! Claims on devices, templates of claims, and classes of devices.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::devices::{
    check_fully_qualified, check_unique, is_short, validate_config, validate_name, validate_selectors,
    validate_tolerations,
};
use super::fields::is_same;
use crate::strategy::metadata;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

pub(super) const LIST_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;

pub(super) fn claim(check: &Check<'_>, errors: &mut Errors) {
    match check.old {
        Some(old) => validate_change(check.new, old, errors),
        None => validate_devices(&check.new["spec"]["devices"], "spec.devices", errors),
    }
}

pub(super) fn template(check: &Check<'_>, errors: &mut Errors) {
    if let Some(old) = check.old {
        return validate_change(check.new, old, errors);
    }
    let spec = &check.new["spec"];
    metadata::check_annotations("spec.metadata.annotations", &spec["metadata"]["annotations"], errors);
    metadata::check_labels("spec.metadata.labels", &spec["metadata"]["labels"], errors);
    validate_devices(&spec["spec"]["devices"], "spec.spec.devices", errors);
}

/// What never changes is not looked at again.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    if !is_same(&old["spec"], &new["spec"]) {
        errors.push(FieldError::immutable("spec", new["spec"].clone()));
    }
}

fn validate_devices(devices: &Value, path: &str, errors: &mut Errors) {
    let known = names_of(devices);
    if is_short(devices, "requests", LIST_MAX, path, errors) {
        for (path, request) in indexed(devices, path, "requests") {
            validate_name(request, "name", &path, errors);
            validate_request(request, &path, errors);
        }
        check_unique(items(&devices["requests"]), "name", &format!("{path}.requests"), errors);
    }
    if is_short(devices, "constraints", LIST_MAX, path, errors) {
        for (path, constraint) in indexed(devices, path, "constraints") {
            check_requests(constraint, &known, &path, errors);
            validate_attributes(constraint, &path, errors);
        }
    }
    if is_short(devices, "config", LIST_MAX, path, errors) {
        for (path, config) in indexed(devices, path, "config") {
            check_requests(config, &known, &path, errors);
            validate_config(config, &path, errors);
        }
    }
}

/// Names by which requests and their alternatives can be referred to.
pub(super) fn names_of(devices: &Value) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for request in items(&devices["requests"]) {
        let name = request["name"].as_str().unwrap_or_default();
        known.insert(name.to_owned());
        for alternative in items(&request["firstAvailable"]) {
            known.insert(format!("{name}/{}", alternative["name"].as_str().unwrap_or_default()));
        }
    }
    known
}

fn validate_attributes(constraint: &Value, path: &str, errors: &mut Errors) {
    let fields = ["matchAttribute", "distinctAttribute"];
    match fields.iter().find_map(|field| Some((field, constraint[*field].as_str()?))) {
        Some((field, name)) => check_fully_qualified(name, &format!("{path}.{field}"), errors),
        None => {
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(FieldError::required(path, why));
        }
    }
}

fn validate_request(request: &Value, path: &str, errors: &mut Errors) {
    match (request["exactly"].is_object(), items(&request["firstAvailable"]).is_empty()) {
        (true, true) => validate_exact(&request["exactly"], &format!("{path}.exactly"), errors),
        (false, false) => validate_alternatives(request, path, errors),
        (false, true) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(FieldError::required(path, why));
        }
        (true, false) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(path, Value::Null, why));
        }
    }
}

fn validate_alternatives(request: &Value, path: &str, errors: &mut Errors) {
    if !is_short(request, "firstAvailable", ALTERNATIVES_MAX, path, errors) {
        return;
    }
    for (path, alternative) in indexed(request, path, "firstAvailable") {
        validate_name(alternative, "name", &path, errors);
        validate_exact(alternative, &path, errors);
    }
    check_unique(items(&request["firstAvailable"]), "name", &format!("{path}.firstAvailable"), errors);
}

fn validate_exact(request: &Value, path: &str, errors: &mut Errors) {
    match text(request, "deviceClassName") {
        None => errors.push(FieldError::required(format!("{path}.deviceClassName"), "")),
        Some(name) => {
            invalid_all(names::check_dns_subdomain(name), &format!("{path}.deviceClassName"), name, errors);
        }
    }
    if is_short(request, "selectors", LIST_MAX, path, errors) {
        validate_selectors(request, path, errors);
    }
    validate_tolerations(request, path, errors);
    let count = request["count"].as_i64().unwrap_or_default();
    let at = format!("{path}.count");
    match request["allocationMode"].as_str().unwrap_or("ExactCount") {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(at, count, why));
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(at, count, "must be greater than zero"))
        }
        "ExactCount" => {}
        other => {
            let known = ["All", "ExactCount"];
            errors.push(FieldError::not_supported(format!("{path}.allocationMode"), other, &known));
        }
    }
}

pub(super) fn check_requests(owner: &Value, known: &BTreeSet<String>, path: &str, errors: &mut Errors) {
    if !is_short(owner, "requests", LIST_MAX, path, errors) {
        return;
    }
    let names = items(&owner["requests"]);
    for (path, name) in indexed(owner, path, "requests") {
        check_request(name.as_str().unwrap_or_default(), known, &path, errors);
    }
    for (index, name) in names.iter().enumerate().filter(|(index, name)| names[..*index].contains(name)) {
        errors.push(FieldError::duplicate(format!("{path}.requests[{index}]"), name.clone()));
    }
}

/// A reference to a request, or to one of its alternatives.
pub(super) fn check_request(name: &str, known: &BTreeSet<String>, path: &str, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    for part in parts.iter().filter(|_| parts.len() <= 2) {
        match part.is_empty() {
            true => errors.push(FieldError::required(path, "")),
            false => invalid_all(names::check_dns_label(part), path, part, errors),
        }
    }
    if !known.contains(name) {
        let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        errors.push(FieldError::invalid(path, name, why));
    }
}

pub(super) fn class(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let was = |field: &str| check.old.is_some_and(|old| is_same(&old["spec"][field], &spec[field]));
    if is_short(spec, "selectors", LIST_MAX, "spec", errors) && !was("selectors") {
        validate_selectors(spec, "spec", errors);
    }
    if is_short(spec, "config", LIST_MAX, "spec", errors) {
        for (path, config) in indexed(spec, "spec", "config") {
            validate_config(config, &path, errors);
        }
    }
    if let Some(name) = spec["extendedResourceName"].as_str().filter(|name| !is_extended(name)) {
        let why = "must be a valid extended resource name";
        errors.push(FieldError::invalid("spec.extendedResourceName", name, why));
    }
}

/// A resource that is not Kubernetes' own, and that a quota can count.
fn is_extended(name: &str) -> bool {
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    let counted = format!("requests.{name}");
    !is_native && !name.starts_with("requests.") && api_types::names::check_label_key(&counted).is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn claim_of(request: Value) -> Vec<String> {
        let claim = json!({"spec": {"devices": {"requests": [request]}}});
        let found = paths("resource.k8s.io", "resourceclaims", "", &claim, None);
        found.into_iter().map(|path| path.trim_start_matches("spec.devices.requests[0]").to_owned()).collect()
    }

    #[test]
    fn a_request_asks_one_thing_of_a_class() {
        let exactly = |extra: Value| {
            let mut exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
            exactly.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({"name": "a", "exactly": exactly})
        };
        assert!(claim_of(exactly(json!({}))).is_empty());
        assert_eq!(claim_of(json!({"name": "a"})), [""]);
        assert_eq!(
            claim_of(json!({"name": "A b", "exactly": {"deviceClassName": "gpu", "count": 1}})),
            [".name"]
        );
        assert_eq!(claim_of(exactly(json!({"deviceClassName": ""}))), [".exactly.deviceClassName"]);
        assert_eq!(claim_of(exactly(json!({"count": 0}))), [".exactly.count"]);
        assert_eq!(claim_of(exactly(json!({"allocationMode": "All"}))), [".exactly.count"]);
        assert_eq!(claim_of(exactly(json!({"allocationMode": "Odd"}))), [".exactly.allocationMode"]);
        assert_eq!(claim_of(exactly(json!({"selectors": [{}]}))), [".exactly.selectors[0].cel"]);
    }

    #[test]
    fn a_claim_stays_as_it_is() {
        let old = json!({"spec": {"devices": {}}});
        let new =
            json!({"spec": {"devices": {"constraints": [{"requests": ["no"], "matchAttribute": "a/b"}]}}});
        assert_eq!(paths("resource.k8s.io", "resourceclaims", "", &new, Some(&old)), ["spec"]);
        assert_eq!(
            paths("resource.k8s.io", "resourceclaims", "", &new, None),
            ["spec.devices.constraints[0].requests[0]"]
        );
    }

    #[test]
    fn requests_are_told_apart_and_constrained_by_attributes() {
        let of = |devices: Value| {
            let claim = json!({"spec": {"devices": devices}});
            paths("resource.k8s.io", "resourceclaims", "", &claim, None)
        };
        let request = json!({"name": "a", "exactly": {"deviceClassName": "gpu", "count": 1}});
        assert_eq!(of(json!({"requests": [request, request]})), ["spec.devices.requests[1]"]);
        let constrained = |constraint: Value| of(json!({"requests": [request], "constraints": [constraint]}));
        assert!(constrained(json!({"requests": ["a"], "matchAttribute": "a.b/c"})).is_empty());
        assert_eq!(constrained(json!({})), ["spec.devices.constraints[0]"]);
        assert_eq!(
            constrained(json!({"requests": ["a", "a"], "matchAttribute": "c"})),
            ["spec.devices.constraints[0].requests[1]", "spec.devices.constraints[0].matchAttribute"]
        );
    }

    #[test]
    fn a_class_selects_and_may_stand_for_a_resource() {
        let of = |spec: Value| paths("resource.k8s.io", "deviceclasses", "", &json!({ "spec": spec }), None);
        assert!(of(json!({"extendedResourceName": "example.com/gpu"})).is_empty());
        assert_eq!(of(json!({"extendedResourceName": "cpu"})), ["spec.extendedResourceName"]);
        let selected = |expression: &str| of(json!({"selectors": [{"cel": {"expression": expression}}]}));
        assert!(selected("device.driver == 'a.b'").is_empty());
        assert_eq!(selected("'text'"), ["spec.selectors[0].cel.expression"]);
    }
}
