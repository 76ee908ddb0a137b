//! What drivers publish of their devices: where they are, what they are like and what they share.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::affinity::validate_node_selector;
use super::capacities;
use super::devices::{
    check_qualified, check_unique, is_short, validate_binding, validate_name, validate_pool_name,
    validate_taint,
};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, join};

const DEVICES_MAX: usize = 128;
/// Devices with taints or shared counters take more room.
const ELABORATE_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const TAINTS_MAX: usize = 16;
const PROPERTIES_MAX: usize = 32;
const ATTRIBUTE_BYTES_MAX: usize = 64;
/// Counters of one set, or of those that one device consumes of it.
const COUNTERS_MAX: usize = 32;
const CONSUMED_SETS_MAX: usize = 2;

pub(super) fn slice(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_pool(&spec["pool"], errors);
    let pool = |object: &Value| object["spec"]["pool"]["name"].clone();
    if check.old.is_some_and(|old| pool(old) != pool(check.new)) {
        errors.push(FieldError::immutable("spec.pool.name", pool(check.new)));
    }
    validate_place(spec, errors);
    if !spec["sharedCounters"].is_null() && !spec["devices"].is_null() {
        let why = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid("spec", "", why));
    }
    validate_devices(check, errors);
    if is_short(spec, "sharedCounters", COUNTER_SETS_MAX, "spec", errors) {
        for (path, set) in indexed(spec, "spec", "sharedCounters") {
            validate_name(set, "name", &path, errors);
            validate_counters(set, &path, errors);
        }
        check_unique(items(&spec["sharedCounters"]), "name", "spec.sharedCounters", errors);
    }
}

fn validate_pool(pool: &Value, errors: &mut Errors) {
    validate_pool_name(pool, "name", "spec.pool", errors);
    let count = pool["resourceSliceCount"].as_i64().unwrap_or_default();
    if count <= 0 {
        errors.push(FieldError::invalid("spec.pool.resourceSliceCount", count, "must be greater than zero"));
    }
    if let Some(generation) = pool["generation"].as_i64().filter(|generation| *generation < 0) {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid("spec.pool.generation", generation, why));
    }
}

/// Where the devices of a slice, or one of them, can be used: exactly one way of saying so.
fn validate_place(spec: &Value, errors: &mut Errors) {
    let unset = "must be either unset or set to a non-empty string";
    let mut given = named_places(spec, "spec", unset, errors);
    if spec["nodeSelector"].is_object() && items(&spec["nodeSelector"]["nodeSelectorTerms"]).len() != 1 {
        let terms = spec["nodeSelector"]["nodeSelectorTerms"].clone();
        let why = "must have exactly one node selector term";
        errors.push(FieldError::invalid("spec.nodeSelector.nodeSelectorTerms", terms, why));
    }
    given.extend(flag(spec, "perDeviceNodeSelection", "spec", errors));
    let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => errors.push(FieldError::required("spec", why)),
        1 => {}
        _ => {
            let why = format!("{why}, but multiple fields are set");
            errors.push(FieldError::invalid("spec", shown(&given), why));
        }
    }
}

fn shown(given: &[&str]) -> String {
    let given: Vec<String> = given.iter().map(|field| format!("`{field}`")).collect();
    format!("{{{}}}", given.join(", "))
}

fn named_places(owner: &Value, path: &str, unnamed: &str, errors: &mut Errors) -> Vec<&'static str> {
    let mut given = Vec::new();
    let at = join(path, "nodeName");
    match owner["nodeName"].as_str() {
        None => {}
        Some("") => errors.push(FieldError::invalid(at, "", unnamed)),
        Some(name) => {
            given.push("nodeName");
            invalid_all(names::check_dns_subdomain(name), &at, name, errors);
        }
    }
    if owner["nodeSelector"].is_object() {
        given.push("nodeSelector");
        validate_node_selector(&owner["nodeSelector"], &join(path, "nodeSelector"), errors);
    }
    given.extend(flag(owner, "allNodes", path, errors));
    given
}

/// A choice that is made by `true`; `false` says nothing.
fn flag(owner: &Value, field: &'static str, path: &str, errors: &mut Errors) -> Option<&'static str> {
    let chosen = owner[field].as_bool()?;
    if !chosen {
        let why = "must be either unset or set to true";
        errors.push(FieldError::invalid(join(path, field), false, why));
    }
    chosen.then_some(field)
}

fn validate_devices(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let devices = items(&spec["devices"]);
    let is_elaborate =
        |device: &Value| ["taints", "consumesCounters"].iter().any(|list| !items(&device[*list]).is_empty());
    let max = if devices.iter().any(is_elaborate) { ELABORATE_DEVICES_MAX } else { DEVICES_MAX };
    if !is_short(spec, "devices", max, "spec", errors) {
        return;
    }
    let before = items(&check.old.unwrap_or(&Value::Null)["spec"]["devices"]);
    for (path, device) in indexed(spec, "spec", "devices") {
        let old = before.iter().find(|old| old["name"] == device["name"]);
        validate_device(device, old, &path, errors);
        validate_device_place(device, spec["perDeviceNodeSelection"] == true, &path, errors);
        validate_binding(device, &path, errors);
    }
    check_unique(devices, "name", "spec.devices", errors);
}

fn validate_device(device: &Value, old: Option<&Value>, path: &str, errors: &mut Errors) {
    validate_name(device, "name", path, errors);
    let count = |field: &str| device[field].as_object().map_or(0, serde_json::Map::len);
    let total = count("attributes") + count("capacity");
    if total > PROPERTIES_MAX {
        let why = format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}");
        errors.push(FieldError::invalid(path, total, why));
    }
    for (name, attribute) in device["attributes"].as_object().into_iter().flatten() {
        let path = format!("{path}.attributes[{name}]");
        check_qualified(name, &path, errors);
        validate_attribute(attribute, &path, errors);
    }
    for (name, capacity) in device["capacity"].as_object().into_iter().flatten() {
        let path = format!("{path}.capacity[{name}]");
        if old.is_some_and(|old| old["capacity"] == device["capacity"]) {
            continue;
        }
        check_qualified(name, &path, errors);
        if device["allowMultipleAllocations"] == true {
            capacities::validate_policy(capacity, &path, errors);
        } else if capacity["requestPolicy"].is_object() {
            let why = "allowMultipleAllocations must be true";
            errors.push(FieldError::forbidden(format!("{path}.requestPolicy"), why));
        }
    }
    if old.is_none_or(|old| old["taints"] != device["taints"])
        && is_short(device, "taints", TAINTS_MAX, path, errors)
    {
        for (path, taint) in indexed(device, path, "taints") {
            validate_taint(taint, &path, errors);
        }
    }
    if is_short(device, "consumesCounters", CONSUMED_SETS_MAX, path, errors) {
        for (path, consumed) in indexed(device, path, "consumesCounters") {
            validate_name(consumed, "counterSet", &path, errors);
            validate_counters(consumed, &path, errors);
        }
        let at = format!("{path}.consumesCounters");
        check_unique(items(&device["consumesCounters"]), "counterSet", &at, errors);
    }
}

/// As of semver.org: three numbers, then what it comes before and how it was built.
fn is_semantic_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, early) = text.split_once('-').map_or((text, None), |(core, early)| (core, Some(early)));
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let is_digits = |word: &str| word.chars().all(|c| c.is_ascii_digit());
    let is_number =
        |word: &str| !word.is_empty() && is_digits(word) && (word == "0" || !word.starts_with('0'));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && early.is_none_or(|early| early.split('.').all(|w| is_word(w) && (!is_digits(w) || is_number(w))))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

fn validate_attribute(attribute: &Value, path: &str, errors: &mut Errors) {
    for field in ["string", "version"] {
        let Some(value) = attribute[field].as_str() else { continue };
        let path = format!("{path}.{field}");
        if field == "version" && !is_semantic_version(value) {
            let why = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(FieldError::invalid(path.as_str(), value, why));
        }
        if value.len() > ATTRIBUTE_BYTES_MAX {
            errors.push(FieldError::too_long(path, ATTRIBUTE_BYTES_MAX));
        }
    }
    let given = ["bool", "int", "string", "version"].iter().filter(|field| !attribute[**field].is_null());
    match given.count() {
        1 => {}
        0 => errors.push(FieldError::invalid(path, "", "exactly one value must be specified")),
        _ => errors.push(FieldError::invalid(path, attribute.clone(), "exactly one value must be specified")),
    }
}

fn validate_counters(owner: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.counters");
    let counters = owner["counters"].as_object();
    if counters.is_none_or(serde_json::Map::is_empty) {
        errors.push(FieldError::required(path.as_str(), ""));
    }
    if let Some(counters) = counters.filter(|counters| counters.len() > COUNTERS_MAX) {
        errors.push(FieldError::too_many(path, counters.len(), COUNTERS_MAX));
        return;
    }
    for name in counters.into_iter().flat_map(serde_json::Map::keys) {
        invalid_all(names::check_dns_label(name), &format!("{path}[{name}]"), name, errors);
    }
}

fn validate_device_place(device: &Value, each: bool, path: &str, errors: &mut Errors) {
    if !each {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| !device[*field].is_null()) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.push(FieldError::invalid(path, Value::Null, why));
        }
        return;
    }
    let given = named_places(device, path, "must not be empty", errors);
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match given.len() {
        0 => errors.push(FieldError::required(path, why)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, shown(&given), why)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn of(extra: Value) -> Vec<String> {
        let mut spec =
            json!({"driver": "a.b", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let found = paths("resource.k8s.io", "resourceslices", "", &json!({ "spec": spec }), None);
        found.into_iter().map(|path| path.trim_start_matches("spec.").to_owned()).collect()
    }

    #[test]
    fn versions_are_three_numbers_and_more() {
        for good in ["1.2.3", "0.0.0-alpha.1", "1.0.0+build-5.01", "1.0.0--"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3+"] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }

    #[test]
    fn each_mistake_is_named_by_its_path() {
        let device = |extra: Value| {
            let mut device = json!({"name": "d"});
            device.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({ "devices": [device] })
        };
        let cases = [
            (json!({}), vec![]),
            (json!({"nodeName": null}), vec!["spec"]),
            (json!({"nodeName": ""}), vec!["nodeName", "spec"]),
            (json!({"allNodes": true}), vec!["spec"]),
            (json!({"allNodes": false}), vec!["allNodes"]),
            (json!({"pool": {}}), vec!["pool.name", "pool.resourceSliceCount"]),
            (json!({"pool": {"name": "A/b", "resourceSliceCount": 1}}), vec!["pool.name"]),
            (json!({"devices": [], "sharedCounters": []}), vec!["spec"]),
            (json!({"devices": [{"name": "d"}, {"name": "d"}]}), vec!["devices[1]"]),
            (device(json!({"attributes": {"a.b/model": {"string": "x"}}})), vec![]),
            (device(json!({"attributes": {"a-b": {"int": 1}}})), vec!["devices[0].attributes[a-b]"]),
            (device(json!({"attributes": {"a": {}}})), vec!["devices[0].attributes[a]"]),
            (
                device(json!({"attributes": {"a": {"version": "1"}}})),
                vec!["devices[0].attributes[a].version"],
            ),
            (device(json!({"attributes": {"a": {"version": "1.0.0-rc.1"}}})), vec![]),
            (device(json!({"taints": [{"key": "a", "effect": "Odd"}]})), vec!["devices[0].taints[0].effect"]),
            (device(json!({"nodeName": "n"})), vec!["devices[0]"]),
            (
                device(json!({"capacity": {"m": {"value": "1", "requestPolicy": {}}}})),
                vec!["devices[0].capacity[m].requestPolicy"],
            ),
            (
                device(
                    json!({"allowMultipleAllocations": true, "capacity": {"m": {"value": "1", "requestPolicy": {"validValues": ["1"]}}}}),
                ),
                vec!["devices[0].capacity[m].requestPolicy.default"],
            ),
            (
                device(json!({"bindingConditions": ["a", "b"], "bindingFailureConditions": ["b", "b", "c"]})),
                vec![
                    "devices[0].bindingFailureConditions[0]",
                    "devices[0].bindingFailureConditions[1]",
                    "devices[0].bindingFailureConditions[1]",
                ],
            ),
            (device(json!({"bindingFailureConditions": ["b"]})), vec!["devices[0].bindingConditions"]),
            (
                device(json!({"consumesCounters": [{"counterSet": "s"}]})),
                vec!["devices[0].consumesCounters[0].counters"],
            ),
        ];
        for (extra, expected) in cases {
            assert_eq!(of(extra.clone()), expected, "{extra}");
        }
    }
}
