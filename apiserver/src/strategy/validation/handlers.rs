//! Probes and lifecycle hooks: what is done to a container to ask or tell it something.

use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::{Errors, at_least, items, one_of, port_number, port_or_name, text};

pub(super) fn validate_lifecycle(
    container: &Value,
    spec: &Value,
    path: &str,
    grace: i64,
    errors: &mut Errors,
) {
    let (lifecycle, path) = (&container["lifecycle"], format!("{path}.lifecycle"));
    for hook in ["postStart", "preStop"].into_iter().filter(|hook| lifecycle[*hook].is_object()) {
        let (action, path) = (&lifecycle[hook], format!("{path}.{hook}"));
        validate_action(action, &path, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        if let Some(seconds) = action["sleep"]["seconds"].as_i64().filter(|s| *s < 0 || *s > grace) {
            let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.push(FieldError::invalid(format!("{path}.sleep"), seconds, why));
        }
    }
    if text(lifecycle, "stopSignal").is_some() && text(&spec["os"], "name").is_none() {
        let why = "may not be set for containers with empty `spec.os.name`";
        errors.push(FieldError::forbidden(format!("{path}.stopSignal"), why));
    }
}

pub(super) fn validate_probe(probe: &Value, path: &str, name: &str, errors: &mut Errors) {
    if !probe.is_object() {
        return;
    }
    validate_action(probe, path, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        at_least(probe, path, field, 0, errors);
    }
    let (grace, at) =
        (&probe["terminationGracePeriodSeconds"], format!("{path}.terminationGracePeriodSeconds"));
    if let Some(seconds) = grace.as_i64().filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(&at, seconds, "must be greater than 0"));
    }
    if name == "readinessProbe" {
        if !grace.is_null() {
            errors.push(FieldError::invalid(at, grace.clone(), "must not be set for readinessProbes"));
        }
        return;
    }
    if let Some(threshold) = probe["successThreshold"].as_i64().filter(|t| *t != 1) {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), threshold, "must be 1"));
    }
}

/// Exactly one of `kinds`, and that one good.
fn validate_action(action: &Value, path: &str, kinds: &[&str], errors: &mut Errors) {
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
                items(&body["httpHeaders"]).iter().for_each(|header| validate_header(header, &path, errors));
            }
            "tcpSocket" => port_or_name(&body["port"], &format!("{path}.port"), errors),
            "grpc" => port_number(&body["port"], &format!("{path}.port"), errors),
            _ => {}
        }
    }
    if given == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
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
