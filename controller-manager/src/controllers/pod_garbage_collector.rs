//! `pod-garbage-collector-controller`: removes pods that no node agent will ever remove.
//!
//! # Watches
//! Pods and nodes.
//!
//! # Writes
//! Deletes pods at once (grace period zero), marking them failed before.
//!
//! # Guarantees
//! Removed are: pods bound to a node that does not exist, confirmed with the server after a wait of 40 s;
//! pods deleted before they were bound; terminating pods on nodes that are tainted `out-of-service` and not
//! ready; and finished pods beyond the threshold, evicted ones first, then the oldest.
//!
//! # Differs from Kubernetes
//! Acts on changes and per pod rather than every 20 s; finished pods are counted at most once a second.

use std::sync::Arc;
use std::time::Duration;

use api_types::{conditions, pods};
use async_trait::async_trait;
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use tokio::time::Instant;

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::name_of;
use crate::pod_control::delete_exactly;

/// How long a node must be missing before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Pods that finish within this time are counted together, since counting looks at every pod.
const GATHER: Duration = Duration::from_secs(1);

/// In the queue, all finished pods together; no pod is without a namespace.
fn finished_pods() -> ObjectKey {
    ObjectKey::cluster("finished")
}

pub(crate) struct PodGarbageCollector {
    client: Client,
    clock: Clock,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    threshold: usize,
    missing_since: Mutex<HashMap<String, Instant>>,
}

/// What to do with a pod.
#[derive(Debug, PartialEq)]
enum Step {
    Keep,
    Wait(Duration),
    Delete(Why),
}

/// Why a pod is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    NodeGone,
    UnscheduledTerminating,
    OutOfService,
    TooManyFinished,
}

/// What is known of the node a pod is bound to.
#[derive(Clone, Copy, Debug)]
enum NodeState {
    Unbound,
    There { out_of_service: bool },
    MissingFor(Duration),
}

fn plan(pod: &Pod, node: NodeState) -> Step {
    let going = pods::is_terminating(pod);
    match node {
        NodeState::Unbound if going => Step::Delete(Why::UnscheduledTerminating),
        NodeState::There { out_of_service: true } if going => Step::Delete(Why::OutOfService),
        NodeState::MissingFor(time) if time >= QUARANTINE => Step::Delete(Why::NodeGone),
        NodeState::MissingFor(time) => Step::Wait(QUARANTINE - time),
        _ => Step::Keep,
    }
}

/// The finished pods beyond `threshold`, in the order in which they go.
fn surplus(mut finished: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let evicted = |pod: &Pod| {
        let status = pod.status.as_ref();
        pods::phase(pod) == "Failed" && status.and_then(|status| status.reason.as_deref()) == Some("Evicted")
    };
    let count = finished.len().saturating_sub(threshold);
    if count == 0 {
        return Vec::new();
    }
    finished.sort_by_cached_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(moment_of);
        (!evicted(pod), created, name_of(&pod.metadata).to_owned())
    });
    finished.truncate(count);
    finished
}

#[async_trait]
impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage-collector-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let pods = setup.watch_own::<Pod>();
        let threshold = setup.config.terminated_pod_threshold;
        if threshold > 0 {
            let finished = |pod: &Pod| pods::is_terminal(pod).then(finished_pods).into_iter().collect();
            setup.subscribe_gathering(&pods, GATHER, finished);
        }
        let nodes = setup.read::<Node>();
        let (of_node, queue) = (pods.clone(), setup.queue.clone());
        nodes.subscribe(move |change| {
            let (gone, tainted) =
                (change.new.is_none(), change.new.is_some_and(|node| is_out_of_service(node)));
            if let Some(node) = change.new.or(change.old).filter(|_| gone || tainted) {
                let bound = of_node.on_node(name_of(&node.metadata));
                bound.iter().for_each(|pod| queue.add(ObjectKey::of(&**pod)));
            }
        });
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            pods,
            nodes,
            threshold,
            missing_since: Mutex::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        if *key == finished_pods() {
            self.trim_finished().await?;
            return Ok(Action::Done);
        }
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        match plan(&pod, self.node_of(&pod)) {
            Step::Keep => {}
            Step::Wait(left) => return Ok(Action::RequeueAfter(left)),
            Step::Delete(why) => {
                if why != Why::NodeGone || self.is_really_gone(&pod).await? {
                    self.delete(&pod, why).await?;
                }
            }
        }
        Ok(Action::Done)
    }
}

/// Somebody said that the node is out of service, and it does not claim otherwise.
fn is_out_of_service(node: &Node) -> bool {
    let all = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions::is_true(all, "Ready") {
        return false;
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().any(|taint| taint.key == "node.kubernetes.io/out-of-service")
}

impl PodGarbageCollector {
    fn node_of(&self, pod: &Pod) -> NodeState {
        let Some(name) = pods::node_name(pod) else { return NodeState::Unbound };
        let mut missing = self.missing_since.lock();
        match self.nodes.get(&ObjectKey::cluster(name)) {
            Some(node) => {
                missing.remove(name);
                NodeState::There { out_of_service: is_out_of_service(&node) }
            }
            None => {
                NodeState::MissingFor(missing.entry(name.to_owned()).or_insert_with(Instant::now).elapsed())
            }
        }
    }

    async fn is_really_gone(&self, pod: &Pod) -> Result<bool, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        Ok(api.get_metadata_opt(pods::node_name(pod).unwrap_or_default()).await?.is_none())
    }

    async fn delete(&self, pod: &Pod, why: Why) -> Result<(), kube::Error> {
        if !pods::is_terminal(pod) && !self.mark_failed(pod, why).await? {
            return Ok(());
        }
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        delete_exactly(&self.client, pod, now).await
    }

    /// A pod that nobody runs any more has failed, for those who count it. Whether it is still there.
    async fn mark_failed(&self, pod: &Pod, why: Why) -> Result<bool, kube::Error> {
        let mut status = json!({"phase": "Failed"});
        if why == Why::NodeGone {
            status["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": self.clock.time(),
            }]);
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let (name, params) = (name_of(&pod.metadata), PatchParams::default());
        match api.patch_status(name, &params, &Patch::Strategic(patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn trim_finished(&self) -> Result<(), kube::Error> {
        let mut finished = self.pods.all();
        finished.retain(|pod| pods::is_terminal(pod) && !pods::is_terminating(pod));
        for pod in surplus(finished, self.threshold) {
            self.delete(&pod, Why::TooManyFinished).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(going: bool) -> Pod {
        let stamp = if going { json!("1970-01-01T00:00:00Z") } else { json!(null) };
        serde_json::from_value(json!({"metadata": {"deletionTimestamp": stamp}})).unwrap()
    }

    #[test]
    fn a_pod_of_a_missing_node_goes_after_a_while() {
        assert_eq!(
            plan(&pod(false), NodeState::MissingFor(Duration::from_secs(10))),
            Step::Wait(Duration::from_secs(30))
        );
        assert_eq!(plan(&pod(false), NodeState::MissingFor(QUARANTINE)), Step::Delete(Why::NodeGone));
    }

    #[test]
    fn a_pod_deleted_before_it_was_bound_goes_at_once() {
        assert_eq!(plan(&pod(true), NodeState::Unbound), Step::Delete(Why::UnscheduledTerminating));
        assert_eq!(plan(&pod(false), NodeState::Unbound), Step::Keep);
    }

    #[test]
    fn a_terminating_pod_of_a_living_node_is_left_to_its_agent() {
        assert_eq!(plan(&pod(true), NodeState::There { out_of_service: false }), Step::Keep);
        assert_eq!(
            plan(&pod(true), NodeState::There { out_of_service: true }),
            Step::Delete(Why::OutOfService)
        );
    }

    #[test]
    fn a_ready_node_is_in_service_whatever_its_taints_say() {
        let node = |ready: &str| -> Node {
            let taints = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value(json!({"metadata": {}, "spec": {"taints": taints}, "status": status}))
                .unwrap()
        };
        assert!(is_out_of_service(&node("Unknown")));
        assert!(!is_out_of_service(&node("True")));
    }

    #[test]
    fn of_finished_pods_the_evicted_and_then_the_oldest_go() {
        let finished = |name: &str, created: i64, reason: Option<&str>| -> Arc<Pod> {
            let created = chrono::DateTime::from_timestamp(created, 0).unwrap().to_rfc3339();
            let meta = json!({"name": name, "creationTimestamp": created});
            let status = json!({"phase": "Failed", "reason": reason});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap())
        };
        let all = vec![
            finished("young", 9, None),
            finished("old", 1, None),
            finished("evicted", 5, Some("Evicted")),
        ];
        let names = |threshold| -> Vec<String> {
            surplus(all.clone(), threshold).iter().map(|pod| name_of(&pod.metadata).to_owned()).collect()
        };
        assert_eq!(names(1), ["evicted", "old"]);
        assert!(names(3).is_empty());
    }
}
