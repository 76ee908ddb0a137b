//! NodeName: a pod that names its node runs on no other.

use std::sync::Arc;

use crate::event::{EventKind, Hint, always};
use crate::framework::{Attaching, Check, CycleState, Filter, Plugin, PreFilter, PreFiltered, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't match the requested node name";

/// # Decides
/// A node passes if the pod names no node, or this one.
/// # Wakes on
/// New nodes.
/// # Differs
/// No.
pub(crate) struct NodeName;

impl Plugin for NodeName {
    const NAME: &'static str = "NodeName";
    const HINTS: &'static [Hint] = &[Hint { on: EventKind::NodeAdded, helps: always }];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_filter(self.clone()).filter(self);
    }
}

impl PreFilter for NodeName {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<PreFiltered, Refusal> {
        Ok(if pod.node_name.is_empty() { PreFiltered::Skip } else { PreFiltered::Run })
    }
}

impl Filter for NodeName {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Check {
        if pod.node_name.is_empty() || *pod.node_name == **node.name() {
            return Ok(());
        }
        Err(Refusal::unresolvable(REASON))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn only_the_named_node_passes() {
        let filter = |pod: crate::testing::PodBuilder| {
            NodeName.filter(&CycleState::default(), &pod.info(), &node("n1").info()).is_ok()
        };
        assert!(filter(pod("a")));
        assert!(filter(pod("a").node("n1")));
        assert!(!filter(pod("a").node("n2")));
    }
}
