//! What keeps pods running.

use serde_json::{Value, json};

use super::{Node, Printed, labels, or_none, selector};
use crate::strategy::conversion;

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
        if is_plain { or_none(&labels(chosen)) } else { json!(selector(chosen)) },
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
        json!(selector(printed.at("/spec/selector"))),
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
        or_none(&labels(printed.at("/spec/template/spec/nodeSelector"))),
        printed.age(),
        names,
        images,
        json!(selector(printed.at("/spec/selector"))),
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
    let number = |pointer: &str| match printed.cell(pointer) {
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
    let stored = conversion::stored_autoscaler(&printed.object.to_value()).to_string();
    let printed = &Printed { object: Node::read(stored.as_bytes()), now: printed.now };
    let target = format!(
        "{}/{}",
        printed.text("/spec/scaleTargetRef/kind"),
        printed.text("/spec/scaleTargetRef/name")
    );
    vec![
        printed.name(),
        json!(target),
        json!(metrics(printed)),
        printed
            .object
            .pointer("/spec/minReplicas")
            .map_or(json!("<unset>"), |min| json!(min.to_value().to_string())),
        json!(printed.count("/spec/maxReplicas")),
        json!(printed.count("/status/currentReplicas")),
        printed.age(),
    ]
}

/// How many metrics are shown before the rest is only counted.
const METRICS_SHOWN: usize = 2;

/// `cpu: 20%/50%` for each metric; what has not been measured is `<unknown>`.
fn metrics(printed: &Printed<'_>) -> String {
    let current = printed.list("/status/currentMetrics");
    let wanted = printed.list("/spec/metrics");
    let shown: Vec<_> = wanted
        .iter()
        .take(METRICS_SHOWN)
        .enumerate()
        .map(|(i, metric)| metric_text(metric, current.get(i).unwrap_or(&Node::Null)))
        .collect();
    match wanted.len() {
        0 => "<none>".to_owned(),
        all if all > METRICS_SHOWN => format!("{} + {} more...", shown.join(", "), all - METRICS_SHOWN),
        _ => shown.join(", "),
    }
}

fn metric_text(metric: &Node<'_>, current: &Node<'_>) -> String {
    let field = match metric["type"].as_str() {
        Some("ContainerResource") => "containerResource",
        Some("Resource") => "resource",
        Some("Pods") => "pods",
        Some("Object") => "object",
        Some("External") => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, seen) = (&metric[field]["target"], &current[field]["current"]);
    let text = |value: &Node<'_>, unit: &str| match value {
        Node::Text(text) => text.clone().into_owned(),
        Node::Number(number) => format!("{number}{unit}"),
        _ => "<unknown>".to_owned(),
    };
    let of = |amount: &str, unit: &str| {
        let wanted = if target[amount].is_null() { "<auto>".to_owned() } else { text(&target[amount], unit) };
        format!("{}/{wanted}", text(&seen[amount], unit))
    };
    let is_resource = matches!(field, "resource" | "containerResource");
    match (is_resource, target["averageValue"].is_null()) {
        (true, false) => format!("{}: {}", text(&metric[field]["name"], ""), of("averageValue", "")),
        (true, true) => format!("{}: {}", text(&metric[field]["name"], ""), of("averageUtilization", "%")),
        (false, true) => of("value", ""),
        (false, false) if field == "pods" => of("averageValue", ""),
        (false, false) => format!("{} (avg)", of("averageValue", "")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn an_autoscaler_prints_its_first_metrics_in_either_version() {
        let mut object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "apiVersion": "autoscaling/v1", "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"},
                "minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 60}});
        let cells = |metrics| ["a", "Deployment/web", metrics, "1", "3", "0", "5m"];
        check(autoscaler, &object, &cells("cpu: <unknown>/60%"));
        object["apiVersion"] = json!("autoscaling/v2");
        let pods =
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "10"}}});
        object["spec"]["metrics"] = json!([pods, pods, pods]);
        check(autoscaler, &object, &cells("<unknown>/10, <unknown>/10 + 1 more..."));
    }

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
