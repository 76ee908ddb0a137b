//! Claims on devices, classes of devices, and what drivers publish of them.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use api_types::cel::{Environment, Type};
use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::affinity::validate_node_selector;
use super::fields::{check_below, is_same};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

const LIST_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const DEVICES_MAX: usize = 128;
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;

pub(super) fn claim(check: &Check<'_>, errors: &mut Errors) {
    validate_change(check, errors);
    validate_devices(&check.new["spec"]["devices"], "spec.devices", errors);
}

pub(super) fn template(check: &Check<'_>, errors: &mut Errors) {
    validate_change(check, errors);
    validate_devices(&check.new["spec"]["spec"]["devices"], "spec.spec.devices", errors);
}

fn validate_change(check: &Check<'_>, errors: &mut Errors) {
    if check.old.is_some_and(|old| !is_same(&old["spec"], &check.new["spec"])) {
        errors.push(FieldError::immutable("spec", check.new["spec"].clone()));
    }
}

fn validate_devices(devices: &Value, path: &str, errors: &mut Errors) {
    for list in ["requests", "constraints", "config"] {
        check_count(devices, list, LIST_MAX, path, errors);
    }
    let mut known = BTreeSet::new();
    for (path, request) in indexed(devices, path, "requests") {
        if let Some(name) = validate_name(request, &path, errors)
            && !known.insert(name.to_owned())
        {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        validate_request(request, &path, errors);
        let parent = request["name"].as_str().unwrap_or_default();
        for (path, alternative) in indexed(request, &path, "firstAvailable") {
            if let Some(name) = validate_name(alternative, &path, errors)
                && !known.insert(format!("{parent}/{name}"))
            {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            validate_exact(alternative, &path, errors);
        }
    }
    for (path, constraint) in indexed(devices, path, "constraints") {
        check_requests(constraint, &known, &path, errors);
        if text(constraint, "matchAttribute").is_none() && text(constraint, "distinctAttribute").is_none() {
            errors.push(FieldError::required(format!("{path}.matchAttribute"), ""));
        }
    }
    for (path, config) in indexed(devices, path, "config") {
        check_requests(config, &known, &path, errors);
        validate_config(config, &path, errors);
    }
}

fn check_count(object: &Value, list: &str, max: usize, path: &str, errors: &mut Errors) {
    let count = items(&object[list]).len();
    if count > max {
        errors.push(FieldError::too_many(format!("{path}.{list}"), count, max));
    }
}

fn validate_name<'a>(request: &'a Value, path: &str, errors: &mut Errors) -> Option<&'a str> {
    let name = text(request, "name");
    match name {
        None => errors.push(FieldError::required(format!("{path}.name"), "")),
        Some(name) => invalid_all(names::check_dns_label(name), &format!("{path}.name"), name, errors),
    }
    name
}

fn validate_request(request: &Value, path: &str, errors: &mut Errors) {
    check_count(request, "firstAvailable", ALTERNATIVES_MAX, path, errors);
    match (request["exactly"].is_object(), items(&request["firstAvailable"]).is_empty()) {
        (true, true) => validate_exact(&request["exactly"], &format!("{path}.exactly"), errors),
        (false, false) => {}
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

fn validate_exact(request: &Value, path: &str, errors: &mut Errors) {
    match text(request, "deviceClassName") {
        None => errors.push(FieldError::required(format!("{path}.deviceClassName"), "")),
        Some(name) => {
            invalid_all(names::check_dns_subdomain(name), &format!("{path}.deviceClassName"), name, errors);
        }
    }
    validate_selectors(request, path, errors);
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

fn validate_selectors(owner: &Value, path: &str, errors: &mut Errors) {
    check_count(owner, "selectors", LIST_MAX, path, errors);
    for (path, selector) in indexed(owner, path, "selectors") {
        if !selector["cel"].is_object() {
            errors.push(FieldError::required(format!("{path}.cel"), ""));
            continue;
        }
        let path = format!("{path}.cel.expression");
        match text(&selector["cel"], "expression") {
            None => errors.push(FieldError::required(path, "")),
            Some(expression) if expression.len() > EXPRESSION_BYTES_MAX => {
                errors.push(FieldError::too_long(path, EXPRESSION_BYTES_MAX));
            }
            Some(expression) => {
                if let Some(why) = expression_problem(expression) {
                    errors.push(FieldError::invalid(path, expression, why));
                }
            }
        }
    }
}

/// Why an expression cannot choose among devices.
fn expression_problem(expression: &str) -> Option<String> {
    static DEVICE: LazyLock<Environment> = LazyLock::new(|| {
        let by_domain = |values: Type| Type::map(Type::String, Type::map(Type::String, values));
        let fields = [
            ("driver", Type::String),
            ("attributes", by_domain(Type::Dyn)),
            ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
            ("allowMultipleAllocations", Type::Bool),
        ];
        let fields = fields.map(|(name, ty)| (name.to_owned(), ty));
        Environment::new().variable("device", Type::object("kubernetes.DRADevice", fields))
    });
    match DEVICE.compile(expression) {
        Err(why) => Some(format!("compilation failed: {why}")),
        Ok(program) => match program.result_type() {
            Type::Bool | Type::Dyn => None,
            other => Some(format!("must evaluate to bool or the unknown type, not {other}")),
        },
    }
}

fn check_requests(owner: &Value, known: &BTreeSet<String>, path: &str, errors: &mut Errors) {
    for (path, name) in indexed(owner, path, "requests") {
        let name = name.as_str().unwrap_or_default();
        if !known.contains(name) {
            let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            errors.push(FieldError::invalid(path, name, why));
        }
    }
}

fn validate_config(config: &Value, path: &str, errors: &mut Errors) {
    match config["opaque"].is_object() {
        true => check_below("opaqueConfig", &config["opaque"], &format!("{path}.opaque"), errors),
        false => errors.push(FieldError::required(format!("{path}.opaque"), "")),
    }
}

pub(super) fn class(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_selectors(spec, "spec", errors);
    check_count(spec, "config", LIST_MAX, "spec", errors);
    for (path, config) in indexed(spec, "spec", "config") {
        validate_config(config, &path, errors);
    }
}

pub(super) fn slice(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let given = [
        text(spec, "nodeName").is_some(),
        spec["nodeSelector"].is_object(),
        spec["allNodes"] == true,
        spec["perDeviceNodeSelection"] == true,
    ];
    let sets = "`nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`";
    match given.iter().filter(|is| **is).count() {
        0 => errors.push(FieldError::required("spec", format!("exactly one of {sets} is required"))),
        1 => {}
        _ => {
            let why = format!("exactly one of {sets} is required, but multiple fields are set");
            errors.push(FieldError::invalid("spec", spec.clone(), why));
        }
    }
    if spec["nodeSelector"].is_object() {
        validate_node_selector(&spec["nodeSelector"], "spec.nodeSelector", errors);
    }
    check_count(spec, "devices", DEVICES_MAX, "spec", errors);
    let mut seen = BTreeSet::new();
    for (path, device) in indexed(spec, "spec", "devices") {
        if let Some(name) = validate_name(device, &path, errors)
            && !seen.insert(name)
        {
            errors.push(FieldError::duplicate(path, name));
        }
    }
    let pool = |object: &Value| object["spec"]["pool"]["name"].clone();
    if check.old.is_some_and(|old| pool(old) != pool(check.new)) {
        errors.push(FieldError::immutable("spec.pool.name", pool(check.new)));
    }
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
        assert_eq!(
            paths("resource.k8s.io", "resourceclaims", "", &new, Some(&old)),
            ["spec", "spec.devices.constraints[0].requests[0]"]
        );
    }

    #[test]
    fn a_selector_is_an_expression_about_a_device_that_is_true_or_false() {
        for good in [
            "device.driver == 'gpu.example.com'",
            "device.attributes['gpu.example.com'].model == 'a1' && device.attributes['gpu.example.com'].index > 1",
            "device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('10Gi'))",
            "cel.bind(of, device.attributes['x.example'], has(of.y) && of.y.isLessThan(semver('1.2.3')))",
            "device.allowMultipleAllocations",
            "device.attributes['x.example'].flag",
        ] {
            assert_eq!(expression_problem(good), None, "{good}");
        }
        for (bad, why) in [
            ("device.driver ==", "compilation failed: ERROR: <input>:1:17: Syntax error"),
            ("device.colour == 'red'", "compilation failed: ERROR: <input>:1:7: undefined field 'colour'"),
            ("device.driver", "must evaluate to bool or the unknown type, not string"),
            ("object.spec == 1", "compilation failed: ERROR: <input>:1:1: undeclared reference to 'object'"),
        ] {
            let told = expression_problem(bad).unwrap_or_default();
            assert!(told.starts_with(why), "{bad}: {told}");
        }
    }
}
