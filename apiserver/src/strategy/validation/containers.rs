//! What a container must hold to: names, images, ports, resources, mounts, and what only some sorts may say.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::fields::check_below;
use super::handlers::{validate_lifecycle, validate_probe};
use super::mounts;
use super::quantities::{
    amounts, check_amount, check_container_name, is_huge_page, is_overcommittable, quantity, shown,
};
use super::volumes::Volumes;
use super::{environment, security_contexts};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, one_of, port_number, text};

/// The sorts of containers that a pod has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Main,
    Init,
    Ephemeral,
}

const LISTS: &[(&str, Sort)] =
    &[("containers", Sort::Main), ("initContainers", Sort::Init), ("ephemeralContainers", Sort::Ephemeral)];

const PROBES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe"];

/// All containers of a pod's spec.
pub(super) fn validate(spec: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut Errors) {
    if items(&spec["containers"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for (list, sort) in LISTS {
        for (path, container) in indexed(spec, path, list) {
            validate_name(container, &path, &mut names, errors);
            validate_one(container, *sort, spec, &path, volumes, errors);
            if *sort != Sort::Ephemeral {
                validate_ports(container, &path, spec["hostNetwork"] == true, &mut host_ports, errors);
            }
        }
    }
}

fn validate_one(
    container: &Value,
    sort: Sort,
    spec: &Value,
    path: &str,
    volumes: &Volumes<'_>,
    errors: &mut Errors,
) {
    let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    validate_image(container, path, errors);
    check_below("container", container, path, errors);
    environment::validate(container, path, errors);
    validate_resources(&container["resources"], &format!("{path}.resources"), errors);
    validate_claims(container, spec, path, errors);
    validate_resize_policy(container, spec, path, errors);
    validate_restart_policy(container, sort, path, errors);
    mounts::validate(container, path, volumes, errors);
    security_contexts::validate_container(container, path, errors);
    match sort {
        Sort::Ephemeral => validate_ephemeral(container, spec, path, errors),
        Sort::Init if container["restartPolicy"] != "Always" => {
            let runs_on = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];
            for field in runs_on.into_iter().filter(|field| !container[*field].is_null()) {
                let why = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
            }
        }
        _ => {
            validate_lifecycle(container, spec, path, grace, errors);
            for probe in PROBES {
                validate_probe(&container[*probe], &format!("{path}.{probe}"), probe, errors);
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
    let path = format!("{path}.image");
    if image.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(path, image, "must not have leading or trailing whitespace"));
    }
}

type HostPorts = BTreeSet<(String, i64, String)>;

fn validate_ports(
    container: &Value,
    path: &str,
    host_network: bool,
    host_ports: &mut HostPorts,
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

/// Limits and requests, of a container or of anything that is promised resources.
pub(super) fn validate_resources(resources: &Value, path: &str, errors: &mut Errors) {
    for part in ["limits", "requests"] {
        for (path, name, value) in amounts(&resources[part], &format!("{path}.{part}")) {
            check_container_name(name, &path, errors);
            check_amount(name, value, &path, errors);
        }
    }
    let all = || ["limits", "requests"].into_iter().flat_map(|part| amounts(&resources[part], ""));
    if all().any(|(_, name, _)| is_huge_page(name))
        && !all().any(|(_, name, _)| matches!(name, "cpu" | "memory"))
    {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    for (_, name, request) in amounts(&resources["requests"], "") {
        let limit = &resources["limits"][name];
        let is_fixed = !is_overcommittable(name);
        let Some(asked) = quantity(request) else { continue };
        let relation = match quantity(limit) {
            Some(most) if is_fixed && asked != most => "equal to",
            Some(most) if asked > most => "less than or equal to",
            None if is_fixed => {
                let why = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(format!("{path}.limits"), why));
                continue;
            }
            _ => continue,
        };
        let why = format!("must be {relation} {name} limit of {}", shown(limit));
        errors.push(FieldError::invalid(format!("{path}.requests"), shown(request), why));
    }
}

fn validate_claims(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, claim) in indexed(&container["resources"], &format!("{path}.resources"), "claims") {
        let name = claim["name"].as_str().unwrap_or_default();
        let request = claim["request"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
            continue;
        }
        if !seen.insert((name, request)) {
            errors.push(FieldError::duplicate(&path, name));
        }
        if !items(&spec["resourceClaims"]).iter().any(|known| known["name"] == name) {
            errors.push(FieldError::not_found(path, name));
        }
    }
}

fn validate_resize_policy(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, policy) in indexed(container, path, "resizePolicy") {
        let text = |field: &str| policy[field].as_str().unwrap_or_default();
        let (resource, action) = (text("resourceName"), text("restartPolicy"));
        if !matches!(resource, "cpu" | "memory") {
            errors.push(FieldError::not_supported(
                format!("{path}.resourceName"),
                resource,
                &["cpu", "memory"],
            ));
        }
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&path, resource));
        }
        let known = ["NotRequired", "RestartContainer"];
        if !known.contains(&action) {
            errors.push(FieldError::not_supported(format!("{path}.restartPolicy"), action, &known));
        } else if action == "RestartContainer" && spec["restartPolicy"] == "Never" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(format!("{path}.restartPolicy"), action, why));
        }
    }
}

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

fn validate_restart_policy(container: &Value, sort: Sort, path: &str, errors: &mut Errors) {
    let rules = items(&container["restartPolicyRules"]);
    if sort == Sort::Ephemeral {
        return;
    }
    one_of(container, path, "restartPolicy", &["Always", "Never", "OnFailure"], errors);
    if rules.is_empty() {
        return;
    }
    if container["restartPolicy"].is_null() {
        let why = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(format!("{path}.restartPolicy"), why));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(format!("{path}.restartPolicyRules"), rules.len(), RULES_MAX));
    }
    for (path, rule) in indexed(container, path, "restartPolicyRules") {
        let action = rule["action"].as_str().unwrap_or_default();
        if !matches!(action, "Restart" | "RestartAllContainers") {
            let known = ["Restart", "RestartAllContainers"];
            errors.push(FieldError::not_supported(format!("{path}.action"), action, &known));
        }
        let codes = &rule["exitCodes"];
        if !codes.is_object() {
            errors.push(FieldError::required(format!("{path}.exitCodes"), "must be specified"));
            continue;
        }
        let path = format!("{path}.exitCodes");
        one_of(codes, &path, "operator", &["In", "NotIn"], errors);
        match items(&codes["values"]).len() {
            0 => errors
                .push(FieldError::required(format!("{path}.values"), "must have at least one exit code")),
            count if count > EXIT_CODES_MAX => {
                errors.push(FieldError::too_many(format!("{path}.values"), count, EXIT_CODES_MAX));
            }
            _ => {}
        }
    }
}

const NOT_IN_EPHEMERAL: &[&str] = &[
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
];

fn validate_ephemeral(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let why = "cannot be set for an Ephemeral Container";
    let is_given = |value: &Value| match value {
        Value::Null => false,
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    for field in NOT_IN_EPHEMERAL.iter().filter(|field| is_given(&container[**field])) {
        errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
    }
    for (path, mount) in indexed(container, path, "volumeMounts") {
        for field in ["subPath", "subPathExpr"].into_iter().filter(|field| text(mount, field).is_some()) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
        }
    }
    if let Some(target) = text(container, "targetContainerName") {
        let mut known = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
        if !known.any(|other| other["name"] == target) {
            errors.push(FieldError::not_found(format!("{path}.targetContainerName"), target));
        }
    }
}
