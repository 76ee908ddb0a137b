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
}

pub(super) fn attributes_class(check: &Check<'_>, errors: &mut Errors) {
    let parameters = &check.new["parameters"];
    if let Some(driver) = text(check.new, "driverName") {
        check_driver_name(driver, "driverName", errors);
    }
    if parameters.as_object().is_none_or(serde_json::Map::is_empty) {
        let why = "must contain at least one key/value pair";
        errors.push(FieldError::required("parameters", why));
    }
    validate_parameters(parameters, "parameters", errors);
}

const DRIVER_NAME_BYTES_MAX: usize = 63;

/// The name of a CSI driver.
pub(super) fn check_driver_name(name: &str, path: &str, errors: &mut Errors) {
    if name.len() > DRIVER_NAME_BYTES_MAX {
        errors.push(FieldError::too_long(path, DRIVER_NAME_BYTES_MAX));
    }
    invalid_all(names::check_dns_subdomain(&name.to_lowercase()), path, name, errors);
}

pub(super) fn driver(check: &Check<'_>, errors: &mut Errors) {
    if let Some(name) = text(&check.new["metadata"], "name").filter(|_| check.old.is_none()) {
        check_driver_name(name, "metadata.name", errors);
    }
    for mode in items(&check.new["spec"]["volumeLifecycleModes"]).iter().filter_map(Value::as_str) {
        if !matches!(mode, "Ephemeral" | "Persistent") {
            let known = ["Ephemeral", "Persistent"];
            errors.push(FieldError::not_supported("spec.volumeLifecycleModes", mode, &known));
        }
    }
    let mut seen = Vec::new();
    for (path, request) in indexed(&check.new["spec"], "spec", "tokenRequests") {
        let audience = request["audience"].as_str().unwrap_or_default();
        if seen.contains(&audience) {
            errors.push(FieldError::duplicate(format!("{path}.audience"), audience));
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

const NODE_ID_BYTES_MAX: usize = 192;

pub(super) fn node(check: &Check<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (path, driver) in indexed(&check.new["spec"], "spec", "drivers") {
        let name = driver["name"].as_str().unwrap_or_default();
        if !name.is_empty() {
            check_driver_name(name, &format!("{path}.name"), errors);
        }
        if let Some(id) = text(driver, "nodeID").filter(|id| id.len() > NODE_ID_BYTES_MAX) {
            let why = format!("must be {NODE_ID_BYTES_MAX} characters or less");
            errors.push(FieldError::invalid(format!("{path}.nodeID"), id, why));
        }
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        seen.push(name);
        let before = items(&check.old.unwrap_or(&Value::Null)["spec"]["drivers"])
            .iter()
            .find(|old| old["name"] == *name);
        if let Some(before) = before {
            for field in ["nodeID", "topologyKeys"] {
                if !is_same(&before[field], &driver[field]) {
                    errors.push(FieldError::immutable(format!("{path}.{field}"), driver[field].clone()));
                }
            }
        }
    }
}

pub(super) fn capacity(check: &Check<'_>, errors: &mut Errors) {
    if let Some(class) = text(check.new, "storageClassName") {
        invalid_all(names::check_dns_subdomain(class), "storageClassName", class, errors);
    }
    for field in ["capacity", "maximumVolumeSize"] {
        if quantity(&check.new[field]).is_some_and(|amount| amount.is_negative()) {
            let why = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(field, check.new[field].clone(), why));
        }
    }
}

pub(super) fn attachment(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    if let Some(attacher) = text(spec, "attacher") {
        check_driver_name(attacher, "spec.attacher", errors);
    }
    let source = &spec["source"];
    match (source["inlineVolumeSpec"].is_object(), text(source, "persistentVolumeName")) {
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
            invalid_all(names::check_dns_subdomain(name), "spec.source.persistentVolumeName", name, errors);
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
        let other = of_source(json!({"persistentVolumeName": "other"}));
        assert_eq!(of("volumeattachments", other, Some(&good)), ["spec"]);
    }

    #[test]
    fn drivers_say_what_they_can_do() {
        let driver = |spec: Value| json!({"metadata": {"name": "csi.example.com"}, "spec": spec});
        let spec = json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false});
        assert!(of("csidrivers", driver(spec.clone()), None).is_empty());
        let mut odd = spec;
        odd["fsGroupPolicy"] = json!("Odd");
        odd["volumeLifecycleModes"] = json!(["Odd"]);
        odd["tokenRequests"] = json!([{"audience": "a"}, {"audience": "a", "expirationSeconds": 5}]);
        let expected = [
            "spec.fsGroupPolicy",
            "spec.volumeLifecycleModes",
            "spec.tokenRequests[1].audience",
            "spec.tokenRequests[1].expirationSeconds",
        ];
        assert_eq!(of("csidrivers", driver(odd), None), expected);
        let node = |id: &str| json!({"spec": {"drivers": [{"name": "csi.example.com", "nodeID": id}]}});
        assert!(of("csinodes", node("a"), None).is_empty());
        assert_eq!(of("csinodes", node("b"), Some(&node("a"))), ["spec.drivers[0].nodeID"]);
        assert_eq!(of("csinodes", node(&"x".repeat(200)), None), ["spec.drivers[0].nodeID"]);
    }
}
