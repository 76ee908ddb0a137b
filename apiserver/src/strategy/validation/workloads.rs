//! Deployments, replica sets, stateful sets, daemon sets: selectors that match their templates and stay.

use api_types::selectors::LabelSelector;
use api_types::status::FieldError;
use serde_json::Value;

use super::rollouts::{check_at_most_all, check_positive, is_zero};
use super::{Check, pod_spec};
use crate::strategy::rules::{Errors, items, not_negative, selector};

pub(super) fn deployment(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_selected(spec, "deployment", errors);
    let ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    let deadline = &spec["progressDeadlineSeconds"];
    if let Some(seconds) = deadline.as_i64().filter(|d| *d <= ready) {
        let why = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", seconds, why));
    }
    let strategy = &spec["strategy"];
    match strategy["type"].as_str() {
        Some("Recreate") if strategy["rollingUpdate"].is_object() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        Some("RollingUpdate") => {
            validate_rolling(&strategy["rollingUpdate"], "spec.strategy.rollingUpdate", errors)
        }
        Some("Recreate") => {}
        _ => {
            let known = ["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported("spec.strategy", strategy.clone(), &known));
        }
    }
}

fn validate_rolling(rolling: &Value, path: &str, errors: &mut Errors) {
    if !rolling.is_object() {
        errors.push(FieldError::required(path, "this should be defaulted and never be nil"));
        return;
    }
    for field in ["maxUnavailable", "maxSurge"] {
        check_positive(&rolling[field], &format!("{path}.{field}"), errors);
    }
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(
            format!("{path}.maxUnavailable"),
            rolling["maxUnavailable"].clone(),
            why,
        ));
    }
    check_at_most_all(&rolling["maxUnavailable"], &format!("{path}.maxUnavailable"), errors);
}

pub(super) fn deployment_status(check: &Check<'_>, errors: &mut Errors) {
    let limits = [
        ("updatedReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ];
    compare_counts(&check.new["status"], &limits, errors);
    check_collisions(check, errors);
}

pub(super) fn daemon_set_status(check: &Check<'_>, errors: &mut Errors) {
    check_collisions(check, errors);
}

/// Names that were taken stay counted.
fn check_collisions(check: &Check<'_>, errors: &mut Errors) {
    let (new, old) = (collisions(check.new), check.old.and_then(collisions));
    if new < old {
        let new = new.unwrap_or_default();
        errors.push(FieldError::invalid("status.collisionCount", new, "cannot be decremented"));
    }
}

fn collisions(object: &Value) -> Option<i64> {
    object["status"]["collisionCount"].as_i64()
}

pub(super) fn replica_set_status(check: &Check<'_>, errors: &mut Errors) {
    let limits = [
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ];
    compare_counts(&check.new["status"], &limits, errors);
}

pub(super) fn stateful_set_status(check: &Check<'_>, errors: &mut Errors) {
    let limits = [
        ("readyReplicas", "replicas"),
        ("currentReplicas", "replicas"),
        ("updatedReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ];
    compare_counts(&check.new["status"], &limits, errors);
    check_collisions(check, errors);
}

/// Each first count is at most the second.
fn compare_counts(status: &Value, limits: &[(&str, &str)], errors: &mut Errors) {
    for (field, most) in limits {
        let (count, limit) =
            (status[*field].as_i64().unwrap_or_default(), status[*most].as_i64().unwrap_or_default());
        if count > limit {
            let why = match *most {
                "replicas" => "cannot be greater than status.replicas",
                _ => "cannot be greater than readyReplicas",
            };
            errors.push(FieldError::invalid(format!("status.{field}"), count, why));
        }
    }
}

pub(super) fn replica_set(check: &Check<'_>, errors: &mut Errors) {
    validate_selected(&check.new["spec"], "deployment", errors);
}

pub(super) fn daemon_set(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_selected(spec, "daemonset", errors);
    let (strategy, path) = (&spec["updateStrategy"], "spec.updateStrategy.rollingUpdate");
    let rolling = &strategy["rollingUpdate"];
    match strategy["type"].as_str() {
        Some("OnDelete") => return,
        Some("RollingUpdate") if rolling.is_object() => {}
        Some("RollingUpdate") => return errors.push(FieldError::required(path, "")),
        _ => {
            let known = ["RollingUpdate", "OnDelete"];
            return errors.push(FieldError::not_supported("spec.updateStrategy", strategy.clone(), &known));
        }
    }
    for field in ["maxUnavailable", "maxSurge"] {
        check_positive(&rolling[field], &format!("{path}.{field}"), errors);
        check_at_most_all(&rolling[field], &format!("{path}.{field}"), errors);
    }
    let (unavailable, surge) = (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"]));
    if unavailable && surge {
        let why = "cannot be 0 when maxSurge is 0";
        errors.push(FieldError::required(format!("{path}.maxUnavailable"), why));
    } else if !unavailable && !surge {
        let why = "may not be set when maxUnavailable is non-zero";
        errors.push(FieldError::invalid(format!("{path}.maxSurge"), rolling["maxSurge"].clone(), why));
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

pub(super) fn stateful_set(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_selected(spec, "statefulset", errors);
    validate_stateful_strategy(spec, errors);
    let Some(old) = check.old else { return };
    let rest = |object: &Value| {
        let mut spec = object["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|field, _| !STATEFUL_MUTABLE.contains(&field.as_str()));
        }
        spec
    };
    if rest(check.new) != rest(old) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden("spec", why));
    }
}

fn validate_stateful_strategy(spec: &Value, errors: &mut Errors) {
    let policy = spec["podManagementPolicy"].as_str();
    if let Some(policy) = policy.filter(|p| !matches!(*p, "OrderedReady" | "Parallel")) {
        let why = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid("spec.podManagementPolicy", policy, why));
    }
    let strategy = &spec["updateStrategy"];
    let (rolling, path) = (&strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate");
    match strategy["type"].as_str() {
        None | Some("") => {}
        Some("RollingUpdate") => {
            not_negative(rolling, path, &["partition"], errors);
            let most = &rolling["maxUnavailable"];
            check_positive(most, &format!("{path}.maxUnavailable"), errors);
            check_at_most_all(most, &format!("{path}.maxUnavailable"), errors);
            if !most.is_null() && is_zero(most) {
                errors.push(FieldError::invalid(
                    format!("{path}.maxUnavailable"),
                    most.clone(),
                    "cannot be 0",
                ));
            }
        }
        Some("OnDelete") if rolling.is_object() => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(path, rolling.clone(), why));
        }
        Some("OnDelete") => {}
        Some(_) => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid("spec.updateStrategy", strategy.clone(), why));
        }
    }
}

pub(super) fn replication_controller(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    if spec["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
        errors.push(FieldError::required("spec.selector", ""));
    }
    if spec["template"].is_null() {
        errors.push(FieldError::required("spec.template", ""));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = spec["selector"].as_object();
    if !wanted.into_iter().flatten().all(|(key, value)| labels[key] == *value) {
        errors.push(mismatch(labels));
    }
    pod_spec::validate_template(&spec["template"], "spec.template", errors);
    validate_lasting(&spec["template"], errors);
}

fn mismatch(labels: &Value) -> FieldError {
    let why = "`selector` does not match template `labels`";
    FieldError::invalid("spec.template.metadata.labels", labels.clone(), why)
}

/// A selector that says something and finds the pods of the template.
fn validate_selected(spec: &Value, what: &str, errors: &mut Errors) {
    let wanted = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    let mut is_unreadable = false;
    if wanted.is_object() {
        let before = errors.len();
        selector(wanted, "spec.selector", errors);
        is_unreadable = errors.len() > before;
        let is_empty = wanted["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
            && items(&wanted["matchExpressions"]).is_empty();
        if is_empty {
            let why = format!("empty selector is invalid for {what}");
            errors.push(FieldError::invalid("spec.selector", wanted.clone(), why));
        }
    }
    if is_unreadable {
        let why = "invalid label selector";
        if what != "daemonset" {
            errors.push(FieldError::invalid("spec.selector", wanted.clone(), why));
        }
        // What a selector that cannot be read would find in the template is not asked.
        match what {
            "deployment" => return,
            "statefulset" => return validate_lasting(&spec["template"], errors),
            _ => {}
        }
    } else if !LabelSelector::from_value(wanted).is_ok_and(|s| s.matches_with(|key| labels[key].as_str())) {
        errors.push(mismatch(labels));
    }
    match what {
        // Its pods mount volumes that stand in no template; as in Kubernetes, each pod's spec is checked by itself.
        "statefulset" => pod_spec::validate_description(&spec["template"], "spec.template", errors),
        _ => pod_spec::validate_template(&spec["template"], "spec.template", errors),
    }
    validate_lasting(&spec["template"], errors);
}

/// Pods that a controller keeps running restart always and have no deadline.
fn validate_lasting(template: &Value, errors: &mut Errors) {
    let (spec, path) = (&template["spec"], "spec.template.spec");
    if let Some(policy) = spec["restartPolicy"].as_str().filter(|p| *p != "Always") {
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

    use super::super::tests::paths;
    use super::*;

    fn workload(selector: Value, labels: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"selector": selector, "template": {
            "metadata": {"labels": labels}, "spec": {"restartPolicy": "Always", "containers": [
                {"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}},
            "strategy": {"type": "Recreate"}, "updateStrategy": {"type": "OnDelete"}}})
    }

    const KINDS: &[&str] = &["deployments", "replicasets", "statefulsets", "daemonsets"];

    #[test]
    fn the_selector_must_find_the_template() {
        let good = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        let bad = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "c"}));
        for kind in KINDS {
            assert_eq!(paths("apps", kind, "", &good, None), Vec::<String>::new(), "{kind}");
            assert_eq!(paths("apps", kind, "", &bad, None), ["spec.template.metadata.labels"], "{kind}");
        }
    }

    #[test]
    fn a_selector_that_cannot_be_read_is_an_error_of_its_own() {
        let odd = workload(json!({"matchExpressions": [{"key": "a", "operator": "Odd"}]}), json!({"a": "c"}));
        let operator = "spec.selector.matchExpressions[0].operator";
        assert_eq!(paths("apps", "deployments", "", &odd, None), [operator, "spec.selector"]);
        assert_eq!(paths("apps", "daemonsets", "", &odd, None), [operator]);
    }

    #[test]
    fn a_stateful_set_mounts_what_its_claims_will_be() {
        let mut object = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        object["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mounts;
        object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        assert!(paths("apps", "statefulsets", "", &object, None).is_empty());
        let unknown = "spec.template.spec.containers[0].volumeMounts[0].name";
        assert_eq!(paths("apps", "daemonsets", "", &object, None), [unknown]);
    }

    #[test]
    fn a_strategy_is_a_known_one() {
        let mut object = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        object["spec"]["strategy"] = json!({"type": "Odd"});
        assert_eq!(paths("apps", "deployments", "", &object, None), ["spec.strategy"]);
        object["spec"]["updateStrategy"] = json!({"type": "Odd"});
        assert_eq!(paths("apps", "daemonsets", "", &object, None), ["spec.updateStrategy"]);
    }

    #[test]
    fn what_is_wrong_with_a_changed_replica_set_is_found_twice() {
        let mut object = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        object["spec"]["replicas"] = json!(-1);
        let old = object.clone();
        assert_eq!(paths("apps", "replicasets", "", &object, Some(&old)), ["spec.replicas", "spec.replicas"]);
        assert_eq!(paths("apps", "deployments", "", &object, Some(&old)), ["spec.replicas"]);
    }

    #[test]
    fn the_selector_never_changes() {
        let old = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        let new = workload(json!({"matchLabels": {"a": "c"}}), json!({"a": "c"}));
        assert_eq!(paths("apps", "deployments", "", &new, Some(&old)), ["spec.selector"]);
        assert_eq!(paths("apps", "statefulsets", "", &new, Some(&old)), ["spec"]);
    }

    #[test]
    fn a_stateful_sets_template_and_replicas_may_change() {
        let old = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(4);
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:2");
        assert!(paths("apps", "statefulsets", "", &new, Some(&old)).is_empty());
        new["spec"]["serviceName"] = json!("other");
        assert_eq!(paths("apps", "statefulsets", "", &new, Some(&old)), ["spec"]);
    }

    #[test]
    fn a_rollout_makes_progress() {
        let mut object = workload(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
        object["spec"]["strategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
        let rolling = "spec.strategy.rollingUpdate";
        assert_eq!(paths("apps", "deployments", "", &object, None), [format!("{rolling}.maxUnavailable")]);
        object["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": -1, "maxUnavailable": "x"});
        assert_eq!(
            paths("apps", "deployments", "", &object, None),
            [format!("{rolling}.maxUnavailable"), format!("{rolling}.maxSurge")]
        );
    }

    #[test]
    fn a_status_counts_no_more_than_there_are() {
        let status = json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 2}});
        assert_eq!(
            paths("apps", "deployments", "status", &status, None),
            ["status.readyReplicas", "status.availableReplicas"]
        );
        let negative = json!({"status": {"replicas": -1}});
        assert!(
            paths("apps", "replicasets", "status", &negative, None).contains(&"status.replicas".to_owned())
        );
    }
}
