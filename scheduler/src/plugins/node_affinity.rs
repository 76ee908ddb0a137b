//! NodeAffinity: nodeSelector and node affinity, required and preferred.

use std::sync::Arc;

use crate::event::{ClusterEvent, EventKind, Hint};
use crate::framework::{
    Attaching, Check, CycleState, Filter, Plugin, PreFilter, PreFiltered, PreScore, Refusal, Score,
    normalize_to_max,
};
use crate::node::NodeInfo;
use crate::pod::{NodeWish, PodInfo};
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";
const CONFLICT: &str = "pod affinity terms conflict";

/// # Decides
/// A node passes if its labels match `spec.nodeSelector` and one of the required terms of
/// `spec.affinity.nodeAffinity`; each preferred term that matches adds its weight to the score.
/// A pod whose every term names nodes (as DaemonSet pods do) is tried on those alone.
/// # Wakes on
/// New nodes and changed labels that match.
/// # Differs
/// There is no affinity added by configuration.
pub(crate) struct NodeAffinity;

fn would_pass(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    event.node().is_some_and(|node| pod.nodes.allows(&node.name, &node.labels))
}

fn passes_now(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::NodeUpdated { old, new } => {
            !pod.nodes.allows(&old.name, &old.labels) && pod.nodes.allows(&new.name, &new.labels)
        }
        _ => false,
    }
}

impl Plugin for NodeAffinity {
    const NAME: &'static str = "NodeAffinity";
    const WEIGHT: i64 = 2;
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::NodeAdded, helps: would_pass },
        Hint { on: EventKind::NodeUpdated, helps: passes_now },
        Hint {
            on: EventKind::PodUpdated,
            helps: |_, event| match event {
                ClusterEvent::PodUpdated { old, new } => old.nodes != new.nodes,
                _ => false,
            },
        },
    ];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_filter(self.clone()).filter(self.clone()).pre_score(self.clone()).score(self);
    }
}

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<PreFiltered, Refusal> {
        if pod.nodes.requires_nothing() {
            return Ok(PreFiltered::Skip);
        }
        match named_nodes(&pod.nodes) {
            None => Ok(PreFiltered::Run),
            Some(names) if names.is_empty() => Err(Refusal::unresolvable(CONFLICT)),
            Some(names) => Ok(PreFiltered::Only(names)),
        }
    }
}

/// The only nodes in question, if each alternative names some.
fn named_nodes(wish: &NodeWish) -> Option<Vec<String>> {
    let terms = wish.required.as_ref().filter(|terms| !terms.is_empty())?;
    let mut names = Vec::new();
    for term in terms {
        names.extend(term.names.as_ref()?.iter().cloned());
    }
    names.sort();
    names.dedup();
    Some(names)
}

impl Filter for NodeAffinity {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Check {
        if pod.nodes.allows(node.name(), &node.facts.labels) {
            return Ok(());
        }
        Err(Refusal::unresolvable(REASON))
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot, _: &[u32]) -> bool {
        !pod.nodes.preferred.is_empty()
    }
}

impl Score for NodeAffinity {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let matching =
            pod.nodes.preferred.iter().filter(|(_, term)| term.matches(node.name(), &node.facts.labels));
        matching.map(|(weight, _)| weight).sum()
    }

    fn normalize(&self, _: &CycleState, scores: &mut [i64]) {
        normalize_to_max(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, node, node_affinity, node_field, pod, preferred_node};

    fn passes(pod: PodBuilder) -> bool {
        let node = node("n1").label("zone", "a").label("cpus", "8").info();
        NodeAffinity.filter(&CycleState::default(), &pod.info(), &node).is_ok()
    }

    #[test]
    fn labels_must_match_selector_and_affinity() {
        assert!(passes(pod("p")));
        assert!(passes(pod("p").select("zone", "a")));
        assert!(!passes(pod("p").select("zone", "b")));
        assert!(passes(pod("p").affinity(node_affinity("zone", "In", &["a", "b"]))));
        assert!(!passes(pod("p").affinity(node_affinity("zone", "NotIn", &["a"]))));
        assert!(passes(pod("p").affinity(node_affinity("cpus", "Gt", &["4"]))));
        assert!(!passes(pod("p").select("zone", "b").affinity(node_affinity("cpus", "Gt", &["4"]))));
    }

    #[test]
    fn pod_that_names_nodes_is_tried_on_those_alone() {
        let pod = pod("p").affinity(node_field("n7")).info();
        let outcome = NodeAffinity.pre_filter(&mut CycleState::default(), &pod, &Snapshot::default());
        assert_eq!(outcome, Ok(PreFiltered::Only(vec!["n7".to_owned()])));
    }

    #[test]
    fn preferred_terms_add_their_weights() {
        let pod = pod("p").affinity(preferred_node(30, "zone", "a")).info();
        let node = node("n1").label("zone", "a").info();
        assert_eq!(NodeAffinity.score(&CycleState::default(), &pod, &node, &Snapshot::default()), 30);
    }
}
