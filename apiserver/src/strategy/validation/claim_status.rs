//! What was allocated for a claim, who uses it, and how its devices are.

use std::collections::BTreeSet;

use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::addresses::check_interface_address;
use super::affinity::validate_node_selector;
use super::conditions;
use super::devices::{
    check_object, check_unique, is_short, validate_binding, validate_config, validate_name,
    validate_pool_name, validate_tolerations,
};
use super::fields::is_same;
use super::resource_claims::{LIST_MAX, check_request, check_requests, names_of};
use super::storage::check_driver_name;
use crate::strategy::rules::{Errors, indexed, items, required, text};

const CONSUMERS_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const DATA_BYTES_MAX: usize = 10 * 1024;
const INTERFACE_BYTES_MAX: usize = 256;
const HARDWARE_BYTES_MAX: usize = 128;
const ADDRESSES_MAX: usize = 16;

pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    let (status, old) = (&check.new["status"], &check.old.unwrap_or(&Value::Null)["status"]);
    if is_short(status, "reservedFor", CONSUMERS_MAX, "status", errors) {
        for (path, consumer) in indexed(status, "status", "reservedFor") {
            ["resource", "name", "uid"].iter().for_each(|field| required(consumer, &path, field, errors));
        }
        check_unique(items(&status["reservedFor"]), "uid", "status.reservedFor", errors);
    }
    validate_devices(status, errors);
    let is_deleted = !check.new["metadata"]["deletionTimestamp"].is_null();
    validate_reservations(status, old, is_deleted, errors);
    match (old["allocation"].is_object(), status["allocation"].is_object()) {
        (true, true) if !is_same(&old["allocation"], &status["allocation"]) => {
            errors.push(FieldError::immutable("status.allocation", status["allocation"].clone()));
        }
        (false, true) => {
            let known = names_of(&check.new["spec"]["devices"]);
            validate_allocation(&status["allocation"], &known, errors);
        }
        _ => {}
    }
}

/// Who uses a claim has to find something allocated, and nobody new while the claim is going.
fn validate_reservations(status: &Value, old: &Value, is_deleted: bool, errors: &mut Errors) {
    const PATH: &str = "status.reservedFor";
    let consumers = items(&status["reservedFor"]);
    if consumers.is_empty() {
        return;
    }
    if !status["allocation"].is_object() {
        errors.push(FieldError::forbidden(PATH, "may not be specified when `allocated` is not set"));
    } else if is_deleted && consumers.iter().any(|new| !items(&old["reservedFor"]).contains(new)) {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.push(FieldError::forbidden(PATH, why));
    }
}

/// Names of a device in the whole cluster, and of the share in it.
fn id_of(device: &Value) -> String {
    let part = |field: &str| device[field].as_str().unwrap_or_default();
    let whole = format!("{}/{}/{}", part("driver"), part("pool"), part("device"));
    match part("shareID") {
        "" => whole,
        share => format!("{whole}/{share}"),
    }
}

fn validate_devices(status: &Value, errors: &mut Errors) {
    let allocated: BTreeSet<String> =
        items(&status["allocation"]["devices"]["results"]).iter().map(id_of).collect();
    let mut seen = BTreeSet::new();
    let mut repeated = Errors::new();
    for (path, device) in indexed(status, "status", "devices") {
        validate_identity(device, &path, errors);
        let id = id_of(device);
        if !allocated.contains(&id) {
            let why = "must be an allocated device in the claim";
            errors.push(FieldError::invalid(path.as_str(), id.as_str(), why));
        }
        validate_state(device, &path, errors);
        if !seen.insert(id.clone()) {
            repeated.push(FieldError::duplicate(path, id));
        }
    }
    errors.append(&mut repeated);
}

fn validate_identity(device: &Value, path: &str, errors: &mut Errors) {
    let driver = format!("{path}.driver");
    match text(device, "driver") {
        None => errors.push(FieldError::required(driver, "")),
        Some(name) => check_driver_name(name, &driver, errors),
    }
    validate_pool_name(device, "pool", path, errors);
    validate_name(device, "device", path, errors);
}

fn validate_share(device: &Value, path: &str, errors: &mut Errors) {
    let Some(share) = device["shareID"].as_str() else { return };
    let path = format!("{path}.shareID");
    let is_dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let is_normal = share.len() == 36
        && share.bytes().enumerate().all(|(at, byte)| match is_dash(at) {
            true => byte == b'-',
            false => byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'),
        });
    if !is_normal {
        let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errors.push(FieldError::invalid(path, share, why));
    }
}

/// What a driver tells of a device.
fn validate_state(device: &Value, path: &str, errors: &mut Errors) {
    validate_share(device, path, errors);
    is_short(device, "conditions", CONDITIONS_MAX, path, errors);
    conditions::validate(device, path, errors);
    if !device["data"].is_null() {
        check_object(&device["data"], DATA_BYTES_MAX, &format!("{path}.data"), errors);
    }
    let network = &device["networkData"];
    let path = format!("{path}.networkData");
    for (field, max) in [("interfaceName", INTERFACE_BYTES_MAX), ("hardwareAddress", HARDWARE_BYTES_MAX)] {
        if network[field].as_str().is_some_and(|text| text.len() > max) {
            errors.push(FieldError::too_long(format!("{path}.{field}"), max));
        }
    }
    if is_short(network, "ips", ADDRESSES_MAX, &path, errors) {
        for (path, address) in indexed(network, &path, "ips") {
            check_interface_address(address.as_str().unwrap_or_default(), &path, errors);
        }
        let addresses = items(&network["ips"]);
        for (index, address) in addresses.iter().enumerate() {
            if addresses[..index].contains(address) {
                errors.push(FieldError::duplicate(format!("{path}.ips[{index}]"), address.clone()));
            }
        }
    }
}

fn validate_allocation(allocation: &Value, known: &BTreeSet<String>, errors: &mut Errors) {
    const PATH: &str = "status.allocation.devices";
    let devices = &allocation["devices"];
    if is_short(devices, "results", RESULTS_MAX, PATH, errors) {
        for (path, result) in indexed(devices, PATH, "results") {
            let request = result["request"].as_str().unwrap_or_default();
            check_request(request, known, &format!("{path}.request"), errors);
            validate_identity(result, &path, errors);
            validate_binding(result, &path, errors);
            validate_tolerations(result, &path, errors);
            validate_share(result, &path, errors);
        }
    }
    // Those of the class and those of the claim.
    if is_short(devices, "config", 2 * LIST_MAX, PATH, errors) {
        for (path, config) in indexed(devices, PATH, "config") {
            let known_sources = ["FromClaim", "FromClass"];
            match text(config, "source") {
                None => errors.push(FieldError::required(format!("{path}.source"), "")),
                Some(source) if !known_sources.contains(&source) => {
                    errors.push(FieldError::not_supported(format!("{path}.source"), source, &known_sources));
                }
                Some(_) => {}
            }
            check_requests(config, known, &path, errors);
            validate_config(config, &path, errors);
        }
    }
    if allocation["nodeSelector"].is_object() {
        validate_node_selector(&allocation["nodeSelector"], "status.allocation.nodeSelector", errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn claim(status: Value) -> Value {
        let request = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu", "count": 1}});
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [request]}}, "status": status})
    }

    fn result() -> Value {
        json!({"request": "gpu", "driver": "a.b", "pool": "p/q", "device": "d"})
    }

    fn allocated(extra: Value) -> Value {
        let mut status = json!({"allocation": {"devices": {"results": [result()]}}});
        status.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        status
    }

    fn check(new: &Value, old: &Value) -> Vec<String> {
        let found = paths("resource.k8s.io", "resourceclaims", "status", new, Some(old));
        found.into_iter().map(|path| path.trim_start_matches("status.").to_owned()).collect()
    }

    fn first(status: Value) -> Vec<String> {
        check(&claim(status), &claim(json!({})))
    }

    #[test]
    fn an_allocation_answers_requests_of_the_claim() {
        assert!(first(allocated(json!({}))).is_empty());
        let with = |field: &str, value: Value| {
            let mut result = result();
            result[field] = value;
            let found = first(json!({"allocation": {"devices": {"results": [result]}}}));
            found
                .into_iter()
                .map(|p| p.trim_start_matches("allocation.devices.").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(with("request", json!("tpu")), ["results[0].request"]);
        assert_eq!(with("request", json!("a/b/c")), ["results[0].request"]);
        assert_eq!(with("driver", json!("")), ["results[0].driver"]);
        assert_eq!(with("pool", Value::Null), ["results[0].pool"]);
        assert_eq!(with("pool", json!("p/")), ["results[0].pool"]);
        assert_eq!(with("device", json!("D")), ["results[0].device"]);
        assert_eq!(with("shareID", json!("x")), ["results[0].shareID"]);
        assert!(with("shareID", json!("0b61b4b7-dc3b-4d5f-8f6a-6ed8c1ff53a1")).is_empty());
        assert_eq!(with("bindingConditions", json!(["a.b/ready"])), ["results[0].bindingFailureConditions"]);
    }

    #[test]
    fn configuration_says_where_it_comes_from() {
        let config = |source: &str| {
            let opaque = json!({"driver": "a.b", "parameters": {}});
            let config = json!([{"source": source, "requests": ["gpu"], "opaque": opaque}]);
            first(json!({"allocation": {"devices": {"config": config}}}))
        };
        assert!(config("FromClaim").is_empty());
        assert_eq!(config(""), ["allocation.devices.config[0].source"]);
        assert_eq!(config("Elsewhere"), ["allocation.devices.config[0].source"]);
    }

    #[test]
    fn an_allocation_stays_until_it_is_taken_back() {
        let old = claim(allocated(json!({})));
        assert!(check(&old, &old).is_empty());
        assert!(check(&claim(json!({})), &old).is_empty());
        let other = claim(json!({"allocation": {"devices": {"results": []}}}));
        assert_eq!(check(&other, &old), ["allocation"]);
    }

    #[test]
    fn consumers_need_an_allocation_and_are_told_apart() {
        let pod = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
        assert_eq!(first(json!({"reservedFor": [pod("1")]})), ["reservedFor"]);
        assert!(first(allocated(json!({"reservedFor": [pod("1"), pod("2")]}))).is_empty());
        assert_eq!(first(allocated(json!({"reservedFor": [pod("1"), pod("1")]}))), ["reservedFor[1]"]);
        assert_eq!(
            first(allocated(json!({"reservedFor": [{}]}))),
            ["reservedFor[0].resource", "reservedFor[0].name", "reservedFor[0].uid"]
        );
        let many: Vec<Value> = (0..=CONSUMERS_MAX).map(|n| pod(&n.to_string())).collect();
        assert_eq!(first(allocated(json!({ "reservedFor": many }))), ["reservedFor"]);
    }

    #[test]
    fn a_claim_that_is_going_takes_no_new_consumers() {
        let pod = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
        let going = |pods: Value| {
            let mut claim = claim(allocated(json!({ "reservedFor": pods })));
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
            claim
        };
        let old = going(json!([pod("1"), pod("2")]));
        assert!(check(&going(json!([pod("2")])), &old).is_empty());
        assert_eq!(check(&going(json!([pod("2"), pod("3")])), &old), ["reservedFor"]);
    }

    #[test]
    fn devices_that_are_told_of_are_allocated_ones() {
        let device = |extra: Value| {
            let mut device = json!({"driver": "a.b", "pool": "p/q", "device": "d"});
            device.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            device
        };
        let of = |devices: Value| first(allocated(json!({ "devices": devices })));
        assert!(of(json!([device(json!({"data": {"a": 1}}))])).is_empty());
        assert_eq!(of(json!([device(json!({"device": "e"}))])), ["devices[0]"]);
        assert_eq!(of(json!([device(json!({})), device(json!({}))])), ["devices[1]"]);
        assert_eq!(of(json!([device(json!({"data": "text"}))])), ["devices[0].data"]);
        assert_eq!(
            of(json!([device(json!({"networkData": {"ips": ["10.0.0.1/8", "10.0.0.1", "10.0.0.1/8"]}}))])),
            ["devices[0].networkData.ips[1]", "devices[0].networkData.ips[2]"]
        );
        let long = json!({"interfaceName": "x".repeat(257), "hardwareAddress": "x".repeat(129)});
        assert_eq!(
            of(json!([device(json!({ "networkData": long }))])),
            ["devices[0].networkData.interfaceName", "devices[0].networkData.hardwareAddress"]
        );
    }
}
