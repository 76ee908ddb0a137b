//! TaintToleration: nodes repel pods that do not tolerate their taints.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::event::{ClusterEvent, EventKind, Hint};
use crate::framework::{
    Attaching, Check, CycleState, Filter, Plugin, PreScore, Refusal, Score, normalize_to_max,
};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) had untolerated taint(s)";

/// # Decides
/// A node passes if the pod tolerates each of its taints with the effect NoSchedule or NoExecute; taints with
/// PreferNoSchedule that it does not tolerate lower the score. A node that is not ready has such a taint.
/// # Wakes on
/// New nodes and changed taints that the pod tolerates; a change of the pod's tolerations.
/// # Differs
/// No.
pub(crate) struct TaintToleration;

fn would_pass(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    event.node().is_some_and(|node| repelling(node, pod).is_none())
}

impl Plugin for TaintToleration {
    const NAME: &'static str = "TaintToleration";
    const WEIGHT: i64 = 3;
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::NodeAdded, helps: would_pass },
        Hint {
            on: EventKind::NodeUpdated,
            helps: |pod, event| match event {
                ClusterEvent::NodeUpdated { old, new } => {
                    repelling(old, pod).is_some() && repelling(new, pod).is_none()
                }
                _ => false,
            },
        },
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
        points.filter(self.clone()).pre_score(self.clone()).score(self);
    }
}

impl Filter for TaintToleration {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Check {
        match repelling(&node.facts, pod) {
            None => Ok(()),
            Some(_) => Err(Refusal::unresolvable(REASON)),
        }
    }
}

impl PreScore for TaintToleration {
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, snapshot: &Snapshot, _: &[u32]) -> bool {
        snapshot.has_soft_taints()
    }
}

impl Score for TaintToleration {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let disliked =
            |taint: &&Taint| taint.effect == "PreferNoSchedule" && !tolerated(taint, &pod.tolerations);
        i64::try_from(node.facts.taints.iter().filter(disliked).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _: &CycleState, scores: &mut [i64]) {
        normalize_to_max(scores, true);
    }
}

/// The first taint that keeps the pod away.
fn repelling<'a>(node: &'a NodeFacts, pod: &PodInfo) -> Option<&'a Taint> {
    let hard = |taint: &&Taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
    node.taints.iter().filter(hard).find(|taint| !tolerated(taint, &pod.tolerations))
}

/// Whether one of the tolerations is for the taint.
pub(super) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let wanted = toleration.value.as_deref().unwrap_or_default();
    let value = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((value.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => wanted == value,
        "Gt" => numbers().is_some_and(|(value, wanted)| value > wanted),
        "Lt" => numbers().is_some_and(|(value, wanted)| value < wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, snapshot};

    #[test]
    fn taints_need_tolerations() {
        let cases = [
            ("none", pod("a"), false),
            ("exact", pod("a").tolerate("k", "v", "NoSchedule"), true),
            ("other value", pod("a").tolerate("k", "w", "NoSchedule"), false),
            ("other effect", pod("a").tolerate("k", "v", "NoExecute"), false),
            ("every effect", pod("a").tolerate("k", "v", ""), true),
            ("everything", pod("a").tolerate_all(), true),
        ];
        let tainted = node("n1").taint("k", "v", "NoSchedule").info();
        for (name, pod, passes) in cases {
            let check = TaintToleration.filter(&CycleState::default(), &pod.info(), &tainted);
            assert_eq!(check.is_ok(), passes, "{name}");
        }
    }

    #[test]
    fn soft_taints_only_lower_the_score() {
        let nodes = [node("n1"), node("n2").taint("k", "v", "PreferNoSchedule")];
        let snapshot = snapshot(nodes);
        let (state, pod) = (CycleState::default(), pod("a").info());
        let mut scores: Vec<i64> = snapshot
            .nodes()
            .iter()
            .map(|node| {
                assert!(TaintToleration.filter(&state, &pod, node).is_ok());
                TaintToleration.score(&state, &pod, node, &snapshot)
            })
            .collect();
        TaintToleration.normalize(&state, &mut scores);
        assert_eq!(scores, [100, 0]);
    }

    #[test]
    fn a_node_that_becomes_ready_helps() {
        let (old, new) = (
            Arc::new(node("n1").taint("node.kubernetes.io/not-ready", "", "NoSchedule").facts()),
            Arc::new(node("n1").facts()),
        );
        let helps = TaintToleration::HINTS[1].helps;
        let pod = pod("a").info();
        assert!(helps(&pod, &ClusterEvent::NodeUpdated { old: &old, new: &new }));
        assert!(!helps(&pod, &ClusterEvent::NodeUpdated { old: &new, new: &old }));
    }
}
