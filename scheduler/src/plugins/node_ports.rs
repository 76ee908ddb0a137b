//! NodePorts: host ports are taken by one pod at a time.

use std::sync::Arc;

use crate::event::{ClusterEvent, EventKind, Hint, always};
use crate::framework::{Attaching, Check, CycleState, Filter, Plugin, PreFilter, PreFiltered, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

/// # Decides
/// A node passes if no pod on it has one of the pod's host ports, for the same protocol and an address in
/// common.
/// # Wakes on
/// New nodes; pods that go and had one of the ports.
/// # Differs
/// No.
pub(crate) struct NodePorts;

fn frees_a_port(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::PodRemoved(gone) => {
            gone.ports.iter().any(|freed| pod.ports.iter().any(|wanted| wanted.conflicts_with(freed)))
        }
        _ => false,
    }
}

impl Plugin for NodePorts {
    const NAME: &'static str = "NodePorts";
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::NodeAdded, helps: always },
        Hint { on: EventKind::PodRemoved, helps: frees_a_port },
    ];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_filter(self.clone()).filter(self);
    }
}

impl PreFilter for NodePorts {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<PreFiltered, Refusal> {
        Ok(if pod.ports.is_empty() { PreFiltered::Skip } else { PreFiltered::Run })
    }
}

impl Filter for NodePorts {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Check {
        let taken = pod.ports.iter().any(|wanted| node.ports.iter().any(|used| wanted.conflicts_with(used)));
        if taken { Err(Refusal::resolvable(REASON)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, snapshot};

    #[test]
    fn host_port_is_taken_once_per_node() {
        let mut snapshot = snapshot([node("n1")]);
        snapshot.place(pod("holder").host_port(80).node("n1").info());
        let passes = |port| {
            NodePorts
                .filter(&CycleState::default(), &pod("p").host_port(port).info(), &snapshot.nodes()[0])
                .is_ok()
        };
        assert!(!passes(80));
        assert!(passes(81));
    }

    #[test]
    fn only_a_pod_with_the_port_helps_by_going() {
        let waiting = pod("p").host_port(80).info();
        let helps = |gone: &PodInfo| frees_a_port(&waiting, &ClusterEvent::PodRemoved(gone));
        assert!(helps(&pod("x").host_port(80).info()));
        assert!(!helps(&pod("x").host_port(81).info()));
    }
}
