//! `deployment-controller`: rolls a Deployment's template out over ReplicaSets.
//!
//! # Watches
//! Deployments; ReplicaSets by their controlling owner or by labels; pods, for Recreate.
//!
//! # Writes
//! ReplicaSets (create, scale, revision annotations, delete old ones), the Deployment's revision annotation
//! and its status.
//!
//! # Guarantees
//! While a rolling update runs there are at most `replicas + maxSurge` pods and at least
//! `replicas - maxUnavailable` available ones. Recreate starts nothing before every old pod is gone. A
//! template that was there before takes its old ReplicaSet again, so `kubectl rollout undo` works. A
//! ReplicaSet's name is made from its template, so no two are made for one, whatever the cache shows.
//!
//! # Differs from Kubernetes
//! The deprecated `rollbackTo` annotation is not read. Hash values differ from those of kube-controller-manager.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::int_or_percent::{Rounding, scaled};
use api_types::template_hash::template_hash;
use api_types::{conditions, pods};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::client::said;
use component_base::clock::{Clock, moment_of, time_of};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, annotation, name_of};
use crate::pod_control::{claim_all, delete_exactly};

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(crate) struct DeploymentController {
    client: Client,
    clock: Clock,
    events: Events,
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Box<ReplicaSet>),
    /// Change a set's replicas, annotations or both.
    Change {
        set: Arc<ReplicaSet>,
        replicas: i32,
        annotations: BTreeMap<String, String>,
    },
    SetRevision(String),
    Delete(Arc<ReplicaSet>),
}

/// What `plan` sees.
struct Observed<'a> {
    deployment: &'a Deployment,
    /// The sets that the Deployment controls.
    sets: &'a [Arc<ReplicaSet>],
    /// Whether a pod of an old set is still there; only Recreate asks.
    old_pods: bool,
}

/// The facts of a Deployment that all decisions use.
struct Wanted<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    replicas: i32,
    surge: i32,
    unavailable: i32,
    new: Option<Arc<ReplicaSet>>,
    /// The other sets, oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

impl<'a> Wanted<'a> {
    fn of(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Self> {
        let spec = deployment.spec.as_ref()?;
        let replicas = spec.replicas.unwrap_or(1);
        let (surge, unavailable) = limits(spec, replicas);
        let mut sets = sets.to_vec();
        sets.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
        let new = sets.iter().find(|set| has_template(set, &spec.template)).cloned();
        let old = sets
            .into_iter()
            .filter(|set| Some(name_of(&set.metadata)) != new.as_ref().map(|new| name_of(&new.metadata)));
        let old = old.collect();
        Some(Self { deployment, spec, replicas, surge, unavailable, new, old })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.iter())
    }

    fn is_recreate(&self) -> bool {
        self.spec.strategy.as_ref().is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
    }

    fn maximum(&self) -> i32 {
        self.replicas + self.surge
    }

    fn minimum(&self) -> i32 {
        self.replicas - self.unavailable
    }

    /// A change of a set to `replicas`, with the size annotations that go with it.
    fn resize(&self, set: &Arc<ReplicaSet>, replicas: i32) -> Option<Step> {
        let mut annotations = self.sizes();
        annotations.retain(|name, value| annotation(&set.metadata, name) != Some(value));
        let changed = size(set) != replicas || !annotations.is_empty();
        changed.then(|| Step::Change { set: set.clone(), replicas, annotations })
    }

    fn sizes(&self) -> BTreeMap<String, String> {
        [(DESIRED, self.replicas), (MAXIMUM, self.maximum())]
            .map(|(name, count)| (name.to_owned(), count.to_string()))
            .into()
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
    }
}

/// The rolling update's surge and unavailability in pods; both zero would never move, so then one may be unavailable.
fn limits(spec: &DeploymentSpec, replicas: i32) -> (i32, i32) {
    let strategy = spec.strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let quarter = || IntOrString::String("25%".to_owned());
    let surge = scaled(&rolling.max_surge.unwrap_or_else(quarter), replicas, Rounding::Up).unwrap_or(1);
    let unavailable =
        scaled(&rolling.max_unavailable.unwrap_or_else(quarter), replicas, Rounding::Down).unwrap_or(0);
    match (surge, unavailable) {
        (0, 0) => (0, 1.min(replicas)),
        (surge, unavailable) => (surge, unavailable.min(replicas)),
    }
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    bare(own) == bare(template)
}

/// A template as JSON without the hash label and without what is empty, so that only meaning counts.
fn bare(template: &PodTemplateSpec) -> serde_json::Value {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.creation_timestamp = None;
    if let Some(labels) = meta.labels.as_mut() {
        labels.remove(HASH);
    }
    if meta.labels.as_ref().is_some_and(BTreeMap::is_empty) {
        meta.labels = None;
    }
    serde_json::to_value(&template).unwrap_or_default()
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    let deployment = observed.deployment;
    let Some(wanted) = Wanted::of(deployment, observed.sets) else { return Vec::new() };
    if owners::is_deleting(&deployment.metadata) {
        return Vec::new();
    }
    let paused = wanted.spec.paused == Some(true);
    let mut steps = revisions(&wanted);
    let moves = if paused || is_scaling(&wanted) {
        scale(&wanted)
    } else if wanted.is_recreate() {
        recreate(&wanted, observed.old_pods)
    } else {
        roll(&wanted)
    };
    merge(&mut steps, moves);
    if steps.is_empty() && (paused || is_complete(deployment, deployment.status.as_ref())) {
        steps = forget_history(&wanted);
    }
    steps
}

/// Joins changes of the same set, so that each set is written once.
fn merge(steps: &mut Vec<Step>, moves: Vec<Step>) {
    for step in moves {
        let Step::Change { set, replicas, annotations } = step else {
            steps.push(step);
            continue;
        };
        let same = steps.iter_mut().find_map(|earlier| match earlier {
            Step::Change { set: one, replicas, annotations }
                if name_of(&one.metadata) == name_of(&set.metadata) =>
            {
                Some((replicas, annotations))
            }
            _ => None,
        });
        match same {
            Some((old_replicas, old_annotations)) => {
                *old_replicas = replicas;
                old_annotations.extend(annotations);
            }
            None => steps.push(Step::Change { set, replicas, annotations }),
        }
    }
}

/// Keeps the new set's revision the highest, and the Deployment's annotation equal to it.
fn revisions(wanted: &Wanted<'_>) -> Vec<Step> {
    let Some(new) = &wanted.new else { return Vec::new() };
    let mut steps = Vec::new();
    let next = wanted.next_revision();
    let number = revision(new).max(next).to_string();
    if revision(new) < next {
        let mut annotations = copied_annotations(wanted.deployment);
        annotations.retain(|name, value| annotation(&new.metadata, name) != Some(value));
        annotations.insert(REVISION.to_owned(), number.clone());
        steps.push(Step::Change { set: new.clone(), replicas: size(new), annotations });
    }
    if annotation(&wanted.deployment.metadata, REVISION) != Some(&number) {
        steps.push(Step::SetRevision(number));
    }
    steps
}

fn copied_annotations(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| ![REVISION, DESIRED, MAXIMUM, LAST_APPLIED].contains(&name.as_str()));
    annotations
}

/// Whether the wanted number changed since the sets were sized.
fn is_scaling(wanted: &Wanted<'_>) -> bool {
    let sized_for =
        |set: &ReplicaSet| annotation(&set.metadata, DESIRED).and_then(|text| text.parse::<i32>().ok());
    wanted.all().any(|set| size(set) > 0 && sized_for(set).is_some_and(|count| count != wanted.replicas))
}

/// Brings the sets to a new total, each in proportion to its size.
fn scale(wanted: &Wanted<'_>) -> Vec<Step> {
    let active: Vec<_> = wanted.all().filter(|set| size(set) > 0).collect();
    let newest = || wanted.new.as_ref().or(wanted.old.last());
    let only = match active.as_slice() {
        [] => newest(),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = only {
        return wanted.resize(set, wanted.replicas).into_iter().collect();
    }
    let saturated =
        |new: &&Arc<ReplicaSet>| size(new) == wanted.replicas && available(new) == wanted.replicas;
    if wanted.new.as_ref().is_some_and(|new| saturated(&new)) {
        return wanted
            .old
            .iter()
            .filter(|set| size(set) > 0)
            .filter_map(|set| wanted.resize(set, 0))
            .collect();
    }
    if wanted.is_recreate() { Vec::new() } else { proportional(wanted, active) }
}

fn proportional(wanted: &Wanted<'_>, mut active: Vec<&Arc<ReplicaSet>>) -> Vec<Step> {
    let allowed = if wanted.replicas > 0 { wanted.maximum() } else { 0 };
    let to_add = allowed - active.iter().map(|set| size(set)).sum::<i32>();
    active.sort_by_key(|set| {
        let age = set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        (-size(set), if to_add > 0 { -age } else { age })
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = active
        .iter()
        .map(|set| {
            let share = share(wanted, set);
            let rest = to_add - added;
            let part = if to_add > 0 { share.min(rest).max(0) } else { share.max(rest).min(0) };
            added += part;
            size(set) + part
        })
        .collect();
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    active.iter().zip(sizes).filter_map(|(set, size)| wanted.resize(set, size)).collect()
}

/// By how much the set would grow if everything grew alike.
fn share(wanted: &Wanted<'_>, set: &ReplicaSet) -> i32 {
    if wanted.replicas == 0 {
        return -size(set);
    }
    let before = annotation(&set.metadata, MAXIMUM).and_then(|text| text.parse::<i32>().ok());
    let before = before.or_else(|| wanted.deployment.status.as_ref()?.replicas).filter(|count| *count > 0);
    let Some(before) = before else { return 0 };
    let grown = f64::from(size(set)) * f64::from(wanted.maximum()) / f64::from(before);
    // Counts of pods are far below what an i32 holds.
    #[expect(clippy::cast_possible_truncation, reason = "a rounded number of pods")]
    let grown = grown.round() as i32;
    grown - size(set)
}

fn recreate(wanted: &Wanted<'_>, old_pods: bool) -> Vec<Step> {
    let down: Vec<_> =
        wanted.old.iter().filter(|set| size(set) > 0).filter_map(|set| wanted.resize(set, 0)).collect();
    if !down.is_empty() || old_pods {
        return down;
    }
    match &wanted.new {
        None => vec![create(wanted, wanted.replicas)],
        Some(new) => wanted.resize(new, wanted.replicas).into_iter().collect(),
    }
}

fn roll(wanted: &Wanted<'_>) -> Vec<Step> {
    let total: i32 = wanted.all().map(|set| size(set)).sum();
    let Some(new) = &wanted.new else {
        let room = (wanted.maximum() - total).clamp(0, wanted.replicas);
        return vec![create(wanted, room)];
    };
    let grown = match size(new) {
        now if now >= wanted.replicas => wanted.replicas,
        now => now + (wanted.maximum() - total).clamp(0, wanted.replicas - now),
    };
    let up: Vec<_> = wanted.resize(new, grown).into_iter().collect();
    if up.is_empty() { shrink_old(wanted, new, total) } else { up }
}

/// Takes pods from the old sets: first those that do not work, then as many as availability allows.
fn shrink_old(wanted: &Wanted<'_>, new: &ReplicaSet, total: i32) -> Vec<Step> {
    let missing_new = size(new) - available(new);
    let may_go = total - wanted.minimum() - missing_new;
    let mut sizes: Vec<i32> = wanted.old.iter().map(|set| size(set)).collect();
    let mut cleaned = 0;
    for (set, size) in wanted.old.iter().zip(&mut sizes) {
        let broken = (*size - available(set)).clamp(0, (may_go - cleaned).max(0));
        *size -= broken;
        cleaned += broken;
    }
    let all_available: i32 = wanted.all().map(|set| available(set)).sum();
    let mut spare = (all_available - wanted.minimum()).min(may_go - cleaned).max(0);
    for size in &mut sizes {
        let part = (*size).min(spare);
        *size -= part;
        spare -= part;
    }
    let changed = wanted.old.iter().zip(sizes).filter(|(set, after)| size(set) != *after);
    changed.filter_map(|(set, after)| wanted.resize(set, after)).collect()
}

fn create(wanted: &Wanted<'_>, replicas: i32) -> Step {
    let deployment = wanted.deployment;
    let mut template = wanted.spec.template.clone();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&bare(&template), collisions);
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = wanted.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut annotations = copied_annotations(deployment);
    annotations.extend(wanted.sizes());
    annotations.insert(REVISION.to_owned(), wanted.next_revision().to_string());
    Step::Create(Box::new(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name_of(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: wanted.spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }))
}

fn forget_history(wanted: &Wanted<'_>) -> Vec<Step> {
    let limit = usize::try_from(wanted.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let mut old = wanted.old.clone();
    old.sort_by_key(|set| revision(set));
    let surplus = old.len().saturating_sub(limit);
    let idle = |set: &&Arc<ReplicaSet>| {
        let status = set.status.clone().unwrap_or_default();
        let seen = status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0);
        size(set) == 0 && status.replicas == 0 && seen && !owners::is_deleting(&set.metadata)
    };
    old.iter().take(surplus).filter(idle).cloned().map(Step::Delete).collect()
}

/// The status that the sets show.
fn status(wanted: &Wanted<'_>, now: DateTime<Utc>) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| wanted.all().map(|set| count(set)).sum::<i32>();
    let old = wanted.deployment.status.clone().unwrap_or_default();
    let total = sum(size);
    let available = sum(available);
    let mut status = DeploymentStatus {
        observed_generation: wanted.deployment.metadata.generation,
        replicas: Some(sum(|set| set.status.as_ref().map_or(0, |status| status.replicas))),
        updated_replicas: Some(
            wanted.new.as_ref().and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas),
        ),
        ready_replicas: Some(sum(|set| {
            set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
        })),
        available_replicas: Some(available),
        unavailable_replicas: Some((total - available).max(0)),
        terminating_replicas: Some(sum(|set| {
            set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
        })),
        collision_count: old.collision_count,
        conditions: None,
    };
    let mut all = old.conditions.clone().unwrap_or_default();
    let (value, reason, message) = if available >= wanted.minimum() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut all, condition("Available", value, reason, message, now));
    status.conditions = Some(all.clone());
    progress(wanted, &old, &status, &mut all, now);
    failure(wanted, &mut all, now);
    status.conditions = Some(all);
    status
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: DateTime<Utc>,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(time_of(now)),
        last_update_time: Some(time_of(now)),
    }
}

/// Sets a condition; one that says the same as before keeps its times.
fn set_condition(all: &mut Vec<DeploymentCondition>, new: DeploymentCondition) {
    let same = |old: &DeploymentCondition| old.status == new.status && old.reason == new.reason;
    if conditions::find(all, &new.type_).is_some_and(same) {
        return;
    }
    conditions::set(all, new);
}

fn progress(
    wanted: &Wanted<'_>,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    all: &mut Vec<DeploymentCondition>,
    now: DateTime<Utc>,
) {
    let deployment = wanted.deployment;
    let current = conditions::find(all, "Progressing").cloned();
    let reason = |text: &str| current.as_ref().and_then(|one| one.reason.as_deref()) == Some(text);
    let subject = match &wanted.new {
        Some(set) => format!("ReplicaSet {:?}", name_of(&set.metadata)),
        None => format!("Deployment {:?}", name_of(&deployment.metadata)),
    };
    let say = |value: &str, why: &str, text: &str| {
        condition("Progressing", value, why, &format!("{subject} {text}"), now)
    };
    if wanted.spec.paused == Some(true) {
        return set_condition(
            all,
            condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now),
        );
    }
    if reason("DeploymentPaused") {
        return set_condition(
            all,
            condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now),
        );
    }
    if is_complete(deployment, Some(new)) {
        return set_condition(all, say("True", "NewReplicaSetAvailable", "has successfully progressed."));
    }
    let finished = reason("NewReplicaSetAvailable") && new.replicas == new.updated_replicas;
    if finished {
        return;
    }
    if has_progressed(old, new) || current.is_none() || reason("NewReplicaSetAvailable") {
        let mut moved = say("True", "ReplicaSetUpdated", "is progressing.");
        if let Some(before) = current.filter(|one| one.status == "True") {
            moved.last_transition_time = before.last_transition_time;
        }
        all.retain(|one| one.type_ != "Progressing");
        all.push(moved);
    } else if deadline_in(wanted, all, now).is_some_and(|left| left.is_zero()) {
        set_condition(all, say("False", "ProgressDeadlineExceeded", "has timed out progressing."));
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let old_sets =
        |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || old_sets(new) < old_sets(old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

/// How long until the progress deadline, zero when it has passed; none when no deadline runs.
fn deadline_in(wanted: &Wanted<'_>, all: &[DeploymentCondition], now: DateTime<Utc>) -> Option<Duration> {
    let seconds = wanted.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    let current = conditions::find(all, "Progressing")?;
    if current.status == "False" || current.reason.as_deref() == Some("NewReplicaSetAvailable") {
        return None;
    }
    let since = moment_of(current.last_update_time.as_ref()?);
    let left = since + chrono::Duration::seconds(i64::from(seconds)) - now;
    Some(left.to_std().unwrap_or(Duration::ZERO))
}

fn failure(wanted: &Wanted<'_>, all: &mut Vec<DeploymentCondition>, now: DateTime<Utc>) {
    let failed =
        wanted.new.as_ref().and_then(|set| set.status.as_ref()?.conditions.as_ref()?.first().cloned());
    match failed.filter(|one| one.type_ == "ReplicaFailure") {
        None => all.retain(|one| one.type_ != "ReplicaFailure"),
        Some(one) => {
            let (reason, message) = (one.reason.unwrap_or_default(), one.message.unwrap_or_default());
            set_condition(all, condition("ReplicaFailure", &one.status, &reason, &message, now));
        }
    }
}

fn is_complete(deployment: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.is_some_and(|status| {
        status.updated_replicas.unwrap_or(0) == replicas
            && status.replicas.unwrap_or(0) == replicas
            && status.available_replicas.unwrap_or(0) == replicas
            && status.observed_generation >= deployment.metadata.generation
    })
}

#[async_trait]
impl Controller for DeploymentController {
    const NAME: &'static str = "deployment-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let deployments = setup.watch_own::<Deployment>();
        let selecting = deployments.clone();
        let sets = setup.watch::<ReplicaSet>(move |set| keys_of(set, &selecting));
        let (recreating, of_sets) = (deployments.clone(), sets.clone());
        let pods =
            setup.watch::<Pod>(move |pod| recreate_key(pod, &of_sets, &recreating).into_iter().collect());
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            deployments,
            sets,
            pods,
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Action::Done) };
        let Some(spec) = deployment.spec.as_ref() else { return Ok(Action::Done) };
        if owners::is_empty(&spec.selector) {
            return Err(ReconcileError::Terminal(
                "the selector is empty and would select every pod".to_owned(),
            ));
        }
        let candidates = self.sets.in_namespace(&key.namespace);
        let sets = claim_all(&self.client, &*deployment, &spec.selector, candidates).await?;
        let old_pods = self.has_old_pods(&deployment, &sets);
        let mut collided = false;
        for step in plan(&Observed { deployment: &deployment, sets: &sets, old_pods }) {
            collided |= self.apply(&deployment, step).await?;
        }
        let Some(wanted) = Wanted::of(&deployment, &sets) else { return Ok(Action::Done) };
        let mut status = status(&wanted, self.clock.now());
        if collided {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
        let left = deadline_in(&wanted, status.conditions.as_deref().unwrap_or_default(), self.clock.now());
        self.write_status(&deployment, status).await?;
        Ok(Action::after(left.map(|left| left + Duration::from_secs(1))))
    }
}

/// The Deployments that a change of `set` concerns.
fn keys_of(set: &ReplicaSet, deployments: &Informer<Deployment>) -> Vec<ObjectKey> {
    if let Some(key) = owners::controller_key::<Deployment>(&set.metadata) {
        return vec![key];
    }
    if owners::controller_of(&set.metadata).is_some() {
        return Vec::new();
    }
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let selecting = deployments.in_namespace(namespace).into_iter().filter(|one| {
        let selector = one.spec.as_ref().map(|spec| &spec.selector);
        selector.is_some_and(|selector| {
            !owners::is_empty(selector) && owners::selects(selector, set.metadata.labels.as_ref())
        })
    });
    selecting.map(|one| ObjectKey::of(&*one)).collect()
}

/// The Deployment that waits for `pod` to go, if one does.
fn recreate_key(
    pod: &Pod,
    sets: &Informer<ReplicaSet>,
    deployments: &Informer<Deployment>,
) -> Option<ObjectKey> {
    let set = sets.get(&owners::controller_key::<ReplicaSet>(&pod.metadata)?)?;
    let key = owners::controller_key::<Deployment>(&set.metadata)?;
    let deployment = deployments.get(&key)?;
    let strategy = deployment.spec.as_ref()?.strategy.as_ref()?;
    (strategy.type_.as_deref() == Some("Recreate")).then_some(key)
}

impl DeploymentController {
    fn has_old_pods(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        let Some(wanted) = Wanted::of(deployment, sets) else { return false };
        wanted.is_recreate()
            && wanted.old.iter().any(|set| {
                let owned = self.pods.owned_by(owners::uid_of(&set.metadata));
                owned.iter().any(|pod| !pods::is_terminal(pod))
            })
    }

    fn sets_api(&self, deployment: &Deployment) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), deployment.metadata.namespace.as_deref().unwrap_or_default())
    }

    fn deployments_api(&self, deployment: &Deployment) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), deployment.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// Does one step. True: the new set's name is taken by another template.
    async fn apply(&self, deployment: &Deployment, step: Step) -> Result<bool, kube::Error> {
        match step {
            Step::Create(set) => return self.create(deployment, &set).await,
            Step::Change { set, replicas, annotations } => {
                self.change(deployment, &set, replicas, &annotations).await?
            }
            Step::SetRevision(number) => {
                let patch = json!({"metadata": {"annotations": {REVISION: number}}});
                let api = self.deployments_api(deployment);
                api.patch(name_of(&deployment.metadata), &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
            }
            Step::Delete(set) => delete_exactly(&self.client, &*set, DeleteParams::background()).await?,
        }
        Ok(false)
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<bool, kube::Error> {
        let api = self.sets_api(deployment);
        let name = name_of(&set.metadata);
        match api.create(&PostParams::default(), set).await {
            Ok(_) => {
                let to = size(set);
                self.events.normal(
                    deployment,
                    "ScalingReplicaSet",
                    &format!("Scaled up replica set {name} from 0 to {to}"),
                );
                Ok(false)
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let Some(taken) = api.get_opt(name).await? else { return Ok(false) };
                let ours = owners::controller_of(&taken.metadata).map(|owner| &owner.uid)
                    == deployment.metadata.uid.as_ref();
                let template = deployment.spec.as_ref().map(|spec| &spec.template);
                Ok(!(ours && template.is_some_and(|template| has_template(&taken, template))))
            }
            Err(error) => {
                self.events.warning(
                    deployment,
                    "ReplicaSetCreateError",
                    &format!("Failed to create new replica set {name:?}: {}", said(&error)),
                );
                Err(error)
            }
        }
    }

    async fn change(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        replicas: i32,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), kube::Error> {
        let patch = json!({
            "metadata": {"resourceVersion": set.metadata.resource_version, "annotations": annotations},
            "spec": {"replicas": replicas},
        });
        let (name, before) = (name_of(&set.metadata), size(set));
        self.sets_api(deployment).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        if before != replicas {
            let way = if replicas > before { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {name} from {before} to {replicas}");
            self.events.normal(deployment, "ScalingReplicaSet", &message);
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), kube::Error> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": deployment.metadata.uid}, "status": status});
        let api = self.deployments_api(deployment);
        api.patch_status(name_of(&deployment.metadata), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        deployment: serde_json::Value,
        sets: Vec<Arc<ReplicaSet>>,
        old_pods: bool,
    }

    fn case(replicas: i32, strategy: serde_json::Value) -> Case {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1, "annotations": {REVISION: "2"}},
            "spec": {"replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
                     "template": template("v2")},
        });
        Case { deployment, sets: Vec::new(), old_pods: false }
    }

    fn rolling(replicas: i32, surge: i32, unavailable: i32) -> Case {
        case(
            replicas,
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}),
        )
    }

    fn template(image: &str) -> serde_json::Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
    }

    impl Case {
        fn set(mut self, image: &str, replicas: i32, available: i32) -> Self {
            let number = self.sets.len() + 1;
            let desired = self.deployment["spec"]["replicas"].to_string();
            let spec = serde_json::from_value(self.deployment["spec"].clone()).unwrap();
            let (surge, _) = limits(&spec, spec.replicas.unwrap());
            let maximum = (spec.replicas.unwrap() + surge).to_string();
            let set = json!({
                "metadata": {"name": image, "uid": image, "generation": 1,
                             "creationTimestamp": format!("2024-01-01T00:00:0{number}Z"),
                             "annotations": {REVISION: number.to_string(), DESIRED: desired, MAXIMUM: maximum}},
                "spec": {"replicas": replicas, "selector": {}, "template": template(image)},
                "status": {"replicas": replicas, "availableReplicas": available, "observedGeneration": 1},
            });
            self.sets.push(Arc::new(serde_json::from_value(set).unwrap()));
            self
        }

        fn with(mut self, pointer: &str, value: serde_json::Value) -> Self {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            self.deployment.pointer_mut(parent).unwrap()[field] = value;
            self
        }

        fn check(self, expected: &[&str]) {
            let deployment: Deployment = serde_json::from_value(self.deployment).unwrap();
            let observed = Observed { deployment: &deployment, sets: &self.sets, old_pods: self.old_pods };
            let told: Vec<String> = plan(&observed).iter().map(tell).collect();
            assert_eq!(told, expected);
        }
    }

    fn tell(step: &Step) -> String {
        match step {
            Step::Create(set) => format!("create {} revision {}", size(set), revision(set)),
            Step::Change { set, replicas, annotations } => {
                let number =
                    annotations.get(REVISION).map(|one| format!(" revision {one}")).unwrap_or_default();
                format!("{} {} -> {replicas}{number}", name_of(&set.metadata), size(set))
            }
            Step::SetRevision(number) => format!("revision {number}"),
            Step::Delete(set) => format!("delete {}", name_of(&set.metadata)),
        }
    }

    #[test]
    fn first_rollout_creates_the_whole_set() {
        rolling(3, 1, 0).check(&["create 3 revision 1"]);
    }

    #[test]
    fn a_new_template_starts_with_the_surge() {
        rolling(3, 1, 0).set("v1", 3, 3).check(&["create 1 revision 2"]);
    }

    #[test]
    fn old_pods_go_only_when_new_ones_are_available() {
        rolling(3, 1, 0).set("v1", 3, 3).set("v2", 1, 0).check(&[]);
        rolling(3, 1, 0).set("v1", 3, 3).set("v2", 1, 1).check(&["v1 3 -> 2"]);
    }

    #[test]
    fn the_new_set_grows_as_the_old_one_shrinks() {
        rolling(3, 1, 0).set("v1", 2, 2).set("v2", 1, 1).check(&["v2 1 -> 2"]);
    }

    #[test]
    fn broken_old_pods_go_first_and_at_once() {
        let case = rolling(3, 1, 1).with("/metadata/annotations", json!({REVISION: "3"}));
        case.set("v0", 1, 0).set("v1", 2, 2).set("v2", 1, 0).check(&["v0 1 -> 0"]);
    }

    #[test]
    fn neither_surge_nor_unavailable_still_moves() {
        rolling(2, 0, 0).set("v1", 2, 2).set("v2", 0, 0).check(&["v1 2 -> 1"]);
    }

    #[test]
    fn recreate_waits_until_the_old_pods_are_gone() {
        let recreate = || case(2, json!({"type": "Recreate"}));
        recreate().set("v1", 2, 2).check(&["v1 2 -> 0"]);
        Case { old_pods: true, ..recreate().set("v1", 0, 0) }.check(&[]);
        recreate().set("v1", 0, 0).check(&["create 2 revision 2"]);
    }

    #[test]
    fn going_back_takes_the_old_set_under_a_new_revision() {
        rolling(2, 1, 0).set("v2", 0, 0).set("v1", 2, 2).check(&["v2 0 -> 1 revision 3", "revision 3"]);
    }

    #[test]
    fn a_paused_deployment_scales_but_does_not_roll() {
        rolling(3, 1, 0).set("v1", 3, 3).with("/spec/paused", json!(true)).check(&[]);
        let paused = rolling(3, 1, 0).set("v1", 3, 3).with("/spec/paused", json!(true));
        paused.with("/spec/replicas", json!(5)).check(&["v1 3 -> 5"]);
    }

    #[test]
    fn scaling_during_a_rollout_is_proportional() {
        let mid = rolling(10, 3, 2).set("v1", 8, 8).set("v2", 5, 0);
        mid.with("/spec/replicas", json!(15)).check(&["v1 8 -> 11", "v2 5 -> 7"]);
    }

    #[test]
    fn history_beyond_the_limit_goes_when_all_is_done() {
        let done =
            json!({"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "observedGeneration": 1});
        let case = rolling(1, 1, 0).set("v0", 0, 0).set("v1", 0, 0).set("v2", 1, 1);
        case.with("/status", done)
            .with("/spec/revisionHistoryLimit", json!(1))
            .with("/metadata/annotations", json!({REVISION: "3"}))
            .check(&["delete v0"]);
    }

    fn progressing(before: Option<(&str, &str)>, new_available: i32, after_seconds: i64) -> (String, String) {
        let mut case =
            rolling(2, 1, 0).set("v2", 2, new_available).with("/spec/progressDeadlineSeconds", json!(60));
        if let Some((status, reason)) = before {
            let at = "2024-01-01T00:00:00Z";
            case = case.with(
                "/status",
                json!({"updatedReplicas": 2, "replicas": 2, "conditions": [
                {"type": "Progressing", "status": status, "reason": reason, "lastUpdateTime": at}]}),
            );
        }
        let deployment: Deployment = serde_json::from_value(case.deployment).unwrap();
        let now = DateTime::parse_from_rfc3339("2024-01-01T00:00:00Z").unwrap().to_utc();
        let wanted = Wanted::of(&deployment, &case.sets).unwrap();
        let status = status(&wanted, now + chrono::Duration::seconds(after_seconds));
        let all = status.conditions.unwrap();
        let one = conditions::find(&all, "Progressing").unwrap();
        (one.status.clone(), one.reason.clone().unwrap())
    }

    #[test]
    fn a_rollout_without_progress_misses_its_deadline() {
        let started = Some(("True", "ReplicaSetUpdated"));
        assert_eq!(progressing(started, 0, 30).1, "ReplicaSetUpdated");
        assert_eq!(progressing(started, 0, 61), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
        assert_eq!(progressing(started, 2, 61).1, "NewReplicaSetAvailable");
    }
}
