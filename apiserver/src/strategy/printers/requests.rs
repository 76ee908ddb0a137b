//! Certificate requests, the health of components, and who may ask how much: flow schemas and priority levels.

use api_types::table::human_duration;
use chrono::TimeDelta;
use serde_json::{Value, json};

use super::{Node, Printed, or_none};

pub(super) fn certificate_request(printed: &Printed<'_>) -> Vec<Value> {
    let duration = match printed.object.pointer("/spec/expirationSeconds").and_then(Node::as_i64) {
        Some(seconds) => json!(human_duration(TimeDelta::try_seconds(seconds).unwrap_or(TimeDelta::MAX))),
        None => json!("<none>"),
    };
    vec![
        printed.name(),
        printed.age(),
        or_none(printed.text("/spec/signerName")),
        json!(printed.text("/spec/username")),
        duration,
        json!(certificate_state(printed)),
    ]
}

fn certificate_state(printed: &Printed<'_>) -> String {
    let conditions = printed.list("/status/conditions");
    let has = |kind: &str| conditions.iter().any(|condition| condition["type"] == kind);
    let decision = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    };
    let mut state = decision.to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !printed.text("/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

pub(super) fn component_status(printed: &Printed<'_>) -> Vec<Value> {
    let healthy = printed.list("/conditions").iter().find(|condition| condition["type"] == "Healthy");
    let part =
        |field: &str| healthy.and_then(|condition| condition[field].as_str()).unwrap_or_default().to_owned();
    let status = match part("status").as_str() {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    vec![printed.name(), json!(status), json!(part("message")), json!(part("error"))]
}

pub(super) fn flow_schema(printed: &Printed<'_>) -> Vec<Value> {
    let conditions = printed.list("/status/conditions");
    let dangling = conditions.iter().find(|condition| condition["type"] == "Dangling");
    vec![
        printed.name(),
        or_none(printed.text("/spec/priorityLevelConfiguration/name")),
        json!(printed.count("/spec/matchingPrecedence")),
        or_none(printed.text("/spec/distinguisherMethod/type")),
        printed.age(),
        dangling.map_or(json!("?"), |condition| condition["status"].to_value()),
    ]
}

pub(super) fn priority_level(printed: &Printed<'_>) -> Vec<Value> {
    let number = |pointer: &str| match printed.cell(pointer) {
        Value::Null => json!("<none>"),
        found => found,
    };
    let queuing = |field: &str| number(&format!("/spec/limited/limitResponse/queuing/{field}"));
    vec![
        printed.name(),
        printed.cell("/spec/type"),
        number("/spec/limited/nominalConcurrencyShares"),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        printed.age(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    const MADE: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn a_certificate_request_goes_from_pending_to_issued() {
        let mut object = json!({"metadata": {"name": "r", "creationTimestamp": MADE},
            "spec": {"signerName": "s", "username": "u", "expirationSeconds": 7200}});
        check(certificate_request, &object, &["r", "5m", "s", "u", "120m", "Pending"]);
        object["status"] = json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="});
        check(certificate_request, &object, &["r", "5m", "s", "u", "120m", "Approved,Issued"]);
    }

    #[test]
    fn a_priority_level_without_queues_prints_none() {
        let object = json!({"metadata": {"name": "p", "creationTimestamp": MADE},
            "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
                "limitResponse": {"type": "Reject"}}}});
        check(priority_level, &object, &["p", "Limited", "5", "<none>", "<none>", "<none>", "5m"]);
    }

    #[test]
    fn a_flow_schema_tells_whether_its_level_is_missing() {
        let object = json!({"metadata": {"name": "f", "creationTimestamp": MADE},
            "spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 7},
            "status": {"conditions": [{"type": "Dangling", "status": "False"}]}});
        check(flow_schema, &object, &["f", "l", "7", "<none>", "5m", "False"]);
    }
}
