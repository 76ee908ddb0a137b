//! Storage classes and what drivers say of themselves.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::affinity::validate_topology_terms;
use super::fields::is_same;
use super::quantities::quantity;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;

fn validate_parameters(parameters: &Value, path: &str, errors: &mut Errors) {
    let Some(parameters) = parameters.as_object() else { return };
    if parameters.len() > PARAMETERS_MAX {
        errors.push(FieldError::too_long(path, PARAMETERS_MAX));
        return;
    }
    if parameters.keys().any(String::is_empty) {
        errors.push(FieldError::invalid(path, "", "field can not be empty."));
    }
    let bytes: usize =
        parameters.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > PARAMETER_BYTES_MAX {
        errors.push(FieldError::too_long(path, PARAMETER_BYTES_MAX));
    }
}

pub(super) fn class(check: &Check<'_>, errors: &mut Errors) {
    validate_parameters(&check.new["parameters"], "parameters", errors);
    validate_topology_terms(check.new, "", "allowedTopologies", errors);
    // Kubernetes compares each term with as many empty ones first.
    let count = items(&check.new["allowedTopologies"]).len();
    for (path, term) in indexed(check.new, "", "allowedTopologies") {
        if items(&term["matchLabelExpressions"]).is_empty() {
            let at = format!("{path}.matchLabelExpressions");
            errors.extend((0..count).map(|_| FieldError::duplicate(at.as_str(), "")));
        }
    }
}

pub(super) fn attributes_class(check: &Check<'_>, errors: &mut Errors) {
    let parameters = &check.new["parameters"];
    if parameters.as_object().is_none_or(serde_json::Map::is_empty) {
        let why = "must contain at least one key/value pair";
        errors.push(FieldError::required("parameters", why));
    }
    validate_parameters(parameters, "parameters", errors);
}

const DRIVER_NAME_BYTES_MAX: usize = 63;

/// The name of a CSI driver; one that is empty is also no domain name.
pub(super) fn check_driver_name(name: &str, path: &str, errors: &mut Errors) {
    if name.len() > DRIVER_NAME_BYTES_MAX {
        errors.push(FieldError::too_long(path, DRIVER_NAME_BYTES_MAX));
    }
    invalid_all(names::check_dns_subdomain(&name.to_lowercase()), path, name, errors);
}

pub(super) fn driver(check: &Check<'_>, errors: &mut Errors) {
    if check.old.is_none() {
        check_driver_name(check.new["metadata"]["name"].as_str().unwrap_or_default(), "name", errors);
    }
    // Kubernetes spells the path so.
    let attaches = &check.new["spec"]["attachRequired"];
    if check.old.is_some_and(|old| old["spec"]["attachRequired"] != *attaches) {
        errors.push(FieldError::immutable("spec.attachedRequired", attaches.clone()));
    }
    for mode in items(&check.new["spec"]["volumeLifecycleModes"]).iter().filter_map(Value::as_str) {
        if !matches!(mode, "Ephemeral" | "Persistent") {
            let known = ["Persistent", "Ephemeral"];
            errors.push(FieldError::not_supported("spec.volumeLifecycleModes", mode, &known));
        }
    }
    let mut seen = Vec::new();
    for (path, request) in indexed(&check.new["spec"], "spec", "tokenRequests") {
        let audience = request["audience"].as_str().unwrap_or_default();
        if seen.contains(&audience) {
            errors.push(FieldError::duplicate(format!("{path}.audience"), audience));
            continue;
        }
        seen.push(audience);
        let Some(seconds) = request["expirationSeconds"].as_i64() else { continue };
        let why = match seconds {
            ..600 => "may not specify a duration less than 10 minutes",
            4_294_967_297.. => "may not specify a duration larger than 2^32 seconds",
            _ => continue,
        };
        errors.push(FieldError::invalid(format!("{path}.expirationSeconds"), seconds, why));
    }
}

const NODE_ID_BYTES_MAX: usize = 256;

pub(super) fn node(check: &Check<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (path, driver) in indexed(&check.new["spec"], "spec", "drivers") {
        let name = driver["name"].as_str().unwrap_or_default();
        check_driver_name(name, &format!("{path}.name"), errors);
        if let Some(id) = text(driver, "nodeID").filter(|id| id.len() > NODE_ID_BYTES_MAX) {
            let why = format!("must be {NODE_ID_BYTES_MAX} characters or less");
            errors.push(FieldError::invalid(format!("{path}.nodeID"), id, why));
        }
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        seen.push(name);
        validate_topology_keys(driver, &path, errors);
        validate_driver_change(check, driver, errors);
    }
}

/// Keys are reported where their driver stands.
fn validate_topology_keys(driver: &Value, path: &str, errors: &mut Errors) {
    let keys = items(&driver["topologyKeys"]);
    for (index, key) in keys.iter().filter_map(Value::as_str).enumerate() {
        if key.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        if keys[..index].iter().any(|earlier| earlier == key) {
            errors.push(FieldError::duplicate(path, key));
        }
        invalid_all(names::check_label_key(key), path, key, errors);
    }
}

/// Of a driver that a node has, only what the node can take may change.
fn validate_driver_change(check: &Check<'_>, driver: &Value, errors: &mut Errors) {
    let drivers = items(&check.old.unwrap_or(&Value::Null)["spec"]["drivers"]);
    let Some(before) = drivers.iter().find(|old| old["name"] == driver["name"]) else { return };
    if ["nodeID", "topologyKeys"].iter().any(|field| !is_same(&before[*field], &driver[*field])) {
        errors.push(FieldError::immutable("spec.drivers", driver.clone()));
    }
}

pub(super) fn capacity(check: &Check<'_>, errors: &mut Errors) {
    // What is fixed is not looked at again.
    if check.old.is_some() {
        return;
    }
    let class = check.new["storageClassName"].as_str().unwrap_or_default();
    invalid_all(names::check_dns_subdomain(class), "storageClassName", class, errors);
    let capacity = &check.new["capacity"];
    if quantity(capacity).is_some_and(|amount| amount.is_negative()) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("capacity", capacity.clone(), why));
    }
}

pub(super) fn attachment(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    // New ones are held to more than those that were made before there was more to hold to.
    if check.old.is_none() {
        let attacher = spec["attacher"].as_str().unwrap_or_default();
        if attacher.is_empty() {
            errors.push(FieldError::required("spec.attacher", ""));
        }
        check_driver_name(attacher, "spec.attacher", errors);
    }
    let node = spec["nodeName"].as_str().unwrap_or_default();
    invalid_all(names::check_dns_subdomain(node), "spec.nodeName", node, errors);
    let source = &spec["source"];
    match (source["inlineVolumeSpec"].is_object(), source["persistentVolumeName"].as_str()) {
        (true, None) => {
            super::persistent_volumes::validate_spec(
                &source["inlineVolumeSpec"],
                "spec.source.inlineVolumeSpec",
                true,
                errors,
            );
        }
        (true, Some(_)) => {
            let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(FieldError::forbidden("spec.source", why));
        }
        (false, None) => {
            let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(FieldError::required("spec.source", why));
        }
        (false, Some(name)) => {
            const PATH: &str = "spec.source.persistentVolumeName";
            if name.is_empty() {
                errors.push(FieldError::required(PATH, "must specify non empty persistentVolumeName"));
            }
            if !name.is_empty() || check.old.is_none() {
                invalid_all(names::check_dns_subdomain(name), PATH, name, errors);
            }
        }
    }
}

const VOLUME_ERROR_BYTES_MAX: usize = 1024;
const ATTACHMENT_METADATA_BYTES_MAX: usize = 256 * 1024;

pub(super) fn attachment_status(check: &Check<'_>, errors: &mut Errors) {
    let status = &check.new["status"];
    let metadata = status["attachmentMetadata"].as_object().into_iter().flatten();
    let bytes: usize = metadata.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ATTACHMENT_METADATA_BYTES_MAX {
        errors.push(FieldError::too_long("status.attachmentMetadata", ATTACHMENT_METADATA_BYTES_MAX));
    }
    for error in ["attachError", "detachError"] {
        // The limit that is named is not the one that holds.
        if text(&status[error], "message").is_some_and(|why| why.len() > VOLUME_ERROR_BYTES_MAX) {
            let path = format!("status.{error}.message");
            errors.push(FieldError::too_long(path, ATTACHMENT_METADATA_BYTES_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn of(plural: &str, object: Value, old: Option<&Value>) -> Vec<String> {
        paths("storage.k8s.io", plural, "", &object, old)
    }

    #[test]
    fn a_class_names_who_makes_volumes_and_stays() {
        let class = |provisioner: &str| json!({"provisioner": provisioner, "volumeBindingMode": "Immediate"});
        assert!(of("storageclasses", class("example.com/disk"), None).is_empty());
        assert_eq!(of("storageclasses", class("Bad Name"), None), ["provisioner"]);
        assert_eq!(of("storageclasses", class("a.b/c"), Some(&class("a.b/d"))), ["provisioner"]);
        let mut empty = class("a.b/c");
        empty["allowedTopologies"] = json!([{}]);
        assert_eq!(of("storageclasses", empty, None), ["allowedTopologies[0].matchLabelExpressions"]);
        let mut odd = class("a.b/c");
        odd["parameters"] = json!({"": "x"});
        odd["reclaimPolicy"] = json!("Odd");
        odd["allowedTopologies"] = json!([{"matchLabelExpressions": [{"key": "k", "values": []}]}]);
        let expected =
            ["reclaimPolicy", "parameters", "allowedTopologies[0].matchLabelExpressions[0].values"];
        assert_eq!(of("storageclasses", odd, None), expected);
    }

    #[test]
    fn an_attachment_has_one_source_and_never_changes() {
        let of_source = |source: Value| json!({"spec": {"attacher": "csi.example.com", "nodeName": "n", "source": source}});
        let good = of_source(json!({"persistentVolumeName": "pv"}));
        assert!(of("volumeattachments", good.clone(), None).is_empty());
        assert_eq!(of("volumeattachments", of_source(json!({})), None), ["spec.source"]);
        let unnamed = of_source(json!({"persistentVolumeName": ""}));
        assert_eq!(of("volumeattachments", unnamed, None), ["spec.source.persistentVolumeName"; 2]);
        let mut nowhere = good.clone();
        nowhere["spec"]["nodeName"] = json!("");
        assert_eq!(of("volumeattachments", nowhere, None), ["spec.nodeName"]);
        let failed = json!({"status": {"attachError": {"message": "x".repeat(2000)}}});
        let found = paths("storage.k8s.io", "volumeattachments", "status", &failed, None);
        assert_eq!(found, ["status.attachError.message"]);
        let other = of_source(json!({"persistentVolumeName": "other"}));
        assert_eq!(of("volumeattachments", other, Some(&good)), ["spec"]);
    }

    #[test]
    fn drivers_say_what_they_can_do() {
        let driver = |spec: Value| json!({"metadata": {"name": "csi.example.com"}, "spec": spec});
        let spec = json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false});
        assert!(of("csidrivers", driver(spec.clone()), None).is_empty());
        let mut detached = spec.clone();
        detached["attachRequired"] = json!(false);
        let old = driver(spec.clone());
        assert_eq!(of("csidrivers", driver(detached), Some(&old)), ["spec.attachedRequired"]);
        let mut odd = spec;
        odd["fsGroupPolicy"] = json!("Odd");
        odd["volumeLifecycleModes"] = json!(["Odd"]);
        odd["tokenRequests"] = json!([{"audience": "a"}, {"audience": "a", "expirationSeconds": 5}, {"audience": "b", "expirationSeconds": 5}]);
        let expected = [
            "spec.fsGroupPolicy",
            "spec.volumeLifecycleModes",
            "spec.tokenRequests[1].audience",
            "spec.tokenRequests[2].expirationSeconds",
        ];
        assert_eq!(of("csidrivers", driver(odd), None), expected);
        let node = |id: &str| json!({"spec": {"drivers": [{"name": "csi.example.com", "nodeID": id}]}});
        assert!(of("csinodes", node("a"), None).is_empty());
        assert_eq!(of("csinodes", node("b"), Some(&node("a"))), ["spec.drivers"]);
        assert_eq!(of("csinodes", node(&"x".repeat(300)), None), ["spec.drivers[0].nodeID"]);
        let mut keyed = node("a");
        keyed["spec"]["drivers"][0]["topologyKeys"] = json!(["a", "a", "bad key"]);
        assert_eq!(of("csinodes", keyed, None), ["spec.drivers[0]"; 2]);
    }
}
