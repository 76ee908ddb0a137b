//! What a container must hold to: names, images, ports, environment, resources, probes, mounts.

use std::collections::BTreeSet;

use api_types::names;
use api_types::quantity::Quantity;
use api_types::status::FieldError;
use serde_json::Value;

use super::rules::{
    Errors, at_least, indexed, invalid_all, items, join, one_of, port_number, port_or_name, text,
};

/// All containers of a pod's spec.
pub(super) fn validate_all(spec: &Value, path: &str, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    if items(&spec["containers"]).is_empty() {
        errors.push(FieldError::required(join(path, "containers"), ""));
    }
    let mut names = BTreeSet::new();
    let host_network = spec["hostNetwork"] == true;
    let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let mut host_ports = BTreeSet::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (path, container) in indexed(spec, path, list) {
            validate_name(container, &path, &mut names, errors);
            validate_image(container, &path, errors);
            validate_ports(container, &path, host_network, &mut host_ports, errors);
            validate_env(container, &path, errors);
            validate_resources(container, &path, errors);
            validate_mounts(container, &path, volumes, errors);
            validate_lifecycle(container, &path, grace, errors);
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                validate_probe(&container[probe], &format!("{path}.{probe}"), probe, errors);
            }
        }
    }
}

fn validate_name<'a>(container: &'a Value, path: &str, seen: &mut BTreeSet<&'a str>, errors: &mut Errors) {
    let path = format!("{path}.name");
    match text(container, "name") {
        None => errors.push(FieldError::required(path, "")),
        Some(name) => {
            invalid_all(names::check_dns_label(name), &path, name, errors);
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(path, name));
            }
        }
    }
}

fn validate_image(container: &Value, path: &str, errors: &mut Errors) {
    let image = container["image"].as_str().unwrap_or_default();
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    one_of(container, path, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"], errors);
}

fn validate_ports(
    container: &Value,
    path: &str,
    host_network: bool,
    host_ports: &mut BTreeSet<(String, i64, String)>,
    errors: &mut Errors,
) {
    let mut names_seen = BTreeSet::new();
    for (path, port) in indexed(container, path, "ports") {
        if let Some(name) = text(port, "name") {
            invalid_all(names::check_port_name(name), &format!("{path}.name"), name, errors);
            if !names_seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.push(FieldError::required(format!("{path}.containerPort"), "")),
            Some(_) => port_number(&port["containerPort"], &format!("{path}.containerPort"), errors),
        }
        one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
        let Some(host_port) = port["hostPort"].as_i64().filter(|p| *p != 0) else { continue };
        port_number(&port["hostPort"], &format!("{path}.hostPort"), errors);
        if host_network && port["hostPort"] != port["containerPort"] {
            let why = "must match `containerPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(format!("{path}.hostPort"), host_port, why));
        }
        let part = |field: &str| port[field].as_str().unwrap_or_default().to_owned();
        if !host_ports.insert((part("protocol"), host_port, part("hostIP"))) {
            let shown = format!("{}/{}/{host_port}", part("protocol"), part("hostIP"));
            errors.push(FieldError::duplicate(format!("{path}.hostPort"), shown));
        }
    }
}

const FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
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

fn validate_env(container: &Value, path: &str, errors: &mut Errors) {
    for (path, variable) in indexed(container, path, "env") {
        match text(variable, "name") {
            None => errors.push(FieldError::required(format!("{path}.name"), "")),
            Some(name) => invalid_all(names::check_env_name(name), &format!("{path}.name"), name, errors),
        }
        let from = &variable["valueFrom"];
        if from.is_object() {
            validate_value_from(variable, from, &format!("{path}.valueFrom"), errors);
        }
    }
}

fn validate_value_from(variable: &Value, from: &Value, path: &str, errors: &mut Errors) {
    let sources = from.as_object().map_or(0, serde_json::Map::len);
    if sources == 0 {
        let known = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", known));
    } else if text(variable, "value").is_some() {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
    if let Some(field) = from["fieldRef"]["fieldPath"].as_str() {
        let base = field.split_once('[').map_or(field, |(base, _)| base);
        let subscripted = base != field;
        let supported = FIELDS.contains(&base)
            && (matches!(base, "metadata.annotations" | "metadata.labels") == subscripted);
        if !supported {
            let path = format!("{path}.fieldRef.fieldPath");
            errors.push(FieldError::invalid(
                path,
                field,
                "error converting fieldPath: field label not supported",
            ));
        }
    }
    for key_ref in ["secretKeyRef", "configMapKeyRef"] {
        if from[key_ref].is_object() {
            validate_key_ref(&from[key_ref], &format!("{path}.{key_ref}"), errors);
        }
    }
    if let Some(resource) = from["resourceFieldRef"]["resource"].as_str() {
        let base = resource.trim_start_matches("limits.").trim_start_matches("requests.");
        let known = matches!(base, "cpu" | "memory" | "ephemeral-storage") || base.starts_with("hugepages-");
        if !known || base == resource {
            errors.push(FieldError::not_supported(
                format!("{path}.resourceFieldRef.resource"),
                resource,
                &[
                    "limits.cpu",
                    "limits.ephemeral-storage",
                    "limits.memory",
                    "requests.cpu",
                    "requests.ephemeral-storage",
                    "requests.memory",
                ],
            ));
        }
    }
}

fn validate_key_ref(reference: &Value, path: &str, errors: &mut Errors) {
    if let Some(name) = reference["name"].as_str() {
        invalid_all(names::check_dns_subdomain(name), &format!("{path}.name"), name, errors);
    }
    match text(reference, "key") {
        None => errors.push(FieldError::required(format!("{path}.key"), "")),
        Some(key) => invalid_all(names::check_config_key(key), &format!("{path}.key"), key, errors),
    }
}

fn validate_resources(container: &Value, path: &str, errors: &mut Errors) {
    let resources = &container["resources"];
    for part in ["limits", "requests"] {
        for (name, value) in resources[part].as_object().into_iter().flatten() {
            let path = format!("{path}.resources.{part}[{name}]");
            validate_resource_name(name, &path, errors);
            let Some(quantity) = quantity(value) else { continue };
            if quantity.is_negative() {
                errors.push(FieldError::invalid(path, value.clone(), "must be greater than or equal to 0"));
            } else if name.contains('/') && quantity.milli() % 1000 != 0 {
                errors.push(FieldError::invalid(path, value.clone(), "must be an integer"));
            }
        }
    }
    let names = |part: &str| resources[part].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let has = |wanted: fn(&str) -> bool| names("limits").chain(names("requests")).any(|name| wanted(&name));
    if has(|name| name.starts_with("hugepages-")) && !has(|name| matches!(name, "cpu" | "memory")) {
        let why = "HugePages require cpu or memory";
        errors.push(FieldError::forbidden(format!("{path}.resources"), why));
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        let path = format!("{path}.resources");
        let whole = name.contains('/') || name.starts_with("hugepages-");
        match (quantity(request), quantity(limit)) {
            (Some(request_q), Some(limit_q)) if whole && request_q != limit_q => {
                let why = format!("must be equal to {name} limit of {}", shown(limit));
                errors.push(FieldError::invalid(format!("{path}.requests"), shown(request), why));
            }
            (Some(request_q), Some(limit_q)) if request_q > limit_q => {
                let why = format!("must be less than or equal to {name} limit of {}", shown(limit));
                errors.push(FieldError::invalid(format!("{path}.requests"), shown(request), why));
            }
            (Some(_), None) if whole => {
                errors.push(FieldError::required(
                    format!("{path}.limits"),
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
    }
}

fn validate_resource_name(name: &str, path: &str, errors: &mut Errors) {
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage" | "storage") || name.starts_with("hugepages-");
    if name.contains('/') {
        invalid_all(names::check_label_key(name), path, name, errors);
    } else if !standard {
        errors.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
        errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn validate_mounts(container: &Value, path: &str, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, mount) in indexed(container, path, "volumeMounts") {
        match text(mount, "name") {
            None => errors.push(FieldError::required(format!("{path}.name"), "")),
            Some(name) if !volumes.contains(name) => {
                errors.push(FieldError::not_found(format!("{path}.name"), name))
            }
            Some(_) => {}
        }
        match text(mount, "mountPath") {
            None => errors.push(FieldError::required(format!("{path}.mountPath"), "")),
            Some(place) if !seen.insert(place) => {
                errors.push(FieldError::invalid(format!("{path}.mountPath"), place, "must be unique"));
            }
            Some(_) => {}
        }
        if let Some(sub) =
            text(mount, "subPath").filter(|s| s.starts_with('/') || s.split('/').any(|part| part == ".."))
        {
            let why = if sub.starts_with('/') { "must be a relative path" } else { "must not contain '..'" };
            errors.push(FieldError::invalid(format!("{path}.subPath"), sub, why));
        }
    }
}

fn validate_lifecycle(container: &Value, path: &str, grace: i64, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        let action = &container["lifecycle"][hook];
        if action.is_object() {
            let path = format!("{path}.lifecycle.{hook}");
            validate_action(
                action,
                &path,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                "must specify a handler type",
                errors,
            );
            if let Some(seconds) = action["sleep"]["seconds"].as_i64().filter(|s| *s < 0 || *s > grace) {
                let why =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.push(FieldError::invalid(format!("{path}.sleep"), seconds, why));
            }
        }
    }
}

fn validate_probe(probe: &Value, path: &str, name: &str, errors: &mut Errors) {
    if !probe.is_object() {
        return;
    }
    validate_action(
        probe,
        path,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        "must specify a handler type",
        errors,
    );
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        at_least(probe, path, field, 0, errors);
    }
    if name == "readinessProbe" {
        if !probe["terminationGracePeriodSeconds"].is_null() {
            let shown = probe["terminationGracePeriodSeconds"].clone();
            errors.push(FieldError::invalid(
                format!("{path}.terminationGracePeriodSeconds"),
                shown,
                "must not be set for readinessProbes",
            ));
        }
    } else if let Some(threshold) = probe["successThreshold"].as_i64().filter(|t| *t != 1) {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), threshold, "must be 1"));
    }
}

/// Exactly one of `kinds`, and that one good.
fn validate_action(action: &Value, path: &str, kinds: &[&str], missing: &str, errors: &mut Errors) {
    let mut given = 0;
    for kind in kinds.iter().filter(|kind| action[**kind].is_object()) {
        let path = format!("{path}.{kind}");
        given += 1;
        if given > 1 {
            errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        let body = &action[*kind];
        match *kind {
            "exec" if items(&body["command"]).is_empty() => {
                errors.push(FieldError::required(format!("{path}.command"), ""));
            }
            "httpGet" => {
                port_or_name(&body["port"], &format!("{path}.port"), errors);
                one_of(body, &path, "scheme", &["HTTP", "HTTPS"], errors);
                for header in items(&body["httpHeaders"]) {
                    validate_header(header, &path, errors);
                }
            }
            "tcpSocket" => port_or_name(&body["port"], &format!("{path}.port"), errors),
            "grpc" => port_number(&body["port"], &format!("{path}.port"), errors),
            _ => {}
        }
    }
    if given == 0 {
        errors.push(FieldError::required(path, missing));
    }
}

fn validate_header(header: &Value, path: &str, errors: &mut Errors) {
    let name = header["name"].as_str().unwrap_or_default();
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !good {
        let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
        errors.push(FieldError::invalid(format!("{path}.httpHeaders"), name, why));
    }
}
