//! The conditions of a node that nobody hears of.

use api_types::conditions;
use chrono::{DateTime, Utc};
use component_base::clock::time_of;
use k8s_openapi::api::core::v1::{Node, NodeCondition};

/// The node's conditions, as last reported.
pub(super) fn conditions_of(node: &Node) -> Vec<NodeCondition> {
    node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
}

/// Whether the node says that it is ready.
pub(super) fn is_ready(node: &Node) -> bool {
    let all = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions::is_true(all, "Ready")
}

/// The conditions of a silent node: what was known is not known any more.
pub(super) fn silenced(node: &Node, now: DateTime<Utc>) -> Vec<NodeCondition> {
    let all = conditions_of(node);
    let mut after = all.clone();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let unknown = |reason: &str, message: &str, beat| NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: beat,
            last_transition_time: Some(time_of(now)),
        };
        match conditions::find(&all, type_) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                let beat = known.last_heartbeat_time.clone();
                let stopped = "Kubelet stopped posting node status.";
                conditions::set(&mut after, unknown("NodeStatusUnknown", stopped, beat));
            }
            None => {
                let beat = node.metadata.creation_timestamp.clone();
                let never = "Kubelet never posted node status.";
                conditions::set(&mut after, unknown("NodeStatusNeverUpdated", never, beat));
            }
        }
    }
    after
}
