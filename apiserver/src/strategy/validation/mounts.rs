//! Where containers find the pod's volumes: as directories and as devices.

use std::collections::BTreeSet;

use api_types::status::FieldError;
use serde_json::Value;

use super::volumes::{Volumes, check_descending};
use crate::strategy::rules::{Errors, indexed, items, one_of, text};

/// Kubernetes names the list, not the mount, where a path or a propagation is wrong.
pub(super) fn validate(container: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let list = format!("{path}.volumeMounts");
    for (path, mount) in indexed(container, path, "volumeMounts") {
        validate_volume_name(mount, &path, volumes, errors);
        let (place, at) = (mount["mountPath"].as_str().unwrap_or_default(), format!("{path}.mountPath"));
        if place.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if !seen.insert(place) {
            errors.push(FieldError::invalid(at, place, "must be unique"));
        }
        check_apart(mount, "mountPath", container, "volumeDevices", "devicePath", &path, errors);
        validate_sub_path(mount, &path, &list, errors);
        validate_propagation(mount, container, &list, errors);
    }
    validate_devices(container, path, volumes, errors);
}

fn validate_volume_name(mount: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut Errors) {
    let (name, path) = (mount["name"].as_str().unwrap_or_default(), format!("{path}.name"));
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    if volumes.find(name).is_none() {
        errors.push(FieldError::not_found(path, name));
    }
}

/// A volume is used as a directory or as a device, and so is a place.
fn check_apart(
    used: &Value,
    place: &str,
    container: &Value,
    others: &str,
    theirs: &str,
    path: &str,
    errors: &mut Errors,
) {
    let others_use = |field: &str, value: &Value| {
        items(&container[others]).iter().any(|other| other[field] == *value && !value.is_null())
    };
    if others_use("name", &used["name"]) {
        let why = format!("must not already exist in {others}");
        errors.push(FieldError::invalid(format!("{path}.name"), used["name"].clone(), why));
    }
    if others_use(theirs, &used[place]) {
        let why = format!("must not already exist as a path in {others}");
        errors.push(FieldError::invalid(format!("{path}.{place}"), used[place].clone(), why));
    }
}

fn validate_sub_path(mount: &Value, path: &str, list: &str, errors: &mut Errors) {
    let (plain, expanded) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    if let Some(place) = plain {
        check_descending(place, &format!("{list}.subPath"), errors);
    }
    if let Some(place) = expanded {
        if plain.is_some() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(format!("{path}.subPathExpr"), place, why));
        }
        check_descending(place, &format!("{list}.subPathExpr"), errors);
    }
}

fn validate_propagation(mount: &Value, container: &Value, list: &str, errors: &mut Errors) {
    one_of(mount, list, "mountPropagation", &["Bidirectional", "HostToContainer", "None"], errors);
    if mount["mountPropagation"] == "Bidirectional" && container["securityContext"]["privileged"] != true {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(format!("{list}.mountPropagation"), why));
    }
    let at = format!("{list}.recursiveReadOnly");
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount["readOnly"] != true {
                errors.push(FieldError::forbidden(&at, "may only be specified when readOnly is true"));
            }
            if !matches!(mount["mountPropagation"].as_str(), None | Some("None")) {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(at, why));
            }
        }
        Some(other) => {
            errors.push(FieldError::not_supported(at, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

fn validate_devices(container: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut Errors) {
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (path, device) in indexed(container, path, "volumeDevices") {
        let name = device["name"].as_str().unwrap_or_default();
        let at = format!("{path}.name");
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if !names.insert(name) {
            errors.push(FieldError::invalid(&at, name, "must be unique"));
        }
        match volumes.find(name) {
            None => errors.push(FieldError::not_found(at, name)),
            Some(volume)
                if volume["persistentVolumeClaim"].is_object() || volume["ephemeral"].is_object() => {}
            Some(_) => {
                let why =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(at, name, why));
            }
        }
        let place = device["devicePath"].as_str().unwrap_or_default();
        let at = format!("{path}.devicePath");
        if place.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if places.contains(place) {
            errors.push(FieldError::invalid(&at, place, "must be unique"));
        }
        match place.split('/').any(|part| part == "..") {
            true => errors.push(FieldError::invalid(at, place, "can not contain backsteps ('..')")),
            false => {
                places.insert(place);
            }
        }
        check_apart(device, "devicePath", container, "volumeMounts", "mountPath", &path, errors);
    }
}
