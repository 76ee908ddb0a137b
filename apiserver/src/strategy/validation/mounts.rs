//! Where containers find the pod's volumes: as directories and as devices.

use std::collections::BTreeSet;

use api_types::status::FieldError;
use serde_json::Value;

use super::volumes::{Volumes, check_descending, check_no_backsteps};
use crate::strategy::rules::{Errors, indexed, items, one_of, text};

pub(super) fn validate(container: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, mount) in indexed(container, path, "volumeMounts") {
        validate_volume_name(mount, &path, volumes, errors);
        match text(mount, "mountPath") {
            None => errors.push(FieldError::required(format!("{path}.mountPath"), "")),
            Some(place) if !seen.insert(place) => {
                errors.push(FieldError::invalid(format!("{path}.mountPath"), place, "must be unique"));
            }
            Some(_) => {}
        }
        check_not_a_device(mount, container, &path, errors);
        validate_sub_path(mount, &path, errors);
        validate_propagation(mount, container, &path, errors);
    }
    validate_devices(container, path, volumes, errors);
}

fn validate_volume_name(mount: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut Errors) {
    match text(mount, "name") {
        None => errors.push(FieldError::required(format!("{path}.name"), "")),
        Some(name) if volumes.find(name).is_none() => {
            errors.push(FieldError::not_found(format!("{path}.name"), name));
        }
        Some(_) => {}
    }
}

fn check_not_a_device(mount: &Value, container: &Value, path: &str, errors: &mut Errors) {
    let devices = items(&container["volumeDevices"]);
    for (field, theirs, why) in [
        ("name", "name", "must not already exist in volumeDevices"),
        ("mountPath", "devicePath", "must not already exist as a path in volumeDevices"),
    ] {
        if let Some(value) =
            text(mount, field).filter(|value| devices.iter().any(|device| device[theirs] == *value))
        {
            errors.push(FieldError::invalid(format!("{path}.{field}"), value, why));
        }
    }
}

fn validate_sub_path(mount: &Value, path: &str, errors: &mut Errors) {
    let (plain, expanded) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    if let Some(place) = plain {
        check_descending(place, &format!("{path}.subPath"), errors);
    }
    if let Some(place) = expanded {
        let path = format!("{path}.subPathExpr");
        if plain.is_some() {
            errors.push(FieldError::invalid(&path, place, "subPathExpr and subPath are mutually exclusive"));
        }
        check_descending(place, &path, errors);
    }
}

fn validate_propagation(mount: &Value, container: &Value, path: &str, errors: &mut Errors) {
    one_of(mount, path, "mountPropagation", &["Bidirectional", "HostToContainer", "None"], errors);
    if mount["mountPropagation"] == "Bidirectional" && container["securityContext"]["privileged"] != true {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(format!("{path}.mountPropagation"), why));
    }
    let at = format!("{path}.recursiveReadOnly");
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount["readOnly"] != true {
                errors.push(FieldError::forbidden(at, "may only be specified when readOnly is true"));
            } else if !matches!(mount["mountPropagation"].as_str(), None | Some("None")) {
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
        let at = format!("{path}.name");
        match text(device, "name") {
            None => errors.push(FieldError::required(at, "")),
            Some(name) => {
                if !names.insert(name) {
                    errors.push(FieldError::invalid(&at, name, "must be unique"));
                }
                match volumes.find(name) {
                    None => errors.push(FieldError::not_found(at, name)),
                    Some(volume)
                        if !volume["persistentVolumeClaim"].is_object()
                            && !volume["ephemeral"].is_object() =>
                    {
                        let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                        errors.push(FieldError::invalid(at, name, why));
                    }
                    Some(_) => {}
                }
            }
        }
        let at = format!("{path}.devicePath");
        match text(device, "devicePath") {
            None => errors.push(FieldError::required(at, "")),
            Some(place) => {
                if !places.insert(place) {
                    errors.push(FieldError::invalid(&at, place, "must be unique"));
                }
                check_no_backsteps(place, &at, errors);
            }
        }
    }
}
