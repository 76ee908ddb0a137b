//! Volumes of pods: one source each, and what each source must say.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::environment::{self, validate_field_ref};
use super::fields::check_below;
use super::persistent_volumes::validate_claim_spec;
use super::quantities::quantity;
use super::storage::check_driver_name;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

/// Sources in the order in which they are looked at: the first one given is the volume's.
pub(super) const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "scaleIO",
    "local",
    "projected",
    "csi",
    "ephemeral",
    "image",
];

/// The volumes of a pod's spec, for what mounts them.
pub(super) struct Volumes<'a> {
    pub(super) list: &'a [Value],
}

impl<'a> Volumes<'a> {
    pub(super) fn find(&self, name: &str) -> Option<&'a Value> {
        self.list.iter().find(|volume| volume["name"] == name)
    }
}

pub(super) fn validate<'a>(spec: &'a Value, path: &str, errors: &mut Errors) -> Volumes<'a> {
    let mut seen = BTreeSet::new();
    for (path, volume) in indexed(spec, path, "volumes") {
        match text(volume, "name") {
            None => errors.push(FieldError::required(format!("{path}.name"), "")),
            Some(name) => {
                invalid_all(names::check_dns_label(name), &format!("{path}.name"), name, errors);
                if !seen.insert(name) {
                    errors.push(FieldError::duplicate(format!("{path}.name"), name));
                }
            }
        }
        validate_source(volume, &path, errors);
    }
    Volumes { list: items(&spec["volumes"]) }
}

/// The one source of a volume; what the others say is not looked at.
pub(super) fn sole_source<'a>(
    volume: &'a Value,
    path: &str,
    errors: &mut Errors,
) -> Option<(&'static str, &'a Value)> {
    let mut given = SOURCES.iter().filter(|source| volume[**source].is_object());
    let Some(first) = given.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return None;
    };
    for source in given {
        let why = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(format!("{path}.{source}"), why));
    }
    Some((first, &volume[*first]))
}

fn validate_source(volume: &Value, path: &str, errors: &mut Errors) {
    let Some((kind, source)) = sole_source(volume, path, errors) else { return };
    let only = serde_json::json!({ kind: source });
    check_below("volume", &only, path, errors);
    validate_kind(kind, source, &format!("{path}.{kind}"), errors);
}

/// What a source must hold to besides its fields one by one.
pub(super) fn validate_kind(kind: &str, source: &Value, path: &str, errors: &mut Errors) {
    match kind {
        "emptyDir" => validate_empty_dir(source, path, errors),
        "hostPath" => {
            check_no_backsteps(source["path"].as_str().unwrap_or_default(), &format!("{path}.path"), errors)
        }
        "gitRepo" => check_local_path(
            source["directory"].as_str().unwrap_or_default(),
            &format!("{path}.directory"),
            errors,
        ),
        "secret" | "configMap" => validate_items(source, path, errors),
        "nfs" => {
            if let Some(place) = text(source, "path").filter(|place| !place.starts_with('/')) {
                errors.push(FieldError::invalid(format!("{path}.path"), place, "must be an absolute path"));
            }
        }
        "iscsi" => validate_iscsi(source, path, errors),
        "fc" => validate_fibre_channel(source, path, errors),
        "flocker" => validate_flocker(source, path, errors),
        "downwardAPI" => {
            for (path, file) in indexed(source, path, "items") {
                validate_downward_file(file, &path, errors);
            }
        }
        "projected" => validate_projected(source, path, errors),
        "csi" => {
            text(source, "driver")
                .into_iter()
                .for_each(|name| check_driver_name(name, &format!("{path}.driver"), errors));
        }
        "ephemeral" => {
            let template = &source["volumeClaimTemplate"];
            if template.is_object() {
                validate_claim_spec(&template["spec"], &format!("{path}.volumeClaimTemplate.spec"), errors);
            }
        }
        _ => {}
    }
}

fn validate_empty_dir(source: &Value, path: &str, errors: &mut Errors) {
    if quantity(&source["sizeLimit"]).is_some_and(|size| size.is_negative()) {
        let why = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), why));
    }
}

fn validate_items(source: &Value, path: &str, errors: &mut Errors) {
    for (path, item) in indexed(source, path, "items") {
        check_local_path(item["path"].as_str().unwrap_or_default(), &format!("{path}.path"), errors);
    }
}

pub(super) fn check_no_backsteps(place: &str, path: &str, errors: &mut Errors) {
    if place.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, place, "must not contain '..'"));
    }
}

/// A path below a directory.
pub(super) fn check_descending(place: &str, path: &str, errors: &mut Errors) {
    if place.starts_with('/') {
        errors.push(FieldError::invalid(path, place, "must be a relative path"));
    }
    check_no_backsteps(place, path, errors);
}

/// As `check_descending`, and no name that the volume keeps for itself.
fn check_local_path(place: &str, path: &str, errors: &mut Errors) {
    check_descending(place, path, errors);
    if place.starts_with("..") && !place.starts_with("../") {
        errors.push(FieldError::invalid(path, place, "must not start with '..'"));
    }
}

fn validate_iscsi(source: &Value, path: &str, errors: &mut Errors) {
    if let Some(iqn) = text(source, "iqn")
        && !["iqn", "eui", "naa"].iter().any(|start| iqn.starts_with(start))
    {
        let why = "must be valid format starting with iqn, eui, or naa";
        errors.push(FieldError::invalid(format!("{path}.iqn"), iqn, why));
    }
    let wants_secret = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if wants_secret && source["secretRef"].is_null() {
        errors.push(FieldError::required(format!("{path}.secretRef"), ""));
    }
}

fn validate_fibre_channel(source: &Value, path: &str, errors: &mut Errors) {
    let has = |field: &str| !items(&source[field]).is_empty();
    match (has("targetWWNs"), has("wwids")) {
        (false, false) => {
            let why = "must specify either targetWWNs or wwids, but not both";
            errors.push(FieldError::required(format!("{path}.targetWWNs"), why));
        }
        (true, true) => {
            let why = "targetWWNs and wwids can not be specified simultaneously";
            errors.push(FieldError::invalid(format!("{path}.targetWWNs"), source["targetWWNs"].clone(), why));
        }
        (true, false) if source["lun"].is_null() => {
            errors.push(FieldError::required(
                format!("{path}.lun"),
                "lun is required if targetWWNs is specified",
            ));
        }
        _ => {}
    }
}

fn validate_flocker(source: &Value, path: &str, errors: &mut Errors) {
    match (text(source, "datasetName"), text(source, "datasetUUID")) {
        (None, None) => {
            errors.push(FieldError::required(path, "one of datasetName and datasetUUID is required"))
        }
        (Some(_), Some(_)) => {
            let why = "resource: datasetName and datasetUUID can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", why));
        }
        _ => {}
    }
}

const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn validate_downward_file(file: &Value, path: &str, errors: &mut Errors) {
    match text(file, "path") {
        None => errors.push(FieldError::required(format!("{path}.path"), "")),
        Some(place) => check_local_path(place, &format!("{path}.path"), errors),
    }
    match (file["fieldRef"].is_object(), file["resourceFieldRef"].is_object()) {
        (true, true) => {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", why));
        }
        (true, false) => {
            validate_field_ref(&file["fieldRef"], VOLUME_FIELDS, &format!("{path}.fieldRef"), errors)
        }
        (false, true) => {
            environment::validate_resource_ref(
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

fn validate_projected(source: &Value, path: &str, errors: &mut Errors) {
    let mut places = BTreeSet::new();
    let sources = format!("{path}.sources");
    for (path, projection) in indexed(source, path, "sources") {
        let given: Vec<&&str> = PROJECTIONS.iter().filter(|kind| projection[**kind].is_object()).collect();
        if given.len() > 1 {
            errors.push(FieldError::forbidden(&path, "may not specify more than 1 volume type per source"));
        }
        for kind in given {
            let (body, path) = (&projection[*kind], format!("{path}.{kind}"));
            validate_projection(kind, body, &path, errors);
            let own = text(body, "path").into_iter();
            let listed = items(&body["items"]).iter().filter_map(|item| text(item, "path"));
            for place in own.chain(listed) {
                if !places.insert(place) {
                    let why = format!("conflicting duplicate paths: {place}");
                    errors.push(FieldError::invalid(&sources, place, why));
                }
            }
        }
    }
}

fn validate_projection(kind: &str, body: &Value, path: &str, errors: &mut Errors) {
    match kind {
        "secret" | "configMap" => {
            if text(body, "name").is_none() {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
            for (path, item) in indexed(body, path, "items") {
                check_below("keyToPath", item, &path, errors);
            }
            validate_items(body, path, errors);
        }
        "downwardAPI" => {
            for (path, file) in indexed(body, path, "items") {
                validate_downward_file(file, &path, errors);
            }
        }
        "serviceAccountToken" => validate_token(body, path, errors),
        "clusterTrustBundle" => validate_trust_bundle(body, path, errors),
        _ => {}
    }
}

fn validate_token(body: &Value, path: &str, errors: &mut Errors) {
    if let Some(seconds) = body["expirationSeconds"].as_i64() {
        let path = format!("{path}.expirationSeconds");
        if seconds < 600 {
            errors.push(FieldError::invalid(
                &path,
                seconds,
                "may not specify a duration less than 10 minutes",
            ));
        }
        if seconds > 1 << 32 {
            errors.push(FieldError::invalid(
                path,
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
    }
    match text(body, "path") {
        None => errors.push(FieldError::required(format!("{path}.path"), "")),
        Some(place) => check_local_path(place, &format!("{path}.path"), errors),
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
    match text(body, "path") {
        None => errors.push(FieldError::required(format!("{path}.path"), "")),
        Some(place) => check_local_path(place, &format!("{path}.path"), errors),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(volume: Value) -> Vec<String> {
        let mut errors = Errors::new();
        let mut volume = volume;
        volume["name"] = json!("v");
        validate(&json!({"volumes": [volume]}), "spec", &mut errors);
        errors.into_iter().map(|e| e.path.trim_start_matches("spec.volumes[0]").to_owned()).collect()
    }

    #[test]
    fn each_source_says_what_it_needs() {
        let cases = [
            (json!({}), vec![""]),
            (json!({"emptyDir": {}, "hostPath": {"path": "/x"}}), vec![".hostPath"]),
            (json!({"emptyDir": {"sizeLimit": "-1"}}), vec![".emptyDir.sizeLimit"]),
            (json!({"hostPath": {"path": "/a/../b"}}), vec![".hostPath.path"]),
            (json!({"hostPath": {"path": "/a", "type": "Odd"}}), vec![".hostPath.type"]),
            (
                json!({"secret": {"secretName": "", "defaultMode": 512}}),
                vec![".secret.secretName", ".secret.defaultMode"],
            ),
            (
                json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]}}),
                vec![".configMap.items[0].path"],
            ),
            (
                json!({"configMap": {"name": "c", "items": [{"key": "", "path": "..x"}]}}),
                vec![".configMap.items[0].key", ".configMap.items[0].path"],
            ),
            (json!({"nfs": {"server": "s", "path": "x"}}), vec![".nfs.path"]),
            (json!({"downwardAPI": {"items": [{"path": "p"}]}}), vec![".downwardAPI.items[0]"]),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "", "expirationSeconds": 5}}]}}),
                vec![
                    ".projected.sources[0].serviceAccountToken.expirationSeconds",
                    ".projected.sources[0].serviceAccountToken.path",
                ],
            ),
            (json!({"csi": {"driver": ""}}), vec![".csi.driver"]),
            (json!({"persistentVolumeClaim": {"claimName": ""}}), vec![".persistentVolumeClaim.claimName"]),
            (json!({"fc": {}}), vec![".fc.targetWWNs"]),
            (json!({"ephemeral": {}}), vec![".ephemeral.volumeClaimTemplate"]),
            (json!({"emptyDir": {}}), vec![]),
        ];
        for (volume, expected) in cases {
            assert_eq!(paths(volume.clone()), expected, "{volume}");
        }
    }
}
