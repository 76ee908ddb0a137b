//! What keeps pods running.

use serde_json::{Value, json};

use super::{Printed, labels, or_none, selector};

pub(super) fn replica_set(printed: &Printed<'_>) -> Vec<Value> {
    let [names, images] = printed.containers("/spec/template/spec/containers");
    let chosen = printed.at("/spec/selector");
    // A ReplicationController's selector is a plain map.
    let is_plain = chosen.get("matchLabels").is_none() && chosen.get("matchExpressions").is_none();
    vec![
        printed.name(),
        json!(printed.count("/spec/replicas")),
        json!(printed.count("/status/replicas")),
        json!(printed.count("/status/readyReplicas")),
        printed.age(),
        names,
        images,
        if is_plain { or_none(&labels(&chosen)) } else { json!(selector(&chosen)) },
    ]
}

pub(super) fn deployment(printed: &Printed<'_>) -> Vec<Value> {
    let [names, images] = printed.containers("/spec/template/spec/containers");
    vec![
        printed.name(),
        json!(format!("{}/{}", printed.count("/status/readyReplicas"), printed.count("/spec/replicas"))),
        json!(printed.count("/status/updatedReplicas")),
        json!(printed.count("/status/availableReplicas")),
        printed.age(),
        names,
        images,
        json!(selector(&printed.at("/spec/selector"))),
    ]
}

pub(super) fn stateful_set(printed: &Printed<'_>) -> Vec<Value> {
    let [names, images] = printed.containers("/spec/template/spec/containers");
    let ready = format!("{}/{}", printed.count("/status/readyReplicas"), printed.count("/spec/replicas"));
    vec![printed.name(), json!(ready), printed.age(), names, images]
}

pub(super) fn daemon_set(printed: &Printed<'_>) -> Vec<Value> {
    let [names, images] = printed.containers("/spec/template/spec/containers");
    vec![
        printed.name(),
        json!(printed.count("/status/desiredNumberScheduled")),
        json!(printed.count("/status/currentNumberScheduled")),
        json!(printed.count("/status/numberReady")),
        json!(printed.count("/status/updatedNumberScheduled")),
        json!(printed.count("/status/numberAvailable")),
        or_none(&labels(&printed.at("/spec/template/spec/nodeSelector"))),
        printed.age(),
        names,
        images,
        json!(selector(&printed.at("/spec/selector"))),
    ]
}

pub(super) fn controller_revision(printed: &Printed<'_>) -> Vec<Value> {
    let owners = printed.list("/metadata/ownerReferences");
    let controller =
        owners.iter().find(|owner| owner["controller"] == true).map_or_else(String::new, |owner| {
            let text = |key: &str| owner[key].as_str().unwrap_or_default();
            let group =
                text("apiVersion").split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
            format!("{}{group}/{}", text("kind").to_lowercase(), text("name"))
        });
    vec![printed.name(), or_none(&controller), json!(printed.count("/revision")), printed.age()]
}

pub(super) fn disruption_budget(printed: &Printed<'_>) -> Vec<Value> {
    let number = |pointer: &str| match printed.at(pointer) {
        Value::Null => json!("N/A"),
        Value::String(text) => json!(text),
        other => json!(other.to_string()),
    };
    vec![
        printed.name(),
        number("/spec/minAvailable"),
        number("/spec/maxUnavailable"),
        json!(printed.count("/status/disruptionsAllowed")),
        printed.age(),
    ]
}

pub(super) fn autoscaler(printed: &Printed<'_>) -> Vec<Value> {
    let target = format!(
        "{}/{}",
        printed.text("/spec/scaleTargetRef/kind"),
        printed.text("/spec/scaleTargetRef/name")
    );
    vec![
        printed.name(),
        json!(target),
        json!(metrics(printed)),
        printed.object.pointer("/spec/minReplicas").map_or(json!("<unset>"), |min| json!(min.to_string())),
        json!(printed.count("/spec/maxReplicas")),
        json!(printed.count("/status/currentReplicas")),
        printed.age(),
    ]
}

/// `cpu: 20%/50%` for each resource metric; what has not been measured is `<unknown>`.
fn metrics(printed: &Printed<'_>) -> String {
    let current = printed.list("/status/currentMetrics");
    let parts: Vec<String> = printed
        .list("/spec/metrics")
        .iter()
        .map(|metric| {
            let name = metric["resource"]["name"].as_str().unwrap_or_default();
            let wanted = metric["resource"]["target"]["averageUtilization"].as_i64();
            let seen = current
                .iter()
                .find(|seen| seen["resource"]["name"] == name)
                .and_then(|seen| seen["resource"]["current"]["averageUtilization"].as_i64());
            let percent = |n: Option<i64>| n.map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"));
            format!("{name}: {}/{}", percent(seen), percent(wanted))
        })
        .collect();
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_deployment_prints_ready_of_wanted() {
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}, "matchExpressions":
                [{"key": "tier", "operator": "In", "values": ["a", "b"]}]},
                "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}});
        check(deployment, &object, &["web", "2/3", "1", "2", "5m", "c", "i", "app=web,tier in (a,b)"]);
    }
}
