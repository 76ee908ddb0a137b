//! Configurations of admission webhooks, and the rules by which they and policies choose requests.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::policies::webhook_conditions;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, one_of, text};

pub(super) fn configuration(check: &Check<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (path, webhook) in indexed(check.new, "", "webhooks") {
        validate_webhook(webhook, &path, errors);
        let Some(name) = text(webhook, "name") else { continue };
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        seen.push(name);
    }
}

fn validate_webhook(webhook: &Value, path: &str, errors: &mut Errors) {
    if let Some(name) = text(webhook, "name") {
        check_full_name(name, &format!("{path}.name"), errors);
    }
    for (path, rule) in indexed(webhook, path, "rules") {
        validate_rule(rule, &path, errors);
    }
    if let Some(seconds) = webhook["timeoutSeconds"].as_i64().filter(|seconds| !(1..=30).contains(seconds)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(format!("{path}.timeoutSeconds"), seconds, why));
    }
    validate_side_effects(webhook, &format!("{path}.sideEffects"), errors);
    validate_client(&webhook["clientConfig"], &format!("{path}.clientConfig"), errors);
    validate_versions(webhook, path, errors);
    webhook_conditions(webhook, path, errors);
}

const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];

fn validate_side_effects(webhook: &Value, path: &str, errors: &mut Errors) {
    match webhook["sideEffects"].as_str() {
        None => {
            let why = format!("must specify one of {}", SIDE_EFFECTS.join(", "));
            errors.push(FieldError::required(path, why));
        }
        Some(given) if !SIDE_EFFECTS.contains(&given) => {
            errors.push(FieldError::not_supported(path, given, SIDE_EFFECTS));
        }
        Some(_) => {}
    }
}

/// At least three labels between dots.
fn check_full_name(name: &str, path: &str, errors: &mut Errors) {
    let wrong = names::check_dns_subdomain(name);
    if !wrong.is_empty() {
        invalid_all(wrong, path, name, errors);
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(path, name, why));
    }
}

fn validate_client(client: &Value, path: &str, errors: &mut Errors) {
    match (client["url"].as_str(), client["service"].is_object()) {
        (Some(url), false) => check_url(url, &format!("{path}.url"), errors),
        (None, true) => validate_service(&client["service"], &format!("{path}.service"), errors),
        _ => errors.push(FieldError::required(path, "exactly one of url or service is required")),
    }
}

const URL_FORM: &str = "; desired format: https://host[/path]";

fn check_url(url: &str, path: &str, errors: &mut Errors) {
    let mut invalid = |value: &str, why: String| errors.push(FieldError::invalid(path, value, why));
    // What begins with a colon is no address at all; what has no scheme is one without a host too.
    if url.starts_with(':') || url.contains(char::is_control) {
        let why = format!("url must be a valid URL: parse {url:?}: missing protocol scheme{URL_FORM}");
        errors.push(FieldError::required(path, why));
        return;
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
    if scheme != "https" {
        invalid(scheme, format!("'https' is the only allowed URL scheme{URL_FORM}"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at(end);
    if host.is_empty() {
        invalid("", format!("host must be specified{URL_FORM}"));
    }
    if let Some((user, _)) = host.rsplit_once('@') {
        invalid(user, "user information is not permitted in the URL".to_owned());
    }
    if let Some((_, fragment)) = tail.split_once('#') {
        invalid(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if let Some((_, query)) = tail.split('#').next().and_then(|tail| tail.split_once('?')) {
        invalid(query, "query parameters are not permitted in the URL".to_owned());
    }
}

/// A service that is called at a path.
pub(super) fn validate_service(service: &Value, path: &str, errors: &mut Errors) {
    for (field, what) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        if text(service, field).is_none() {
            errors.push(FieldError::required(format!("{path}.{field}"), what));
        }
    }
    if let Some(port) = service["port"].as_i64().filter(|port| !(1..=65535).contains(port)) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(format!("{path}.port"), port, why));
    }
    let Some(place) = service["path"].as_str() else { return };
    check_service_path(place, &format!("{path}.path"), errors);
}

fn check_service_path(place: &str, path: &str, errors: &mut Errors) {
    let mut invalid = |why: String| errors.push(FieldError::invalid(path, place, why));
    if place.is_empty() || place == "/" {
        return;
    }
    if place == "//" {
        return invalid("segment[0] may not be empty".to_owned());
    }
    if !place.starts_with('/') {
        invalid("must start with a '/'".to_owned());
    }
    let inner = place.strip_prefix('/').unwrap_or(place);
    for (index, segment) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if segment.is_empty() {
            invalid(format!("segment[{index}] may not be empty"));
            continue;
        }
        for why in names::check_dns_subdomain(segment) {
            invalid(format!("segment[{index}]: {why}"));
        }
    }
}

const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

fn validate_versions(webhook: &Value, path: &str, errors: &mut Errors) {
    let at = format!("{path}.admissionReviewVersions");
    let versions = items(&webhook["admissionReviewVersions"]);
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        errors.push(FieldError::required(at, format!("must specify one of {known}")));
        return;
    }
    for (index, version) in versions.iter().filter_map(Value::as_str).enumerate() {
        let path = format!("{at}[{index}]");
        if versions[..index].iter().any(|earlier| earlier == version) {
            errors.push(FieldError::invalid(path, version, "duplicate version"));
        } else {
            invalid_all(names::check_dns_1035_label(version), &path, version, errors);
        }
    }
    if !versions
        .iter()
        .any(|version| version.as_str().is_some_and(|version| REVIEW_VERSIONS.contains(&version)))
    {
        let why = format!("must include at least one of {known}");
        errors.push(FieldError::invalid(at, versions.to_vec(), why));
    }
}

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

/// Which requests are meant: operations, groups, versions, resources, scope.
pub(super) fn validate_rule(rule: &Value, path: &str, errors: &mut Errors) {
    for (field, what) in
        [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
    {
        let at = format!("{path}.{field}");
        let list = items(&rule[field]);
        if list.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if list.len() > 1 && list.iter().any(|item| item == "*") {
            let why = format!("if '*' is present, must not specify other {what}");
            errors.push(FieldError::invalid(at, rule[field].clone(), why));
        }
    }
    for (path, operation) in indexed(rule, path, "operations") {
        let operation = operation.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.push(FieldError::not_supported(path, operation, OPERATIONS));
        }
    }
    for (path, version) in indexed(rule, path, "apiVersions") {
        if version == "" {
            errors.push(FieldError::required(path, ""));
        }
    }
    validate_resources(rule, &format!("{path}.resources"), errors);
    one_of(rule, path, "scope", &["*", "Cluster", "Namespaced"], errors);
}

fn validate_resources(rule: &Value, path: &str, errors: &mut Errors) {
    let resources: Vec<&str> = items(&rule["resources"]).iter().filter_map(Value::as_str).collect();
    if resources.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let (mut all_subresources, mut all_resources) = (Vec::new(), Vec::new());
    let mut ends_with_name = false;
    for (index, resource) in resources.iter().enumerate() {
        let at = format!("{path}[{index}]");
        if resource.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        let Some((of, subresource)) = resource.split_once('/') else {
            ends_with_name = *resource != "*" && !resource.is_empty();
            continue;
        };
        if all_subresources.contains(&of) {
            let why = format!("if '{of}/*' is present, must not specify {resource}");
            errors.push(FieldError::invalid(&at, *resource, why));
        }
        if all_resources.contains(&subresource) {
            let why = format!("if '*/{subresource}' is present, must not specify {resource}");
            errors.push(FieldError::invalid(&at, *resource, why));
        }
        if subresource == "*" {
            all_subresources.push(of);
        }
        if of == "*" {
            all_resources.push(subresource);
        }
    }
    let mut invalid = |why: &str| errors.push(FieldError::invalid(path, rule["resources"].clone(), why));
    if resources.len() > 1 && resources.contains(&"*/*") {
        invalid("if '*/*' is present, must not specify other resources");
    }
    // Of the resources without a subresource it is the last that counts.
    if resources.contains(&"*") && ends_with_name {
        invalid("if '*' is present, must not specify other resources without subresources");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn of(extra: Value) -> Vec<String> {
        let mut webhook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://example.com/x"}, "failurePolicy": "Fail"});
        webhook.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let object = json!({ "webhooks": [webhook] });
        paths("admissionregistration.k8s.io", "validatingwebhookconfigurations", "", &object, None)
    }

    #[test]
    fn each_mistake_is_named_by_its_path() {
        let rule = |change: Value| {
            let mut rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
            rule.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            json!({ "rules": [rule] })
        };
        let cases = [
            (json!({}), vec![]),
            (json!({"name": ""}), vec!["name"]),
            (json!({"name": "a.b"}), vec!["name"]),
            (json!({"sideEffects": "Some"}), vec!["sideEffects"]),
            (json!({"sideEffects": null}), vec!["sideEffects"]),
            (rule(json!({"resources": ["pods", "*"]})), vec![]),
            (json!({"failurePolicy": "Odd"}), vec!["failurePolicy"]),
            (json!({"timeoutSeconds": 31}), vec!["timeoutSeconds"]),
            (json!({"clientConfig": {}}), vec!["clientConfig"]),
            (json!({"clientConfig": {"url": "http://a/b?c#d"}}), vec!["clientConfig.url"; 3]),
            (
                json!({"clientConfig": {"service": {"name": "s", "path": "x"}}}),
                vec!["clientConfig.service.namespace", "clientConfig.service.path"],
            ),
            (json!({"admissionReviewVersions": []}), vec!["admissionReviewVersions"]),
            (json!({"admissionReviewVersions": ["v2"]}), vec!["admissionReviewVersions"]),
            (rule(json!({})), vec![]),
            (rule(json!({"operations": ["Odd"]})), vec!["rules[0].operations[0]"]),
            (rule(json!({"apiGroups": []})), vec!["rules[0].apiGroups"]),
            (rule(json!({"resources": ["pods/*", "pods/status"]})), vec!["rules[0].resources[1]"]),
            (rule(json!({"resources": ["*", "pods"]})), vec!["rules[0].resources"]),
            (rule(json!({"scope": "Odd"})), vec!["rules[0].scope"]),
            (
                json!({"matchConditions": [{"name": "n", "expression": "1 +"}]}),
                vec!["matchConditions[0].expression"],
            ),
            (
                json!({"matchConditions": [{"name": "n", "expression": "'text'"}]}),
                vec!["matchConditions[0].expression"],
            ),
            (
                json!({"matchConditions": [{"name": "a b", "expression": "true"}]}),
                vec!["matchConditions[0].name"],
            ),
        ];
        for (extra, expected) in cases {
            let expected: Vec<String> = expected.iter().map(|path| format!("webhooks[0].{path}")).collect();
            assert_eq!(of(extra.clone()), expected, "{extra}");
        }
    }
}
