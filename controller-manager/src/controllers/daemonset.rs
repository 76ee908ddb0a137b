//! `daemonset-controller`: keeps one pod on each node that takes it.
//!
//! `pod` makes the pod of a node, `rolling` replaces pods of an old template, `status` counts, `failures`
//! keeps pods that fail at once from being replaced without a pause.
//!
//! # Watches
//! DaemonSets, pods by their controlling owner or labels, nodes, ControllerRevisions.
//!
//! # Writes
//! Pods, ControllerRevisions, the DaemonSet's status.
//!
//! # Guarantees
//! At most one pod a node (during an update with surge: two); the next one comes when the one before is
//! gone. Pods are pinned by node affinity to the node's name, so the scheduler binds them; they tolerate the
//! taints of nodes in trouble, so they stay. A rolling update keeps at most `maxUnavailable` nodes without
//! an available pod, or has at most `maxSurge` more. A failed pod is replaced after a back-off from one
//! second to fifteen minutes.
//!
//! # Differs from Kubernetes
//! Pods are told apart by the hash of their template only, not by its deprecated generation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::controllers::daemonset::failures::{Failures, Place as FailedAt};
use crate::controllers::daemonset::pod::{node_of, pod_for, tolerations};
use crate::controllers::daemonset::rolling::{keep_with_surge, limits, roll};
use crate::controllers::daemonset::status::status;
use crate::expectations::Expectations;
use crate::informers::{Change, Informer};
use crate::key::ObjectKey;
use crate::node_fit::{Fit, fit};
use crate::owners::{self, label, name_of};
use crate::pod_control::{PodControl, claim_all, delete_exactly, is_namespace_going, slow_start};
use crate::revisions::{self, HASH, History};

mod failures;
mod pod;
mod rolling;
mod status;

/// Pods created, and pods deleted, in one reconcile at most.
const BURST_MAX: usize = 250;

pub(crate) struct DaemonSetController {
    client: Client,
    clock: Clock,
    events: Events,
    sets: Arc<Informer<DaemonSet>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    revisions: Arc<Informer<ControllerRevision>>,
    control: PodControl,
    expectations: Expectations,
    failures: Failures,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(String),
    Delete(Arc<Pod>),
    /// The pod on this node ended, which a daemon should not.
    Replace(Arc<Pod>, String),
}

/// What `plan` sees.
struct Observed<'a> {
    set: &'a DaemonSet,
    nodes: &'a [Arc<Node>],
    pods: &'a [Arc<Pod>],
    /// The hash of the current template.
    hash: &'a str,
    /// Nodes whose failed pod stays for a while.
    held: &'a BTreeSet<String>,
    now: DateTime<Utc>,
}

impl Observed<'_> {
    fn is_new(&self, pod: &Pod) -> bool {
        label(&pod.metadata, HASH) == Some(self.hash)
    }
}

/// A node and the set's pods there, the bound ones first, then the oldest.
struct Place<'a> {
    node: &'a str,
    /// None when there is no such node.
    fit: Option<Fit>,
    pods: Vec<&'a Arc<Pod>>,
}

/// All nodes and all pods. A pod that ended and is being deleted is left to whoever removes it.
fn places<'a>(observed: &Observed<'a>, spec: &DaemonSetSpec) -> Vec<Place<'a>> {
    let template = spec.template.spec.clone().unwrap_or_default();
    let extra = tolerations(&template);
    let mut on_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| !(pods::is_terminal(pod) && pods::is_terminating(pod))) {
        if let Some(node) = node_of(pod) {
            on_node.entry(node).or_default().push(pod);
        }
    }
    let mut all: Vec<Place<'a>> = Vec::new();
    for node in observed.nodes {
        let name = name_of(&node.metadata);
        let pods = on_node.remove(name).unwrap_or_default();
        all.push(Place { node: name, fit: Some(fit(&template, &extra, node)), pods });
    }
    all.extend(on_node.into_iter().map(|(node, pods)| Place { node, fit: None, pods }));
    for place in &mut all {
        place.pods.sort_by_key(|pod| {
            (!pods::is_bound(pod), pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone())
        });
    }
    all
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    let Some(spec) = observed.set.spec.as_ref() else { return Vec::new() };
    if owners::is_deleting(&observed.set.metadata) || owners::is_empty(&spec.selector) {
        return Vec::new();
    }
    let places = places(observed, spec);
    let limits = limits(spec, &places);
    let mut steps: Vec<Step> =
        places.iter().flat_map(|place| manage(observed, spec, place, limits.surge > 0)).collect();
    if steps.is_empty() && !is_on_delete(spec) {
        steps = roll(observed, spec, &places, limits);
    }
    let (mut creates, mut deletes) = (0, 0);
    steps.retain(|step| {
        let count = if matches!(step, Step::Create(_)) { &mut creates } else { &mut deletes };
        *count += 1;
        *count <= BURST_MAX
    });
    steps
}

/// What one node needs, whatever the template.
fn manage(observed: &Observed<'_>, spec: &DaemonSetSpec, place: &Place<'_>, surges: bool) -> Vec<Step> {
    let live: Vec<&Arc<Pod>> = place.pods.iter().copied().filter(|pod| !pods::is_terminating(pod)).collect();
    let delete = |pod: &Arc<Pod>| Step::Delete(pod.clone());
    match place.fit {
        Some(Fit::Run) if place.pods.is_empty() => vec![Step::Create(place.node.to_owned())],
        Some(Fit::Run | Fit::Stay) => {
            let (ended, running): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
                live.into_iter().partition(|pod| pods::is_terminal(pod));
            let replaced = ended
                .into_iter()
                .filter(|pod| pods::phase(pod) != "Failed" || !observed.held.contains(place.node))
                .map(|pod| Step::Replace(pod.clone(), place.node.to_owned()));
            let mut steps: Vec<Step> = replaced.collect();
            match (surges, running.is_empty()) {
                (true, true) if place.fit == Some(Fit::Run) => {
                    steps.push(Step::Create(place.node.to_owned()));
                }
                (true, false) => steps.extend(keep_with_surge(observed, spec, &running)),
                _ => steps.extend(running.into_iter().skip(1).map(delete)),
            }
            steps
        }
        Some(Fit::No) => live.into_iter().map(delete).collect(),
        // Nobody else removes a pod that waits for a node that is gone.
        None => live.into_iter().filter(|pod| !pods::is_bound(pod)).map(delete).collect(),
    }
}

fn is_on_delete(spec: &DaemonSetSpec) -> bool {
    spec.update_strategy.as_ref().is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"))
}

/// The revisions beyond the limit that no pod needs, the oldest first.
fn surplus<'a>(
    history: &'a History,
    in_use: &BTreeSet<&str>,
    limit: Option<i32>,
) -> Vec<&'a Arc<ControllerRevision>> {
    let current = name_of(&history.update.metadata);
    let old: Vec<_> = history.all.iter().filter(|one| name_of(&one.metadata) != current).collect();
    let count = old.len().saturating_sub(usize::try_from(limit.unwrap_or(10)).unwrap_or(0));
    old.into_iter().filter(|one| !in_use.contains(revisions::hash_of(one))).take(count).collect()
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
            events: setup.events(),
            sets,
            pods,
            nodes,
            revisions: setup.read::<ControllerRevision>(),
            control: PodControl::new(setup.client.clone(), setup.events()),
            expectations: Expectations::default(),
            failures: Failures::default(),
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
        if owners::is_empty(&spec.selector) {
            let why = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.events.warning(&*set, "SelectingAll", why);
            return Ok(Action::Done);
        }
        let settled = self.expectations.are_met(key, &*self.pods);
        let pods =
            claim_all(&self.client, &*set, &spec.selector, self.pods.in_namespace(&key.namespace)).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let known = self.revisions.in_namespace(&key.namespace);
        let known = claim_all(&self.client, &*set, &spec.selector, known).await?;
        let history = revisions::ensure_among(&self.client, known, &*set, &spec.template, collisions).await?;
        for duplicate in revisions::duplicates(&history) {
            // What it writes comes back as changes, and with them the key.
            revisions::merge(&self.client, &history, &duplicate, &pods).await?;
        }
        let (nodes, hash) = (self.nodes.all(), revisions::hash_of(&history.update));
        let (held, wait) = self.failures.held(&set, &pods);
        let observed =
            Observed { set: &set, nodes: &nodes, pods: &pods, hash, held: &held, now: self.clock.now() };
        let done = match settled {
            true => self.apply(key, &observed, spec, plan(&observed)).await,
            false => Ok(()),
        };
        let (mut status, next) = status(&observed, spec, settled);
        if history.collisions > 0 {
            status.collision_count = Some(history.collisions);
        }
        self.write_status(&set, status).await?;
        done?;
        if settled {
            self.forget_old(&history, &pods, spec.revision_history_limit).await?;
        }
        Ok(Action::after(wait.into_iter().chain(next).min()))
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
        observed: &Observed<'_>,
        spec: &DaemonSetSpec,
        steps: Vec<Step>,
    ) -> Result<(), kube::Error> {
        let (set, hash) = (observed.set, observed.hash);
        let (mut nodes, mut gone) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Create(node) => nodes.push(node),
                Step::Delete(pod) => gone.push(pod),
                Step::Replace(pod, node) => {
                    self.tell_ended(set, &pod, &node);
                    gone.push(pod);
                }
            }
        }
        let nodes = &nodes;
        let created = slow_start(nodes.len(), |index| async move {
            match self.control.create(set, &pod_for(set, spec, &nodes[index], hash)).await {
                Ok(created) => self.expectations.created(key, &self.pods, &created),
                Err(error) if is_namespace_going(&error) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })
        .await;
        let deletions = gone.iter().map(|pod| async {
            self.control.delete(set, pod).await?;
            self.expectations.deleted(key, &**pod);
            Ok(())
        });
        join_all(deletions).await.into_iter().collect::<Result<Vec<()>, kube::Error>>()?;
        created
    }

    fn tell_ended(&self, set: &DaemonSet, pod: &Pod, node: &str) {
        let name = ObjectKey::of(pod);
        if pods::phase(pod) == "Failed" {
            self.failures.note(FailedAt::of(set, node));
            let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
            self.events.warning(set, "FailedDaemonPod", &message);
        } else {
            let message = format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
            self.events.normal(set, "SucceededDaemonPod", &message);
        }
    }

    async fn forget_old(
        &self,
        history: &History,
        pods: &[Arc<Pod>],
        limit: Option<i32>,
    ) -> Result<(), kube::Error> {
        let in_use: BTreeSet<&str> = pods.iter().filter_map(|pod| label(&pod.metadata, HASH)).collect();
        for revision in surplus(history, &in_use, limit) {
            delete_exactly(&self.client, &**revision, DeleteParams::default()).await?;
        }
        Ok(())
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
mod tests;
