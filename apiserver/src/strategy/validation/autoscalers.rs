//! Horizontal pod autoscalers: metrics with targets, and how fast to follow them.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::fields::check_below;
use super::quantities::{check_container_name, quantity, shown};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

pub(super) fn autoscaler(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let (min, max) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or_default());
    match max {
        0 => errors.push(FieldError::required("spec.maxReplicas", "must be set and greater than 0")),
        ..0 => {
            errors.push(FieldError::invalid("spec.maxReplicas", max, "must be greater than or equal to 1"));
        }
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", max, why));
    }
    validate_target_version(check, errors);
    // The only metric that version 1 has.
    if let Some(share) = spec["targetCPUUtilizationPercentage"].as_i64().filter(|share| *share < 1) {
        let path = "spec.metrics[0].resource.target.averageUtilization";
        errors.push(FieldError::invalid(path, share, "must be greater than 0"));
    }
    for (path, metric) in indexed(spec, "spec", "metrics") {
        validate_metric(metric, &path, errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        validate_rules(&spec["behavior"][direction], &format!("spec.behavior.{direction}"), errors);
    }
}

/// The only kind that can be scaled and is in no group.
const WITHOUT_GROUP: &str = "ReplicationController";

/// A reference that a change leaves alone is not refused for what an older server let pass.
fn validate_target_version(check: &Check<'_>, errors: &mut Errors) {
    let target = |object: &Value| ["apiVersion", "kind"].map(|f| object["spec"]["scaleTargetRef"][f].clone());
    if check.old.is_none_or(|old| target(old) != target(check.new)) {
        let reference = &check.new["spec"]["scaleTargetRef"];
        let needs_group = reference["kind"] != WITHOUT_GROUP;
        validate_version(reference, needs_group, "spec.scaleTargetRef", errors);
    }
}

fn validate_version(reference: &Value, needs_group: bool, path: &str, errors: &mut Errors) {
    let version = reference["apiVersion"].as_str().unwrap_or_default();
    let why = match version.matches('/').count() {
        0 if needs_group => "apiVersion must specify API group".to_owned(),
        1 if needs_group && version.starts_with('/') => "apiVersion must specify API group".to_owned(),
        0 | 1 => return,
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.push(FieldError::invalid(format!("{path}.apiVersion"), version, why));
}

/// Sorts of metrics and the field that each says more in.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

const KNOWN: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

fn validate_metric(metric: &Value, path: &str, errors: &mut Errors) {
    let kind = metric["type"].as_str().unwrap_or_default();
    if kind.is_empty() {
        errors.push(FieldError::required(format!("{path}.type"), "must specify a metric source type"));
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if expected.is_none() {
        errors.push(FieldError::not_supported(format!("{path}.type"), kind, KNOWN));
    }
    let given: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric[*field].is_object()).collect();
    if let Some(first) = given.first() {
        validate_source(first, &metric[*first], &format!("{path}.{first}"), errors);
    }
    match expected {
        // Said once for the type, and once more because no source can belong to it.
        None => errors.push(FieldError::not_supported(format!("{path}.type"), kind, KNOWN)),
        Some(field) if !given.contains(&field) => {
            let why = "must populate information for the given metric source";
            errors.push(FieldError::required(format!("{path}.{field}"), why));
        }
        Some(_) => {}
    }
    for other in given.iter().filter(|field| given.len() != 1 && Some(**field) != expected) {
        let why = "must populate the given metric source only";
        errors.push(FieldError::forbidden(format!("{path}.{other}"), why));
    }
}

fn validate_source(field: &str, source: &Value, path: &str, errors: &mut Errors) {
    let (target, at) = (&source["target"], format!("{path}.target"));
    match field {
        "object" => {
            check_below(
                "scaleReference",
                &source["describedObject"],
                &format!("{path}.describedObject"),
                errors,
            );
            validate_version(&source["describedObject"], false, &format!("{path}.describedObject"), errors);
            validate_identifier(&source["metric"], &format!("{path}.metric"), errors);
        }
        "resource" | "containerResource" => validate_resource(field, source, path, errors),
        _ => validate_identifier(&source["metric"], &format!("{path}.metric"), errors),
    }
    validate_target(target, &at, errors);
    validate_choice(field, target, &at, errors);
}

fn validate_resource(field: &str, source: &Value, path: &str, errors: &mut Errors) {
    let of_container = field == "containerResource";
    let at = format!("{path}.name");
    match text(source, "name") {
        None => errors.push(FieldError::required(at, "must specify a resource name")),
        Some(name) if of_container => check_container_name(name, &at, errors),
        Some(_) => {}
    }
    let at = format!("{path}.container");
    match text(source, "container") {
        _ if !of_container => {}
        None => errors.push(FieldError::required(at, "must specify a container")),
        Some(name) => invalid_all(names::check_dns_label(name), &at, name, errors),
    }
}

fn validate_identifier(metric: &Value, path: &str, errors: &mut Errors) {
    match text(metric, "name") {
        None => errors.push(FieldError::required(format!("{path}.name"), "must specify a metric name")),
        Some(name) => invalid_all(names::check_path_segment(name), &format!("{path}.name"), name, errors),
    }
}

fn validate_target(target: &Value, path: &str, errors: &mut Errors) {
    let (kind, at) = (target["type"].as_str().unwrap_or_default(), format!("{path}.type"));
    if kind.is_empty() {
        errors.push(FieldError::required(&at, "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(at, kind, why));
    }
    for field in ["value", "averageValue"] {
        if !is_positive(&target[field]) && !target[field].is_null() {
            errors.push(FieldError::invalid(
                format!("{path}.{field}"),
                shown(&target[field]),
                "must be positive",
            ));
        }
    }
    if let Some(share) = target["averageUtilization"].as_i64().filter(|share| *share < 1) {
        errors.push(FieldError::invalid(
            format!("{path}.averageUtilization"),
            share,
            "must be greater than 0",
        ));
    }
}

fn is_positive(value: &Value) -> bool {
    quantity(value).is_some_and(|amount| !amount.is_zero() && !amount.is_negative())
}

/// Which of the values a target must give, and which it may not give together.
fn validate_choice(field: &str, target: &Value, path: &str, errors: &mut Errors) {
    let has = |field: &str| !target[field].is_null();
    let mut required =
        |field: &str, why: &str| errors.push(FieldError::required(format!("{path}.{field}"), why));
    let both = match field {
        "pods" => {
            if !has("averageValue") {
                required("averageValue", "must specify a positive target averageValue");
            }
            None
        }
        "object" => {
            if !has("value") && !has("averageValue") {
                required("averageValue", "must set either a target value or averageValue");
            }
            None
        }
        "external" => {
            if !has("value") && !has("averageValue") {
                required("averageValue", "must set either a target value for metric or a per-pod target");
            }
            let why = "may not set both a target value for metric and a per-pod target";
            (has("value") && has("averageValue")).then_some(("value", why))
        }
        _ => {
            if !has("averageUtilization") && !has("averageValue") {
                required("averageUtilization", "must set either a target raw value or a target utilization");
            }
            let why = "may not set both a target raw value and a target utilization";
            (has("averageUtilization") && has("averageValue")).then_some(("averageValue", why))
        }
    };
    errors.extend(both.map(|(field, why)| FieldError::forbidden(format!("{path}.{field}"), why)));
}

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

fn validate_rules(rules: &Value, path: &str, errors: &mut Errors) {
    if !rules.is_object() {
        return;
    }
    if let Some(window) = rules["stabilizationWindowSeconds"].as_i64() {
        let why = match window {
            ..0 => "must be greater than or equal to zero".to_owned(),
            WINDOW_SECONDS_MAX.. if window > WINDOW_SECONDS_MAX => {
                format!("must be less than or equal to {WINDOW_SECONDS_MAX}")
            }
            _ => String::new(),
        };
        if !why.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.stabilizationWindowSeconds"), window, why));
        }
    }
    let select = rules["selectPolicy"].as_str();
    if let Some(policy) = select.filter(|policy| !matches!(*policy, "Disabled" | "Max" | "Min")) {
        errors.push(FieldError::not_supported(
            format!("{path}.selectPolicy"),
            policy,
            &["Disabled", "Max", "Min"],
        ));
    }
    if quantity(&rules["tolerance"]).is_some_and(|tolerance| tolerance.is_negative()) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("{path}.tolerance"), shown(&rules["tolerance"]), why));
    }
    if items(&rules["policies"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.policies"), "must specify at least one Policy"));
    }
    for (path, policy) in indexed(rules, path, "policies") {
        validate_policy(policy, &path, errors);
    }
}

fn validate_policy(policy: &Value, path: &str, errors: &mut Errors) {
    let kind = policy["type"].as_str().unwrap_or_default();
    if !matches!(kind, "Percent" | "Pods") {
        errors.push(FieldError::not_supported(format!("{path}.type"), kind, &["Percent", "Pods"]));
    }
    for (field, max) in [("value", i64::MAX), ("periodSeconds", PERIOD_SECONDS_MAX)] {
        let number = policy[field].as_i64().unwrap_or_default();
        let why = match number {
            ..=0 => "must be greater than zero".to_owned(),
            _ if number > max => format!("must be less than or equal to {max}"),
            _ => continue,
        };
        errors.push(FieldError::invalid(format!("{path}.{field}"), number, why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn of(extra: Value) -> Vec<String> {
        let mut spec = json!({"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        paths("autoscaling", "horizontalpodautoscalers", "", &json!({"spec": spec}), None)
    }

    #[test]
    fn each_mistake_is_named_by_its_path() {
        let metric = |metric: Value| json!({"metrics": [metric]});
        let cpu = |target: Value| {
            metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}))
        };
        let down = |rules: Value| json!({"behavior": {"scaleDown": rules}});
        let policy = json!({"type": "Pods", "value": 1, "periodSeconds": 60});
        let cases = [
            (json!({}), vec![]),
            (json!({"minReplicas": 0}), vec!["minReplicas"]),
            (json!({"minReplicas": 5}), vec!["maxReplicas"]),
            (json!({"maxReplicas": 0}), vec!["maxReplicas"]),
            (
                json!({"scaleTargetRef": {"kind": "", "name": "a/b"}}),
                vec!["scaleTargetRef.kind", "scaleTargetRef.name", "scaleTargetRef.apiVersion"],
            ),
            (
                json!({"scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "a"}}),
                vec![],
            ),
            (
                json!({"scaleTargetRef": {"apiVersion": "a/b/c", "kind": "A", "name": "a"}}),
                vec!["scaleTargetRef.apiVersion"],
            ),
            (json!({"maxReplicas": -1}), vec!["maxReplicas"]),
            (metric(json!({"type": "Odd"})), vec!["metrics[0].type", "metrics[0].type"]),
            (
                metric(json!({"type": "ContainerResource", "containerResource": {"name": "odd",
                    "container": "Bad", "target": {"type": "Utilization", "averageUtilization": 5}}})),
                vec![
                    "metrics[0].containerResource.name",
                    "metrics[0].containerResource.name",
                    "metrics[0].containerResource.container",
                ],
            ),
            (
                cpu(json!({"averageValue": "1"})),
                vec!["metrics[0].resource.target.type", "metrics[0].resource.target.type"],
            ),
            (metric(json!({"type": "Pods"})), vec!["metrics[0].pods"]),
            (cpu(json!({"type": "Utilization", "averageUtilization": 50})), vec![]),
            (
                cpu(json!({"type": "Utilization", "averageUtilization": 0})),
                vec!["metrics[0].resource.target.averageUtilization"],
            ),
            (cpu(json!({"type": "Utilization"})), vec!["metrics[0].resource.target.averageUtilization"]),
            (
                cpu(json!({"type": "Odd", "averageValue": "-1"})),
                vec!["metrics[0].resource.target.type", "metrics[0].resource.target.averageValue"],
            ),
            (down(json!({"policies": [policy]})), vec![]),
            (down(json!({})), vec!["behavior.scaleDown.policies"]),
            (
                down(
                    json!({"policies": [policy], "stabilizationWindowSeconds": 9999, "selectPolicy": "Odd"}),
                ),
                vec!["behavior.scaleDown.stabilizationWindowSeconds", "behavior.scaleDown.selectPolicy"],
            ),
            (
                down(json!({"policies": [{"type": "Odd", "value": 0, "periodSeconds": 9999}]})),
                vec![
                    "behavior.scaleDown.policies[0].type",
                    "behavior.scaleDown.policies[0].value",
                    "behavior.scaleDown.policies[0].periodSeconds",
                ],
            ),
        ];
        for (extra, expected) in cases {
            let expected: Vec<String> = expected.iter().map(|path| format!("spec.{path}")).collect();
            assert_eq!(of(extra.clone()), expected, "{extra}");
        }
    }
}
