//! ImageLocality: prefers nodes that have the pod's images already.

use std::sync::Arc;

use crate::framework::{Attaching, CycleState, Plugin, PreScore, SCORE_MAX, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const MEBIBYTE: i64 = 1024 * 1024;
/// Below this sum of sizes a node scores nothing.
const SIZE_MIN: i64 = 23 * MEBIBYTE;
/// Above this sum per container a node scores no more.
const SIZE_MAX_PER_CONTAINER: i64 = 1000 * MEBIBYTE;

/// # Decides
/// The score grows with the size of those of the pod's images that the node has, each counted by the share of
/// nodes that have it, so that one node with a rare image does not draw all pods.
/// # Wakes on
/// Nothing.
/// # Differs
/// Image volumes do not count.
pub(crate) struct ImageLocality;

impl Plugin for ImageLocality {
    const NAME: &'static str = "ImageLocality";

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_score(self.clone()).score(self);
    }
}

impl PreScore for ImageLocality {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot, _: &[u32]) -> bool {
        snapshot.has_images() && pod.images.iter().any(|image| snapshot.image_spread(image) > 0)
    }
}

impl Score for ImageLocality {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
        let nodes = i64::try_from(snapshot.nodes().len()).unwrap_or(i64::MAX).max(1);
        let weigh = |image: &String| {
            let size = node.facts.images.get(image).copied().unwrap_or(0);
            i128::from(size) * i128::from(snapshot.image_spread(image)) / i128::from(nodes)
        };
        let sum: i128 = pod.images.iter().map(weigh).sum();
        let containers = i64::try_from(pod.images.len()).unwrap_or(1);
        let most = SIZE_MAX_PER_CONTAINER * containers;
        let sum = i64::try_from(sum).unwrap_or(i64::MAX).clamp(SIZE_MIN, most.max(SIZE_MIN + 1));
        SCORE_MAX * (sum - SIZE_MIN) / (most - SIZE_MIN).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, snapshot};

    #[test]
    fn node_with_the_image_scores_higher() {
        let snapshot = snapshot([node("n1").image("web:latest", 500 * MEBIBYTE), node("n2")]);
        let pod = pod("p").image("web").info();
        assert!(ImageLocality.pre_score(&mut CycleState::default(), &pod, &snapshot, &[0, 1]));
        let score =
            |i: usize| ImageLocality.score(&CycleState::default(), &pod, &snapshot.nodes()[i], &snapshot);
        assert!(score(0) > 0);
        assert_eq!(score(1), 0);
    }
}
