//! The mechanism behind ReplicaSets and ReplicationControllers: as many pods as the owner asks for.
//!
//! Kubernetes runs both kinds on one mechanism, and so does this: a kind says through [`Replicated`] what it
//! wants and how its status is written, [`Replicas`] watches, decides and does. The decisions are pure:
//! [`plan`] says what to create and delete, [`status`] what the pods show.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{conditions, pods};
use chrono::{DateTime, Utc};
use component_base::client::said;
use component_base::clock::{Clock, time_of};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;

use crate::controller::{Action, ReconcileError, Setup};
use crate::expectations::Expectations;
use crate::informers::{Cached, Informer};
use crate::key::ObjectKey;
use crate::owners::{self, uid_of};
use crate::pod_control::{PodControl, claim_all, is_namespace_going, pod_of, slow_start};
use crate::pods::{Availability, availability, deletion_order};

/// Pods created or deleted in one reconcile at most.
const BURST_MAX: usize = 500;
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// A kind that keeps a number of pods made from one template.
pub(crate) trait Replicated:
    Cached + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize
{
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> Option<i32>;
    fn selector(&self) -> LabelSelector;
    fn template(&self) -> PodTemplateSpec;
    /// The conditions that the status has now.
    fn conditions(&self) -> Vec<ReplicaSetCondition>;
    /// The object with this status, or none when it says that already.
    fn with_status(&self, status: ReplicaSetStatus) -> Option<Self>;
}

/// The controller of one such kind.
pub(crate) struct Replicas<K> {
    client: Client,
    clock: Clock,
    sets: Arc<Informer<K>>,
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
    wanted: i32,
    going: bool,
    /// The set's pods that are neither finished nor going.
    active: &'a [Arc<Pod>],
    /// Such pods of all sets that one owner controls together with this one: its own and its siblings'.
    related: &'a [Arc<Pod>],
    /// Whether the cache shows all that was done before.
    settled: bool,
    now: DateTime<Utc>,
}

fn plan(observed: &Observed<'_>) -> Option<Step> {
    if !observed.settled || observed.going {
        return None;
    }
    let wanted = usize::try_from(observed.wanted).unwrap_or(0);
    let have = observed.active.len();
    match wanted.cmp(&have) {
        std::cmp::Ordering::Greater => Some(Step::Create((wanted - have).min(BURST_MAX))),
        std::cmp::Ordering::Less => Some(Step::Delete(surplus(observed, (have - wanted).min(BURST_MAX)))),
        std::cmp::Ordering::Equal => None,
    }
}

/// The `count` pods that are worth least.
fn surplus(observed: &Observed<'_>, count: usize) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for node in observed.related.iter().filter_map(|pod| pods::node_name(pod)) {
        *on_node.entry(node).or_default() += 1;
    }
    let neighbours =
        |pod: &Pod| pods::node_name(pod).and_then(|node| on_node.get(node)).copied().unwrap_or(0);
    let mut ranked = observed.active.to_vec();
    ranked.sort_by(|one, other| deletion_order(one, other, observed.now, neighbours));
    ranked.truncate(count);
    ranked
}

/// Why the pods could not be brought to the number wanted.
struct Failure {
    reason: &'static str,
    message: String,
}

/// The status that the pods show, and when it will change by the passing of time.
fn status<K: Replicated>(
    set: &K,
    owned: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> (ReplicaSetStatus, Option<Duration>) {
    let template_labels = set.template().metadata.and_then(|meta| meta.labels).unwrap_or_default();
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
        let label = |name: &String| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        labeled += i32::from(template_labels.iter().all(|(name, value)| label(name) == Some(value)));
        match availability(pod, set.min_ready_seconds(), now) {
            Availability::Available => (ready, available) = (ready + 1, available + 1),
            Availability::In(wait) => {
                ready += 1;
                next = Some(next.map_or(wait, |earlier| earlier.min(wait)));
            }
            Availability::NotReady => {}
        }
    }
    let status = ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: counted(labeled),
        ready_replicas: counted(ready),
        available_replicas: counted(available),
        terminating_replicas: Some(terminating),
        observed_generation: set.meta().generation,
        conditions: failure_condition(set.conditions(), failure, now),
    };
    (status, next)
}

/// A count as a status shows it: not at all when there is nothing.
pub(crate) fn counted(count: i32) -> Option<i32> {
    (count > 0).then_some(count)
}

/// The condition appears with the first failure and goes when all went well; in between it stays as it was.
fn failure_condition(
    mut all: Vec<ReplicaSetCondition>,
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> Option<Vec<ReplicaSetCondition>> {
    match failure {
        None => all.retain(|one| one.type_ != REPLICA_FAILURE),
        Some(_) if conditions::find(&all, REPLICA_FAILURE).is_some() => {}
        Some(failure) => all.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(time_of(now)),
        }),
    }
    (!all.is_empty()).then_some(all)
}

/// The sets that a change of `pod` concerns.
fn keys_of<K: Replicated>(pod: &Pod, sets: &Informer<K>) -> Vec<ObjectKey> {
    if let Some(key) = owners::controller_key::<K>(&pod.metadata) {
        return vec![key];
    }
    if owners::controller_of(&pod.metadata).is_some() {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let selecting = sets.in_namespace(namespace).into_iter().filter(|set| {
        let selector = set.selector();
        !owners::is_empty(&selector) && owners::selects(&selector, pod.metadata.labels.as_ref())
    });
    selecting.map(|set| ObjectKey::of(&*set)).collect()
}

impl<K: Replicated> Replicas<K> {
    /// Subscribes to the sets and to the pods that concern them.
    pub(crate) fn watches(setup: &Setup<'_>) -> Self {
        let sets = setup.watch_own::<K>();
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

    /// Brings the set `key` nearer to its number of pods.
    pub(crate) async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Action::Done);
        };
        let settled = self.expectations.are_met(key, &*self.pods);
        let mut candidates = self.pods.claimable(uid_of(set.meta()), &key.namespace);
        candidates.retain(|pod| !pods::is_terminal(pod));
        let owned = claim_all(&self.client, &*set, &set.selector(), candidates).await?;
        let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let related = self.related(&set, &active);
        let step = plan(&Observed {
            wanted: set.replicas(),
            going: owners::is_deleting(set.meta()),
            active: &active,
            related: &related,
            settled,
            now: self.clock.now(),
        });
        let reason = if matches!(step, Some(Step::Delete(_))) { "FailedDelete" } else { "FailedCreate" };
        let done = self.apply(key, &set, step).await;
        let failure = done.as_ref().err().map(|error| Failure { reason, message: said(error) });
        let (status, next) = status(&*set, &owned, failure.as_ref(), self.clock.now());
        self.write_status(&set, status).await?;
        done?;
        Ok(Action::after(next))
    }

    /// The active pods of this set and of those that the same owner controls; empty when nothing is to go.
    fn related(&self, set: &K, active: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        if active.len() <= usize::try_from(set.replicas()).unwrap_or(0) {
            return Vec::new();
        }
        let Some(owner) = owners::controller_of(set.meta()) else { return active.to_vec() };
        let siblings = self.sets.owned_by(&owner.uid);
        let mut all: Vec<_> =
            siblings.iter().flat_map(|one| self.pods.owned_by(uid_of((**one).meta()))).collect();
        all.retain(|pod| pods::is_active(pod));
        all
    }

    async fn apply(&self, key: &ObjectKey, set: &K, step: Option<Step>) -> Result<(), kube::Error> {
        match step {
            None => Ok(()),
            Some(Step::Create(count)) => match slow_start(count, |_| self.create(key, set)).await {
                // Whoever deletes the namespace does not want the pods either.
                Err(error) if is_namespace_going(&error) => Ok(()),
                result => result,
            },
            Some(Step::Delete(pods)) => {
                let deletions = pods.iter().map(|pod| self.delete(key, set, pod));
                join_all(deletions).await.into_iter().collect()
            }
        }
    }

    async fn create(&self, key: &ObjectKey, set: &K) -> Result<(), kube::Error> {
        let pod = pod_of(&set.template(), owners::controller_reference(set), &key.namespace, &key.name);
        let created = self.control.create(set, &pod).await?;
        self.expectations.created(key, &self.pods, &created);
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &K, pod: &Pod) -> Result<(), kube::Error> {
        self.control.delete(set, pod).await?;
        self.expectations.deleted(key, pod);
        Ok(())
    }

    async fn write_status(&self, set: &K, status: ReplicaSetStatus) -> Result<(), kube::Error> {
        let Some(wanted) = set.with_status(status) else { return Ok(()) };
        let namespace = set.meta().namespace.as_deref().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.replace_status(owners::name_of(set.meta()), &PostParams::default(), &wanted).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::json;

    use super::*;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "generation": 4},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                     "minReadySeconds": 10, "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}}},
        }))
        .unwrap()
    }

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2024-01-01T12:00:00Z").unwrap().to_utc()
    }

    fn pod(name: &str, more: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "labels": {"app": "web", "tier": "front"},
                         "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"nodeName": name, "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]},
        });
        for (pointer, value) in more.as_object().unwrap() {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn check(wanted: i32, active: &[Arc<Pod>], settled: bool, expected: Option<&str>) {
        let observed = Observed { wanted, going: false, active, related: active, settled, now: now() };
        assert_eq!(plan(&observed).as_ref().map(tell).as_deref(), expected);
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

    /// Of these two the first goes, in whichever order they are listed.
    fn check_goes_first(first: &Arc<Pod>, other: &Arc<Pod>) {
        let expected = format!("delete {}", owners::name_of(&first.metadata));
        check(1, &[first.clone(), other.clone()], true, Some(&expected));
        check(1, &[other.clone(), first.clone()], true, Some(&expected));
    }

    fn good() -> Arc<Pod> {
        pod("good", json!({}))
    }

    #[test]
    fn missing_pods_are_created() {
        check(3, &[good()], true, Some("create 2"));
    }

    #[test]
    fn nothing_is_created_while_the_cache_lags() {
        check(3, &[], false, None);
    }

    #[test]
    fn a_set_that_is_being_deleted_makes_nothing() {
        let observed =
            Observed { wanted: 3, going: true, active: &[], related: &[], settled: true, now: now() };
        assert_eq!(plan(&observed), None);
    }

    #[test]
    fn one_burst_is_bounded() {
        check(2000, &[], true, Some("create 500"));
    }

    #[test]
    fn an_unassigned_pod_goes_before_an_assigned_one() {
        check_goes_first(&pod("unassigned", json!({"/spec/nodeName": null})), &good());
    }

    #[test]
    fn a_pending_pod_goes_before_a_running_one() {
        let pending = pod("pending", json!({"/status/phase": "Pending"}));
        check_goes_first(&pending, &good());
        check_goes_first(&pending, &pod("unknown", json!({"/status/phase": "Unknown"})));
        check_goes_first(&pod("unknown", json!({"/status/phase": "Unknown"})), &good());
    }

    #[test]
    fn an_unready_pod_goes_before_a_ready_one() {
        check_goes_first(&pod("unready", json!({"/status/conditions": []})), &good());
    }

    #[test]
    fn a_pod_that_costs_less_goes_first() {
        let costing = |name: &str, cost: &str| {
            pod(name, json!({"/metadata/annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}))
        };
        check_goes_first(&good(), &costing("dear", "10"));
        check_goes_first(&costing("cheap", "-10"), &good());
    }

    #[test]
    fn a_pod_among_more_of_its_kind_goes_first() {
        let crowded = pod("crowded", json!({"/spec/nodeName": "n2"}));
        let alone = pod("alone", json!({"/spec/nodeName": "n1"}));
        let sibling = pod("of-another-set", json!({"/spec/nodeName": "n2"}));
        let active = [alone.clone(), crowded.clone()];
        let related = [alone, crowded, sibling];
        let observed = Observed {
            wanted: 1,
            going: false,
            active: &active,
            related: &related,
            settled: true,
            now: now(),
        };
        assert_eq!(tell(&plan(&observed).unwrap()), "delete crowded");
    }

    fn ready_since(name: &str, time: &str) -> Arc<Pod> {
        pod(
            name,
            json!({"/status/conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}),
        )
    }

    #[test]
    fn a_pod_ready_for_a_much_shorter_time_goes_first() {
        check_goes_first(&ready_since("fresh", "2024-01-01T11:59:00Z"), &good());
    }

    #[test]
    fn ready_times_of_about_the_same_age_count_as_equal() {
        let (a, b) = (ready_since("a", "2024-01-01T01:00:00Z"), ready_since("b", "2024-01-01T02:00:00Z"));
        check_goes_first(&a, &b);
    }

    #[test]
    fn a_pod_restarted_more_often_goes_first() {
        let restarted = json!({"/status/containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]});
        check_goes_first(&pod("restarted", restarted), &good());
    }

    #[test]
    fn a_much_younger_pod_goes_first() {
        let unready = |name: &str, created: &str| {
            pod(name, json!({"/status/conditions": [], "/metadata/creationTimestamp": created}))
        };
        check_goes_first(&unready("young", "2024-01-01T11:59:59Z"), &unready("old", "2024-01-01T00:00:00Z"));
    }

    #[test]
    fn the_status_counts_pods_by_what_they_show() {
        let going = json!({"/metadata/deletionTimestamp": "2024-01-01T11:00:00Z"});
        let fresh = ready_since("fresh", "2024-01-01T11:59:56Z");
        let unlabeled = pod("unlabeled", json!({"/metadata/labels": {"app": "web"}}));
        let owned = [good(), fresh, unlabeled, pod("going", going)];
        let (status, next) = status(&set(3), &owned, None, now());
        assert_eq!(
            serde_json::to_value(status).unwrap(),
            json!({"replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 3, "availableReplicas": 2,
                   "terminatingReplicas": 1, "observedGeneration": 4})
        );
        assert_eq!(next, Some(Duration::from_secs(6)));
    }

    #[test]
    fn a_failure_shows_as_condition_and_goes_again() {
        let refused = |message: &str| Failure { reason: "FailedCreate", message: message.to_owned() };
        let failed = |set: &ReplicaSet, message: &str| {
            let (status, _) = status(set, &[], Some(&refused(message)), now());
            ReplicaSet { status: Some(status), ..set.clone() }
        };
        let first = failed(&set(1), "exceeded quota: a");
        let told = &first.conditions()[0];
        assert_eq!(
            (told.type_.as_str(), told.status.as_str(), told.reason.as_deref(), told.message.as_deref()),
            ("ReplicaFailure", "True", Some("FailedCreate"), Some("exceeded quota: a"))
        );
        assert_eq!(failed(&first, "exceeded quota: b").status, first.status, "one write for one failure");
        let (fine, _) = status(&first, &[], None, now());
        assert_eq!(fine.conditions, None);
    }
}
