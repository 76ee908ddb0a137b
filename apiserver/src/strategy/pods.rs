//! Pods: what a new one starts with, how it is deleted with grace, and the few parts of its spec that may change.

use api_types::k8s_openapi::api::core::v1::PodSpec;
use api_types::pods::qos;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::rules::items;
use super::{Context, Strategy, isolate};

pub(super) struct Pods;

impl Strategy for Pods {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        new["status"] = json!({"phase": "Pending"});
        if !items(&new["spec"]["schedulingGates"]).is_empty() {
            let now = context.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": now,
            });
            new["status"]["conditions"] = json!([condition]);
        }
        set_qos(new);
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        // Whoever writes a status anew need not know the class.
        let class = &old["status"]["qosClass"];
        if context.subresource == "status"
            && new["status"].is_object()
            && new["status"]["qosClass"].as_str().is_none_or(str::is_empty)
            && class.is_string()
        {
            new["status"]["qosClass"] = class.clone();
        }
    }

    fn grace(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let is_terminal = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() || is_terminal {
            return Some(0);
        }
        let of_spec = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
        let period = requested.or(of_spec).unwrap_or(30);
        Some(if period < 0 { 1 } else { period })
    }
}

/// The class of service, as the spec has it. A spec that cannot be read gets none: the schema check says why.
fn set_qos(pod: &mut Value) {
    if let Ok(spec) = PodSpec::deserialize(&pod["spec"]) {
        pod["status"]["qosClass"] = qos(&spec).as_str().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_is_that_of_the_request_then_of_the_spec_and_none_where_nothing_runs() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 12}, "status": {"phase": phase}});
        let cases = [
            (pod("n", "Running"), None, 12),
            (pod("n", "Running"), Some(3), 3),
            (pod("n", "Running"), Some(-4), 1),
            (pod("", "Pending"), Some(30), 0),
            (pod("n", "Succeeded"), None, 0),
            (pod("n", "Failed"), Some(9), 0),
        ];
        for (pod, requested, expected) in cases {
            assert_eq!(Pods.grace(&pod, requested), Some(expected), "{pod} {requested:?}");
        }
    }
}
