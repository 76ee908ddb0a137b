//! `node-lifecycle-controller`: notices that a node is silent and taints nodes by their conditions.
//!
//! # Watches
//! Nodes, and the leases in `kube-node-lease`.
//!
//! # Writes
//! Node conditions (Unknown when silent), node taints, and the Ready condition of pods on nodes that are
//! not ready.
//!
//! # Guarantees
//! A node that renews neither its lease nor its status for the grace period (40 s) is Unknown; silence is
//! measured on this process' clock from when it last saw a renewal, so skewed clocks and a restart of
//! this process evict nobody early. Only taints of this controller are touched.
//!
//! # Differs from Kubernetes
//! No zones: evictions are not slowed down when many nodes fail at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{conditions, pods};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, time_of};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::name_of;
use crate::pods::ready_condition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions besides Ready, the status that taints, and the taint.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

pub(crate) struct NodeLifecycle {
    client: Client,
    clock: Clock,
    events: Events,
    grace: Duration,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    heard: Arc<Mutex<HashMap<String, Instant>>>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    SetConditions(Vec<NodeCondition>),
    SetTaints(Vec<Taint>),
    /// Pods there do not serve any more.
    MarkPodsNotReady,
}

fn plan(node: &Node, silent: bool, now: DateTime<Utc>) -> Vec<Step> {
    let mut steps = Vec::new();
    let all = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let after = if silent { silenced(&all, now) } else { all.clone() };
    if after != all {
        steps.push(Step::SetConditions(after.clone()));
    }
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let wanted = taints(&old, &after, unschedulable, now);
    if wanted != old {
        steps.push(Step::SetTaints(wanted));
    }
    if conditions::find(&after, "Ready").is_some_and(|ready| ready.status != "True") {
        steps.push(Step::MarkPodsNotReady);
    }
    steps
}

/// The conditions of a node that is not heard of.
fn silenced(all: &[NodeCondition], now: DateTime<Utc>) -> Vec<NodeCondition> {
    let mut after = all.to_vec();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let unknown = |reason: &str, message: &str, beat| NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: beat,
            last_transition_time: Some(time_of(now)),
        };
        match conditions::find(all, type_) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                let beat = known.last_heartbeat_time.clone();
                conditions::set(
                    &mut after,
                    unknown("NodeStatusUnknown", "Kubelet stopped posting node status.", beat),
                );
            }
            None => {
                let beat = Some(time_of(now));
                conditions::set(
                    &mut after,
                    unknown("NodeStatusNeverUpdated", "Kubelet never posted node status.", beat),
                );
            }
        }
    }
    after
}

/// The taints a node should have: others' as they are, ours by its conditions.
fn taints(old: &[Taint], all: &[NodeCondition], unschedulable: bool, now: DateTime<Utc>) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let ready = conditions::find(all, "Ready").map(|ready| ready.status.as_str());
    match ready {
        Some("True") => {}
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        Some(_) => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        None => wanted.push((NOT_READY, "NoSchedule")),
    }
    let pressing = PRESSURES.iter().filter(|(type_, _)| conditions::is_true(all, type_));
    wanted.extend(pressing.map(|(_, key)| (*key, "NoSchedule")));
    if unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, one)| *one == key)
    };
    let asked =
        |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut after: Vec<Taint> =
        old.iter().filter(|taint| !ours(&taint.key) || asked(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !after.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time = Some(time_of(now));
            after.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: time,
            });
        }
    }
    after
}

#[async_trait]
impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let heard: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
        let nodes = setup.watch_own::<Node>();
        let beats = heard.clone();
        nodes.subscribe(move |change| {
            let beat = |node: &Arc<Node>| {
                let all = node.status.as_ref()?.conditions.as_deref()?;
                conditions::find(all, "Ready")
                    .filter(|ready| ready.status != "Unknown")?
                    .last_heartbeat_time
                    .clone()
            };
            let Some(node) = change.new.or(change.old) else { return };
            let name = name_of(&node.metadata).to_owned();
            match (change.old, change.new) {
                (_, None) => drop(beats.lock().remove(&name)),
                (Some(old), Some(new)) if beat(old) == beat(new) => {}
                _ => drop(beats.lock().insert(name, Instant::now())),
            }
        });
        let leases = setup.read_where::<Lease>("metadata.namespace=kube-node-lease");
        let beats = heard.clone();
        leases.subscribe(move |change| {
            if let Some(lease) = change.new {
                beats.lock().insert(name_of(&lease.metadata).to_owned(), Instant::now());
            }
        });
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            grace: setup.config.node_monitor_grace_period,
            nodes,
            pods: setup.read::<Pod>(),
            heard,
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(node) = self.nodes.get(key) else { return Ok(Action::Done) };
        let silence = self.heard.lock().entry(key.name.clone()).or_insert_with(Instant::now).elapsed();
        let silent = silence >= self.grace;
        for step in plan(&node, silent, self.clock.now()) {
            self.apply(&node, step).await?;
        }
        let left = if silent { self.grace } else { self.grace.saturating_sub(silence) };
        Ok(Action::RequeueAfter(left.max(Duration::from_millis(100))))
    }
}

impl NodeLifecycle {
    async fn apply(&self, node: &Node, step: Step) -> Result<(), kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let name = name_of(&node.metadata);
        let version = &node.metadata.resource_version;
        match step {
            Step::SetConditions(all) => {
                let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": all}});
                api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                self.events.normal(node, "NodeNotReady", &format!("Node {name} status is now: NodeNotReady"));
            }
            Step::SetTaints(taints) => {
                // Taints belong to several; the version keeps a concurrent change of another's from being lost.
                let fresh = api.get(name).await?;
                let unchanged = fresh.spec.as_ref().and_then(|spec| spec.taints.as_ref())
                    == node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
                if unchanged {
                    let version = fresh.metadata.resource_version;
                    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
                    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                }
            }
            Step::MarkPodsNotReady => {
                for pod in self.pods.on_node(name).iter().filter(|pod| pods::is_ready(pod)) {
                    self.mark_not_ready(pod).await?;
                }
            }
        }
        Ok(())
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), kube::Error> {
        let Some(mut ready) = ready_condition(pod).cloned() else { return Ok(()) };
        ready.status = "False".to_owned();
        ready.last_transition_time = Some(self.clock.time());
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [ready]}});
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        match api
            .patch_status(name_of(&pod.metadata), &PatchParams::default(), &Patch::Strategic(patch))
            .await
        {
            Ok(_) => {
                self.events.warning(pod, "NodeNotReady", "Node is not ready");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>, taints: serde_json::Value, unschedulable: bool) -> Node {
        let conditions: Vec<_> =
            ready.iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        let spec = json!({"taints": taints, "unschedulable": unschedulable});
        serde_json::from_value(
            json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}}),
        )
        .unwrap()
    }

    fn check(node: &Node, silent: bool, expected: &[&str]) {
        let told: Vec<String> = plan(node, silent, DateTime::UNIX_EPOCH).iter().map(tell).collect();
        assert_eq!(told, expected);
    }

    fn tell(step: &Step) -> String {
        match step {
            Step::SetConditions(all) => {
                let ready = conditions::find(all, "Ready").unwrap();
                format!("Ready {} {}", ready.status, ready.reason.as_deref().unwrap_or_default())
            }
            Step::SetTaints(taints) => {
                let short =
                    |taint: &Taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect);
                format!("taints {}", taints.iter().map(short).collect::<Vec<_>>().join(" "))
            }
            Step::MarkPodsNotReady => "pods not ready".to_owned(),
        }
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_unreachable() {
        let steps = [
            "Ready Unknown NodeStatusUnknown",
            "taints unreachable:NoSchedule unreachable:NoExecute",
            "pods not ready",
        ];
        check(&node(Some("True"), json!([]), false), true, &steps);
    }

    #[test]
    fn a_ready_node_loses_our_taints_and_keeps_others() {
        let taints = json!([
            {"key": UNREACHABLE, "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"},
            {"key": "mine", "effect": "NoSchedule"},
        ]);
        check(&node(Some("True"), taints, false), false, &["taints mine:NoSchedule"]);
    }

    #[test]
    fn a_node_that_never_reported_is_kept_from_scheduling() {
        check(&node(None, json!([]), false), false, &["taints not-ready:NoSchedule"]);
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        check(&node(Some("True"), json!([]), true), false, &["taints unschedulable:NoSchedule"]);
    }

    #[test]
    fn a_node_as_it_should_be_is_left_alone() {
        check(&node(Some("True"), json!([]), false), false, &[]);
    }
}
