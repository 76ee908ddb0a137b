//! Volumes of pods: one source each, and what each source must say.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::fields::check_below;
use super::persistent_volumes::validate_claim_spec;
use super::projections::{validate_downward_files, validate_projected};
use super::quantities::quantity;
use super::storage::check_driver_name;
use crate::strategy::metadata::{check_annotations, check_labels};
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
    "projected",
    "scaleIO",
    "local",
    "csi",
    "ephemeral",
    "image",
];

/// The good volumes of a pod's spec, for what mounts them: one that is wrong cannot be found.
pub(super) struct Volumes<'a> {
    list: Vec<&'a Value>,
}

impl<'a> Volumes<'a> {
    pub(super) fn find(&self, name: &str) -> Option<&'a Value> {
        self.list.iter().find(|volume| volume["name"] == name).copied()
    }
}

/// `pod` is the name of the pod itself, where the spec is not part of a template.
pub(super) fn validate<'a>(
    spec: &'a Value,
    path: &str,
    pod: Option<&str>,
    errors: &mut Errors,
) -> Volumes<'a> {
    let mut good = Volumes { list: Vec::new() };
    for (path, volume) in indexed(spec, path, "volumes") {
        let before = errors.len();
        validate_source(volume, &path, pod, errors);
        let (name, at) = (volume["name"].as_str().unwrap_or_default(), format!("{path}.name"));
        match name {
            "" => errors.push(FieldError::required(&at, "")),
            name => invalid_all(names::check_dns_label(name), &at, name, errors),
        }
        if good.find(name).is_some() {
            errors.push(FieldError::duplicate(at, name));
        }
        if errors.len() == before {
            good.list.push(volume);
        }
        check_claim_is_foreign(volume, spec, pod, &path, errors);
    }
    good
}

/// A claim that is made for one volume of a pod is not what another volume of it names.
fn check_claim_is_foreign(volume: &Value, spec: &Value, pod: Option<&str>, path: &str, errors: &mut Errors) {
    let (Some(claim), Some(pod)) = (text(&volume["persistentVolumeClaim"], "claimName"), pod) else { return };
    let is_made_for = |other: &Value| {
        other["ephemeral"].is_object()
            && other["name"].as_str().is_some_and(|name| format!("{pod}-{name}") == claim)
    };
    if items(&spec["volumes"]).iter().any(is_made_for) {
        let why = "must not reference a PVC that gets created for an ephemeral volume";
        errors.push(FieldError::invalid(format!("{path}.persistentVolumeClaim.claimName"), claim, why));
    }
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
        // Some are spelt otherwise where they are one too many.
        let source = match *source {
            "cephfs" => "cephFS",
            "downwardAPI" => "downwarAPI",
            other => other,
        };
        errors.push(FieldError::forbidden(format!("{path}.{source}"), why));
    }
    Some((first, &volume[*first]))
}

fn validate_source(volume: &Value, path: &str, pod: Option<&str>, errors: &mut Errors) {
    let Some((kind, source)) = sole_source(volume, path, errors) else { return };
    validate_kind(kind, source, path, errors);
    let name = volume["name"].as_str().unwrap_or_default();
    let at = format!("{path}.name");
    match kind {
        "iscsi" if !source["initiatorName"].is_null() => {
            let portal = source["targetPortal"].as_str().unwrap_or_default();
            if name.len() + 1 + portal.len() > 64 {
                let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
                errors.push(FieldError::invalid(at, name, why));
            }
        }
        "csi" if source["nodePublishSecretRef"].is_object() => {
            match text(&source["nodePublishSecretRef"], "name") {
                None => {
                    errors.push(FieldError::required(format!("{path}.csi.nodePublishSecretRef.name"), ""))
                }
                Some(secret) => {
                    let at = format!("{path}.csi.name");
                    invalid_all(names::check_dns_subdomain(secret), &at, secret, errors);
                }
            }
        }
        "ephemeral" => {
            let Some(pod) = pod.filter(|pod| !pod.is_empty() && !name.is_empty()) else { return };
            let claim = format!("{pod}-{name}");
            for why in names::check_dns_subdomain(&claim) {
                errors.push(FieldError::invalid(&at, name, format!("PVC name {claim:?}: {why}")));
            }
        }
        "image" if pod.is_some() && text(source, "reference").is_none() => {
            errors.push(FieldError::required(format!("{path}.image.reference"), ""));
        }
        _ => {}
    }
}

/// What a source of this kind must hold to wherever it stands; `path` is that of what has it.
pub(super) fn validate_kind(kind: &str, source: &Value, path: &str, errors: &mut Errors) {
    // Kubernetes names one of them by a shorter path.
    let shown = if kind == "gcePersistentDisk" { "persistentDisk" } else { kind };
    check_below("volume", &serde_json::json!({ shown: source }), path, errors);
    let path = &format!("{path}.{shown}");
    match kind {
        "emptyDir" => validate_empty_dir(source, path, errors),
        "hostPath" => validate_host_path(source, path, errors),
        "gitRepo" => check_local_path(
            source["directory"].as_str().unwrap_or_default(),
            &format!("{path}.directory"),
            errors,
        ),
        "secret" | "configMap" => validate_items(source, path, errors),
        "nfs" => {
            let place = source["path"].as_str().unwrap_or_default();
            if !place.starts_with('/') {
                errors.push(FieldError::invalid(format!("{path}.path"), place, "must be an absolute path"));
            }
        }
        "iscsi" => validate_iscsi(source, path, errors),
        "fc" => validate_fibre_channel(source, path, errors),
        "flocker" => validate_flocker(source, path, errors),
        "quobyte" => validate_quobyte(source, path, errors),
        "flexVolume" => validate_flex_options(source, path, errors),
        "azureDisk" => validate_azure_disk(source, path, errors),
        "downwardAPI" => validate_downward_files(source, path, errors),
        "projected" => validate_projected(source, path, errors),
        "csi" => {
            let (name, at) = (source["driver"].as_str().unwrap_or_default(), format!("{path}.driver"));
            if name.is_empty() {
                errors.push(FieldError::required(&at, ""));
            }
            check_driver_name(name, &at, errors);
        }
        "ephemeral" => validate_claim_template(&source["volumeClaimTemplate"], path, errors),
        _ => {}
    }
}

fn validate_host_path(source: &Value, path: &str, errors: &mut Errors) {
    const KINDS: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let at = format!("{path}.path");
    let Some(place) = text(source, "path") else { return errors.push(FieldError::required(at, "")) };
    check_no_backsteps(place, &at, errors);
    if let Some(kind) = source["type"].as_str().filter(|kind| !KINDS.contains(kind)) {
        errors.push(FieldError::not_supported(format!("{path}.type"), kind, KINDS));
    }
}

/// A template of a claim has labels and annotations and nothing else that describes it.
fn validate_claim_template(template: &Value, path: &str, errors: &mut Errors) {
    if !template.is_object() {
        return;
    }
    let (metadata, at) = (&template["metadata"], format!("{path}.volumeClaimTemplate.metadata"));
    check_annotations(&format!("{at}.annotations"), &metadata["annotations"], errors);
    check_labels(&format!("{at}.labels"), &metadata["labels"], errors);
    let other = |field: &&String| !matches!(field.as_str(), "annotations" | "labels");
    for field in metadata.as_object().into_iter().flat_map(|fields| fields.keys()).filter(other) {
        let is_given = match &metadata[field] {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Number(number) => number.as_i64() != Some(0),
            _ => true,
        };
        // As Kubernetes writes the field in lower case.
        let field = if field == "uid" { "uID" } else { field };
        if is_given {
            errors.push(FieldError::forbidden(format!("{at}.{field}"), "cannot be set"));
        }
    }
    validate_claim_spec(&template["spec"], &format!("{path}.volumeClaimTemplate.spec"), errors);
}

fn validate_empty_dir(source: &Value, path: &str, errors: &mut Errors) {
    if quantity(&source["sizeLimit"]).is_some_and(|size| size.is_negative()) {
        let why = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), why));
    }
}

pub(super) fn validate_items(source: &Value, path: &str, errors: &mut Errors) {
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
pub(super) fn check_local_path(place: &str, path: &str, errors: &mut Errors) {
    check_descending(place, path, errors);
    if place.starts_with("..") && !place.starts_with("../") {
        errors.push(FieldError::invalid(path, place, "must not start with '..'"));
    }
}

fn validate_iscsi(source: &Value, path: &str, errors: &mut Errors) {
    if let Some(iqn) = text(source, "iqn") {
        check_initiator(iqn, &format!("{path}.iqn"), errors);
    }
    let wants_secret = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if wants_secret && source["secretRef"].is_null() {
        errors.push(FieldError::required(format!("{path}.secretRef"), ""));
    }
    if let Some(initiator) = source["initiatorName"].as_str() {
        check_initiator(initiator, &format!("{path}.initiatorname"), errors);
    }
}

/// Names of who offers and who uses disks over the network, in one of three formats.
fn check_initiator(name: &str, path: &str, errors: &mut Errors) {
    let is_code = |rest: &str, length: usize| {
        rest.len() == length + 1 && rest[1..].bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let is_good = match name.get(..3).unwrap_or_default() {
        "iqn" => is_qualified_name(&name[3..]),
        "eui" => name.is_ascii() && is_code(&name[3..], 16),
        "naa" => name.is_ascii() && is_code(&name[3..], 32),
        _ => {
            let why = "must be valid format starting with iqn, eui, or naa";
            return errors.push(FieldError::invalid(path, name, why));
        }
    };
    if !is_good {
        errors.push(FieldError::invalid(path, name, "must be valid format"));
    }
}

/// A month, a domain and what the domain's owner calls it: `.2001-04.com.example:storage`.
fn is_qualified_name(rest: &str) -> bool {
    let digits = |text: Option<&str>, count: usize| {
        text.is_some_and(|text| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let Some((domain, label)) = rest.split_once(':') else { return false };
    let is_date = domain.starts_with('.')
        && digits(domain.get(1..5), 4)
        && domain.get(5..6) == Some("-")
        && digits(domain.get(6..8), 2)
        && domain.get(8..9) == Some(".");
    let is_owner = |owner: &str| {
        !owner.is_empty() && owner.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    let is_label = |label: &str| {
        !label.is_empty() && !label.contains(|c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace())
    };
    is_date && domain.get(9..).is_some_and(is_owner) && is_label(label)
}

fn validate_fibre_channel(source: &Value, path: &str, errors: &mut Errors) {
    let has = |field: &str| !items(&source[field]).is_empty();
    let (names, lun) = (format!("{path}.targetWWNs"), format!("{path}.lun"));
    match (has("targetWWNs"), has("wwids")) {
        (false, false) => {
            let why = "must specify either targetWWNs or wwids, but not both";
            errors.push(FieldError::required(&names, why));
        }
        (true, true) => {
            let why = "targetWWNs and wwids can not be specified simultaneously";
            errors.push(FieldError::invalid(&names, source["targetWWNs"].clone(), why));
        }
        _ => {}
    }
    match source["lun"].as_i64() {
        _ if !has("targetWWNs") => {}
        None => errors.push(FieldError::required(lun, "lun is required if targetWWNs is specified")),
        Some(0..=255) => {}
        Some(number) => {
            errors.push(FieldError::invalid(lun, number, "must be between 0 and 255, inclusive"));
        }
    }
}

fn validate_flocker(source: &Value, path: &str, errors: &mut Errors) {
    match (text(source, "datasetName"), text(source, "datasetUUID")) {
        (None, None) => {
            errors.push(FieldError::required(path, "one of datasetName and datasetUUID is required"))
        }
        (Some(_), Some(_)) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", why));
        }
        _ => {}
    }
    if let Some(name) = text(source, "datasetName").filter(|name| name.contains('/')) {
        errors.push(FieldError::invalid(format!("{path}.datasetName"), name, "must not contain '/'"));
    }
}

fn validate_quobyte(source: &Value, path: &str, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    const TENANT_BYTES_MAX: usize = 64;
    let at = format!("{path}.registry");
    let Some(registry) = text(source, "registry") else {
        return errors.push(FieldError::required(at, PAIRS));
    };
    if text(source, "tenant").is_some_and(|tenant| tenant.len() > TENANT_BYTES_MAX) {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        return errors.push(FieldError::required(format!("{path}.tenant"), why));
    }
    let is_pair = |pair: &str| match pair.rsplit_once(':') {
        Some((host, _)) => !host.contains(':') || (host.starts_with('[') && host.ends_with(']')),
        None => false,
    };
    for _ in registry.split(',').filter(|pair| !is_pair(pair)) {
        errors.push(FieldError::invalid(&at, registry, PAIRS));
    }
}

/// What Kubernetes tells drivers by itself is not for users to say.
fn validate_flex_options(source: &Value, path: &str, errors: &mut Errors) {
    for key in source["options"].as_object().into_iter().flat_map(|options| options.keys()) {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(format!("{path}.options[{key}]"), key.as_str(), why));
        }
    }
}

fn validate_azure_disk(source: &Value, path: &str, errors: &mut Errors) {
    let Some(kind) = source["kind"].as_str() else { return };
    let uri = source["diskURI"].as_str().unwrap_or_default();
    let (start, known) = match kind {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if !uri.starts_with(start) {
        errors.push(FieldError::not_supported(format!("{path}.diskURI"), uri, &[known]));
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
        validate(&json!({"volumes": [volume]}), "spec", Some("p"), &mut errors);
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
            (json!({"downwardAPI": {"items": [{"path": "p"}]}}), vec![".downwardAPI"]),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "", "expirationSeconds": 5}}]}}),
                vec![".projected.sources[0].serviceAccountToken.expirationSeconds", ".projected.path"],
            ),
            (json!({"csi": {"driver": ""}}), vec![".csi.driver", ".csi.driver"]),
            (json!({"persistentVolumeClaim": {"claimName": ""}}), vec![".persistentVolumeClaim.claimName"]),
            (json!({"nfs": {"server": "s", "path": ""}}), vec![".nfs.path", ".nfs.path"]),
            (json!({"gcePersistentDisk": {"pdName": ""}}), vec![".persistentDisk.pdName"]),
            (json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "A"}}}), vec![".csi.name"]),
            (json!({"image": {}}), vec![".image.reference"]),
            (
                json!({"flexVolume": {"driver": "d", "options": {"k8s.io/a": "b"}}}),
                vec![".flexVolume.options[k8s.io/a]"],
            ),
            (json!({"quobyte": {"registry": "a", "volume": "v"}}), vec![".quobyte.registry"]),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2001-04.com.example:disk", "lun": 0}}),
                vec![],
            ),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "iqn.2001-04.com.example", "initiatorName": "x"}}),
                vec![".iscsi.iqn", ".iscsi.initiatorname"],
            ),
            (json!({"emptyDir": {}, "cephfs": {}, "downwardAPI": {}}), vec![".cephFS", ".downwarAPI"]),
            (json!({"fc": {}}), vec![".fc.targetWWNs"]),
            (json!({"ephemeral": {}}), vec![".ephemeral.volumeClaimTemplate"]),
            (json!({"emptyDir": {}}), vec![]),
        ];
        for (volume, expected) in cases {
            assert_eq!(paths(volume.clone()), expected, "{volume}");
        }
    }

    #[test]
    fn a_volume_that_is_wrong_cannot_be_found() {
        let spec =
            json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b"}, {"name": "a", "emptyDir": {}}]});
        let mut errors = Errors::new();
        let good = validate(&spec, "spec", None, &mut errors);
        assert!(good.find("a").is_some() && good.find("b").is_none());
        let paths: Vec<String> = errors.into_iter().map(|error| error.path).collect();
        assert_eq!(paths, ["spec.volumes[1]", "spec.volumes[2].name"]);
    }
}
