//! Deployments, replica sets, stateful sets, daemon sets: selectors that match their templates and stay.

use api_types::selectors::LabelSelector;
use api_types::status::FieldError;
use serde_json::Value;

use super::metadata::NameRule;
use super::rules::{Errors, immutable, items, not_negative, one_of, selector};
use super::{Context, Strategy, isolate, pod_spec};

pub(super) struct Deployments;
pub(super) struct ReplicaSets;
pub(super) struct StatefulSets;
pub(super) struct DaemonSets;
pub(super) struct ReplicationControllers;

impl Strategy for Deployments {
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        if context.subresource == "status" {
            new["metadata"]["labels"] = old["metadata"]["labels"].clone();
            if old["metadata"]["labels"].is_null() {
                new.get_mut("metadata").and_then(Value::as_object_mut).map(|m| m.shift_remove("labels"));
            }
        }
        // Rollouts are steered by annotations too, so that a change of them counts.
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        let annotations = |object: &Value| object["metadata"]["annotations"].clone();
        let is_counted = new["metadata"]["generation"] == generation;
        if context.subresource.is_empty() && is_counted && annotations(new) != annotations(old) {
            new["metadata"]["generation"] = (generation + 1).into();
        }
    }

    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &new["spec"];
        validate_selected(spec, &mut errors);
        let numbers = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
        not_negative(spec, "spec", &numbers, &mut errors);
        one_of(&spec["strategy"], "spec.strategy", "type", &["Recreate", "RollingUpdate"], &mut errors);
        let (deadline, ready) =
            (&spec["progressDeadlineSeconds"], spec["minReadySeconds"].as_i64().unwrap_or(0));
        if let Some(seconds) = deadline.as_i64().filter(|d| *d <= ready && *d >= 0) {
            let why = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", seconds, why));
        }
        if spec["strategy"]["type"] == "Recreate" && spec["strategy"]["rollingUpdate"].is_object() {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        let rolling = &spec["strategy"]["rollingUpdate"];
        let is_zero = |value: &Value| value == 0 || value == "0%";
        if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
            let why = "may not be 0 when `maxSurge` is 0";
            errors.push(FieldError::invalid(
                "spec.strategy.rollingUpdate.maxUnavailable",
                rolling["maxUnavailable"].clone(),
                why,
            ));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        immutable(new, old, "spec.selector", &mut errors);
        errors
    }
}

impl Strategy for ReplicaSets {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_selected(&new["spec"], &mut errors);
        not_negative(&new["spec"], "spec", &["replicas", "minReadySeconds"], &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        immutable(new, old, "spec.selector", &mut errors);
        errors
    }
}

impl Strategy for DaemonSets {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &new["spec"];
        validate_selected(spec, &mut errors);
        not_negative(spec, "spec", &["minReadySeconds", "revisionHistoryLimit"], &mut errors);
        one_of(
            &spec["updateStrategy"],
            "spec.updateStrategy",
            "type",
            &["OnDelete", "RollingUpdate"],
            &mut errors,
        );
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        immutable(new, old, "spec.selector", &mut errors);
        errors
    }
}

/// What of a stateful set may change.
const STATEFUL_MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

impl Strategy for StatefulSets {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &new["spec"];
        validate_selected(spec, &mut errors);
        not_negative(spec, "spec", &["replicas", "minReadySeconds", "revisionHistoryLimit"], &mut errors);
        not_negative(&spec["ordinals"], "spec.ordinals", &["start"], &mut errors);
        validate_stateful_strategy(spec, &mut errors);
        let policy = &spec["persistentVolumeClaimRetentionPolicy"];
        for field in ["whenDeleted", "whenScaled"] {
            one_of(
                policy,
                "spec.persistentVolumeClaimRetentionPolicy",
                field,
                &["Delete", "Retain"],
                &mut errors,
            );
        }
        if let Some(name) = spec["serviceName"].as_str().filter(|n| !n.is_empty()) {
            let wrong = api_types::names::check_dns_subdomain(name);
            super::rules::invalid_all(wrong, "spec.serviceName", name, &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        let rest = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(fields) = spec.as_object_mut() {
                STATEFUL_MUTABLE.iter().for_each(|field| {
                    fields.shift_remove(*field);
                });
            }
            spec
        };
        if rest(new) != rest(old) {
            let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.push(FieldError::forbidden("spec", why));
        }
        errors
    }
}

fn validate_stateful_strategy(spec: &Value, errors: &mut Errors) {
    if let Some(policy) =
        spec["podManagementPolicy"].as_str().filter(|p| !matches!(*p, "OrderedReady" | "Parallel"))
    {
        let why = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid("spec.podManagementPolicy", policy, why));
    }
    let strategy = &spec["updateStrategy"];
    match strategy["type"].as_str() {
        None | Some("") => {}
        Some("RollingUpdate") => {
            not_negative(
                &strategy["rollingUpdate"],
                "spec.updateStrategy.rollingUpdate",
                &["partition"],
                errors,
            );
        }
        Some("OnDelete") if strategy["rollingUpdate"].is_object() => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(
                "spec.updateStrategy.rollingUpdate",
                strategy["rollingUpdate"].clone(),
                why,
            ));
        }
        Some("OnDelete") => {}
        Some(_) => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid("spec.updateStrategy", strategy.clone(), why));
        }
    }
}

impl Strategy for ReplicationControllers {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &new["spec"];
        not_negative(spec, "spec", &["replicas", "minReadySeconds"], &mut errors);
        if spec["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
            errors.push(FieldError::required("spec.selector", ""));
        }
        if spec["template"].is_null() {
            errors.push(FieldError::required("spec.template", ""));
            return errors;
        }
        let labels = &spec["template"]["metadata"]["labels"];
        let matches =
            spec["selector"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
        if !matches {
            errors.push(mismatch(labels));
        }
        validate_template(&spec["template"], &mut errors);
        errors
    }
}

fn mismatch(labels: &Value) -> FieldError {
    FieldError::invalid(
        "spec.template.metadata.labels",
        labels.clone(),
        "`selector` does not match template `labels`",
    )
}

/// A selector that says something and finds the pods of the template.
fn validate_selected(spec: &Value, errors: &mut Errors) {
    let wanted = &spec["selector"];
    let before = errors.len();
    let labels = &spec["template"]["metadata"]["labels"];
    if !wanted.is_object() {
        errors.push(FieldError::required("spec.selector", ""));
    } else {
        selector(wanted, "spec.selector", errors);
        let is_empty = wanted["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
            && items(&wanted["matchExpressions"]).is_empty();
        if is_empty {
            let why = "empty selector is invalid for deployment";
            errors.push(FieldError::invalid("spec.selector", wanted.clone(), why));
        }
    }
    if errors.len() == before || !wanted.is_object() {
        let found =
            LabelSelector::from_value(wanted).is_ok_and(|s| s.matches_with(|key| labels[key].as_str()));
        if !found || !wanted.is_object() {
            errors.push(mismatch(labels));
        }
    }
    validate_template(&spec["template"], errors);
}

/// Pods that a controller keeps running restart always and have no deadline.
fn validate_template(template: &Value, errors: &mut Errors) {
    super::metadata::check_labels("spec.template.labels", &template["metadata"]["labels"], errors);
    let (spec, path) = (&template["spec"], "spec.template.spec");
    pod_spec::validate(spec, path, errors);
    if let Some(policy) = spec["restartPolicy"].as_str().filter(|p| matches!(*p, "Never" | "OnFailure")) {
        errors.push(FieldError::not_supported(format!("{path}.restartPolicy"), policy, &["Always"]));
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        let why = "activeDeadlineSeconds in a pod template is not supported";
        errors.push(FieldError::forbidden(format!("{path}.activeDeadlineSeconds"), why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::service_ip::{ServiceAddresses, ServiceCidr};

    fn workload(selector: Value, labels: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"selector": selector, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Always"}}}})
    }

    fn check(strategy: &dyn Strategy, new: &Value, old: Option<&Value>) -> Vec<String> {
        let kind = api_types::kinds::find_resource("apps", "v1", "deployments").unwrap();
        let services = ServiceAddresses::new(ServiceCidr::usual());
        let context = Context::fixture(kind, &services);
        let errors = match old {
            None => strategy.validate_create(&context, new),
            Some(old) => strategy.validate_update(&context, new, old),
        };
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn the_selector_must_find_the_template() {
        let good = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        let bad = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "c"}));
        for strategy in [&Deployments as &dyn Strategy, &ReplicaSets, &StatefulSets, &DaemonSets] {
            assert!(check(strategy, &good, None).is_empty());
            assert_eq!(check(strategy, &bad, None), ["spec.template.metadata.labels"]);
        }
    }

    #[test]
    fn the_selector_never_changes() {
        let old = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        let new = workload(json!({"matchLabels": {"a": "c"}}), json!({"a": "c"}));
        assert_eq!(check(&Deployments, &new, Some(&old)), ["spec.selector"]);
        assert_eq!(check(&StatefulSets, &new, Some(&old)), ["spec"]);
    }

    #[test]
    fn a_stateful_sets_template_and_replicas_may_change() {
        let old = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(4);
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:2");
        assert!(check(&StatefulSets, &new, Some(&old)).is_empty());
        new["spec"]["serviceName"] = json!("other");
        assert_eq!(check(&StatefulSets, &new, Some(&old)), ["spec"]);
    }
}
