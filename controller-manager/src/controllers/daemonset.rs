//! `daemonset-controller`: keeps one pod on each node that takes it.
//!
//! # Watches
//! DaemonSets, pods by their controlling owner or labels, nodes, ControllerRevisions.
//!
//! # Writes
//! Pods, ControllerRevisions, the DaemonSet's status.
//!
//! # Guarantees
//! At most one pod a node (during an update with surge: two). Pods are pinned by node affinity to the
//! node's name, so the scheduler binds them; they tolerate the taints of nodes in trouble, so they stay. A
//! rolling update keeps at most `maxUnavailable` nodes without an available pod.
//!
//! # Differs from Kubernetes
//! A failed pod is deleted and made again with the queue's back-off instead of one of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api_types::int_or_percent::{Rounding, scaled};
use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::expectations::Expectations;
use crate::informers::{Change, Informer};
use crate::key::ObjectKey;
use crate::node_fit::{Fit, fit};
use crate::owners::{self, label, name_of};
use crate::pod_control::{PodControl, claim_all, pod_of, slow_start};
use crate::pods::{Availability, availability};
use crate::revisions::{self, HASH};

/// Pods created or deleted in one reconcile at most.
const BURST_MAX: usize = 250;

/// The taints of nodes in trouble, which daemons stay on.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

pub(crate) struct DaemonSetController {
    client: Client,
    clock: Clock,
    sets: Arc<Informer<DaemonSet>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    revisions: Arc<Informer<ControllerRevision>>,
    control: PodControl,
    expectations: Expectations,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(String),
    Delete(Arc<Pod>),
}

/// What `plan` sees.
struct Observed<'a> {
    set: &'a DaemonSet,
    nodes: &'a [Arc<Node>],
    pods: &'a [Arc<Pod>],
    /// The hash of the current template.
    hash: &'a str,
    now: DateTime<Utc>,
}

/// A node and the set's pods there.
struct Place<'a> {
    node: &'a Node,
    fit: Fit,
    /// Neither finished nor going, oldest first.
    active: Vec<&'a Arc<Pod>>,
    failed: Vec<&'a Arc<Pod>>,
    going: usize,
}

/// The node a pod is on or pinned to.
fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names =
        fields.filter(|field| field.key == "metadata.name").filter_map(|field| field.values.as_ref());
    names.next()?.first().map(String::as_str)
}

fn tolerations(spec: &DaemonSetSpec) -> Vec<Toleration> {
    let host_network = spec.template.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let network = host_network.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let tolerate = |(key, effect): (&str, &str)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    TOLERATED.into_iter().chain(network).map(tolerate).collect()
}

fn places<'a>(observed: &Observed<'a>, spec: &DaemonSetSpec) -> Vec<Place<'a>> {
    let template = spec.template.spec.clone().unwrap_or_default();
    let extra = tolerations(spec);
    let mut on_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in observed.pods {
        if let Some(node) = node_of(pod) {
            on_node.entry(node).or_default().push(pod);
        }
    }
    let place = |node: &'a Arc<Node>| {
        let mut all = on_node.remove(name_of(&node.metadata)).unwrap_or_default();
        all.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
        let going = all.iter().filter(|pod| pods::is_terminating(pod)).count();
        all.retain(|pod| !pods::is_terminating(pod));
        let (failed, active) = all.into_iter().partition(|pod| pods::is_terminal(pod));
        Place { node, fit: fit(&template, &extra, node), active, failed, going }
    };
    observed.nodes.iter().map(place).collect()
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    let Some(spec) = observed.set.spec.as_ref() else { return Vec::new() };
    if owners::is_deleting(&observed.set.metadata) || owners::is_empty(&spec.selector) {
        return Vec::new();
    }
    let places = places(observed, spec);
    let (max_surge, max_unavailable) = limits(spec, &places);
    let mut steps = Vec::new();
    for place in &places {
        steps.extend(place.failed.iter().map(|pod| Step::Delete((*pod).clone())));
        let here = name_of(&place.node.metadata);
        match place.fit {
            Fit::No => steps.extend(place.active.iter().map(|pod| Step::Delete((*pod).clone()))),
            Fit::Run
                if place.active.is_empty()
                    && (place.going == 0 || max_surge > 0)
                    && place.failed.is_empty() =>
            {
                steps.push(Step::Create(here.to_owned()));
            }
            Fit::Run | Fit::Stay => {
                let allowed = if max_surge > 0 { keep_with_surge(place, observed.hash) } else { 1 };
                steps.extend(place.active.iter().skip(allowed).map(|pod| Step::Delete((*pod).clone())));
            }
        }
    }
    if steps.is_empty() && !is_on_delete(spec) {
        steps = roll(observed, spec, &places, max_surge, max_unavailable);
    }
    steps.truncate(BURST_MAX);
    steps
}

/// Two pods may be there while one is old and one is new.
fn keep_with_surge(place: &Place<'_>, hash: &str) -> usize {
    let new = place.active.iter().filter(|pod| label(&pod.metadata, HASH) == Some(hash)).count();
    if new == 1 && place.active.len() == 2 { 2 } else { 1 }
}

fn is_on_delete(spec: &DaemonSetSpec) -> bool {
    spec.update_strategy.as_ref().is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"))
}

fn limits(spec: &DaemonSetSpec, places: &[Place<'_>]) -> (usize, usize) {
    let desired =
        i32::try_from(places.iter().filter(|place| place.fit == Fit::Run).count()).unwrap_or(i32::MAX);
    let rolling =
        spec.update_strategy.clone().and_then(|strategy| strategy.rolling_update).unwrap_or_default();
    let count = |value: Option<_>, or: i32| {
        let count = value.and_then(|value| scaled(&value, desired, Rounding::Up).ok()).unwrap_or(or);
        usize::try_from(count).unwrap_or(0)
    };
    let surge = count(rolling.max_surge, 0);
    let unavailable = count(rolling.max_unavailable, 1);
    (surge, if surge == 0 { unavailable.max(1) } else { unavailable })
}

fn roll(
    observed: &Observed<'_>,
    spec: &DaemonSetSpec,
    places: &[Place<'_>],
    surge: usize,
    unavailable: usize,
) -> Vec<Step> {
    let is_new = |pod: &Pod| label(&pod.metadata, HASH) == Some(observed.hash);
    let works =
        |pod: &Pod| availability(pod, spec.min_ready_seconds, observed.now) == Availability::Available;
    let wanted: Vec<_> = places.iter().filter(|place| place.fit == Fit::Run).collect();
    let down = wanted.iter().filter(|place| !place.active.iter().any(|pod| works(pod))).count();
    let surging = wanted.iter().filter(|place| place.active.len() > 1).count();
    let (mut may_go, mut may_come) = (unavailable.saturating_sub(down), surge.saturating_sub(surging));
    let mut steps = Vec::new();
    for place in wanted {
        let new = place.active.iter().find(|pod| is_new(pod));
        let Some(old) = place.active.iter().find(|pod| !is_new(pod)) else { continue };
        match new {
            Some(new) if works(new) || !works(old) => steps.push(Step::Delete((*old).clone())),
            Some(_) => {}
            None if !works(old) => steps.push(Step::Delete((*old).clone())),
            None if may_come > 0 => {
                may_come -= 1;
                steps.push(Step::Create(name_of(&place.node.metadata).to_owned()));
            }
            None if surge == 0 && may_go > 0 => {
                may_go -= 1;
                steps.push(Step::Delete((*old).clone()));
            }
            None => {}
        }
    }
    steps
}

fn status(observed: &Observed<'_>, spec: &DaemonSetSpec) -> (DaemonSetStatus, Option<Duration>) {
    let (mut desired, mut current, mut misplaced, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for place in places(observed, spec) {
        if place.fit != Fit::Run {
            misplaced += i32::from(!place.active.is_empty() && place.fit == Fit::No);
            if place.fit == Fit::No || place.active.is_empty() {
                continue;
            }
        }
        desired += 1;
        current += i32::from(!place.active.is_empty());
        let newest = place.active.iter().find(|pod| label(&pod.metadata, HASH) == Some(observed.hash));
        updated += i32::from(newest.is_some());
        let states: Vec<_> =
            place.active.iter().map(|pod| availability(pod, spec.min_ready_seconds, observed.now)).collect();
        ready += i32::from(states.iter().any(|state| *state != Availability::NotReady));
        available += i32::from(states.contains(&Availability::Available));
        for state in states {
            if let Availability::In(wait) = state {
                next = Some(next.map_or(wait, |earlier| earlier.min(wait)));
            }
        }
    }
    let old = observed.set.status.clone().unwrap_or_default();
    let status = DaemonSetStatus {
        current_number_scheduled: current,
        desired_number_scheduled: desired,
        number_misscheduled: misplaced,
        number_ready: ready,
        number_available: Some(available).filter(|count| *count > 0),
        number_unavailable: Some(desired - available).filter(|count| *count > 0),
        updated_number_scheduled: Some(updated).filter(|count| *count > 0),
        observed_generation: observed.set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    (status, next)
}

fn pod_for(set: &DaemonSet, spec: &DaemonSetSpec, node: &str, hash: &str) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod =
        pod_of(&spec.template, owners::controller_reference(set), namespace, name_of(&set.metadata));
    pod.metadata.labels.get_or_insert_default().insert(HASH.to_owned(), hash.to_owned());
    let inner = pod.spec.get_or_insert_default();
    inner.tolerations.get_or_insert_default().extend(tolerations(spec));
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    let affinity = inner.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}

#[async_trait]
impl Controller for DaemonSetController {
    const NAME: &'static str = "daemonset-controller";
    const CONCURRENCY: usize = 2;

    fn watches(setup: &Setup<'_>) -> Self {
        let sets = setup.watch_own::<DaemonSet>();
        let selecting = sets.clone();
        let pods = setup.watch::<Pod>(move |pod| keys_of(pod, &selecting));
        let nodes = setup.read::<Node>();
        let (queue, all) = (setup.queue.clone(), sets.clone());
        nodes.subscribe(move |change| {
            if matters(change) {
                all.all().iter().for_each(|set| queue.add(ObjectKey::of(&**set)));
            }
        });
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            sets,
            pods,
            nodes,
            revisions: setup.read::<ControllerRevision>(),
            control: PodControl::new(setup.client.clone(), setup.events()),
            expectations: Expectations::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Action::Done);
        };
        let Some(spec) = set.spec.as_ref().filter(|_| !owners::is_deleting(&set.metadata)) else {
            return Ok(Action::Done);
        };
        let settled = self.expectations.are_met(key, &*self.pods);
        let pods =
            claim_all(&self.client, &*set, &spec.selector, self.pods.in_namespace(&key.namespace)).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history =
            revisions::ensure(&self.client, &self.revisions, &*set, &spec.template, collisions).await?;
        let hash = revisions::hash_of(&history.update);
        let nodes = self.nodes.all();
        let observed = Observed { set: &set, nodes: &nodes, pods: &pods, hash, now: self.clock.now() };
        if settled {
            self.apply(key, &set, spec, hash, plan(&observed)).await?;
        }
        let (status, next) = status(&observed, spec);
        self.write_status(&set, status).await?;
        let in_use: BTreeSet<String> =
            pods.iter().filter_map(|pod| label(&pod.metadata, HASH)).map(ToOwned::to_owned).collect();
        revisions::forget_old(&self.client, &history, &in_use, spec.revision_history_limit).await?;
        Ok(Action::after(next))
    }
}

/// Whether a change of a node can change where daemons run; heartbeats cannot.
fn matters(change: Change<'_, Node>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

/// The sets that a change of `pod` concerns.
fn keys_of(pod: &Pod, sets: &Informer<DaemonSet>) -> Vec<ObjectKey> {
    if let Some(key) = owners::controller_key::<DaemonSet>(&pod.metadata) {
        return vec![key];
    }
    if owners::controller_of(&pod.metadata).is_some() {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let selecting = sets.in_namespace(namespace).into_iter().filter(|set| {
        set.spec.as_ref().is_some_and(|spec| {
            !owners::is_empty(&spec.selector) && owners::selects(&spec.selector, pod.metadata.labels.as_ref())
        })
    });
    selecting.map(|set| ObjectKey::of(&*set)).collect()
}

impl DaemonSetController {
    async fn apply(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        spec: &DaemonSetSpec,
        hash: &str,
        steps: Vec<Step>,
    ) -> Result<(), kube::Error> {
        let (mut nodes, mut gone) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Create(node) => nodes.push(node),
                Step::Delete(pod) => gone.push(pod),
            }
        }
        let deletions = gone.iter().map(|pod| async {
            self.control.delete(set, pod).await?;
            self.expectations.deleted(key, &**pod);
            Ok(())
        });
        join_all(deletions).await.into_iter().collect::<Result<Vec<()>, kube::Error>>()?;
        let nodes = &nodes;
        slow_start(nodes.len(), |index| async move {
            let created = self.control.create(set, &pod_for(set, spec, &nodes[index], hash)).await?;
            self.expectations.created(key, &self.pods, &created);
            Ok(())
        })
        .await
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), namespace);
        let wanted = DaemonSet { status: Some(status), ..set.clone() };
        api.replace_status(name_of(&set.metadata), &PostParams::default(), &wanted).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(strategy: serde_json::Value) -> DaemonSet {
        let spec = json!({
            "selector": {"matchLabels": {"app": "d"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}},
        });
        serde_json::from_value(
            json!({"metadata": {"name": "d", "namespace": "ns", "uid": "d"}, "spec": spec}),
        )
        .unwrap()
    }

    fn node(name: &str, taints: serde_json::Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).unwrap(),
        )
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "labels": {HASH: hash}}, "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn check(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], expected: &[&str]) {
        let told: Vec<String> = plan(&Observed { set, nodes, pods, hash: "new", now: DateTime::UNIX_EPOCH })
            .iter()
            .map(|step| match step {
                Step::Create(node) => format!("create on {node}"),
                Step::Delete(pod) => format!("delete {}", name_of(&pod.metadata)),
            })
            .collect();
        assert_eq!(told, expected);
    }

    fn two_nodes() -> [Arc<Node>; 2] {
        [node("n1", json!([])), node("n2", json!([]))]
    }

    #[test]
    fn each_node_gets_a_pod() {
        check(&set(json!({})), &two_nodes(), &[pod("a", "n1", "new", true)], &["create on n2"]);
    }

    #[test]
    fn a_tainted_node_gets_none_but_one_in_trouble_does() {
        let nodes = [
            node("n1", json!([{"key": "mine", "effect": "NoSchedule"}])),
            node("n2", json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])),
        ];
        check(&set(json!({})), &nodes, &[], &["create on n2"]);
    }

    #[test]
    fn a_second_pod_on_a_node_goes() {
        let pods = [pod("a", "n1", "new", true), pod("b", "n1", "new", true), pod("c", "n2", "new", true)];
        check(&set(json!({})), &two_nodes(), &pods, &["delete b"]);
    }

    #[test]
    fn an_update_takes_one_node_at_a_time() {
        check(
            &set(json!({})),
            &two_nodes(),
            &[pod("a", "n1", "old", true), pod("b", "n2", "old", true)],
            &["delete a"],
        );
        check(
            &set(json!({})),
            &two_nodes(),
            &[pod("a", "n1", "new", false), pod("b", "n2", "old", true)],
            &[],
        );
        check(
            &set(json!({})),
            &two_nodes(),
            &[pod("a", "n1", "new", true), pod("b", "n2", "old", true)],
            &["delete b"],
        );
    }

    #[test]
    fn an_update_with_surge_starts_the_new_pod_first() {
        let surge = set(json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
        let nodes = [node("n1", json!([]))];
        check(&surge, &nodes, &[pod("a", "n1", "old", true)], &["create on n1"]);
        check(&surge, &nodes, &[pod("a", "n1", "old", true), pod("b", "n1", "new", false)], &[]);
        check(&surge, &nodes, &[pod("a", "n1", "old", true), pod("b", "n1", "new", true)], &["delete a"]);
    }

    #[test]
    fn the_pod_is_pinned_to_its_node() {
        let set = set(json!({}));
        let pod = pod_for(&set, set.spec.as_ref().unwrap(), "n7", "h");
        assert_eq!(node_of(&pod), Some("n7"));
    }
}
