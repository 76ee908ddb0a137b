//! NodeResourcesFit: a node must have free what the pod asks for; emptier nodes score higher.

use std::sync::Arc;

use crate::event::{ClusterEvent, EventKind, Hint};
use crate::framework::{Attaching, Check, CycleState, Filter, Plugin, Reason, Refusal, SCORE_MAX, Score};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// # Decides
/// A node passes if what is allocatable, less the requests of the pods on it, covers the pod's requests of CPU,
/// memory, ephemeral storage and extended resources, and it has room for one more pod. The score is the
/// strategy LeastAllocated over CPU and memory.
/// # Wakes on
/// New nodes that could hold the pod; nodes whose allocatable grows; pods that go or shrink; a change of the
/// pod's requests.
/// # Differs
/// The strategies MostAllocated and RequestedToCapacityRatio are not offered.
pub(crate) struct NodeResourcesFit;

fn could_hold(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    event.node().is_some_and(|node| holds_when_empty(pod, node))
}

fn grew(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::NodeUpdated { old, new } => {
            old.allocatable != new.allocatable && holds_when_empty(pod, new)
        }
        _ => false,
    }
}

fn holds_when_empty(pod: &PodInfo, node: &NodeFacts) -> bool {
    let (asked, has) = (&pod.requests, &node.allocatable);
    asked.pods <= has.pods
        && asked.milli_cpu <= has.milli_cpu
        && asked.memory <= has.memory
        && asked.ephemeral_storage <= has.ephemeral_storage
        && asked.scalar.iter().all(|(name, amount)| *amount <= has.scalar(name))
}

fn frees_something(_: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::PodRemoved(_) => true,
        ClusterEvent::PlacedPodUpdated { old, new } => old.requests != new.requests,
        _ => false,
    }
}

impl Plugin for NodeResourcesFit {
    const NAME: &'static str = "NodeResourcesFit";
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::NodeAdded, helps: could_hold },
        Hint { on: EventKind::NodeUpdated, helps: grew },
        Hint { on: EventKind::PodRemoved, helps: frees_something },
        Hint { on: EventKind::PlacedPodUpdated, helps: frees_something },
        Hint {
            on: EventKind::PodUpdated,
            helps: |_, event| match event {
                ClusterEvent::PodUpdated { old, new } => old.requests != new.requests,
                _ => false,
            },
        },
    ];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.filter(self.clone()).score(self);
    }
}

/// Collects reasons; the common case of none costs nothing.
#[derive(Default)]
struct Shortages {
    found: Option<Refusal>,
}

impl Shortages {
    fn check(&mut self, reason: impl FnOnce() -> Reason, asked: i64, used: i64, allocatable: i64) {
        if asked == 0 || asked <= allocatable.saturating_sub(used) {
            return;
        }
        let reason = reason();
        match &mut self.found {
            None => self.found = Some(Refusal { resolvable: true, reason, more: Vec::new() }),
            Some(refusal) => refusal.more.push(reason),
        }
        if let Some(refusal) = &mut self.found {
            refusal.resolvable &= asked <= allocatable;
        }
    }
}

impl Filter for NodeResourcesFit {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Check {
        let (asked, used, has) = (&pod.requests, &node.requested, &node.facts.allocatable);
        let mut short = Shortages::default();
        short.check(|| "Too many pods".into(), asked.pods, used.pods, has.pods);
        short.check(|| "Insufficient cpu".into(), asked.milli_cpu, used.milli_cpu, has.milli_cpu);
        short.check(|| "Insufficient memory".into(), asked.memory, used.memory, has.memory);
        let storage = || "Insufficient ephemeral-storage".into();
        short.check(storage, asked.ephemeral_storage, used.ephemeral_storage, has.ephemeral_storage);
        for (name, amount) in &asked.scalar {
            let reason = || format!("Insufficient {name}").into();
            short.check(reason, *amount, used.scalar(name), has.scalar(name));
        }
        short.found.map_or(Ok(()), Err)
    }
}

impl Score for NodeResourcesFit {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let has = &node.facts.allocatable;
        let cpu = free_share(node.assumed_cpu.saturating_add(pod.assumed_cpu), has.milli_cpu);
        let memory = free_share(node.assumed_memory.saturating_add(pod.assumed_memory), has.memory);
        match (cpu, memory) {
            (Some(cpu), Some(memory)) => i64::midpoint(cpu, memory),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => 0,
        }
    }
}

/// What would be left free, of `SCORE_MAX`; none for a resource that the node does not have.
fn free_share(used: i64, allocatable: i64) -> Option<i64> {
    match allocatable {
        0 => None,
        all if used > all => Some(0),
        all => i64::try_from(i128::from(all - used) * i128::from(SCORE_MAX) / i128::from(all)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, node, pod, snapshot};

    fn reasons(wanted: PodBuilder) -> Vec<String> {
        let mut snapshot = snapshot([node("n1").allocatable("1", "1Gi", 2).extended("x.io/gpu", 1)]);
        snapshot.place(pod("there").requests("600m", "512Mi").node("n1").info());
        match NodeResourcesFit.filter(&CycleState::default(), &wanted.info(), &snapshot.nodes()[0]) {
            Ok(()) => Vec::new(),
            Err(refusal) => refusal.reasons().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn each_shortage_is_named() {
        assert_eq!(reasons(pod("p").requests("400m", "512Mi")), Vec::<String>::new());
        assert_eq!(reasons(pod("p").requests("401m", "1Mi")), ["Insufficient cpu"]);
        assert_eq!(reasons(pod("p").requests("2", "2Gi")), ["Insufficient cpu", "Insufficient memory"]);
        assert_eq!(reasons(pod("p").request("x.io/gpu", "2")), ["Insufficient x.io/gpu"]);
        assert_eq!(reasons(pod("p").request("x.io/gpu", "1")), Vec::<String>::new());
    }

    #[test]
    fn node_full_of_pods_takes_no_more() {
        let mut snapshot = snapshot([node("n1").allocatable("1", "1Gi", 1)]);
        snapshot.place(pod("there").node("n1").info());
        let check = NodeResourcesFit.filter(&CycleState::default(), &pod("p").info(), &snapshot.nodes()[0]);
        assert_eq!(check.unwrap_err().reason, "Too many pods");
    }

    #[test]
    fn what_exceeds_the_whole_node_is_not_resolvable() {
        let small = node("n1").allocatable("1", "1Gi", 10).info();
        let check = |pod: PodBuilder| NodeResourcesFit.filter(&CycleState::default(), &pod.info(), &small);
        assert!(!check(pod("p").requests("2", "1Mi")).unwrap_err().resolvable);
    }

    #[test]
    fn emptier_node_scores_higher() {
        let mut snapshot = snapshot([node("n1"), node("n2")]);
        snapshot.place(pod("there").requests("2", "2Gi").node("n1").info());
        let pod = pod("p").requests("100m", "100Mi").info();
        let score =
            |i: usize| NodeResourcesFit.score(&CycleState::default(), &pod, &snapshot.nodes()[i], &snapshot);
        assert!(score(1) > score(0));
    }

    #[test]
    fn only_a_large_enough_node_helps() {
        let waiting = pod("p").requests("3", "1Gi").info();
        let small = Arc::new(node("n1").allocatable("2", "8Gi", 10).facts());
        let large = Arc::new(node("n2").allocatable("4", "8Gi", 10).facts());
        assert!(!could_hold(&waiting, &ClusterEvent::NodeAdded(&small)));
        assert!(could_hold(&waiting, &ClusterEvent::NodeAdded(&large)));
    }
}
