//! Volumes made of what the API knows: the pod's own fields, keys of secrets and config maps, tokens, certificates.

use std::collections::BTreeSet;

use api_types::status::FieldError;
use serde_json::Value;

use super::environment::{validate_field_ref, validate_resource_ref};
use super::fields::check_below;
use super::volumes::{check_local_path, validate_items};
use crate::strategy::rules::{Errors, indexed, items, text};

const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// The files of a volume that shows the pod to itself. Kubernetes names the volume where one of them is wrong.
pub(super) fn validate_downward_files(source: &Value, path: &str, errors: &mut Errors) {
    items(&source["items"]).iter().for_each(|file| validate_downward_file(file, path, errors));
}

fn validate_downward_file(file: &Value, path: &str, errors: &mut Errors) {
    check_place(file, path, errors);
    match (file["fieldRef"].is_object(), file["resourceFieldRef"].is_object()) {
        (true, true) => {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", why));
        }
        (true, false) => {
            validate_field_ref(&file["fieldRef"], VOLUME_FIELDS, &format!("{path}.fieldRef"), errors)
        }
        (false, true) => {
            validate_resource_ref(
                &file["resourceFieldRef"],
                true,
                &format!("{path}.resourceFieldRef"),
                errors,
            );
        }
        (false, false) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"))
        }
    }
    check_mode(&file["mode"], &format!("{path}.mode"), errors);
}

fn check_mode(mode: &Value, path: &str, errors: &mut Errors) {
    if let Some(mode) = mode.as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, mode, why));
    }
}

const PROJECTIONS: &[&str] =
    &["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

pub(super) fn validate_projected(source: &Value, path: &str, errors: &mut Errors) {
    let mut places = BTreeSet::new();
    for (at, projection) in indexed(source, path, "sources") {
        let given: Vec<&&str> = PROJECTIONS.iter().filter(|kind| projection[**kind].is_object()).collect();
        if given.len() > 1 {
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
        for kind in given {
            let (body, at) = (&projection[*kind], format!("{at}.{kind}"));
            match *kind {
                "secret" | "configMap" => validate_keys(body, &at, errors),
                "downwardAPI" => validate_downward_files(body, &at, errors),
                "serviceAccountToken" => validate_token(body, path, &at, errors),
                "clusterTrustBundle" => validate_trust_bundle(body, &at, errors),
                _ => {}
            }
            // Kubernetes does not compare where tokens are put.
            let own = body["path"].as_str().filter(|_| *kind == "clusterTrustBundle").into_iter();
            let listed = items(&body["items"]).iter().filter_map(|item| text(item, "path"));
            for place in own.chain(listed) {
                if !places.insert(place) {
                    let shown = text(body, "name").filter(|_| *kind != "clusterTrustBundle").unwrap_or(place);
                    errors.push(FieldError::invalid(path, shown, "conflicting duplicate paths"));
                }
            }
        }
    }
}

fn validate_keys(body: &Value, path: &str, errors: &mut Errors) {
    if text(body, "name").is_none() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    for (path, item) in indexed(body, path, "items") {
        check_below("keyToPath", item, &path, errors);
    }
    validate_items(body, path, errors);
}

/// `volume` is the path of the whole volume, by which Kubernetes names that of a token.
fn validate_token(body: &Value, volume: &str, path: &str, errors: &mut Errors) {
    if let Some(seconds) = body["expirationSeconds"].as_i64() {
        let path = format!("{path}.expirationSeconds");
        if seconds < 600 {
            let why = "may not specify a duration less than 10 minutes";
            errors.push(FieldError::invalid(&path, seconds, why));
        }
        if seconds > 1 << 32 {
            let why = "may not specify a duration larger than 2^32 seconds";
            errors.push(FieldError::invalid(path, seconds, why));
        }
    }
    check_place(body, volume, errors);
}

/// Where a file is put.
fn check_place(body: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.path");
    match text(body, "path") {
        None => errors.push(FieldError::required(path, "")),
        Some(place) => check_local_path(place, &path, errors),
    }
}

fn validate_trust_bundle(body: &Value, path: &str, errors: &mut Errors) {
    match (text(body, "name"), text(body, "signerName")) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(
                path,
                body.clone(),
                "only one of name and signerName may be used",
            ));
        }
        (None, None) => {
            errors.push(FieldError::required(path, "either name or signerName must be specified"))
        }
        (Some(_), None) if !body["labelSelector"].is_null() => {
            let why = "labelSelector must be unset if name is specified";
            errors.push(FieldError::invalid(
                format!("{path}.labelSelector"),
                body["labelSelector"].clone(),
                why,
            ));
        }
        _ => {}
    }
    check_place(body, path, errors);
}
