//! Persistent volumes and the claims on them.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::affinity::validate_node_selector;
use super::fields::is_same;
use super::pod_change::keep;
use super::quantities::{amounts, quantity, shown};
use super::volumes::{SOURCES, check_no_backsteps, sole_source, validate_kind};
use crate::strategy::rules::{Errors, invalid_all, items, text};

pub(super) fn volume(check: &Check<'_>, errors: &mut Errors) {
    validate_spec(&check.new["spec"], "spec", false, errors);
    let Some(old) = check.old else { return };
    let (new, old) = (&check.new["spec"], &old["spec"]);
    let before = as_expandable(old, new);
    if SOURCES.iter().any(|source| new[*source] != before[*source]) {
        let why = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
    }
    if !is_same(&new["volumeMode"], &old["volumeMode"]) {
        errors.push(FieldError::immutable("volumeMode", new["volumeMode"].clone()));
    }
    if !old["nodeAffinity"].is_null() && new["nodeAffinity"] != old["nodeAffinity"] {
        errors.push(FieldError::immutable("nodeAffinity", new["nodeAffinity"].clone()));
    }
    if !old["volumeAttributesClassName"].is_null() && new["volumeAttributesClassName"].is_null() {
        let why = "update from non-nil value to nil is forbidden";
        errors.push(FieldError::forbidden("spec.volumeAttributesClassName", why));
    }
}

/// The spec as it was, and with the secret for its expansion if that is what was added.
fn as_expandable(old: &Value, new: &Value) -> Value {
    const SECRET: &str = "controllerExpandSecretRef";
    let mut before = old.clone();
    let added = new["csi"].get(SECRET).filter(|secret| secret.is_object());
    if let (Some(secret), Some(csi)) = (added, before.get_mut("csi").and_then(Value::as_object_mut))
        && csi.get(SECRET).is_none_or(Value::is_null)
    {
        csi.insert(SECRET.to_owned(), secret.clone());
    }
    before
}

/// The spec of a volume; an inline one is part of an attachment and says less.
pub(super) fn validate_spec(spec: &Value, path: &str, is_inline: bool, errors: &mut Errors) {
    validate_access_modes(spec, path, errors);
    match is_inline {
        true => validate_inline(spec, path, errors),
        false => validate_capacity(&spec["capacity"], &format!("{path}.capacity"), errors),
    }
    if let Some((kind, source)) = sole_source(spec, path, errors) {
        validate_source(kind, source, path, errors);
    }
    validate_attributes_class(spec, path, errors);
    if !is_inline {
        validate_affinity(spec, path, errors);
    }
    if spec["hostPath"]["path"] == "/" && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(format!("{path}.persistentVolumeReclaimPolicy"), why));
    }
}

/// A volume that an attachment describes has neither an owner nor a choice.
fn validate_inline(spec: &Value, path: &str, errors: &mut Errors) {
    let why = "may not be specified in the context of inline volumes";
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        if !is_same(&spec[field], &Value::Null) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
        }
    }
    if spec["csi"].is_null() {
        let why = "has to be specified in the context of inline volumes";
        errors.push(FieldError::required(format!("{path}.csi"), why));
    }
    if items(&spec["accessModes"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.accessModes"), ""));
    }
    for (field, only, what) in [
        ("persistentVolumeReclaimPolicy", "Retain", "may only be Retain"),
        ("volumeMode", "Filesystem", "may not specify volumeMode other than Filesystem"),
    ] {
        if text(spec, field).is_some_and(|given| given != only) {
            let why = format!("{what} in the context of inline volumes");
            errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
        }
    }
}

fn validate_attributes_class(spec: &Value, path: &str, errors: &mut Errors) {
    let Some(class) = spec["volumeAttributesClassName"].as_str() else { return };
    if class.is_empty() {
        let why = "an empty string is disallowed";
        errors.push(FieldError::required(format!("{path}.volumeAttributesClassName"), why));
    }
    if spec["csi"].is_null() {
        let why = "has to be specified when using volumeAttributesClassName";
        errors.push(FieldError::required(format!("{path}.csi"), why));
    }
}

fn validate_affinity(spec: &Value, path: &str, errors: &mut Errors) {
    let (affinity, path) = (&spec["nodeAffinity"], format!("{path}.nodeAffinity"));
    if spec["local"].is_object() && affinity.is_null() {
        errors.push(FieldError::required(&path, "Local volume requires node affinity"));
    }
    if affinity.is_object() {
        match affinity["required"].is_object() {
            true => validate_node_selector(&affinity["required"], &format!("{path}.required"), errors),
            false => {
                let why = "must specify required node constraints";
                errors.push(FieldError::required(format!("{path}.required"), why));
            }
        }
    }
}

fn validate_source(kind: &str, source: &Value, path: &str, errors: &mut Errors) {
    validate_kind(kind, source, path, errors);
    let path = format!("{path}.{kind}");
    match kind {
        "local" => match text(source, "path") {
            None => errors.push(FieldError::required(format!("{path}.path"), "")),
            Some(place) => check_no_backsteps(place, &format!("{path}.path"), errors),
        },
        "csi" => {
            if text(source, "volumeHandle").is_none() {
                errors.push(FieldError::required(format!("{path}.volumeHandle"), ""));
            }
            for secret in CSI_SECRETS.iter().filter(|secret| source[**secret].is_object()) {
                validate_secret_ref(&source[*secret], &format!("{path}.{secret}"), errors);
            }
        }
        "iscsi" if source["secretRef"].is_object() && text(&source["secretRef"], "name").is_none() => {
            errors.push(FieldError::required(format!("{path}.secretRef.name"), ""));
        }
        "storageos" | "cinder" => {
            let secret = &source["secretRef"];
            if secret.is_object() && text(secret, "namespace").is_none() {
                errors.push(FieldError::required(format!("{path}.secretRef.namespace"), ""));
            }
        }
        "azureFile" if source["secretNamespace"] == "" => {
            errors.push(FieldError::required(format!("{path}.secretNamespace"), ""));
        }
        "glusterfs" => {
            if let Some(namespace) = source["endpointsNamespace"].as_str() {
                let wrong = names::check_dns_label(namespace);
                invalid_all(wrong, &format!("{path}.endpointsNamespace"), namespace, errors);
            }
        }
        _ => {}
    }
}

/// The secret of a driver, in a namespace that it names.
fn validate_secret_ref(secret: &Value, path: &str, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        let path = format!("{path}.{field}");
        match (field, text(secret, field)) {
            (_, None) => errors.push(FieldError::required(path, "")),
            ("name", Some(name)) => invalid_all(names::check_dns_subdomain(name), &path, name, errors),
            (_, Some(namespace)) => {
                invalid_all(names::check_dns_label(namespace), &path, namespace, errors);
            }
        }
    }
}

const CSI_SECRETS: &[&str] = &[
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
];

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn validate_access_modes(spec: &Value, path: &str, errors: &mut Errors) {
    let (modes, at) = (items(&spec["accessModes"]), format!("{path}.accessModes"));
    for mode in modes.iter().filter_map(Value::as_str).filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.push(FieldError::not_supported(&at, mode, ACCESS_MODES));
    }
    let has = |sole: bool| {
        let known = modes.iter().filter_map(Value::as_str).filter(|mode| ACCESS_MODES.contains(mode));
        known.into_iter().any(|mode| (mode == "ReadWriteOncePod") == sole)
    };
    if has(true) && has(false) {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(at, why));
    }
}

fn validate_capacity(capacity: &Value, path: &str, errors: &mut Errors) {
    let given = capacity.as_object();
    if given.is_none_or(|given| !given.contains_key("storage") || given.len() > 1) {
        errors.push(FieldError::not_supported(path, capacity.clone(), &["storage"]));
    }
    for (path, _, value) in amounts(capacity, path) {
        if quantity(value).is_some_and(|amount| amount.units() < 0) {
            errors.push(FieldError::invalid(&path, shown(value), "must be a valid resource quantity"));
        }
        check_positive_amount(value, &path, errors);
    }
}

fn check_positive_amount(value: &Value, path: &str, errors: &mut Errors) {
    if quantity(value).is_some_and(|amount| amount.is_negative() || amount.is_zero()) {
        errors.push(FieldError::invalid(path, shown(value), "must be greater than zero"));
    }
}

/// What a claim says beyond single fields; `fields.txt` has the rest.
fn validate_claim(spec: &Value, path: &str, errors: &mut Errors) {
    validate_access_modes(spec, path, errors);
    let storage = &spec["resources"]["requests"]["storage"];
    let at = format!("{path}.resources[storage]");
    match storage.is_null() {
        true => errors.push(FieldError::required(at, "")),
        false => check_positive_amount(storage, &at, errors),
    }
    for field in ["dataSource", "dataSourceRef"] {
        if spec[field].is_object() {
            validate_data_source(&spec[field], &format!("{path}.{field}"), errors);
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    let of = |value: &Value| ["apiGroup", "kind", "name"].map(|field| value[field].clone());
    let foreign = text(reference, "namespace");
    match foreign {
        Some(namespace) => {
            let wrong = names::check_dns_label(namespace);
            invalid_all(wrong, &format!("{path}.dataSourceRef.namespace"), namespace, errors);
        }
        None if source.is_object() && reference.is_object() && of(source) != of(reference) => {
            errors.push(FieldError::invalid(path, source.clone(), "must match dataSourceRef"));
        }
        None => {}
    }
    if foreign.is_some() && source.is_object() {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        errors.push(FieldError::invalid(path, source.clone(), why));
    }
}

/// A claim inside a template.
pub(super) fn validate_claim_spec(spec: &Value, path: &str, errors: &mut Errors) {
    validate_claim(spec, path, errors);
}

fn validate_data_source(source: &Value, path: &str, errors: &mut Errors) {
    for field in ["name", "kind"] {
        if text(source, field).is_none() {
            errors.push(FieldError::required(format!("{path}.{field}"), ""));
        }
    }
    match text(source, "apiGroup") {
        None if source["kind"] != "PersistentVolumeClaim" => {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(path, source["kind"].clone(), why));
        }
        None => {}
        Some(group) => {
            invalid_all(names::check_dns_subdomain(group), &format!("{path}.apiGroup"), group, errors);
        }
    }
}

pub(super) fn claim(check: &Check<'_>, errors: &mut Errors) {
    let new = &check.new["spec"];
    validate_claim(new, "spec", errors);
    let Some(old) = check.old else { return };
    validate_claim_change(new, &old["spec"], &check.new["status"], errors);
}

fn validate_claim_change(new: &Value, old: &Value, status: &Value, errors: &mut Errors) {
    let mut masked = new.clone();
    let is_bound = status["phase"] == "Bound";
    let names_class = |spec: &Value| !spec["volumeAttributesClassName"].is_null();
    // The binder names the volume once, the default class may come late, and what is bound may be of another class.
    for (field, may_change) in [
        ("volumeName", text(old, "volumeName").is_none()),
        ("storageClassName", old["storageClassName"].is_null() && !new["storageClassName"].is_null()),
        ("volumeAttributesClassName", is_bound && names_class(new)),
    ] {
        if may_change {
            keep(&mut masked, old, field);
        }
    }
    let storage = |spec: &Value| spec["resources"]["requests"]["storage"].clone();
    let (was, is) = (storage(old), storage(new));
    let requests = masked.pointer_mut("/resources/requests").and_then(Value::as_object_mut);
    if let Some(requests) = requests.filter(|_| is_bound) {
        requests.insert("storage".to_owned(), was.clone());
    }
    if masked != *old {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden("spec", why));
    }
    // A claim that could not grow may go back to more than it has.
    let has = quantity(&status["capacity"]["storage"]);
    if quantity(&is) < quantity(&was) && has.is_some() && quantity(&is) <= has {
        let why = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden("spec.resources.requests.storage", why));
    }
    if !is_same(&new["volumeMode"], &old["volumeMode"]) {
        errors.push(FieldError::immutable("volumeMode", new["volumeMode"].clone()));
    }
    if names_class(old) && text(new, "volumeAttributesClassName").is_none() {
        let what = if names_class(new) { "an empty string" } else { "nil" };
        let why = format!("update from non-nil value to {what} is forbidden");
        errors.push(FieldError::forbidden("spec.volumeAttributesClassName", why));
    }
}

const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

pub(super) fn claim_status(check: &Check<'_>, errors: &mut Errors) {
    for (path, _, value) in amounts(&check.new["status"]["capacity"], "status.capacity") {
        if quantity(value).is_some_and(|amount| amount.is_negative()) {
            errors.push(FieldError::invalid(path, shown(value), "must be greater than or equal to 0"));
        }
    }
    let status = &check.new["status"];
    for (resource, resize) in status["allocatedResourceStatuses"].as_object().into_iter().flatten() {
        let path = "status.allocatedResourceStatus";
        check_resource(resource, path, errors);
        if !RESIZES.contains(&resize.as_str().unwrap_or_default()) {
            errors.push(FieldError::not_supported(path, resource.as_str(), RESIZES));
        }
    }
    let path = "status.allocatedResources";
    for (at, resource, value) in amounts(&status["allocatedResources"], path) {
        let before = errors.len();
        check_resource(resource, path, errors);
        let is_negative = quantity(value).is_some_and(|amount| amount.is_negative());
        if is_negative && errors.len() == before {
            errors.push(FieldError::invalid(at, shown(value), "must be a valid resource quantity"));
        }
    }
}

/// Of what Kubernetes itself counts a claim has storage alone.
fn check_resource(name: &str, path: &str, errors: &mut Errors) {
    let wrong = names::check_label_key(name);
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    if wrong.is_empty() && is_native && name != "storage" {
        errors.push(FieldError::not_supported(path, name, &["storage"]));
    }
    invalid_all(wrong, path, name, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim_of(storage: &str) -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}})
    }

    fn change(new: Value, old: Value, status: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate_claim_change(&new, &old, &status, &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn a_bound_claim_may_grow_and_nothing_else() {
        let bound = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let storage = "spec.resources.requests.storage";
        assert!(change(claim_of("2Gi"), claim_of("1Gi"), bound.clone()).is_empty());
        assert_eq!(change(claim_of("2Gi"), claim_of("1Gi"), json!({})), ["spec"]);
        assert!(change(claim_of("2Gi"), claim_of("3Gi"), bound.clone()).is_empty());
        assert_eq!(change(claim_of("1Gi"), claim_of("2Gi"), bound.clone()), [storage]);
        let mut named = claim_of("1Gi");
        named["volumeName"] = json!("pv");
        assert!(change(named.clone(), claim_of("1Gi"), json!({})).is_empty());
        assert_eq!(change(claim_of("1Gi"), named, json!({})), ["spec"]);
        let mut classed = claim_of("1Gi");
        classed["volumeAttributesClassName"] = json!("gold");
        assert!(change(classed.clone(), claim_of("1Gi"), bound.clone()).is_empty());
        assert_eq!(change(claim_of("1Gi"), classed, bound), ["spec", "spec.volumeAttributesClassName"]);
    }

    #[test]
    fn a_claims_resize_is_a_known_one() {
        let status = |statuses: Value| json!({"status": {"allocatedResourceStatuses": statuses}});
        let check =
            |object: Value| super::super::tests::paths("", "persistentvolumeclaims", "status", &object, None);
        assert!(check(status(json!({"storage": "NodeResizePending"}))).is_empty());
        assert_eq!(check(status(json!({"storage": "Odd"}))), ["status.allocatedResourceStatus"]);
        assert_eq!(check(status(json!({"cpu": "NodeResizePending"}))), ["status.allocatedResourceStatus"]);
        let allocated = json!({"status": {"allocatedResources": {"storage": "-1"}}});
        assert_eq!(check(allocated), ["status.allocatedResources[storage]"]);
    }

    #[test]
    fn a_changed_volume_keeps_what_it_is() {
        let old = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "volumeMode": "Filesystem", "csi": {"driver": "d", "volumeHandle": "h"}});
        let volume = |spec: &Value| json!({"metadata": {"name": "v"}, "spec": spec});
        let change = |pointer: &str, value: Value| {
            let mut new = old.clone();
            *new.pointer_mut(pointer).unwrap() = value;
            super::super::tests::paths("", "persistentvolumes", "", &volume(&new), Some(&volume(&old)))
        };
        assert_eq!(change("/volumeMode", json!("Block")), ["volumeMode"]);
        assert_eq!(change("/csi/volumeHandle", json!("i")), ["spec.persistentvolumesource"]);
        assert_eq!(change("/capacity", json!(null)), ["spec.capacity"; 4]);
        assert_eq!(change("/accessModes/0", json!("Odd")), ["spec.accessModes"; 2]);
        let secret = json!({"driver": "d", "volumeHandle": "h", "controllerExpandSecretRef": {"name": "s", "namespace": "n"}});
        assert!(change("/csi", secret).is_empty());
    }

    #[test]
    fn an_inline_volume_is_one_of_a_driver() {
        let mut errors = Errors::new();
        let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}, "volumeMode": "Block"});
        validate_spec(&spec, "spec", true, &mut errors);
        let paths: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["spec.capacity", "spec.csi", "spec.volumeMode"]);
    }

    #[test]
    fn a_volume_has_one_source_and_a_size() {
        let mut errors = Errors::new();
        validate_spec(
            &json!({"capacity": {"storage": "0"}, "local": {"path": "/x"}}),
            "spec",
            false,
            &mut errors,
        );
        let paths: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["spec.capacity[storage]", "spec.nodeAffinity"]);
    }
}
