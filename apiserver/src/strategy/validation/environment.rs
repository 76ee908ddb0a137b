//! Environment variables of containers and where their values come from.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::quantities::{is_huge_page, shown};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

/// Fields of a pod that variables may show.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of a pod that have a path at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

/// `spec` is that of the pod that the container is of.
pub(super) fn validate(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    for (path, variable) in indexed(container, path, "env") {
        match text(variable, "name") {
            None => errors.push(FieldError::required(format!("{path}.name"), "")),
            Some(name) => invalid_all(names::check_env_name(name), &format!("{path}.name"), name, errors),
        }
        if variable["valueFrom"].is_object() {
            validate_value_from(variable, spec, &format!("{path}.valueFrom"), errors);
        }
    }
    let list = format!("{path}.envFrom");
    for (path, source) in indexed(container, path, "envFrom") {
        validate_env_from(source, &path, &list, errors);
    }
}

const TOO_MANY: &str = "may not have more than one field specified at a time";

fn validate_value_from(variable: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let from = &variable["valueFrom"];
    let sources = from.as_object().map_or(0, serde_json::Map::len);
    if sources == 0 {
        let known = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", known));
    } else if text(variable, "value").is_some() {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", TOO_MANY));
    }
    if from["fieldRef"].is_object() {
        validate_field_ref(&from["fieldRef"], FIELDS, &format!("{path}.fieldRef"), errors);
    }
    if from["resourceFieldRef"].is_object() {
        validate_resource_ref(&from["resourceFieldRef"], false, &format!("{path}.resourceFieldRef"), errors);
    }
    for key_ref in ["secretKeyRef", "configMapKeyRef"].into_iter().filter(|field| from[*field].is_object()) {
        validate_key_ref(&from[key_ref], &format!("{path}.{key_ref}"), errors);
    }
    if from["fileKeyRef"].is_object() {
        validate_file_ref(&from["fileKeyRef"], spec, &format!("{path}.fileKeyRef"), errors);
    }
}

/// A key of a file that a container wrote into a directory of the pod.
fn validate_file_ref(file: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    for field in ["volumeName", "path", "key"].into_iter().filter(|field| text(file, field).is_none()) {
        errors.push(FieldError::required(format!("{path}.{field}"), ""));
    }
    if let Some(place) = text(file, "path") {
        super::volumes::check_local_path(place, &format!("{path}.path"), errors);
    }
    if let Some(key) = text(file, "key") {
        invalid_all(names::check_env_name(key), &format!("{path}.key"), key, errors);
    }
    let Some(name) = text(file, "volumeName") else { return };
    let at = format!("{path}.volumeName");
    invalid_all(names::check_dns_label(name), &at, name, errors);
    match items(&spec["volumes"]).iter().find(|volume| volume["name"] == name) {
        None => errors.push(FieldError::not_found(at, name)),
        Some(volume) if volume["emptyDir"].is_object() => {}
        Some(_) => errors.push(FieldError::invalid(at, name, "referenced volume must be of type emptyDir")),
    }
}

/// A reference to a field of the pod, which must be one of `supported`.
pub(super) fn validate_field_ref(reference: &Value, supported: &[&str], at: &str, errors: &mut Errors) {
    let path = format!("{at}.fieldPath");
    let Some(field) = text(reference, "fieldPath") else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    let version = reference["apiVersion"].as_str().unwrap_or("v1");
    if version != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(FieldError::invalid(path, field, why));
    } else if let Some((map, key)) = field.strip_suffix("']").and_then(|field| field.split_once("['")) {
        // Kubernetes names the reference, not its field, where a key is wrong.
        match map {
            "metadata.annotations" => {
                invalid_all(names::check_label_key(&key.to_lowercase()), at, field, errors)
            }
            "metadata.labels" => invalid_all(names::check_label_key(key), at, field, errors),
            _ => {
                let why =
                    format!("error converting fieldPath: field label does not support subscript: {field}");
                errors.push(FieldError::invalid(path, field, why));
            }
        }
    } else if !KNOWN_FIELDS.contains(&field) {
        let why = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(path, field, why));
    } else if !supported.contains(&field) {
        errors.push(FieldError::not_supported(path, field, supported));
    }
}

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to an amount of a container; in a volume it must say of which.
pub(super) fn validate_resource_ref(reference: &Value, is_volume: bool, path: &str, errors: &mut Errors) {
    let resource = reference["resource"].as_str().unwrap_or_default();
    let base = resource.strip_prefix("limits.").or(resource.strip_prefix("requests.")).unwrap_or_default();
    if is_volume && text(reference, "containerName").is_none() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
    } else if !RESOURCES.contains(&resource) && !is_huge_page(base) {
        errors.push(FieldError::not_supported(format!("{path}.resource"), resource, RESOURCES));
    }
    if !RESOURCES.contains(&resource) && !is_huge_page(base) {
        return;
    }
    let known: &[&str] = match base {
        "cpu" => &["1m", "1"],
        _ => &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"],
    };
    let divisor = shown(&reference["divisor"]);
    if !reference["divisor"].is_null() && divisor != "0" && !known.contains(&divisor.as_str()) {
        let known = known.join(", ");
        let why = format!("only divisor's values {known} are supported with the {base} resource");
        errors.push(FieldError::invalid(format!("{path}.divisor"), divisor, why));
    }
}

fn validate_key_ref(reference: &Value, path: &str, errors: &mut Errors) {
    let name = reference["name"].as_str().unwrap_or_default();
    invalid_all(names::check_dns_subdomain(name), &format!("{path}.name"), name, errors);
    match text(reference, "key") {
        None => errors.push(FieldError::required(format!("{path}.key"), "")),
        Some(key) => invalid_all(names::check_config_key(key), &format!("{path}.key"), key, errors),
    }
}

fn validate_env_from(source: &Value, path: &str, list: &str, errors: &mut Errors) {
    if let Some(prefix) = text(source, "prefix") {
        invalid_all(names::check_env_name(prefix), &format!("{path}.prefix"), prefix, errors);
    }
    let mut given = 0;
    for field in ["configMapRef", "secretRef"].into_iter().filter(|field| source[*field].is_object()) {
        given += 1;
        let at = format!("{path}.{field}.name");
        match text(&source[field], "name") {
            None => errors.push(FieldError::required(at, "")),
            // As in Kubernetes, a name may end as the beginning of one does.
            Some(name) => invalid_all(check_prefix(name), &at, name, errors),
        }
    }
    // Kubernetes names the list, not the source, where it is not one.
    let why = match given {
        0 => "must specify one of: `configMapRef` or `secretRef`",
        1 => return,
        _ => TOO_MANY,
    };
    errors.push(FieldError::invalid(list, "", why));
}

fn check_prefix(name: &str) -> Vec<String> {
    let kept = name.len().checked_sub(2).filter(|_| name.ends_with('-')).and_then(|end| name.get(..end));
    match kept {
        Some(kept) => names::check_dns_subdomain(&format!("{kept}a")),
        None => names::check_dns_subdomain(name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(container: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&container, &Value::Null, "c", &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn variables_have_a_name_and_one_source() {
        let env = |variable: Value| paths(json!({"env": [variable]}));
        assert!(env(json!({"name": "A", "value": "1"})).is_empty());
        assert_eq!(env(json!({"name": ""})), ["c.env[0].name"]);
        assert_eq!(env(json!({"name": "a=b"})), ["c.env[0].name"]);
        assert_eq!(env(json!({"name": "A", "valueFrom": {}})), ["c.env[0].valueFrom"]);
        let field = |path: &str| json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}});
        assert!(env(field("metadata.labels['a']")).is_empty());
        assert_eq!(env(field("metadata.labels['a b']")), ["c.env[0].valueFrom.fieldRef"]);
        for wrong in ["spec.odd", "metadata.labels", "status.phase", "spec.nodeName['a']"] {
            assert_eq!(env(field(wrong)), ["c.env[0].valueFrom.fieldRef.fieldPath"], "{wrong}");
        }
        let resource = json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "7"}}});
        assert_eq!(env(resource), ["c.env[0].valueFrom.resourceFieldRef.divisor"]);
    }

    #[test]
    fn sources_of_many_variables_are_config_maps_or_secrets() {
        assert_eq!(paths(json!({"envFrom": [{}]})), ["c.envFrom"]);
        assert_eq!(
            paths(json!({"envFrom": [{"prefix": "a=", "secretRef": {"name": "s"}}]})),
            ["c.envFrom[0].prefix"]
        );
        assert_eq!(
            paths(json!({"envFrom": [{"configMapRef": {"name": "B"}}]})),
            ["c.envFrom[0].configMapRef.name"]
        );
        assert!(paths(json!({"envFrom": [{"secretRef": {"name": "s-"}}]})).is_empty());
    }
}
