//! NodeResourcesBalancedAllocation: prefers nodes whose CPU and memory are used alike.

use std::sync::Arc;

use crate::framework::{Attaching, CycleState, Plugin, PreScore, SCORE_MAX, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// # Decides
/// The score is the higher the nearer the used shares of CPU and memory would be to each other with the pod on
/// the node. Pods that ask for nothing are not scored.
/// # Wakes on
/// Nothing.
/// # Differs
/// No.
pub(crate) struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    const NAME: &'static str = "NodeResourcesBalancedAllocation";

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_score(self.clone()).score(self);
    }
}

impl PreScore for NodeResourcesBalancedAllocation {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot, _: &[u32]) -> bool {
        !pod.requests.is_zero()
    }
}

impl Score for NodeResourcesBalancedAllocation {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let (used, asked, has) = (&node.requested, &pod.requests, &node.facts.allocatable);
        let cpu = millionths(used.milli_cpu.saturating_add(asked.milli_cpu), has.milli_cpu);
        let memory = millionths(used.memory.saturating_add(asked.memory), has.memory);
        match (cpu, memory) {
            // The deviation of two numbers is half their distance.
            (Some(cpu), Some(memory)) => SCORE_MAX - (cpu - memory).abs() / 2 / 10_000,
            _ => SCORE_MAX,
        }
    }
}

/// The used share in millionths, at most one.
fn millionths(used: i64, allocatable: i64) -> Option<i64> {
    if allocatable == 0 {
        return None;
    }
    let share = i128::from(used) * 1_000_000 / i128::from(allocatable);
    Some(i64::try_from(share).unwrap_or(1_000_000).min(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn even_use_scores_highest() {
        let node = node("n1").allocatable("4", "4Gi", 10).info();
        let score = |cpu: &str, memory: &str| {
            let pod = pod("p").requests(cpu, memory).info();
            NodeResourcesBalancedAllocation.score(&CycleState::default(), &pod, &node, &Snapshot::default())
        };
        assert_eq!(score("2", "2Gi"), 100);
        assert_eq!(score("4", "0"), 50);
    }
}
