//! Ingresses and their classes: hosts, paths and backends.

use std::net::IpAddr;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::fields::check_below;
use crate::strategy::rules::{Errors, check_domain_path, indexed, invalid_all, items, port_number, text};

pub(super) fn ingress(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    if items(&spec["rules"]).is_empty() && spec["defaultBackend"].is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", Value::Null, why));
    }
    if spec["defaultBackend"].is_object() {
        validate_backend(&spec["defaultBackend"], "spec.defaultBackend", errors);
    }
    for (path, rule) in indexed(spec, "spec", "rules") {
        validate_rule(rule, &path, errors);
    }
    for (path, tls) in indexed(spec, "spec", "tls") {
        for (path, host) in indexed(tls, &path, "hosts") {
            host.as_str().into_iter().for_each(|host| validate_host(host, &path, errors));
        }
    }
    if check.old.is_none() {
        validate_class_annotation(check.new, errors);
    }
}

pub(super) fn ingress_status(check: &Check<'_>, errors: &mut Errors) {
    let balancer = &check.new["status"]["loadBalancer"];
    for (path, entry) in indexed(balancer, "status.loadBalancer", "ingress") {
        if let Some(host) = text(entry, "hostname").filter(|host| host.parse::<IpAddr>().is_ok()) {
            errors.push(FieldError::invalid(format!("{path}.hostname"), host, NOT_AN_ADDRESS));
        }
    }
}

const NOT_AN_ADDRESS: &str = "must be a DNS name, not an IP address";
const CLASS: &str = "kubernetes.io/ingress.class";

fn validate_class_annotation(ingress: &Value, errors: &mut Errors) {
    let annotation = ingress["metadata"]["annotations"][CLASS].as_str();
    let field = ingress["spec"]["ingressClassName"].as_str();
    if let (Some(annotation), Some(field)) = (annotation, field)
        && annotation != field
    {
        let why = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(format!("annotations.{CLASS}"), annotation, why));
    }
}

fn validate_host(host: &str, path: &str, errors: &mut Errors) {
    let wrong = match host.contains('*') {
        true => names::check_wildcard_subdomain(host),
        false => names::check_dns_subdomain(host),
    };
    invalid_all(wrong, path, host, errors);
}

fn validate_rule(rule: &Value, path: &str, errors: &mut Errors) {
    if let Some(host) = text(rule, "host") {
        let path = format!("{path}.host");
        if host.parse::<IpAddr>().is_ok() {
            errors.push(FieldError::invalid(&path, host, NOT_AN_ADDRESS));
        }
        validate_host(host, &path, errors);
    }
    if rule["http"].is_object() {
        let path = format!("{path}.http");
        if items(&rule["http"]["paths"]).is_empty() {
            errors.push(FieldError::required(format!("{path}.paths"), ""));
        }
        for (path, entry) in indexed(&rule["http"], &path, "paths") {
            validate_path(entry, &path, errors);
        }
    }
}

fn validate_path(entry: &Value, path: &str, errors: &mut Errors) {
    let Some(kind) = entry["pathType"].as_str() else {
        errors.push(FieldError::required(format!("{path}.pathType"), "pathType must be specified"));
        return;
    };
    let place = entry["path"].as_str().unwrap_or_default();
    let at = format!("{path}.path");
    let mut invalid = |why: String| errors.push(FieldError::invalid(&at, place, why));
    match kind {
        "Exact" | "Prefix" => {
            if !place.starts_with('/') {
                invalid("must be an absolute path".to_owned());
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| place.contains(**part)) {
                invalid(format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| place.ends_with(**end)) {
                invalid(format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !place.is_empty() && !place.starts_with('/') {
                invalid("must be an absolute path".to_owned());
            }
        }
        other => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(FieldError::not_supported(format!("{path}.pathType"), other, &known));
        }
    }
    validate_backend(&entry["backend"], &format!("{path}.backend"), errors);
}

fn validate_backend(backend: &Value, path: &str, errors: &mut Errors) {
    match (backend["resource"].is_object(), backend["service"].is_object()) {
        (true, true) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (true, false) => {
            check_below("typedLocalReference", &backend["resource"], &format!("{path}.resource"), errors);
        }
        (false, true) => validate_service(&backend["service"], path, errors),
        (false, false) => {
            errors.push(FieldError::invalid(path, "", "resource or service backend is required"));
        }
    }
}

fn validate_service(service: &Value, path: &str, errors: &mut Errors) {
    let name_path = format!("{path}.service.name");
    match text(service, "name") {
        None => errors.push(FieldError::required(name_path, "")),
        Some(name) => invalid_all(names::check_dns_label(name), &name_path, name, errors),
    }
    let port = &service["port"];
    let number = port["number"].as_i64().filter(|number| *number != 0);
    match (text(port, "name"), number) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, "", "cannot set both port name & port number"));
        }
        (Some(name), None) => {
            invalid_all(names::check_port_name(name), &format!("{path}.service.port.name"), name, errors);
        }
        (None, Some(_)) => port_number(&port["number"], &format!("{path}.service.port.number"), errors),
        (None, None) => errors.push(FieldError::required(path, "port name or number is required")),
    }
}

pub(super) fn class(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    if let Some(controller) = text(spec, "controller") {
        check_domain_path(controller, "spec.controller", errors);
    }
    let parameters = &spec["parameters"];
    let namespace = parameters["namespace"].as_str();
    let path = "spec.parameters.namespace";
    match (parameters["scope"].as_str(), namespace) {
        (Some("Namespace"), None) => {
            errors.push(FieldError::required(path, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), Some(name)) => invalid_all(names::check_dns_label(name), path, name, errors),
        (Some("Cluster"), Some(_)) => {
            errors.push(FieldError::forbidden(path, "`parameters.scope` is set to 'Cluster'"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    #[test]
    fn an_ingress_mistakes_are_named_by_their_path() {
        let of = |spec: Value| paths("networking.k8s.io", "ingresses", "", &json!({ "spec": spec }), None);
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let path = |path: Value| json!({"rules": [{"http": {"paths": [path]}}]});
        let at = |field: &str| format!("spec.rules[0].http.paths[0].{field}");
        let good = json!({"pathType": "Prefix", "path": "/", "backend": backend});
        assert!(of(path(good.clone())).is_empty());
        let with = |field: &str, value: Value| {
            let mut entry = good.clone();
            entry[field] = value;
            of(path(entry))
        };
        assert_eq!(of(json!({})), ["spec"]);
        assert_eq!(with("pathType", Value::Null), [at("pathType")]);
        assert_eq!(with("pathType", json!("Odd")), [at("pathType")]);
        assert_eq!(with("path", json!("x")), [at("path")]);
        assert_eq!(with("path", json!("/a//b")), [at("path")]);
        assert_eq!(with("backend", json!({})), [at("backend")]);
        assert_eq!(with("backend", json!({"service": {"name": "s", "port": {}}})), [at("backend")]);
        assert_eq!(
            with("backend", json!({"service": {"name": "S", "port": {"number": 1}}})),
            [at("backend.service.name")]
        );
        assert_eq!(of(json!({"rules": [{"host": "10.0.0.1"}]})), ["spec.rules[0].host"]);
        assert_eq!(of(json!({"rules": [{"host": "a.*.b"}]})), ["spec.rules[0].host"]);
        assert_eq!(
            of(json!({"defaultBackend": backend, "tls": [{"hosts": ["A b"]}]})),
            ["spec.tls[0].hosts[0]"]
        );
    }

    #[test]
    fn a_class_has_a_controller_and_parameters_of_its_scope() {
        let of =
            |spec: Value| paths("networking.k8s.io", "ingressclasses", "", &json!({ "spec": spec }), None);
        assert!(of(json!({"controller": "example.com/c"})).is_empty());
        assert_eq!(of(json!({"controller": "no-domain"})), ["spec.controller"]);
        let with = |scope: &str, namespace: Value| {
            of(
                json!({"controller": "a.b/c", "parameters": {"kind": "K", "name": "n", "scope": scope, "namespace": namespace}}),
            )
        };
        assert_eq!(with("Namespace", Value::Null), ["spec.parameters.namespace"]);
        assert_eq!(with("Cluster", json!("x")), ["spec.parameters.namespace"]);
        assert_eq!(with("Odd", Value::Null), ["spec.parameters.scope"]);
    }
}
