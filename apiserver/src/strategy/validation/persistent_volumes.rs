//! Persistent volumes and the claims on them.

use api_types::names;
use api_types::status::FieldError;
use serde_json::{Value, json};

use super::Check;
use super::affinity::validate_node_selector;
use super::fields::{check_below, is_same};
use super::quantities::{amounts, quantity, shown};
use super::storage::check_driver_name;
use super::volumes::{SOURCES, check_no_backsteps, sole_source, validate_kind};
use crate::strategy::rules::{Errors, invalid_all, items, text};

pub(super) fn volume(check: &Check<'_>, errors: &mut Errors) {
    validate_spec(&check.new["spec"], "spec", false, errors);
    let Some(old) = check.old else { return };
    let (new, old) = (&check.new["spec"], &old["spec"]);
    if SOURCES.iter().any(|source| new[*source] != old[*source]) {
        let why = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
    }
    if !is_same(&new["volumeMode"], &old["volumeMode"]) {
        errors.push(FieldError::immutable("spec.volumeMode", new["volumeMode"].clone()));
    }
    if !old["nodeAffinity"].is_null() && new["nodeAffinity"] != old["nodeAffinity"] {
        errors.push(FieldError::immutable("spec.nodeAffinity", new["nodeAffinity"].clone()));
    }
}

/// The spec of a volume; an inline one is part of an attachment and says less.
pub(super) fn validate_spec(spec: &Value, path: &str, is_inline: bool, errors: &mut Errors) {
    validate_access_modes(spec, path, errors);
    if !is_inline {
        validate_capacity(&spec["capacity"], &format!("{path}.capacity"), errors);
    }
    if let Some((kind, source)) = sole_source(spec, path, errors) {
        if is_inline && kind != "csi" {
            errors.push(FieldError::forbidden(
                format!("{path}.{kind}"),
                "only csi is allowed for inline volumes",
            ));
        }
        validate_source(kind, source, path, errors);
    }
    validate_affinity(spec, path, errors);
    if spec["hostPath"]["path"] == "/" && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(format!("{path}.persistentVolumeReclaimPolicy"), why));
    }
}

fn validate_affinity(spec: &Value, path: &str, errors: &mut Errors) {
    let (affinity, path) = (&spec["nodeAffinity"], format!("{path}.nodeAffinity"));
    if spec["local"].is_object() && affinity["required"].is_null() {
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
    let only = json!({ kind: source });
    if kind != "csi" {
        check_below("volume", &only, path, errors);
    }
    let path = format!("{path}.{kind}");
    validate_kind(kind, source, &path, errors);
    match kind {
        "local" => match text(source, "path") {
            None => errors.push(FieldError::required(format!("{path}.path"), "")),
            Some(place) => check_no_backsteps(place, &format!("{path}.path"), errors),
        },
        "csi" => {
            for field in ["driver", "volumeHandle"] {
                if text(source, field).is_none() {
                    errors.push(FieldError::required(format!("{path}.{field}"), ""));
                }
            }
            for secret in CSI_SECRETS.iter().filter(|secret| source[**secret].is_object()) {
                for field in ["name", "namespace"] {
                    if text(&source[*secret], field).is_none() {
                        errors.push(FieldError::required(format!("{path}.{secret}.{field}"), ""));
                    }
                }
            }
        }
        "flexVolume" => {
            text(source, "driver")
                .into_iter()
                .for_each(|name| check_driver_name(name, &format!("{path}.driver"), errors));
        }
        _ => {}
    }
}

const CSI_SECRETS: &[&str] = &[
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeStageSecretRef",
    "nodeExpandSecretRef",
];

fn validate_access_modes(spec: &Value, path: &str, errors: &mut Errors) {
    let modes = items(&spec["accessModes"]);
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(format!("{path}.accessModes"), why));
    }
}

fn validate_capacity(capacity: &Value, path: &str, errors: &mut Errors) {
    let Some(given) = capacity.as_object() else { return };
    if !given.contains_key("storage") || given.len() > 1 {
        errors.push(FieldError::not_supported(path, capacity.clone(), &["storage"]));
    }
    for (path, _, value) in amounts(capacity, path) {
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
    if source.is_object()
        && reference.is_object()
        && of(source) != of(reference)
        && reference["namespace"].is_null()
    {
        errors.push(FieldError::invalid(path, source.clone(), "must match dataSourceRef"));
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
            errors.push(FieldError::invalid(path, source["kind"].clone(), ""));
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
    validate_claim_change(new, &old["spec"], old["status"]["phase"] == "Bound", errors);
}

fn validate_claim_change(new: &Value, old: &Value, is_bound: bool, errors: &mut Errors) {
    let mut masked = new.clone();
    let mut restore = |field: &str| {
        let Some(fields) = masked.as_object_mut() else { return };
        match old.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.shift_remove(field),
        };
    };
    for field in ["volumeName", "storageClassName"] {
        // The binder names the volume once, and the default class may come late.
        if text(old, field).is_none() && old[field].is_null() {
            restore(field);
        }
    }
    let (was, is) = (&old["resources"]["requests"]["storage"], &new["resources"]["requests"]["storage"]);
    if is_bound {
        restore("volumeAttributesClassName");
        restore("resources");
        if quantity(is) < quantity(was) {
            let why = "field can not be less than previous value";
            errors.push(FieldError::forbidden("spec.resources.requests.storage", why));
        }
    }
    if masked != *old {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden("spec", why));
    }
    if !is_same(&new["volumeMode"], &old["volumeMode"]) {
        errors.push(FieldError::immutable("spec.volumeMode", new["volumeMode"].clone()));
    }
}

pub(super) fn claim_status(check: &Check<'_>, errors: &mut Errors) {
    for (path, _, value) in amounts(&check.new["status"]["capacity"], "status.capacity") {
        if quantity(value).is_some_and(|amount| amount.is_negative()) {
            errors.push(FieldError::invalid(path, shown(value), "must be greater than or equal to 0"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim_of(storage: &str) -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}})
    }

    fn change(new: Value, old: Value, is_bound: bool) -> Vec<String> {
        let mut errors = Errors::new();
        validate_claim_change(&new, &old, is_bound, &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn a_bound_claim_may_grow_and_nothing_else() {
        assert!(change(claim_of("2Gi"), claim_of("1Gi"), true).is_empty());
        assert_eq!(change(claim_of("2Gi"), claim_of("1Gi"), false), ["spec"]);
        assert_eq!(change(claim_of("1Gi"), claim_of("2Gi"), true), ["spec.resources.requests.storage"]);
        let mut named = claim_of("1Gi");
        named["volumeName"] = json!("pv");
        assert!(change(named.clone(), claim_of("1Gi"), false).is_empty());
        assert_eq!(change(claim_of("1Gi"), named, false), ["spec"]);
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
