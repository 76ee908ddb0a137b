//! `node-lifecycle-controller`: notices that a node is silent and taints nodes by their conditions.
//!
//! `health` says what is known of a silent node, `taints` what follows from conditions, `zones` how many
//! nodes may be emptied at a time.
//!
//! # Watches
//! Nodes, and the leases in `kube-node-lease`.
//!
//! # Writes
//! Node conditions (Unknown when silent), node taints and the `beta.kubernetes.io` copies of labels, and the
//! Ready condition of pods on nodes that fell silent.
//!
//! # Guarantees
//! A node that renews neither its lease nor its status for the grace period (50 s) is Unknown; silence is
//! measured on this process' clock from when it last saw a renewal, so skewed clocks and a restart of
//! this process evict nobody early. Only taints of this controller are touched. Of each zone one node in ten
//! seconds is emptied; fewer or none when much of the zone is not ready; none at all while no node is ready.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::controllers::node_lifecycle::health::{conditions_of, is_ready, silenced};
use crate::controllers::node_lifecycle::taints::{Eviction, evicting, is_evicting, taints};
use crate::controllers::node_lifecycle::zones::{ZoneKey, Zones};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{label, name_of};
use crate::pods::ready_condition;
use crate::queue::Queue;

mod health;
mod taints;
mod zones;

/// Labels that clients of old know under another name.
const LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
/// Nodes that say nothing about their zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

pub(crate) struct NodeLifecycle {
    client: Client,
    clock: Clock,
    events: Events,
    queue: Queue,
    grace: Duration,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    heard: Arc<Mutex<HashMap<String, Instant>>>,
    zones: Mutex<Zones>,
    /// The nodes that were told of, by uid.
    registered: Mutex<HashMap<String, Option<String>>>,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Labels(Vec<(String, String)>),
    Conditions(Vec<NodeCondition>),
    Taints(Vec<Taint>),
}

fn plan(node: &Node, silent: bool, eviction: Eviction, now: DateTime<Utc>) -> Vec<Step> {
    let mut steps = Vec::new();
    let missing = LABELS.iter().filter_map(|(stable, copy)| {
        let value = label(&node.metadata, stable)?;
        (label(&node.metadata, copy) != Some(value)).then(|| ((*copy).to_owned(), value.to_owned()))
    });
    let missing: Vec<_> = missing.collect();
    if !missing.is_empty() {
        steps.push(Step::Labels(missing));
    }
    let all = conditions_of(node);
    let after = if silent { silenced(node, now) } else { all.clone() };
    if after != all {
        steps.push(Step::Conditions(after.clone()));
    }
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let old = taints_of(node);
    let wanted = taints(old, &after, unschedulable, eviction, now);
    if wanted != old {
        steps.push(Step::Taints(wanted));
    }
    steps
}

fn taints_of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn zone_of(node: &Node) -> ZoneKey {
    let first = |names: [&str; 2]| {
        names.iter().find_map(|name| label(&node.metadata, name)).unwrap_or_default().to_owned()
    };
    ZoneKey { region: first(REGION), zone: first(ZONE) }
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
                let all = conditions_of(node);
                let ready =
                    api_types::conditions::find(&all, "Ready").filter(|ready| ready.status != "Unknown")?;
                ready.last_heartbeat_time.clone()
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
            queue: setup.queue.clone(),
            grace: setup.config.node_monitor_grace_period,
            nodes,
            pods: setup.read::<Pod>(),
            heard,
            zones: Mutex::new(Zones::new(setup.config.eviction_rates)),
            registered: Mutex::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let node = self.nodes.get(key);
        self.tell_of(&key.name, node.as_deref());
        let Some(node) = node else {
            self.look_at_zones();
            return Ok(Action::Done);
        };
        let silence = self.silence_of(&key.name);
        let silent = silence >= self.grace;
        let (eviction, wait) = self.may_evict(&node, silent);
        for step in plan(&node, silent, eviction, self.clock.now()) {
            self.apply(&node, step).await?;
        }
        if silent {
            self.mark_pods(&node).await?;
        }
        let left = if silent { self.grace } else { self.grace.saturating_sub(silence) };
        let left = wait.map_or(left, |wait| wait.min(left));
        Ok(Action::RequeueAfter(left.max(Duration::from_millis(100))))
    }
}

impl NodeLifecycle {
    fn silence_of(&self, name: &str) -> Duration {
        self.heard.lock().entry(name.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    /// Tells of nodes that came or went.
    fn tell_of(&self, name: &str, node: Option<&Node>) {
        let before = match node {
            Some(node) => self.registered.lock().insert(name.to_owned(), node.metadata.uid.clone()),
            None => self.registered.lock().remove(name),
        };
        match (before, node) {
            (None, Some(node)) => {
                let message = format!("Registered Node {name} in Controller");
                self.events.normal(node, "RegisteredNode", &message);
            }
            (Some(uid), None) => {
                let metadata = ObjectMeta { name: Some(name.to_owned()), uid, ..ObjectMeta::default() };
                let gone = Node { metadata, ..Node::default() };
                self.events.normal(&gone, "RemovingNode", &format!("Removing Node {name} from Controller"));
            }
            _ => {}
        }
    }

    /// Counts who is ready in each zone. When the last node falls, or the first one rises, that concerns all.
    fn look_at_zones(&self) {
        let nodes = self.nodes.all();
        let counted = nodes.iter().filter(|node| label(&node.metadata, EXCLUDED).is_none()).map(|node| {
            let alive = self.silence_of(name_of(&node.metadata)) < self.grace;
            (zone_of(node), alive && is_ready(node))
        });
        let counted: Vec<_> = counted.collect();
        if self.zones.lock().observe(counted.into_iter()) {
            nodes.iter().for_each(|node| self.queue.add(ObjectKey::of(&**node)));
        }
    }

    /// Whether the node may be emptied, and when to ask again if not.
    fn may_evict(&self, node: &Node, silent: bool) -> (Eviction, Option<Duration>) {
        let after = if silent { silenced(node, self.clock.now()) } else { conditions_of(node) };
        let in_trouble = evicting(&after).is_some();
        if in_trouble || self.zones.lock().all_down() {
            self.look_at_zones();
        }
        let mut zones = self.zones.lock();
        match (in_trouble, zones.all_down()) {
            (false, _) => (Eviction::NotYet, None),
            (true, true) => (Eviction::Never, None),
            (true, false) if is_evicting(taints_of(node)) => (Eviction::NotYet, None),
            (true, false) => match zones.take(&zone_of(node), Instant::now()) {
                Ok(()) => (Eviction::Now, None),
                Err(wait) => (Eviction::NotYet, Some(wait)),
            },
        }
    }

    async fn apply(&self, node: &Node, step: Step) -> Result<(), kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let name = name_of(&node.metadata);
        let version = &node.metadata.resource_version;
        match step {
            Step::Labels(labels) => {
                let labels: HashMap<String, String> = labels.into_iter().collect();
                let patch = Patch::Strategic(json!({"metadata": {"labels": labels}}));
                api.patch(name, &PatchParams::default(), &patch).await?;
            }
            Step::Conditions(all) => {
                let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": all}});
                api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                if is_ready(node) {
                    let message = format!("Node {name} status is now: NodeNotReady");
                    self.events.normal(node, "NodeNotReady", &message);
                }
            }
            Step::Taints(taints) => {
                // Taints belong to several; the version keeps a concurrent change of another's from being lost.
                let fresh = api.get(name).await?;
                if taints_of(&fresh) == taints_of(node) {
                    let version = fresh.metadata.resource_version;
                    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
                    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                }
            }
        }
        Ok(())
    }

    /// The pods of a silent node do not serve any more, whichever process saw it fall silent.
    async fn mark_pods(&self, node: &Node) -> Result<(), kube::Error> {
        let pods = self.pods.on_node(name_of(&node.metadata));
        for pod in pods.iter().filter(|pod| pods::is_ready(pod)) {
            self.mark_not_ready(pod).await?;
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
        check_eviction(node, silent, Eviction::Now, expected);
    }

    fn check_eviction(node: &Node, silent: bool, eviction: Eviction, expected: &[&str]) {
        let told: Vec<String> = plan(node, silent, eviction, DateTime::UNIX_EPOCH).iter().map(tell).collect();
        assert_eq!(told, expected);
    }

    fn tell(step: &Step) -> String {
        match step {
            Step::Conditions(all) => {
                let ready = api_types::conditions::find(all, "Ready").unwrap();
                format!("Ready {} {}", ready.status, ready.reason.as_deref().unwrap_or_default())
            }
            Step::Taints(taints) => {
                let short =
                    |taint: &Taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect);
                format!("taints {}", taints.iter().map(short).collect::<Vec<_>>().join(" "))
            }
            Step::Labels(labels) => format!("labels {labels:?}"),
        }
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_unreachable() {
        let steps =
            ["Ready Unknown NodeStatusUnknown", "taints unreachable:NoSchedule unreachable:NoExecute"];
        check(&node(Some("True"), json!([]), false), true, &steps);
    }

    #[test]
    fn a_ready_node_loses_our_taints_and_keeps_others() {
        let taints = json!([
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}, {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
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

    #[test]
    fn pods_are_driven_off_only_when_that_is_allowed() {
        let node = node(Some("Unknown"), json!([]), false);
        check_eviction(&node, false, Eviction::NotYet, &["taints unreachable:NoSchedule"]);
        check_eviction(&node, false, Eviction::Never, &["taints unreachable:NoSchedule"]);
    }

    #[test]
    fn what_was_begun_goes_on_or_is_taken_back() {
        let taint = |effect: &str| json!({"key": "node.kubernetes.io/not-ready", "effect": effect});
        let node = node(Some("Unknown"), json!([taint("NoExecute"), taint("NoSchedule")]), false);
        let swapped = ["taints unreachable:NoSchedule unreachable:NoExecute"];
        check_eviction(&node, false, Eviction::NotYet, &swapped);
        check_eviction(&node, false, Eviction::Never, &["taints unreachable:NoSchedule"]);
    }

    #[test]
    fn old_names_of_labels_follow_the_new_ones() {
        let mut node = node(Some("True"), json!([]), false);
        node.metadata.labels = Some([("kubernetes.io/os".to_owned(), "linux".to_owned())].into());
        check(&node, false, &["labels [(\"beta.kubernetes.io/os\", \"linux\")]"]);
    }

    #[test]
    fn a_node_that_never_reported_is_unknown_since_it_came() {
        let steps = plan(&node(None, json!([]), false), true, Eviction::Now, DateTime::UNIX_EPOCH);
        let Some(Step::Conditions(all)) = steps.first() else { panic!("{steps:?}") };
        assert!(all.iter().all(|one| one.reason.as_deref() == Some("NodeStatusNeverUpdated")));
        assert_eq!(all.len(), 4);
    }
}
