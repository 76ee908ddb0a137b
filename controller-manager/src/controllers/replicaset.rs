//! `replicaset-controller`: keeps as many pods as a ReplicaSet asks for.
//!
//! # Watches
//! ReplicaSets, and pods by their controlling owner; a pod without controller wakes the sets that select it.
//!
//! # Writes
//! Pods (create, delete, owner references) and the ReplicaSet's status.
//!
//! # Guarantees
//! Never a pod too many, also when its cache lags or it is restarted in between. Pods without controller
//! that match are adopted, pods that no longer match are released. Of too many pods those go first that are
//! worth least (unbound, pending, not ready, cheap, crowded, young).
//!
//! # Differs from Kubernetes
//! Neighbours for the deletion order are counted within the set only, not over all sets of a Deployment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{conditions, pods};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, time_of};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::expectations::Expectations;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners;
use crate::pod_control::{PodControl, claim_all, pod_of, slow_start};
use crate::pods::{Availability, availability, deletion_order};

/// Pods created or deleted in one reconcile at most.
const BURST_MAX: usize = 500;

pub(crate) struct ReplicaSetController {
    client: Client,
    clock: Clock,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
    control: PodControl,
    expectations: Expectations,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
enum Step {
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// What `plan` sees.
struct Observed<'a> {
    set: &'a ReplicaSet,
    /// The set's pods that are not finished.
    active: &'a [Arc<Pod>],
    /// Whether the cache shows all that was done before.
    settled: bool,
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    if !observed.settled || owners::is_deleting(&observed.set.metadata) {
        return Vec::new();
    }
    let wanted = usize::try_from(wanted(observed.set)).unwrap_or(0);
    let have = observed.active.len();
    match wanted.cmp(&have) {
        std::cmp::Ordering::Greater => vec![Step::Create((wanted - have).min(BURST_MAX))],
        std::cmp::Ordering::Less => {
            vec![Step::Delete(surplus(observed.active, (have - wanted).min(BURST_MAX)))]
        }
        std::cmp::Ordering::Equal => Vec::new(),
    }
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn surplus(active: &[Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for node in active.iter().filter_map(|pod| pods::node_name(pod)) {
        *on_node.entry(node).or_default() += 1;
    }
    let neighbours =
        |pod: &Pod| pods::node_name(pod).and_then(|node| on_node.get(node)).copied().unwrap_or(0);
    let mut ranked = active.to_vec();
    ranked.sort_by(|one, other| deletion_order(one, other, neighbours));
    ranked.truncate(count);
    ranked
}

/// The status that the pods show, and when it will change by the passing of time.
fn status(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&str>,
    now: DateTime<Utc>,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template_labels =
        spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels).unwrap_or_default();
    let (mut replicas, mut labeled, mut ready, mut available, mut terminating) = (0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in owned {
        if pods::is_terminating(pod) && !pods::is_terminal(pod) {
            terminating += 1;
        }
        if !pods::is_active(pod) {
            continue;
        }
        replicas += 1;
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        labeled += i32::from(template_labels.iter().all(|(name, value)| labels.get(name) == Some(value)));
        match availability(pod, spec.min_ready_seconds, now) {
            Availability::Available => (ready, available) = (ready + 1, available + 1),
            Availability::In(wait) => {
                ready += 1;
                next = Some(next.map_or(wait, |earlier| earlier.min(wait)));
            }
            Availability::NotReady => {}
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: Some(labeled),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        terminating_replicas: Some(terminating),
        observed_generation: set.metadata.generation,
        conditions: failure_condition(old.conditions, failure, now),
    };
    (status, next)
}

fn failure_condition(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&str>,
    now: DateTime<Utc>,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut all = old.unwrap_or_default();
    match failure {
        None => all.retain(|one| one.type_ != "ReplicaFailure"),
        Some(message) => {
            conditions::set(
                &mut all,
                ReplicaSetCondition {
                    type_: "ReplicaFailure".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("FailedCreate".to_owned()),
                    message: Some(message.to_owned()),
                    last_transition_time: Some(time_of(now)),
                },
            );
        }
    }
    (!all.is_empty()).then_some(all)
}

#[async_trait]
impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let sets = setup.watch_own::<ReplicaSet>();
        let selecting = sets.clone();
        let pods = setup.watch::<Pod>(move |pod| keys_of(pod, &selecting));
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            sets,
            pods,
            control: PodControl::new(setup.client.clone(), setup.events()),
            expectations: Expectations::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Action::Done);
        };
        let settled = self.expectations.are_met(key, &*self.pods);
        let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let owned = claim_all(&self.client, &*set, &selector, self.pods.in_namespace(&key.namespace)).await?;
        let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let done = self.apply(key, &set, plan(&Observed { set: &set, active: &active, settled })).await;
        let failure = done.as_ref().err().map(ToString::to_string);
        let (status, next) = status(&set, &owned, failure.as_deref(), self.clock.now());
        self.write_status(&set, status).await?;
        done?;
        Ok(Action::after(next))
    }
}

/// The sets that a change of `pod` concerns.
fn keys_of(pod: &Pod, sets: &Informer<ReplicaSet>) -> Vec<ObjectKey> {
    if let Some(key) = owners::controller_key::<ReplicaSet>(&pod.metadata) {
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

impl ReplicaSetController {
    async fn apply(&self, key: &ObjectKey, set: &ReplicaSet, steps: Vec<Step>) -> Result<(), kube::Error> {
        for step in steps {
            match step {
                Step::Create(count) => slow_start(count, |_| self.create(key, set)).await?,
                Step::Delete(pods) => {
                    let deletions = pods.iter().map(|pod| self.delete(key, set, pod));
                    join_all(deletions).await.into_iter().collect::<Result<Vec<()>, _>>()?;
                }
            }
        }
        Ok(())
    }

    async fn create(&self, key: &ObjectKey, set: &ReplicaSet) -> Result<(), kube::Error> {
        let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        let pod = pod_of(&template, owners::controller_reference(set), &key.namespace, &key.name);
        let created = self.control.create(set, &pod).await?;
        self.expectations.created(key, &self.pods, &created);
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &ReplicaSet, pod: &Pod) -> Result<(), kube::Error> {
        self.control.delete(set, pod).await?;
        self.expectations.deleted(key, pod);
        Ok(())
    }

    async fn write_status(&self, set: &ReplicaSet, status: ReplicaSetStatus) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        let wanted = ReplicaSet { status: Some(status), ..set.clone() };
        api.replace_status(owners::name_of(&set.metadata), &PostParams::default(), &wanted).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, node: Option<&str>, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": if node.is_some() { "Running" } else { "Pending" },
                       "conditions": [{"type": "Ready", "status": status}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn check(replicas: i32, active: &[Arc<Pod>], settled: bool, expected: &[&str]) {
        let set = set(replicas);
        let steps = plan(&Observed { set: &set, active, settled });
        let told: Vec<String> = steps.iter().map(tell).collect();
        assert_eq!(told, expected);
    }

    fn tell(step: &Step) -> String {
        match step {
            Step::Create(count) => format!("create {count}"),
            Step::Delete(pods) => {
                let names: Vec<_> = pods.iter().map(|pod| owners::name_of(&pod.metadata)).collect();
                format!("delete {}", names.join(" "))
            }
        }
    }

    #[test]
    fn missing_pods_are_created() {
        check(3, &[pod("a", Some("n"), true)], true, &["create 2"]);
    }

    #[test]
    fn nothing_is_created_while_the_cache_lags() {
        check(3, &[], false, &[]);
    }

    #[test]
    fn the_least_valuable_pods_go_first() {
        let pods =
            [pod("ready", Some("n"), true), pod("broken", Some("n"), false), pod("unbound", None, false)];
        check(1, &pods, true, &["delete unbound broken"]);
    }

    #[test]
    fn of_two_alike_the_one_among_more_neighbours_goes() {
        let pods = [pod("alone", Some("n1"), true), pod("b", Some("n2"), true), pod("c", Some("n2"), true)];
        check(2, &pods, true, &["delete b"]);
    }

    #[test]
    fn one_burst_is_bounded() {
        check(2000, &[], true, &["create 500"]);
    }

    #[test]
    fn a_failure_shows_as_condition_and_goes_again() {
        let now = DateTime::UNIX_EPOCH;
        let (failed, _) = status(&set(1), &[], Some("quota"), now);
        assert_eq!(failed.conditions.as_ref().unwrap()[0].type_, "ReplicaFailure");
        let (fine, _) = status(&ReplicaSet { status: Some(failed), ..set(1) }, &[], None, now);
        assert_eq!(fine.conditions, None);
    }
}
