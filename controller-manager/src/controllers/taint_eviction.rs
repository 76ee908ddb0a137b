//! `taint-eviction-controller`: moves pods off nodes with NoExecute taints they do not tolerate.
//!
//! # Watches
//! Pods, and the taints of nodes.
//!
//! # Writes
//! The condition DisruptionTarget on pods, and deletes them.
//!
//! # Guarantees
//! A pod stays as long as its tolerations say, counted from when its node was first seen with the taints
//! here; it is deleted with its usual grace, and only this very pod. When the taints go in time, it stays.
//!
//! # Differs from Kubernetes
//! A taint that says when it was added counts from then, so a restart of this process does not prolong it.

use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::eviction::{Evictor, Verdict, Words, end_of};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::node_fit::tolerates;
use crate::owners::name_of;

const WORDS: Words = Words {
    reason: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
    event: "TaintManagerEviction",
    marked: |pod| format!("Marking for deletion Pod {pod}"),
    kept: |pod| format!("Cancelling deletion of Pod {pod}"),
};

pub(crate) struct TaintEviction {
    clock: Clock,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    evictor: Evictor,
}

fn evicting_taints(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").collect()
}

/// `since` is when the pod was first seen under taints. Of each taint the first matching toleration counts.
fn plan(pod: &Pod, node: &Node, since: DateTime<Utc>, now: DateTime<Utc>) -> Verdict {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let taints = evicting_taints(node);
    if taints.is_empty() {
        return Verdict::Untouched;
    }
    let mut end: Option<DateTime<Utc>> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Verdict::Evict;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let since = taint.time_added.as_ref().map_or(since, |time| moment_of(time).min(since));
            let this = end_of(since, seconds);
            end = Some(end.map_or(this, |earlier| earlier.min(this)));
        }
    }
    Verdict::until(end, now)
}

#[async_trait]
impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction-controller";
    const CONCURRENCY: usize = 8;

    fn watches(setup: &Setup<'_>) -> Self {
        let pods = setup.watch_own::<Pod>();
        let nodes = setup.read::<Node>();
        let (of_node, queue) = (pods.clone(), setup.queue.clone());
        nodes.subscribe(move |change| {
            let taints = |node: Option<&Arc<Node>>| {
                node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default()
            };
            if let Some(node) = change.new.or(change.old).filter(|_| taints(change.old) != taints(change.new))
            {
                let bound = of_node.on_node(name_of(&node.metadata));
                bound.iter().for_each(|pod| queue.add(ObjectKey::of(&**pod)));
            }
        });
        let evictor = Evictor::new(setup.client.clone(), setup.clock, setup.events(), WORDS);
        Self { clock: setup.clock, pods, nodes, evictor }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let live = |pod: &Arc<Pod>| !pods::is_terminating(pod) && !pods::is_terminal(pod);
        let Some(pod) = self.pods.get(key).filter(live) else {
            self.evictor.forget(key);
            return Ok(Action::Done);
        };
        let node = pods::node_name(&pod).and_then(|name| self.nodes.get(&ObjectKey::cluster(name)));
        let now = self.clock.now();
        let since = self.evictor.since(key, &pod, now);
        let verdict = node.map_or(Verdict::Untouched, |node| plan(&pod, &node, since, now));
        Ok(self.evictor.apply(key, &pod, verdict, now).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn check(tolerations: serde_json::Value, taints: serde_json::Value, now_seconds: i64, expected: Verdict) {
        let pod = serde_json::from_value(
            json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}}),
        )
        .unwrap();
        let node = serde_json::from_value(json!({"metadata": {}, "spec": {"taints": taints}})).unwrap();
        let since = DateTime::UNIX_EPOCH + chrono::Duration::seconds(50);
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(now_seconds);
        assert_eq!(plan(&pod, &node, since, now), expected);
    }

    fn taint() -> serde_json::Value {
        json!([{"key": "k", "effect": "NoExecute"}])
    }

    fn tolerating(seconds: i64) -> serde_json::Value {
        json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}])
    }

    #[test]
    fn an_untolerated_taint_evicts_at_once() {
        check(json!([]), taint(), 50, Verdict::Evict);
        check(tolerating(0), taint(), 50, Verdict::Evict);
        check(tolerating(-3), taint(), 50, Verdict::Evict);
    }

    #[test]
    fn a_limited_toleration_runs_from_when_the_pod_was_first_seen_tainted() {
        check(tolerating(300), taint(), 100, Verdict::StayFor(Duration::from_secs(250)));
        check(tolerating(300), taint(), 351, Verdict::Evict);
    }

    #[test]
    fn a_taint_that_knows_its_age_counts_from_then() {
        let aged = json!([{"key": "k", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:10Z"}]);
        check(tolerating(300), aged, 100, Verdict::StayFor(Duration::from_secs(210)));
    }

    #[test]
    fn an_unlimited_toleration_stays() {
        check(json!([{"operator": "Exists"}]), taint(), 1000, Verdict::Stay);
    }

    #[test]
    fn of_several_tolerations_of_a_taint_the_first_counts() {
        let both = json!([{"operator": "Exists"}, tolerating(1)[0]]);
        check(both, taint(), 1000, Verdict::Stay);
    }

    #[test]
    fn of_several_taints_the_one_tolerated_least_counts() {
        let two = json!([{"key": "k", "effect": "NoExecute"}, {"key": "l", "effect": "NoExecute"}]);
        check(tolerating(300), two.clone(), 60, Verdict::Evict);
        let tolerant =
            json!([tolerating(300)[0], {"key": "l", "operator": "Exists", "tolerationSeconds": 20}]);
        check(tolerant, two, 60, Verdict::StayFor(Duration::from_secs(10)));
    }

    #[test]
    fn other_effects_do_not_evict() {
        check(json!([]), json!([{"key": "k", "effect": "NoSchedule"}]), 0, Verdict::Untouched);
    }
}
