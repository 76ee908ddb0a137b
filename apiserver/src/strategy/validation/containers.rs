//! What a container must hold to: names, images, ports, resources, mounts, and what only some sorts may say.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::fields::check_below;
use super::handlers::{validate_lifecycle, validate_probe};
use super::mounts;
use super::quantities::{
    amounts, check_amount, check_container_name, check_pages, is_huge_page, is_overcommittable, quantity,
    shown,
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

/// All containers of a pod's spec. `is_pod`: of a pod itself and not of a template.
pub(super) fn validate(spec: &Value, path: &str, volumes: &Volumes<'_>, is_pod: bool, errors: &mut Errors) {
    if items(&spec["containers"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut names = BTreeSet::new();
    let mut host_ports = HostPorts::new();
    for (list, sort) in LISTS {
        for (at, container) in indexed(spec, path, list) {
            validate_name(container, *sort, &at, &mut names, errors);
            validate_one(container, *sort, spec, &at, volumes, errors);
            if is_pod {
                validate_image_space(container, &at, errors);
            }
            validate_ports(container, &at, errors);
            match sort {
                Sort::Main => {
                    check_host_ports(container, &at, &mut host_ports, errors);
                    check_host_network(container, spec, &at, is_pod, errors);
                }
                // They run one by one. Kubernetes looks at each as if it were the first.
                Sort::Init => {
                    let at = format!("{path}.{list}[0]");
                    check_host_ports(container, &at, &mut HostPorts::new(), errors);
                }
                Sort::Ephemeral => {}
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
    environment::validate(container, spec, path, errors);
    validate_resources(&container["resources"], &format!("{path}.resources"), errors);
    validate_claims(container, spec, path, errors);
    validate_resize_policy(container, spec, path, errors);
    validate_restart_policy(container, sort, path, errors);
    mounts::validate(container, path, volumes, errors);
    security_contexts::validate_container(container, spec, path, errors);
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

fn validate_name<'a>(
    container: &'a Value,
    sort: Sort,
    path: &str,
    seen: &mut BTreeSet<&'a str>,
    errors: &mut Errors,
) {
    let (name, path) = (container["name"].as_str().unwrap_or_default(), format!("{path}.name"));
    match name {
        "" => errors.push(FieldError::required(&path, "")),
        name => invalid_all(names::check_dns_label(name), &path, name, errors),
    }
    if seen.contains(name) {
        errors.push(FieldError::duplicate(path, name));
    } else if !name.is_empty() || sort != Sort::Init {
        seen.insert(name);
    }
}

fn validate_image(container: &Value, path: &str, errors: &mut Errors) {
    if text(container, "image").is_none() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    }
}

/// In templates an image may be a mark that something else replaces.
fn validate_image_space(container: &Value, path: &str, errors: &mut Errors) {
    if let Some(image) = text(container, "image").filter(|image| image.trim() != *image) {
        let why = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), image, why));
    }
}

type HostPorts = BTreeSet<String>;

fn validate_ports(container: &Value, path: &str, errors: &mut Errors) {
    let mut names_seen = BTreeSet::new();
    for (path, port) in indexed(container, path, "ports") {
        if let Some(name) = text(port, "name") {
            let wrong = names::check_port_name(name);
            if wrong.is_empty() && !names_seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            invalid_all(wrong, &format!("{path}.name"), name, errors);
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.push(FieldError::required(format!("{path}.containerPort"), "")),
            Some(_) => port_number(&port["containerPort"], &format!("{path}.containerPort"), errors),
        }
        one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
        if port["hostPort"] != 0 {
            port_number(&port["hostPort"], &format!("{path}.hostPort"), errors);
        }
    }
}

fn check_host_ports(container: &Value, path: &str, taken: &mut HostPorts, errors: &mut Errors) {
    for (path, port) in indexed(container, path, "ports") {
        let Some(host_port) = port["hostPort"].as_i64().filter(|p| *p != 0) else { continue };
        let part = |field: &str| port[field].as_str().unwrap_or_default();
        let shown = format!("{}/{}/{host_port}", part("protocol"), part("hostIP"));
        if !taken.insert(shown.clone()) {
            errors.push(FieldError::duplicate(format!("{path}.hostPort"), shown));
        }
    }
}

/// Who shares the network of the node listens there on the port that it says.
fn check_host_network(container: &Value, spec: &Value, path: &str, is_pod: bool, errors: &mut Errors) {
    if spec["hostNetwork"] != true {
        return;
    }
    for (path, port) in indexed(container, path, "ports") {
        let number = |field: &str| port[field].as_i64().unwrap_or_default();
        let (outside, inside) = (number("hostPort"), number("containerPort"));
        if (is_pod || outside != 0) && outside != inside {
            let why = "must match `containerPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(format!("{path}.hostPort"), outside, why));
        }
    }
}

/// Limits and requests, of a container or of anything that is promised resources.
pub(super) fn validate_resources(resources: &Value, path: &str, errors: &mut Errors) {
    validate_promise(resources, check_container_name, path, errors);
}

/// As `validate_resources`, where `check_resource` says which resources may be promised.
pub(super) fn validate_promise(
    resources: &Value,
    check_resource: fn(&str, &str, &mut Errors),
    path: &str,
    errors: &mut Errors,
) {
    for part in ["limits", "requests"] {
        for (path, name, value) in amounts(&resources[part], &format!("{path}.{part}")) {
            check_resource(name, &path, errors);
            check_amount(name, value, &path, errors);
            check_pages(name, value, &path, errors);
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

/// Each claim of the pod, or request of one, is used once.
fn validate_claims(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (path, claim) in indexed(&container["resources"], &format!("{path}.resources"), "claims") {
        let name = claim["name"].as_str().unwrap_or_default();
        let request = claim["request"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let is_whole = seen.contains(&(name, ""));
        if !is_whole && !request.is_empty() {
            invalid_all(names::check_dns_label(request), &format!("{path}.request"), request, errors);
        }
        let is_used = |(used, part): &(&str, &str)| *used == name && (request.is_empty() || *part == request);
        if is_whole || seen.iter().any(is_used) {
            errors.push(FieldError::duplicate(&path, name));
        }
        seen.push((name, request));
        if !items(&spec["resourceClaims"]).iter().any(|known| known["name"] == name) {
            errors.push(FieldError::not_found(path, name));
        }
    }
}

/// Kubernetes names the list, not the policy, where one is wrong.
fn validate_resize_policy(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let list = format!("{path}.resizePolicy");
    for (path, policy) in indexed(container, path, "resizePolicy") {
        let text = |field: &str| policy[field].as_str().unwrap_or_default();
        let (resource, action) = (text("resourceName"), text("restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&path, resource));
        }
        for (given, known) in [(resource, ["cpu", "memory"]), (action, ["NotRequired", "RestartContainer"])] {
            if given.is_empty() {
                errors.push(FieldError::required(&list, ""));
            } else if !known.contains(&given) {
                errors.push(FieldError::not_supported(&list, given, &known));
            }
        }
        if spec["restartPolicy"] == "Never" && action != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(&list, action, why));
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
        let operator = codes["operator"].as_str().unwrap_or_default();
        if !matches!(operator, "In" | "NotIn") {
            errors.push(FieldError::not_supported(format!("{path}.operator"), operator, &["In", "NotIn"]));
        }
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
    "restartPolicyRules",
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
