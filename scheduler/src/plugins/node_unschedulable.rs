//! NodeUnschedulable: cordoned nodes get no new pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerated;
use crate::event::{ClusterEvent, EventKind, Hint};
use crate::framework::{Attaching, Check, CycleState, Filter, Plugin, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

const REASON: &str = "node(s) were unschedulable";
const TAINT: &str = "node.kubernetes.io/unschedulable";

/// # Decides
/// A node with `spec.unschedulable` passes only for pods that tolerate the taint
/// `node.kubernetes.io/unschedulable:NoSchedule`.
/// # Wakes on
/// New nodes and uncordoned nodes; a change of the pod's tolerations.
/// # Differs
/// No.
pub(crate) struct NodeUnschedulable;

fn is_open(_: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    event.node().is_some_and(|node| !node.unschedulable)
}

impl Plugin for NodeUnschedulable {
    const NAME: &'static str = "NodeUnschedulable";
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::NodeAdded, helps: is_open },
        Hint { on: EventKind::NodeUpdated, helps: is_open },
        Hint {
            on: EventKind::PodUpdated,
            helps: |_, event| match event {
                ClusterEvent::PodUpdated { old, new } => old.tolerations != new.tolerations,
                _ => false,
            },
        },
    ];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.filter(self);
    }
}

impl Filter for NodeUnschedulable {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Check {
        if !node.facts.unschedulable {
            return Ok(());
        }
        let taint = Taint { key: TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        if tolerated(&taint, &pod.tolerations) { Ok(()) } else { Err(Refusal::unresolvable(REASON)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn cordoned_node_passes_only_with_a_toleration() {
        let cordoned = node("n1").unschedulable().info();
        let state = CycleState::default();
        assert_eq!(NodeUnschedulable.filter(&state, &pod("a").info(), &cordoned).unwrap_err().reason, REASON);
        let tolerating = pod("a").tolerate(TAINT, "", "NoSchedule").info();
        assert!(NodeUnschedulable.filter(&state, &tolerating, &cordoned).is_ok());
    }
}
