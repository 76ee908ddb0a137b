//! Pods. The STATUS column is kubectl's reading of phase, reasons, init containers and deletion.

use serde_json::{Value, json};

use super::{Node, Printed, labels, or_none};

pub(super) fn pod(printed: &Printed<'_>) -> Vec<Value> {
    let ready = printed.list("/status/containerStatuses").iter().filter(|c| c["ready"] == true).count();
    let sidecars =
        printed.list("/spec/initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
    let ready_sidecars = sidecar_statuses(printed).filter(|status| status["ready"] == true).count();
    let total = printed.list("/spec/containers").len() + sidecars;
    vec![
        printed.name(),
        json!(format!("{}/{total}", ready + ready_sidecars)),
        json!(status(printed)),
        json!(restarts(printed)),
        printed.age(),
        or_none(printed.text("/status/podIP")),
        or_none(printed.text("/spec/nodeName")),
        or_none(printed.text("/status/nominatedNodeName")),
        json!(readiness_gates(printed)),
    ]
}

/// A pod that has ended is said to be complete.
pub(super) fn conditions(printed: &Printed<'_>) -> Vec<Value> {
    let phase = printed.text("/status/phase");
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": phase, "message": message})]
}

pub(super) fn pod_template(printed: &Printed<'_>) -> Vec<Value> {
    let [names, images] = printed.containers("/template/spec/containers");
    vec![printed.name(), names, images, or_none(&labels(printed.at("/template/metadata/labels")))]
}

fn sidecar_statuses<'a, 'o>(printed: &'a Printed<'o>) -> impl Iterator<Item = &'a Node<'o>> {
    let specs = printed.list("/spec/initContainers");
    printed.list("/status/initContainerStatuses").iter().filter(move |status| {
        specs.iter().any(|spec| spec["name"] == status["name"] && spec["restartPolicy"] == "Always")
    })
}

fn readiness_gates(printed: &Printed<'_>) -> String {
    let gates = printed.list("/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = printed.list("/status/conditions");
    let passed = gates
        .iter()
        .filter(|gate| conditions.iter().any(|c| c["type"] == gate["conditionType"] && c["status"] == "True"))
        .count();
    format!("{passed}/{}", gates.len())
}

/// The count of restarts, with the time of the last one.
fn restarts(printed: &Printed<'_>) -> String {
    let statuses: Vec<&Node<'_>> =
        printed.list("/status/containerStatuses").iter().chain(sidecar_statuses(printed)).collect();
    let count: i64 = statuses.iter().map(|status| status["restartCount"].as_i64().unwrap_or(0)).sum();
    let last = statuses.iter().filter_map(|s| s["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last {
        Some(at) if count > 0 => format!("{count} ({} ago)", printed.since(at)),
        _ => count.to_string(),
    }
}

fn status(printed: &Printed<'_>) -> String {
    let phase = printed.text("/status/phase");
    let reason = match printed.text("/status/reason") {
        "" if is_gated(printed) => "SchedulingGated",
        "" => phase,
        reason => reason,
    };
    let status = init_status(printed).unwrap_or_else(|| container_status(printed, reason));
    if printed.text("/metadata/deletionTimestamp").is_empty() {
        return status;
    }
    if printed.text("/status/reason") == "NodeLost" {
        "Unknown".to_owned()
    } else if matches!(phase, "Succeeded" | "Failed") {
        status
    } else {
        "Terminating".to_owned()
    }
}

fn is_gated(printed: &Printed<'_>) -> bool {
    let conditions = printed.list("/status/conditions");
    conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
}

/// `Init:1/2`, `Init:Error`, … while an init container has not finished.
fn init_status(printed: &Printed<'_>) -> Option<String> {
    let specs = printed.list("/spec/initContainers");
    for (index, status) in printed.list("/status/initContainerStatuses").iter().enumerate() {
        let state = &status["state"];
        let terminated = &state["terminated"];
        let sidecar = specs.iter().any(|s| s["name"] == status["name"] && s["restartPolicy"] == "Always");
        if terminated.is_object() && terminated["exitCode"] == 0 || sidecar && status["started"] == true {
            continue;
        }
        return Some(if terminated.is_object() {
            format!("Init:{}", ended(terminated))
        } else {
            match state["waiting"]["reason"].as_str() {
                Some(reason) if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
                _ => format!("Init:{index}/{}", specs.len()),
            }
        });
    }
    None
}

/// Why a container ended: its reason, signal or exit code.
fn ended(terminated: &Node<'_>) -> String {
    match terminated["reason"].as_str() {
        Some(reason) if !reason.is_empty() => reason.to_owned(),
        _ => match terminated["signal"].as_i64() {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        },
    }
}

fn container_status(printed: &Printed<'_>, phase: &str) -> String {
    let mut reason = phase.to_owned();
    let mut has_running = false;
    for status in printed.list("/status/containerStatuses").iter().rev() {
        let state = &status["state"];
        match state["waiting"]["reason"].as_str() {
            Some(waiting) if !waiting.is_empty() => reason = waiting.to_owned(),
            _ if state["terminated"].is_object() => reason = ended(&state["terminated"]),
            _ if status["ready"] == true && state["running"].is_object() => has_running = true,
            _ => {}
        }
    }
    if reason == "Completed" && has_running {
        let conditions = printed.list("/status/conditions");
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(object: Value) -> String {
        let text = object.to_string();
        status(&Printed { object: Node::read(text.as_bytes()), now: chrono::DateTime::UNIX_EPOCH })
    }

    #[test]
    fn status_says_what_matters_most() {
        let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        let cases = [
            (json!({"status": {"phase": "Pending"}}), "Pending"),
            (
                json!({"status": {"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}}),
                "CrashLoopBackOff",
            ),
            (
                json!({"status": {"phase": "Running"}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                "Terminating",
            ),
            (
                json!({"status": {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}}),
                "Completed",
            ),
            (
                json!({"status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}}),
                "ExitCode:3",
            ),
            (json!({"status": {"phase": "Failed", "reason": "Evicted"}}), "Evicted"),
            (
                json!({"spec": {"initContainers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Pending",
                "initContainerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0}}}, {"name": "b", "state": {"running": {}}}]}}),
                "Init:1/2",
            ),
            (
                json!({"status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}}),
                "SchedulingGated",
            ),
        ];
        for (object, expected) in cases {
            assert_eq!(status_of(object.clone()), expected, "{object}");
        }
    }

    #[test]
    fn a_running_pod_prints_its_place() {
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}, "status": {"phase": "Running", "podIP": "10.0.0.2",
            "containerStatuses": [{"ready": true, "restartCount": 2, "state": {"running": {}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:03:00Z"}}}]}});
        let expected = ["web", "1/1", "Running", "2 (2m ago)", "5m", "10.0.0.2", "n1", "<none>", "<none>"];
        super::super::tests::check(pod, &object, &expected);
    }

    #[test]
    fn rows_of_pods_that_have_ended_say_so() {
        let reason = |phase: &str| {
            let text = json!({"status": {"phase": phase}}).to_string();
            let printed = Printed { object: Node::read(text.as_bytes()), now: chrono::DateTime::UNIX_EPOCH };
            conditions(&printed).first().map(|condition| condition["reason"].clone())
        };
        assert_eq!(reason("Succeeded"), Some(json!("Succeeded")));
        assert_eq!(reason("Failed"), Some(json!("Failed")));
        assert_eq!(reason("Running"), None);
    }
}
