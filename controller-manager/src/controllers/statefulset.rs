//! `statefulset-controller`: keeps pods with stable names, started and stopped in order.
//!
//! # Watches
//! StatefulSets, pods by their controlling owner or labels, ControllerRevisions.
//!
//! # Writes
//! Pods, ControllerRevisions, the StatefulSet's status.
//!
//! # Guarantees
//! A name is used by one pod at a time. With OrderedReady a pod is made when all before it are ready, and
//! removed when all after it are gone. A rolling update goes from the highest ordinal down to the
//! partition, one pod at a time, and waits for each to be ready.
//!
//! # Differs from Kubernetes
//! Volume claims are not made from `volumeClaimTemplates`; `maxUnavailable` of a rolling update counts as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, label, name_of};
use crate::pod_control::{PodControl, claim_all, pod_of};
use crate::pods::{Availability, availability};
use crate::revisions::{self, HASH, History};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(crate) struct StatefulSetController {
    client: Client,
    clock: Clock,
    sets: Arc<Informer<StatefulSet>>,
    pods: Arc<Informer<Pod>>,
    revisions: Arc<Informer<ControllerRevision>>,
    control: PodControl,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create { ordinal: i32, revision: Template },
    Delete(Arc<Pod>),
}

/// Which template a new pod gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Template {
    Current,
    Update,
}

/// What `plan` sees.
struct Observed<'a> {
    set: &'a StatefulSet,
    pods: &'a [Arc<Pod>],
    /// The name of the revision of the current template.
    update: &'a str,
    now: DateTime<Utc>,
}

fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    name_of(&pod.metadata).strip_prefix(name_of(&set.metadata))?.strip_prefix('-')?.parse().ok()
}

struct Rules {
    first: i32,
    replicas: i32,
    ordered: bool,
    on_delete: bool,
    partition: i32,
    min_ready_seconds: Option<i32>,
}

impl Rules {
    fn of(spec: &StatefulSetSpec) -> Self {
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        Self {
            first: spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0),
            replicas: spec.replicas.unwrap_or(1),
            ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            on_delete: strategy.type_.as_deref() == Some("OnDelete"),
            partition: strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds,
        }
    }

    fn template_for(&self, ordinal: i32) -> Template {
        let below = !self.on_delete && ordinal < self.first + self.partition;
        if below { Template::Current } else { Template::Update }
    }
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    let Some(spec) = observed.set.spec.as_ref() else { return Vec::new() };
    if owners::is_deleting(&observed.set.metadata) {
        return Vec::new();
    }
    let rules = Rules::of(spec);
    let by_ordinal: BTreeMap<i32, &Arc<Pod>> =
        observed.pods.iter().filter_map(|pod| Some((ordinal_of(observed.set, pod)?, pod))).collect();
    let range = rules.first..rules.first + rules.replicas;
    let healthy = |pod: &Pod| {
        let available = availability(pod, rules.min_ready_seconds, observed.now) == Availability::Available;
        available && !pods::is_terminating(pod)
    };
    let mut steps = Vec::new();
    for ordinal in range.clone() {
        let pod = by_ordinal.get(&ordinal).copied();
        match pod {
            Some(pod) if healthy(pod) => continue,
            None => steps.push(Step::Create { ordinal, revision: rules.template_for(ordinal) }),
            Some(pod) if pods::is_terminal(pod) && !pods::is_terminating(pod) => {
                steps.push(Step::Delete(pod.clone()))
            }
            Some(_) => {}
        }
        if rules.ordered {
            return steps_with_replacement(steps, pod, &rules, observed.update);
        }
    }
    let condemned: Vec<_> = by_ordinal.iter().rev().filter(|(ordinal, _)| !range.contains(ordinal)).collect();
    for (_, pod) in &condemned {
        if !pods::is_terminating(pod) {
            steps.push(Step::Delete((**pod).clone()));
        }
        if rules.ordered {
            return steps;
        }
    }
    if steps.is_empty() && !rules.on_delete {
        steps.extend(roll(&rules, &by_ordinal, observed.update, healthy));
    }
    steps
}

/// An ordered set whose next pod does not get ready replaces it when the template has changed since, so that
/// a template that never works can be mended by a better one.
fn steps_with_replacement(
    mut steps: Vec<Step>,
    pod: Option<&Arc<Pod>>,
    rules: &Rules,
    update: &str,
) -> Vec<Step> {
    let Some(pod) = pod else { return steps };
    let outdated = label(&pod.metadata, HASH).is_some_and(|revision| revision != update);
    let stuck = steps.is_empty() && !rules.on_delete && !pods::is_terminating(pod) && !pods::is_ready(pod);
    let allowed = name_of(&pod.metadata).rsplit('-').next().and_then(|text| text.parse::<i32>().ok());
    if stuck && outdated && allowed.is_some_and(|ordinal| rules.template_for(ordinal) == Template::Update) {
        steps.push(Step::Delete(pod.clone()));
    }
    steps
}

fn roll(
    rules: &Rules,
    by_ordinal: &BTreeMap<i32, &Arc<Pod>>,
    update: &str,
    healthy: impl Fn(&Pod) -> bool,
) -> Option<Step> {
    let updatable = rules.first + rules.partition..rules.first + rules.replicas;
    for ordinal in updatable.rev() {
        let pod = by_ordinal.get(&ordinal)?;
        if label(&pod.metadata, HASH) != Some(update) && !pods::is_terminating(pod) {
            return Some(Step::Delete((*pod).clone()));
        }
        if !healthy(pod) {
            return None;
        }
    }
    None
}

fn status(observed: &Observed<'_>, current: &str) -> (StatefulSetStatus, Option<Duration>) {
    let set = observed.set;
    let spec = set.spec.clone().unwrap_or_default();
    let replicas = spec.replicas.unwrap_or(1);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|status| status.collision_count).or(Some(0)),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..StatefulSetStatus::default()
    };
    let (mut ready, mut available, mut at_current, mut at_update) = (0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in observed.pods {
        status.replicas += 1;
        match availability(pod, spec.min_ready_seconds, observed.now) {
            Availability::Available => (ready, available) = (ready + 1, available + 1),
            Availability::In(wait) => {
                ready += 1;
                next = Some(next.map_or(wait, |earlier| earlier.min(wait)));
            }
            Availability::NotReady => {}
        }
        if !pods::is_terminating(pod) {
            let revision = label(&pod.metadata, HASH);
            at_current += i32::from(revision == Some(current));
            at_update += i32::from(revision == Some(observed.update));
        }
    }
    let rolled_out = at_update == replicas && status.replicas == replicas && ready == replicas;
    status.current_revision = Some(if rolled_out { observed.update } else { current }.to_owned());
    status.update_revision = Some(observed.update.to_owned());
    status.current_replicas = Some(if rolled_out { at_update } else { at_current });
    status.updated_replicas = Some(at_update);
    status.ready_replicas = Some(ready);
    status.available_replicas = Some(available);
    (status, next)
}

fn pod_for(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let (own, namespace) = (name_of(&set.metadata), set.metadata.namespace.as_deref().unwrap_or_default());
    let mut pod = pod_of(template, owners::controller_reference(set), namespace, own);
    let name = format!("{own}-{ordinal}");
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(HASH.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    pod
}

#[async_trait]
impl Controller for StatefulSetController {
    const NAME: &'static str = "statefulset-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let sets = setup.watch_own::<StatefulSet>();
        let selecting = sets.clone();
        let pods = setup.watch::<Pod>(move |pod| keys_of(pod, &selecting));
        let revisions = setup.read::<ControllerRevision>();
        let control = PodControl::new(setup.client.clone(), setup.events());
        Self { client: setup.client.clone(), clock: setup.clock, sets, pods, revisions, control }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(set) = self.sets.get(key) else { return Ok(Action::Done) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Action::Done) };
        if owners::is_deleting(&set.metadata) {
            return Ok(Action::Done);
        }
        let mut candidates = self.pods.in_namespace(&key.namespace);
        candidates.retain(|pod| ordinal_of(&set, pod).is_some());
        let pods = claim_all(&self.client, &*set, &spec.selector, candidates).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history =
            revisions::ensure(&self.client, &self.revisions, &*set, &spec.template, collisions).await?;
        let update = name_of(&history.update.metadata);
        let observed = Observed { set: &set, pods: &pods, update, now: self.clock.now() };
        let current = current_of(&set, &history);
        let (status, next) = status(&observed, name_of(&current.metadata));
        self.write_status(&set, status).await?;
        for step in plan(&observed) {
            self.apply(&set, &history, &current, step).await?;
        }
        let mut in_use: BTreeSet<String> =
            pods.iter().filter_map(|pod| label(&pod.metadata, HASH)).map(ToOwned::to_owned).collect();
        in_use.insert(name_of(&current.metadata).to_owned());
        revisions::forget_old(&self.client, &history, &in_use, spec.revision_history_limit).await?;
        Ok(Action::after(next))
    }
}

/// The revision that the pods had before the update.
fn current_of(set: &StatefulSet, history: &History) -> Arc<ControllerRevision> {
    let name = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let found = history.all.iter().find(|one| one.metadata.name.as_deref() == name && name.is_some());
    found.unwrap_or(&history.update).clone()
}

/// The sets that a change of `pod` concerns.
fn keys_of(pod: &Pod, sets: &Informer<StatefulSet>) -> Vec<ObjectKey> {
    if let Some(key) = owners::controller_key::<StatefulSet>(&pod.metadata) {
        return vec![key];
    }
    if owners::controller_of(&pod.metadata).is_some() {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let named_like = sets.in_namespace(namespace).into_iter().filter(|set| ordinal_of(set, pod).is_some());
    named_like.map(|set| ObjectKey::of(&*set)).collect()
}

impl StatefulSetController {
    async fn apply(
        &self,
        set: &StatefulSet,
        history: &History,
        current: &ControllerRevision,
        step: Step,
    ) -> Result<(), ReconcileError> {
        let (ordinal, template) = match step {
            Step::Delete(pod) => return Ok(self.control.delete(set, &pod).await?),
            Step::Create { ordinal, revision } => (ordinal, revision),
        };
        let revision = if template == Template::Current { current } else { &*history.update };
        let Some(template) = revisions::template_of(revision) else {
            let name = name_of(&revision.metadata);
            return Err(ReconcileError::Terminal(format!("the revision {name} has no readable template")));
        };
        let pod = pod_for(set, &template, ordinal, name_of(&revision.metadata));
        match self.control.create(set, &pod).await {
            Ok(_) => Ok(()),
            // The cache has not seen the last one with this name come or go; its event wakes us.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), namespace);
        let wanted = StatefulSet { status: Some(status), ..set.clone() };
        api.replace_status(name_of(&set.metadata), &PostParams::default(), &wanted).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(replicas: i32, more: serde_json::Value) -> StatefulSet {
        let mut spec = json!({"replicas": replicas, "selector": {}, "serviceName": "db", "template": {}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn pod(ordinal: i32, revision: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": format!("db-{ordinal}"), "labels": {HASH: revision}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn check(set: &StatefulSet, pods: &[Arc<Pod>], expected: &[&str]) {
        let told: Vec<String> = plan(&Observed { set, pods, update: "new", now: DateTime::UNIX_EPOCH })
            .iter()
            .map(|step| match step {
                Step::Create { ordinal, revision } => format!("create {ordinal} {revision:?}"),
                Step::Delete(pod) => format!("delete {}", name_of(&pod.metadata)),
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn pods_are_made_one_after_another() {
        check(&set(3, json!({})), &[], &["create 0 Update"]);
        check(&set(3, json!({})), &[pod(0, "new", false)], &[]);
        check(&set(3, json!({})), &[pod(0, "new", true)], &["create 1 Update"]);
    }

    #[test]
    fn parallel_pods_are_made_at_once() {
        let parallel = set(2, json!({"podManagementPolicy": "Parallel"}));
        check(&parallel, &[], &["create 0 Update", "create 1 Update"]);
    }

    #[test]
    fn the_highest_ordinal_goes_first() {
        let pods = [pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)];
        check(&set(1, json!({})), &pods, &["delete db-2"]);
    }

    #[test]
    fn an_update_goes_from_the_top_and_waits() {
        check(&set(2, json!({})), &[pod(0, "old", true), pod(1, "old", true)], &["delete db-1"]);
        check(&set(2, json!({})), &[pod(0, "old", true), pod(1, "new", false)], &[]);
        check(&set(2, json!({})), &[pod(0, "old", true), pod(1, "new", true)], &["delete db-0"]);
    }

    #[test]
    fn an_update_stops_at_the_partition() {
        let partitioned =
            set(2, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}));
        check(&partitioned, &[pod(0, "old", true), pod(1, "new", true)], &[]);
        check(&partitioned, &[], &["create 0 Current"]);
    }

    #[test]
    fn on_delete_waits_for_the_user() {
        let on_delete = set(1, json!({"updateStrategy": {"type": "OnDelete"}}));
        check(&on_delete, &[pod(0, "old", true)], &[]);
    }

    #[test]
    fn a_pod_of_a_broken_template_is_replaced_by_a_better_one() {
        check(&set(1, json!({})), &[pod(0, "old", false)], &["delete db-0"]);
    }
}
