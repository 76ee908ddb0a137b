//! Resource quotas, ranges of limits, disruption budgets.

use std::collections::BTreeMap;

use api_types::quantity::Quantity;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::conditions;
use super::fields::is_same;
use super::quantities::{
    amounts, check_amount, check_container_name, check_name, check_quota_name, is_overcommittable, is_quota,
    quantity, shown,
};
use super::rollouts::check_int_or_percent;
use crate::strategy::rules::{Errors, indexed, invalid_all, items};

pub(super) fn quota(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_hard(&spec["hard"], "spec.hard", errors);
    let hard: Vec<&str> = amounts(&spec["hard"], "").map(|(_, name, _)| name).collect();
    let scopes: Vec<&str> = items(&spec["scopes"]).iter().filter_map(Value::as_str).collect();
    let mut invalid =
        |why: &str| errors.push(FieldError::invalid("spec.scopes", spec["scopes"].clone(), why));
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            invalid("unsupported scope");
        }
        if hard.iter().any(|name| is_quota(name) && !is_counted(scope, name)) {
            invalid("unsupported scope applied to resource");
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            invalid("conflicting scopes");
        }
    }
    validate_scope_selector(&spec["scopeSelector"], &hard, errors);
    if check.old.is_some_and(|old| !is_same(&old["spec"]["scopes"], &spec["scopes"])) {
        errors.push(FieldError::immutable("spec.scopes", spec["scopes"].clone()));
    }
}

pub(super) fn quota_status(check: &Check<'_>, errors: &mut Errors) {
    for field in ["hard", "used"] {
        validate_hard(&check.new["status"][field], &format!("status.{field}"), errors);
    }
}

fn validate_hard(hard: &Value, path: &str, errors: &mut Errors) {
    for (path, name, value) in amounts(hard, path) {
        check_quota_name(name, &path, errors);
        check_amount(name, value, &path, errors);
    }
}

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Whether a quota of this scope can count the resource.
fn is_counted(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        "NotBestEffort"
        | "Terminating"
        | "NotTerminating"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => {
            let base =
                resource.strip_prefix("requests.").or(resource.strip_prefix("limits.")).unwrap_or(resource);
            matches!(base, "pods" | "cpu" | "memory")
        }
        _ => true,
    }
}

fn validate_scope_selector(selector: &Value, hard: &[&str], errors: &mut Errors) {
    let path = "spec.scopeSelector.matchExpressions";
    for term in items(&selector["matchExpressions"]) {
        let text = |field: &str| term[field].as_str().unwrap_or_default();
        let (scope, operator) = (text("scopeName"), text("operator"));
        let is_empty = items(&term["values"]).is_empty();
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(format!("{path}.scopeName"), scope, "unsupported scope"));
        }
        if hard.iter().any(|name| is_quota(name) && !is_counted(scope, name)) {
            errors.push(FieldError::invalid(path, selector.clone(), "unsupported scope applied to resource"));
        }
        let only_exists =
            !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope);
        match (operator, is_empty) {
            _ if only_exists && operator != "Exists" => {
                let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
                errors.push(FieldError::invalid(format!("{path}.operator"), operator, why));
            }
            ("In" | "NotIn", true) => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(format!("{path}.values"), why));
            }
            ("Exists" | "DoesNotExist", false) => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(format!("{path}.values"), term["values"].clone(), why));
            }
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            _ => {
                let why = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{path}.operator"), operator, why));
            }
        }
    }
}

pub(super) fn limit_range(check: &Check<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (path, limit) in indexed(&check.new["spec"], "spec", "limits") {
        let kind = limit["type"].as_str().unwrap_or_default();
        validate_limit_type(kind, &format!("{path}.type"), errors);
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(format!("{path}.type"), kind));
        }
        seen.push(kind);
        validate_limit(limit, kind, &path, errors);
    }
}

fn validate_limit_type(kind: &str, path: &str, errors: &mut Errors) {
    let before = errors.len();
    invalid_all(api_types::names::check_label_key(kind), path, kind, errors);
    let is_standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
    if errors.len() == before && !kind.contains('/') && !is_standard {
        let why = "must be a standard limit type or fully qualified";
        errors.push(FieldError::invalid(path, kind, why));
    }
}

/// What a limit range says of one resource.
#[derive(Default)]
struct Bounds<'a> {
    given: BTreeMap<&'static str, (&'a Value, Quantity)>,
}

const BOUNDS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn validate_limit(limit: &Value, kind: &str, path: &str, errors: &mut Errors) {
    let mut resources: BTreeMap<&str, Bounds<'_>> = BTreeMap::new();
    for field in BOUNDS {
        let is_default = matches!(*field, "default" | "defaultRequest");
        if kind == "Pod" && is_default {
            if limit[*field].as_object().is_some_and(|map| !map.is_empty()) {
                let why = "may not be specified when `type` is 'Pod'";
                errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
            }
            continue;
        }
        for (path, name, value) in amounts(&limit[*field], &format!("{path}.{field}")) {
            match kind {
                "Pod" | "Container" => check_container_name(name, &path, errors),
                _ => check_name(name, &path, errors),
            }
            let Some(amount) = quantity(value) else { continue };
            resources.entry(name).or_default().given.insert(field, (value, amount));
        }
    }
    if kind == "PersistentVolumeClaim"
        && limit["min"]["storage"].is_null()
        && limit["max"]["storage"].is_null()
    {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(format!("{path}.limits"), why));
    }
    for (name, bounds) in &resources {
        validate_order(name, bounds, path, errors);
        validate_ratio(name, bounds, path, errors);
        let (default, request) = (bounds.given.get("default"), bounds.given.get("defaultRequest"));
        if let (false, Some((value, default)), Some((_, request))) =
            (is_overcommittable(name), default, request)
            && default != request
        {
            let why = format!(
                "default value {} must equal to defaultRequest value {request} in {name}",
                shown(value)
            );
            errors.push(FieldError::invalid(
                format!("{path}.defaultRequest[{name}]"),
                request.to_string(),
                why,
            ));
        }
    }
}

/// What may not exceed what, at which of the two it is reported, and what messages call them.
const ORDER: &[(&str, &str, &str, &str)] = &[
    ("min", "max", "min", "min value {a} is greater than max value {b}"),
    ("min", "defaultRequest", "defaultRequest", "min value {a} is greater than default request value {b}"),
    ("defaultRequest", "max", "defaultRequest", "default request value {a} is greater than max value {b}"),
    (
        "defaultRequest",
        "default",
        "defaultRequest",
        "default request value {a} is greater than default limit value {b}",
    ),
    ("min", "default", "default", "min value {a} is greater than default value {b}"),
    ("default", "max", "default", "default value {a} is greater than max value {b}"),
];

fn validate_order(name: &str, bounds: &Bounds<'_>, path: &str, errors: &mut Errors) {
    for (low, high, field, why) in ORDER {
        let (Some((a, low)), Some((b, high))) = (bounds.given.get(low), bounds.given.get(high)) else {
            continue;
        };
        if low > high {
            let why = why.replace("{a}", &shown(a)).replace("{b}", &shown(b));
            let value = bounds.given.get(field).map(|(value, _)| shown(value)).unwrap_or_default();
            errors.push(FieldError::invalid(format!("{path}.{field}[{name}]"), value, why));
        }
    }
}

fn validate_ratio(name: &str, bounds: &Bounds<'_>, path: &str, errors: &mut Errors) {
    let Some((value, ratio)) = bounds.given.get("maxLimitRequestRatio") else { return };
    let path = format!("{path}.maxLimitRequestRatio[{name}]");
    if ratio.milli() < 1000 {
        errors.push(FieldError::invalid(
            &path,
            shown(value),
            format!("ratio {} is less than 1", shown(value)),
        ));
    }
    let (Some((_, min)), Some((_, max))) = (bounds.given.get("min"), bounds.given.get("max")) else { return };
    let most = max.milli() as f64 / min.milli() as f64;
    if !min.is_zero() && ratio.milli() as f64 / 1000.0 > most {
        let why = format!("ratio {} is greater than max/min = {most:.6}", shown(value));
        errors.push(FieldError::invalid(path, shown(value), why));
    }
}

pub(super) fn disruption_budget_status(check: &Check<'_>, errors: &mut Errors) {
    conditions::validate(&check.new["status"], "status", errors);
}

pub(super) fn disruption_budget(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid("spec", spec.clone(), why));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        check_int_or_percent(&spec[field], &format!("spec.{field}"), errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn limits(limit: Value) -> Vec<String> {
        let found = paths("", "limitranges", "", &json!({"spec": {"limits": [limit]}}), None);
        found.into_iter().map(|path| path.trim_start_matches("spec.limits[0].").to_owned()).collect()
    }

    #[test]
    fn a_quotas_scopes_fit_what_it_counts() {
        let of = |spec: Value| paths("", "resourcequotas", "", &json!({ "spec": spec }), None);
        assert!(of(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})).is_empty());
        assert_eq!(of(json!({"hard": {"pods": "1.5"}})), ["spec.hard[pods]"]);
        assert_eq!(of(json!({"hard": {"requests.cpu": "1"}, "scopes": ["BestEffort"]})), ["spec.scopes"]);
        assert_eq!(of(json!({"scopes": ["BestEffort", "NotBestEffort"]})), ["spec.scopes"]);
        let term = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]});
        assert_eq!(of(json!({ "scopeSelector": term })), ["spec.scopeSelector.matchExpressions.values"]);
    }

    #[test]
    fn limits_are_in_order() {
        let of = |extra: Value| {
            let mut limit = json!({"type": "Container"});
            limit.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            limits(limit)
        };
        assert!(of(json!({"min": {"cpu": "1"}, "max": {"cpu": "2"}})).is_empty());
        assert_eq!(of(json!({"min": {"cpu": "3"}, "max": {"cpu": "2"}})), ["min[cpu]"]);
        assert_eq!(of(json!({"default": {"cpu": "3"}, "max": {"cpu": "2"}})), ["default[cpu]"]);
        assert_eq!(
            of(json!({"defaultRequest": {"cpu": "3"}, "default": {"cpu": "2"}})),
            ["defaultRequest[cpu]"]
        );
        assert_eq!(of(json!({"maxLimitRequestRatio": {"cpu": "500m"}})), ["maxLimitRequestRatio[cpu]"]);
        assert_eq!(limits(json!({"type": "Odd"})), ["type"]);
        assert_eq!(limits(json!({"type": "Pod", "default": {"cpu": "1"}})), ["default"]);
        assert_eq!(limits(json!({"type": "PersistentVolumeClaim"})), ["limits"]);
    }
}
