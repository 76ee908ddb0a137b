//! `taint-eviction-controller`: moves pods off nodes with NoExecute taints they do not tolerate.
//!
//! # Watches
//! Pods, and the taints of nodes.
//!
//! # Writes
//! The condition DisruptionTarget on pods, and deletes them.
//!
//! # Guarantees
//! A pod stays as long as its tolerations say, counted from when the taint was added; it is deleted with
//! its usual grace, and only this very pod. When the taint goes in time, nothing happens.
//!
//! # Differs from Kubernetes
//! The time is counted from the taint's own `timeAdded`, so a restart of this process does not prolong it.

use std::sync::Arc;
use std::time::Duration;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::node_fit::tolerates;
use crate::owners::name_of;
use crate::pod_control::delete_exactly;

pub(crate) struct TaintEviction {
    client: Client,
    clock: Clock,
    events: Events,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
}

fn evicting_taints(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").collect()
}

/// How long the pod may stay; none for ever.
fn may_stay(pod: &Pod, node: &Node, now: DateTime<Utc>) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut shortest: Option<Duration> = None;
    for taint in evicting_taints(node) {
        let mut matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return Some(Duration::ZERO);
        }
        let since = taint.time_added.as_ref().map_or(now, moment_of);
        for seconds in matching.filter_map(|toleration| toleration.toleration_seconds) {
            let end = since + chrono::Duration::seconds(seconds.max(0));
            let left = (end - now).to_std().unwrap_or(Duration::ZERO);
            shortest = Some(shortest.map_or(left, |earlier| earlier.min(left)));
        }
    }
    shortest
}

#[async_trait]
impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let pods = setup.watch_own::<Pod>();
        let nodes = setup.read::<Node>();
        let (of_node, queue) = (pods.clone(), setup.queue.clone());
        nodes.subscribe(move |change| {
            let taints = |node: Option<&Arc<Node>>| {
                node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default()
            };
            if let Some(node) = change.new.filter(|_| taints(change.old) != taints(change.new)) {
                let bound = of_node.on_node(name_of(&node.metadata));
                bound.iter().for_each(|pod| queue.add(ObjectKey::of(&**pod)));
            }
        });
        Self { client: setup.client.clone(), clock: setup.clock, events: setup.events(), pods, nodes }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        let node = pods::node_name(&pod).and_then(|name| self.nodes.get(&ObjectKey::cluster(name)));
        let Some(node) = node.filter(|_| !pods::is_terminating(&pod) && !pods::is_terminal(&pod)) else {
            return Ok(Action::Done);
        };
        match may_stay(&pod, &node, self.clock.now()) {
            None => Ok(Action::Done),
            Some(left) if !left.is_zero() => Ok(Action::RequeueAfter(left)),
            Some(_) => {
                self.evict(&pod).await?;
                Ok(Action::Done)
            }
        }
    }
}

impl TaintEviction {
    async fn evict(&self, pod: &Pod) -> Result<(), kube::Error> {
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": self.clock.time(),
        });
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        match api
            .patch_status(name_of(&pod.metadata), &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        self.events.normal(
            pod,
            "TaintManagerEviction",
            &format!("Marking for deletion Pod {}", ObjectKey::of(pod)),
        );
        delete_exactly(&self.client, pod, DeleteParams::default()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        tolerations: serde_json::Value,
        taints: serde_json::Value,
        now_seconds: i64,
        expected: Option<u64>,
    ) {
        let pod = serde_json::from_value(
            json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}}),
        )
        .unwrap();
        let node = serde_json::from_value(json!({"metadata": {}, "spec": {"taints": taints}})).unwrap();
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(now_seconds);
        assert_eq!(may_stay(&pod, &node, now).map(|left| left.as_secs()), expected);
    }

    fn taint() -> serde_json::Value {
        json!([{"key": "k", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"}])
    }

    #[test]
    fn an_untolerated_taint_evicts_at_once() {
        check(json!([]), taint(), 0, Some(0));
    }

    #[test]
    fn a_limited_toleration_runs_from_when_the_taint_came() {
        let limited =
            json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        check(limited.clone(), taint(), 100, Some(200));
        check(limited, taint(), 301, Some(0));
    }

    #[test]
    fn an_unlimited_toleration_stays() {
        check(json!([{"operator": "Exists"}]), taint(), 1000, None);
    }

    #[test]
    fn other_effects_do_not_evict() {
        check(json!([]), json!([{"key": "k", "effect": "NoSchedule"}]), 0, None);
    }
}
