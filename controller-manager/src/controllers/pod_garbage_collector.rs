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
//! pods deleted before they were bound; terminating pods on nodes tainted `out-of-service`; and the oldest
//! finished pods beyond the threshold.
//!
//! # Differs from Kubernetes
//! Acts on changes and per pod rather than every 20 s.

use std::sync::Arc;
use std::time::Duration;

use api_types::pods;
use async_trait::async_trait;
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use tokio::time::Instant;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::name_of;
use crate::pod_control::delete_exactly;

/// How long a node must be missing before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);

pub(crate) struct PodGarbageCollector {
    client: Client,
    clock: Clock,
    events: Events,
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
    Delete(&'static str),
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
        NodeState::Unbound if going => Step::Delete("UnscheduledTerminating"),
        NodeState::There { out_of_service: true } if going => Step::Delete("OutOfService"),
        NodeState::MissingFor(time) if time >= QUARANTINE => Step::Delete("NodeGone"),
        NodeState::MissingFor(time) => Step::Wait(QUARANTINE - time),
        _ => Step::Keep,
    }
}

#[async_trait]
impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage-collector-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let pods = setup.watch_own::<Pod>();
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
            events: setup.events(),
            pods,
            nodes,
            threshold: setup.config.terminated_pod_threshold,
            missing_since: Mutex::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        match plan(&pod, self.node_of(&pod)) {
            Step::Keep => {}
            Step::Wait(left) => return Ok(Action::RequeueAfter(left)),
            Step::Delete(why) => {
                if why != "NodeGone" || self.is_really_gone(&pod).await? {
                    self.delete(&pod, why).await?;
                }
                return Ok(Action::Done);
            }
        }
        if pods::is_terminal(&pod) && self.threshold > 0 {
            self.trim_finished().await?;
        }
        Ok(Action::Done)
    }
}

fn is_out_of_service(node: &Node) -> bool {
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

    async fn delete(&self, pod: &Pod, why: &str) -> Result<(), kube::Error> {
        if !pods::is_terminal(pod) && pods::is_bound(pod) {
            let message = "PodGC: node no longer exists";
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                                   "message": message, "lastTransitionTime": self.clock.time()});
            let patch = json!({"status": {"phase": "Failed", "conditions": [condition]}});
            let api: Api<Pod> =
                Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
            match api
                .patch_status(name_of(&pod.metadata), &PatchParams::default(), &Patch::Strategic(patch))
                .await
            {
                Ok(_) => self.events.normal(pod, why, message),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        delete_exactly(
            &self.client,
            pod,
            DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() },
        )
        .await
    }

    async fn trim_finished(&self) -> Result<(), kube::Error> {
        let mut finished = self.pods.all();
        finished.retain(|pod| pods::is_terminal(pod) && !pods::is_terminating(pod));
        let surplus = finished.len().saturating_sub(self.threshold);
        if surplus == 0 {
            return Ok(());
        }
        finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(moment_of));
        for pod in finished.iter().take(surplus) {
            self.delete(pod, "TooManyFinished").await?;
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
        assert_eq!(plan(&pod(false), NodeState::MissingFor(QUARANTINE)), Step::Delete("NodeGone"));
    }

    #[test]
    fn a_pod_deleted_before_it_was_bound_goes_at_once() {
        assert_eq!(plan(&pod(true), NodeState::Unbound), Step::Delete("UnscheduledTerminating"));
        assert_eq!(plan(&pod(false), NodeState::Unbound), Step::Keep);
    }

    #[test]
    fn a_terminating_pod_of_a_living_node_is_left_to_its_agent() {
        assert_eq!(plan(&pod(true), NodeState::There { out_of_service: false }), Step::Keep);
        assert_eq!(plan(&pod(true), NodeState::There { out_of_service: true }), Step::Delete("OutOfService"));
    }
}
