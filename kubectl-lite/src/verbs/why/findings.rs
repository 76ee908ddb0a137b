//! What an object itself says of why it is not as wished: deletion, counts, conditions, containers. By the fields
//! that are there, not by kind, so that a custom resource is as good as a built-in one.

use api_types::table::age;
use chrono::{DateTime, Utc};
use serde_json::Value;

/// Conditions whose truth is the trouble.
const BAD_WHEN_TRUE: &[&str] = &[
    "Degraded",
    "Denied",
    "DisruptionTarget",
    "FailureTarget",
    "NonStructuralSchema",
    "PodResizePending",
    "ScalingLimited",
    "Stalled",
    "Suspended",
    "Terminating",
];
const BAD_WHEN_TRUE_ENDINGS: &[&str] =
    &["Failed", "Failure", "Pressure", "Remaining", "Unavailable", "Dangling"];
/// How a wished number is compared with what there is: both fields, and the words for it.
const COUNTS: &[(&str, &str, &str)] = &[
    ("/spec/replicas", "/status/readyReplicas", "replicas are ready"),
    ("/spec/replicas", "/status/availableReplicas", "replicas are available"),
    ("/status/desiredNumberScheduled", "/status/currentNumberScheduled", "pods are scheduled"),
    ("/status/desiredNumberScheduled", "/status/numberReady", "pods are ready"),
    ("/spec/completions", "/status/succeeded", "completions are done"),
];

/// Every way in which the object is not as wished, a line each; one line when it is.
pub(super) fn of_object(object: &Value, now: DateTime<Utc>) -> Vec<String> {
    let mut lines: Vec<String> = deletion(object, now).into_iter().collect();
    lines.extend(unseen(object));
    lines.extend(counts(object));
    lines.extend(phase(object));
    lines.extend(conditions(object, now));
    lines.extend(containers(object));
    if lines.is_empty() {
        lines.push("nothing about it is other than wished".to_owned());
    }
    lines
}

/// Whether the object has containers that run, or will.
pub(super) fn is_pod(object: &Value) -> bool {
    object["spec"]["containers"].is_array()
}

/// Whether a pod is neither ready nor done.
pub(super) fn is_troubled(pod: &Value) -> bool {
    let is = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    pod["status"]["phase"] != "Succeeded" && !array(pod, "/status/conditions").iter().any(is)
}

/// The label selector of the pods that the object selects.
pub(super) fn selector(object: &Value) -> Option<String> {
    let selector = object["spec"].get("selector")?.as_object()?;
    let labels = match selector.get("matchLabels").or_else(|| selector.get("matchExpressions")) {
        Some(_) => selector.get("matchLabels").and_then(Value::as_object),
        None => Some(selector),
    };
    let equal = |(key, value): (&String, &Value)| Some(format!("{key}={}", value.as_str()?));
    let mut parts: Vec<String> = labels.into_iter().flatten().filter_map(equal).collect();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    parts.extend(expressions.filter_map(requirement));
    (!parts.is_empty()).then(|| parts.join(","))
}

fn requirement(expression: &Value) -> Option<String> {
    let key = expression["key"].as_str()?;
    let values: Vec<&str> = array(expression, "/values").iter().filter_map(Value::as_str).collect();
    match expression["operator"].as_str()? {
        "In" => Some(format!("{key} in ({})", values.join(","))),
        "NotIn" => Some(format!("{key} notin ({})", values.join(","))),
        "Exists" => Some(key.to_owned()),
        "DoesNotExist" => Some(format!("!{key}")),
        _ => None,
    }
}

fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn deletion(object: &Value, now: DateTime<Utc>) -> Option<String> {
    let asked = object["metadata"].get("deletionTimestamp")?;
    let held: Vec<&str> = array(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect();
    let waits = match held.as_slice() {
        [] => String::new(),
        held => format!("; it stays until these finalizers are taken away: {}", held.join(", ")),
    };
    Some(format!("it is being deleted since {}{waits}", age(asked, now)))
}

/// A change that no controller has looked at yet.
fn unseen(object: &Value) -> Option<String> {
    let seen = object["status"]["observedGeneration"].as_i64()?;
    let now = object["metadata"]["generation"].as_i64()?;
    (seen < now).then(|| {
        format!("its controller has not yet seen the last change of its spec (generation {now}, seen {seen})")
    })
}

fn counts(object: &Value) -> Vec<String> {
    let has_status = object["status"].as_object().is_some_and(|status| !status.is_empty());
    let compare = |(wanted, actual, words): &(&str, &str, &str)| {
        let wanted = object.pointer(wanted)?.as_i64()?;
        let actual = object.pointer(actual).and_then(Value::as_i64).unwrap_or(0);
        (has_status && actual < wanted).then(|| format!("{actual} of {wanted} {words}"))
    };
    COUNTS.iter().filter_map(compare).collect()
}

fn phase(object: &Value) -> Option<String> {
    let phase = object["status"]["phase"].as_str()?;
    if ["Running", "Succeeded", "Active", "Bound", "Available"].contains(&phase) {
        return None;
    }
    Some(format!("its phase is {phase}{}", because(&object["status"])))
}

/// ` (REASON): MESSAGE`, as far as they are there.
fn because(said: &Value) -> String {
    let text = |field: &str| said[field].as_str().filter(|text| !text.is_empty());
    let reason = text("reason").map(|reason| format!(" ({reason})")).unwrap_or_default();
    reason + &text("message").map(|message| format!(": {message}")).unwrap_or_default()
}

fn conditions(object: &Value, now: DateTime<Utc>) -> Vec<String> {
    let told = |condition: &Value| {
        let (kind, status) = (condition["type"].as_str()?, condition["status"].as_str()?);
        let is_bad_when_true = BAD_WHEN_TRUE.contains(&kind)
            || BAD_WHEN_TRUE_ENDINGS.iter().any(|ending| kind.ends_with(ending));
        let is_good = status == if is_bad_when_true { "False" } else { "True" };
        // Of a pod that is done, nothing is ready any more.
        let is_over = condition["reason"] == "PodCompleted";
        let since = match condition.get("lastTransitionTime") {
            Some(time) if time.is_string() => format!(" since {}", age(time, now)),
            _ => String::new(),
        };
        (!is_good && !is_over).then(|| format!("{kind} is {status}{since}{}", because(condition)))
    };
    array(object, "/status/conditions").iter().filter_map(told).collect()
}

fn containers(object: &Value) -> Vec<String> {
    let init = array(object, "/status/initContainerStatuses").iter();
    let all = init.chain(array(object, "/status/containerStatuses"));
    all.flat_map(container).collect()
}

fn container(status: &Value) -> Vec<String> {
    let name = status["name"].as_str().unwrap_or_default();
    let (state, last) = (&status["state"], &status["lastState"]["terminated"]);
    let mut lines = Vec::new();
    if state["waiting"].is_object() {
        lines.push(format!("container {name} waits{}", because(&state["waiting"])));
    } else if state["terminated"].is_object() && state["terminated"]["exitCode"] != 0 {
        lines.push(format!("container {name} ended {}", ending(&state["terminated"])));
    } else if state["running"].is_object() && status["ready"] == false {
        lines.push(format!("container {name} runs but is not ready"));
    }
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    if restarts > 0 && last.is_object() {
        lines.push(format!(
            "container {name} was restarted {restarts} times; before it ended {}",
            ending(last)
        ));
    }
    lines
}

fn ending(terminated: &Value) -> String {
    format!("with exit code {}{}", terminated["exitCode"].as_i64().unwrap_or(0), because(terminated))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(object: Value, expected: Expect) {
        let now = DateTime::from_timestamp(1000, 0).unwrap();
        expected.assert_eq(&(of_object(&object, now).join("\n") + "\n"));
    }

    #[test]
    fn counts_and_conditions_that_are_not_as_wished_are_told() {
        check(
            json!({
                "metadata": {"generation": 3}, "spec": {"replicas": 3},
                "status": {"observedGeneration": 2, "readyReplicas": 1, "availableReplicas": 3, "conditions": [
                    {"type": "Available", "status": "False", "lastTransitionTime": "1970-01-01T00:15:00Z",
                     "reason": "MinimumReplicasUnavailable", "message": "too few"},
                    {"type": "Progressing", "status": "True"},
                    {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
                    {"type": "MemoryPressure", "status": "False"}]},
            }),
            expect![[r#"
                its controller has not yet seen the last change of its spec (generation 3, seen 2)
                1 of 3 replicas are ready
                Available is False since 100s (MinimumReplicasUnavailable): too few
                ReplicaFailure is True: exceeded quota
            "#]],
        );
    }

    #[test]
    fn a_pod_tells_of_its_containers() {
        check(
            json!({
                "spec": {"containers": [{}]},
                "status": {"phase": "Pending", "containerStatuses": [
                    {"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}},
                    {"name": "b", "restartCount": 2, "ready": false, "state": {"running": {}},
                     "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
                    {"name": "c", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                    {"name": "d", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]},
            }),
            expect![[r#"
                its phase is Pending
                container a waits (ImagePullBackOff): no such image
                container b runs but is not ready
                container b was restarted 2 times; before it ended with exit code 137 (OOMKilled)
                container d ended with exit code 2 (Error)
            "#]],
        );
    }

    #[test]
    fn what_holds_a_deletion_is_told() {
        check(
            json!({"metadata": {"deletionTimestamp": "1970-01-01T00:16:30Z", "finalizers": ["a/b"]}}),
            expect![[r#"
                it is being deleted since 10s; it stays until these finalizers are taken away: a/b
            "#]],
        );
    }

    #[test]
    fn an_object_that_is_as_wished_is_said_to_be() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        check(
            json!({"status": {"conditions": ready}}),
            expect![[r#"
                nothing about it is other than wished
            "#]],
        );
    }

    #[test]
    fn selectors_of_workloads_and_of_services_select_pods() {
        let of = |selector: Value| selector_text(&selector);
        assert_eq!(of(json!({"app": "web"})).as_deref(), Some("app=web"));
        let both = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]});
        assert_eq!(of(both).as_deref(), Some("a=b,c in (d,e),!f"));
        assert_eq!(of(json!({})), None);
    }

    fn selector_text(value: &Value) -> Option<String> {
        selector(&json!({"spec": {"selector": value}}))
    }
}
