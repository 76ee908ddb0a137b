//! `job-controller`: runs pods until enough of them succeeded.
//!
//! # Watches
//! Jobs, and pods by their controlling owner, labels or tracking finalizer.
//!
//! # Writes
//! Pods (create, delete, the finalizer `batch.kubernetes.io/job-tracking`) and the Job's status.
//!
//! # Guarantees
//! A finished pod is counted exactly once: it carries a finalizer until the Job's status lists its uid, and
//! it is counted when the finalizer is gone, so neither a restart nor a deletion loses or doubles it. Never
//! a pod too many, also when the cache lags. Failed pods are replaced after 10 s, 20 s, … up to 10 minutes.
//!
//! # Differs from Kubernetes
//! `podFailurePolicy`, `successPolicy`, `backoffLimitPerIndex` and `podReplacementPolicy: Failed` are not
//! acted on; a job with `managedBy` of another controller is left alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_types::{conditions, pods};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of, time_of};
use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::expectations::Expectations;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, annotation, label, name_of, uid_of};
use crate::pod_control::{PodControl, claim_all, pod_of, slow_start};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const MANAGER: &str = "kubernetes.io/job-controller";
/// Pods created or deleted in one reconcile at most.
const BURST_MAX: usize = 500;
/// Uids the status lists at once, as in Kubernetes.
const UNCOUNTED_MAX: usize = 500;
const BACKOFF: component_base::backoff::Backoff =
    component_base::backoff::Backoff { base: Duration::from_secs(10), max: Duration::from_secs(600) };

pub(crate) struct JobController {
    client: Client,
    clock: Clock,
    events: Events,
    jobs: Arc<Informer<Job>>,
    pods: Arc<Informer<Pod>>,
    control: PodControl,
    expectations: Expectations,
}

/// One thing to do, in this order: the status lists a pod before its finalizer goes.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    UpdateStatus(Box<JobStatus>),
    RemoveFinalizers(Vec<Arc<Pod>>),
    /// Create pods with these indexes, or without.
    Create(Vec<Option<i32>>),
    Delete(Vec<Arc<Pod>>),
    RequeueAfter(Duration),
}

/// What `plan` sees.
struct Observed<'a> {
    job: &'a Job,
    pods: &'a [Arc<Pod>],
    /// Whether the cache shows all that was done before.
    settled: bool,
    now: DateTime<Utc>,
}

/// The facts that all decisions use.
struct Facts<'a> {
    spec: &'a JobSpec,
    status: JobStatus,
    active: Vec<Arc<Pod>>,
    /// Finished, not yet let go.
    to_release: Vec<Arc<Pod>>,
    /// Indexes that succeeded; only of an Indexed job.
    done_indexes: BTreeSet<i32>,
    succeeded: i32,
    failed: i32,
    all_counted: bool,
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER)
}

fn has_succeeded(pod: &Pod) -> bool {
    pods::phase(pod) == "Succeeded"
}

/// A pod that is deleted before it succeeds has failed.
fn has_failed(pod: &Pod) -> bool {
    pods::phase(pod) == "Failed" || (pods::is_terminating(pod) && !has_succeeded(pod))
}

fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn is_finished(job: &Job) -> bool {
    let all = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions::is_true(all, "Complete") || conditions::is_true(all, "Failed")
}

/// Reads `0-2,5` as a set.
fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<i32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// Writes a set as `0-2,5`.
fn format_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => parts.push((*index, *index)),
        }
    }
    let part = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

impl<'a> Facts<'a> {
    /// Counts what can be counted and lists what has finished since.
    fn gather(observed: &Observed<'a>) -> Option<Self> {
        let spec = observed.job.spec.as_ref()?;
        let mut status = observed.job.status.clone().unwrap_or_default();
        let held: BTreeSet<&str> =
            observed.pods.iter().filter(|pod| has_finalizer(pod)).map(|pod| uid_of(&pod.metadata)).collect();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let split = |uids: Option<Vec<String>>| -> (BTreeSet<String>, i32) {
            let (held, free): (BTreeSet<String>, BTreeSet<String>) =
                uids.unwrap_or_default().into_iter().partition(|uid| held.contains(uid.as_str()));
            (held, i32::try_from(free.len()).unwrap_or(0))
        };
        let (mut listed_good, good) = split(uncounted.succeeded);
        let (mut listed_bad, bad) = split(uncounted.failed);
        status.succeeded = Some(status.succeeded.unwrap_or(0) + good).filter(|count| *count > 0);
        status.failed = Some(status.failed.unwrap_or(0) + bad).filter(|count| *count > 0);
        let mut done_indexes = parse_indexes(status.completed_indexes.as_deref().unwrap_or_default());
        let (mut active, mut to_release) = (Vec::new(), Vec::new());
        for pod in observed.pods {
            let (good, bad) = (has_succeeded(pod), has_failed(pod));
            if !good && !bad {
                active.push(pod.clone());
            } else if has_finalizer(pod) && listed_good.len() + listed_bad.len() < UNCOUNTED_MAX {
                let list = if good { &mut listed_good } else { &mut listed_bad };
                list.insert(uid_of(&pod.metadata).to_owned());
                to_release.push(pod.clone());
                done_indexes.extend(index_of(pod).filter(|_| good && is_indexed(spec)));
            }
        }
        let count = |set: &BTreeSet<String>| i32::try_from(set.len()).unwrap_or(i32::MAX);
        let failed = status.failed.unwrap_or(0) + count(&listed_bad);
        let mut succeeded = status.succeeded.unwrap_or(0) + count(&listed_good);
        if is_indexed(spec) {
            let bound = spec.completions.unwrap_or(i32::MAX);
            done_indexes.retain(|index| *index < bound);
            succeeded = i32::try_from(done_indexes.len()).unwrap_or(i32::MAX);
            status.completed_indexes = Some(format_indexes(&done_indexes)).filter(|text| !text.is_empty());
            status.succeeded = Some(succeeded).filter(|count| *count > 0);
        }
        let all_counted = listed_good.is_empty() && listed_bad.is_empty();
        let list = |set: BTreeSet<String>| (!set.is_empty()).then(|| set.into_iter().collect());
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: list(listed_good), failed: list(listed_bad) });
        Some(Self { spec, status, active, to_release, done_indexes, succeeded, failed, all_counted })
    }

    /// Why the job has failed, if it has.
    fn failure(&self, now: DateTime<Utc>) -> Option<(&'static str, &'static str)> {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let in_place = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref())
            == Some("OnFailure");
        let restarts: i32 = self.active.iter().map(|pod| restarts(pod)).sum();
        let restarted = in_place && if limit == 0 { restarts > 0 } else { restarts >= limit };
        if self.failed > limit || restarted {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        let late = self.deadline_in(now).is_some_and(|left| left.is_zero());
        late.then_some(("DeadlineExceeded", "Job was active longer than specified deadline"))
    }

    fn deadline_in(&self, now: DateTime<Utc>) -> Option<Duration> {
        let seconds = self.spec.active_deadline_seconds?;
        let start = moment_of(self.status.start_time.as_ref()?);
        let left = start + chrono::Duration::seconds(seconds) - now;
        Some(left.to_std().unwrap_or(Duration::ZERO))
    }

    fn is_complete(&self) -> bool {
        match self.spec.completions {
            Some(completions) => self.succeeded >= completions,
            None => self.succeeded > 0 && self.active.is_empty(),
        }
    }
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, now: DateTime<Utc>) -> JobCondition {
    JobCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(time_of(now)),
        last_probe_time: Some(time_of(now)),
    }
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    let held = || observed.pods.iter().filter(|pod| has_finalizer(pod)).cloned().collect::<Vec<_>>();
    if is_finished(observed.job) {
        let left = held();
        return if left.is_empty() { Vec::new() } else { vec![Step::RemoveFinalizers(left)] };
    }
    if owners::is_deleting(&observed.job.metadata) {
        let left: Vec<_> = held().into_iter().filter(|pod| has_failed(pod) || has_succeeded(pod)).collect();
        return if left.is_empty() { Vec::new() } else { vec![Step::RemoveFinalizers(left)] };
    }
    let Some(mut facts) = Facts::gather(observed) else { return Vec::new() };
    let suspended = facts.spec.suspend == Some(true);
    start_or_suspend(&mut facts, suspended, observed.now);
    let mut steps = Vec::new();
    if let Some(outcome) = outcome(&facts, observed.now) {
        finish(&mut facts, outcome, observed.now, &mut steps);
    } else if observed.settled {
        manage(&facts, suspended, observed, &mut steps);
    }
    if let Some(left) = facts.deadline_in(observed.now).filter(|left| !left.is_zero()) {
        steps.push(Step::RequeueAfter(left));
    }
    complete_status(&mut facts, observed);
    let mut ordered = Vec::new();
    if observed.job.status.as_ref() != Some(&facts.status) {
        ordered.push(Step::UpdateStatus(Box::new(facts.status)));
    }
    if !facts.to_release.is_empty() {
        ordered.push(Step::RemoveFinalizers(facts.to_release));
    }
    ordered.extend(steps);
    ordered
}

fn complete_status(facts: &mut Facts<'_>, observed: &Observed<'_>) {
    let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
    let ready = facts.active.iter().filter(|pod| pods::is_ready(pod)).count();
    let going =
        observed.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
    facts.status.active = Some(count(facts.active.len())).filter(|count| *count > 0);
    facts.status.ready = Some(count(ready));
    facts.status.terminating = Some(count(going));
}

fn start_or_suspend(facts: &mut Facts<'_>, suspended: bool, now: DateTime<Utc>) {
    let mut all = facts.status.conditions.take().unwrap_or_default();
    if suspended {
        facts.status.start_time = None;
        if !conditions::is_true(&all, "Suspended") {
            conditions::set(&mut all, condition("Suspended", "True", "JobSuspended", "Job suspended", now));
        }
    } else {
        if conditions::is_true(&all, "Suspended") {
            conditions::set(&mut all, condition("Suspended", "False", "JobResumed", "Job resumed", now));
        }
        facts.status.start_time.get_or_insert_with(|| time_of(now));
    }
    facts.status.conditions = (!all.is_empty()).then_some(all);
}

/// How a job ends.
#[derive(Clone, Debug)]
struct Outcome {
    target: &'static str,
    terminal: &'static str,
    reason: String,
    message: String,
}

/// How the job ends, when that is decided: now, or earlier with pods still to count.
fn outcome(facts: &Facts<'_>, now: DateTime<Utc>) -> Option<Outcome> {
    let all = facts.status.conditions.as_deref().unwrap_or_default();
    let failed = |reason: &str, message: &str| Outcome {
        target: "FailureTarget",
        terminal: "Failed",
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    if let Some(earlier) = conditions::find(all, "FailureTarget").filter(|one| one.status == "True") {
        return Some(failed(
            earlier.reason.as_deref().unwrap_or_default(),
            earlier.message.as_deref().unwrap_or_default(),
        ));
    }
    if conditions::is_true(all, "SuccessCriteriaMet") || facts.is_complete() {
        return Some(Outcome {
            target: "SuccessCriteriaMet",
            terminal: "Complete",
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        });
    }
    facts.failure(now).map(|(reason, message)| failed(reason, message))
}

/// Stops what still runs; the terminal condition comes when everything is counted.
fn finish(facts: &mut Facts<'_>, outcome: Outcome, now: DateTime<Utc>, steps: &mut Vec<Step>) {
    let mut all = facts.status.conditions.take().unwrap_or_default();
    let (reason, message) = (&outcome.reason, &outcome.message);
    if !conditions::is_true(&all, outcome.target) {
        conditions::set(&mut all, condition(outcome.target, "True", reason, message, now));
    }
    if facts.all_counted && facts.active.is_empty() {
        conditions::set(&mut all, condition(outcome.terminal, "True", reason, message, now));
        if outcome.terminal == "Complete" {
            facts.status.completion_time = Some(time_of(now));
        }
    }
    facts.status.conditions = Some(all);
    if !facts.active.is_empty() {
        steps.push(Step::Delete(facts.active.clone()));
    }
}

/// Creates or deletes pods so that as many run as should.
fn manage(facts: &Facts<'_>, suspended: bool, observed: &Observed<'_>, steps: &mut Vec<Step>) {
    let parallelism = usize::try_from(facts.spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let active = facts.active.len();
    let wanted = match facts.spec.completions {
        _ if suspended => 0,
        None if facts.succeeded > 0 => active.min(parallelism),
        None => parallelism,
        Some(completions) => usize::try_from(completions - facts.succeeded).unwrap_or(0).min(parallelism),
    };
    if active > wanted {
        let mut ranked = facts.active.clone();
        ranked.sort_by(|one, other| crate::pods::deletion_order(one, other, observed.now, |_| 0));
        ranked.truncate((active - wanted).min(BURST_MAX));
        steps.push(Step::Delete(ranked));
    } else if active < wanted {
        match backoff_left(observed) {
            Some(left) => steps.push(Step::RequeueAfter(left)),
            None => steps.push(Step::Create(indexes_for(facts, (wanted - active).min(BURST_MAX)))),
        }
    }
}

fn indexes_for(facts: &Facts<'_>, count: usize) -> Vec<Option<i32>> {
    if !is_indexed(facts.spec) {
        return vec![None; count];
    }
    let taken: BTreeSet<i32> = facts.active.iter().filter_map(|pod| index_of(pod)).collect();
    let free = (0..facts.spec.completions.unwrap_or(0))
        .filter(|index| !taken.contains(index) && !facts.done_indexes.contains(index));
    free.take(count).map(Some).collect()
}

/// How long new pods still have to wait after the last failures.
fn backoff_left(observed: &Observed<'_>) -> Option<Duration> {
    let ended = |pod: &Arc<Pod>| finish_time(pod);
    let last_success = observed.pods.iter().filter(|pod| has_succeeded(pod)).filter_map(ended).max();
    let failures: Vec<_> = observed
        .pods
        .iter()
        .filter(|pod| pods::phase(pod) == "Failed")
        .filter_map(ended)
        .filter(|time| last_success.is_none_or(|success| *time > success))
        .collect();
    let count = u32::try_from(failures.len()).unwrap_or(u32::MAX);
    let delay = chrono::Duration::from_std(BACKOFF.delay(count)).ok()?;
    let left = *failures.iter().max()? + delay - observed.now;
    left.to_std().ok().filter(|left| !left.is_zero())
}

fn finish_time(pod: &Pod) -> Option<DateTime<Utc>> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ended = statuses.into_iter().flatten().filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(moment_of)
    });
    let stamp = pod.metadata.deletion_timestamp.as_ref().or(pod.metadata.creation_timestamp.as_ref());
    ended.max().or(stamp.map(moment_of))
}

fn pod_for(job: &Job, spec: &JobSpec, index: Option<i32>) -> Pod {
    let (name, namespace) = (name_of(&job.metadata), job.metadata.namespace.as_deref().unwrap_or_default());
    let prefix = index.map_or_else(|| name.to_owned(), |index| format!("{name}-{index}"));
    let mut pod = pod_of(&spec.template, owners::controller_reference(job), namespace, &prefix);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    let labels = pod.metadata.labels.get_or_insert_default();
    let uid = uid_of(&job.metadata);
    for (key, value) in [
        (JOB_NAME, name),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("controller-uid", uid),
    ] {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let inner = pod.spec.get_or_insert_default();
    if let Some(index) = index {
        labels.insert(INDEX.to_owned(), index.to_string());
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        inner.hostname = Some(prefix);
        let field =
            ObjectFieldSelector { field_path: format!("metadata.annotations['{INDEX}']"), api_version: None };
        let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
        let variable =
            EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value_from: Some(source), value: None };
        for container in inner.containers.iter_mut().chain(inner.init_containers.iter_mut().flatten()) {
            let variables = container.env.get_or_insert_default();
            if !variables.iter().any(|one| one.name == variable.name) {
                variables.push(variable.clone());
            }
        }
    }
    pod
}

#[async_trait]
impl Controller for JobController {
    const NAME: &'static str = "job-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let jobs = setup.watch_own::<Job>();
        let pods = setup.watch::<Pod>(|pod| key_of(pod).into_iter().collect());
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            jobs,
            pods,
            control: PodControl::new(setup.client.clone(), setup.events()),
            expectations: Expectations::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(job) = self.jobs.get(key) else {
            self.expectations.forget(key);
            self.release_orphans(key).await?;
            return Ok(Action::Done);
        };
        let spec = job.spec.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER) {
            return Ok(Action::Done);
        }
        let settled = self.expectations.are_met(key, &*self.pods);
        let pods = match &spec.selector {
            Some(selector) => {
                claim_all(&self.client, &*job, selector, self.pods.in_namespace(&key.namespace)).await?
            }
            None => self.pods.owned_by(uid_of(&job.metadata)),
        };
        let mut action = Action::Done;
        for step in plan(&Observed { job: &job, pods: &pods, settled, now: self.clock.now() }) {
            match step {
                Step::RequeueAfter(delay) => action = Action::RequeueAfter(delay),
                step => self.apply(key, &job, &spec, step).await?,
            }
        }
        Ok(action)
    }
}

/// The Job that a change of `pod` concerns.
fn key_of(pod: &Pod) -> Option<ObjectKey> {
    if let Some(key) = owners::controller_key::<Job>(&pod.metadata) {
        return Some(key);
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    label(&pod.metadata, JOB_NAME).map(|name| ObjectKey::new(namespace, name))
}

impl JobController {
    async fn apply(&self, key: &ObjectKey, job: &Job, spec: &JobSpec, step: Step) -> Result<(), kube::Error> {
        match step {
            Step::UpdateStatus(status) => self.write_status(job, *status).await,
            Step::RemoveFinalizers(pods) => self.release_all(&pods).await,
            Step::Create(indexes) => {
                let indexes = &indexes;
                let create = |at: usize| async move {
                    let created = self.control.create(job, &pod_for(job, spec, indexes[at])).await?;
                    self.expectations.created(key, &self.pods, &created);
                    Ok(())
                };
                slow_start(indexes.len(), create).await
            }
            Step::Delete(pods) => {
                // They are stopped, not failed: without the finalizer they are not counted.
                self.release_all(&pods).await?;
                let deletions = pods.iter().map(|pod| async {
                    self.control.delete(job, pod).await?;
                    self.expectations.deleted(key, &**pod);
                    Ok(())
                });
                join_all(deletions).await.into_iter().collect()
            }
            Step::RequeueAfter(_) => Ok(()),
        }
    }

    async fn release_all(&self, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        join_all(pods.iter().map(|pod| self.release(pod))).await.into_iter().collect()
    }

    async fn release(&self, pod: &Pod) -> Result<(), kube::Error> {
        if !has_finalizer(pod) {
            return Ok(());
        }
        let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|one| one != FINALIZER);
        let patch = json!({"metadata": {
            "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "finalizers": finalizers,
        }});
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        match api.patch(name_of(&pod.metadata), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets pods go whose Job is gone.
    async fn release_orphans(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let mut orphans = self.pods.in_namespace(&key.namespace);
        orphans.retain(|pod| has_finalizer(pod) && key_of(pod).as_ref() == Some(key));
        self.release_all(&orphans).await
    }

    async fn write_status(&self, job: &Job, status: JobStatus) -> Result<(), kube::Error> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let wanted = Job { status: Some(status), ..job.clone() };
        let written = api.replace_status(name_of(&job.metadata), &PostParams::default(), &wanted).await?;
        if is_finished(&written) {
            let all = written.status.and_then(|status| status.conditions).unwrap_or_default();
            if conditions::is_true(&all, "Complete") {
                self.events.normal(job, "Completed", "Job completed");
            } else if let Some(failed) = conditions::find(&all, "Failed") {
                let reason = failed.reason.as_deref().unwrap_or("Failed");
                self.events.warning(job, reason, failed.message.as_deref().unwrap_or_default());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: serde_json::Value, status: serde_json::Value) -> Job {
        let mut spec = spec;
        spec["template"] = json!({"spec": {"containers": [], "restartPolicy": "Never"}});
        let meta = json!({"name": "j", "namespace": "ns", "uid": "j"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
    }

    fn pod(name: &str, phase: &str, held: bool) -> Arc<Pod> {
        let finalizers = if held { json!([FINALIZER]) } else { json!([]) };
        let meta = json!({"name": name, "uid": name, "finalizers": finalizers, "creationTimestamp": "1970-01-01T00:00:00Z"});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "status": {"phase": phase}})).unwrap())
    }

    fn check(job: &Job, pods: &[Arc<Pod>], after_seconds: i64, expected: &[&str]) {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(after_seconds);
        let steps = plan(&Observed { job, pods, settled: true, now });
        let told: Vec<String> = steps.iter().map(tell).collect();
        assert_eq!(told, expected);
    }

    fn names(pods: &[Arc<Pod>]) -> String {
        pods.iter().map(|pod| name_of(&pod.metadata)).collect::<Vec<_>>().join(" ")
    }

    fn tell(step: &Step) -> String {
        match step {
            Step::UpdateStatus(status) => {
                let list = status
                    .conditions
                    .iter()
                    .flatten()
                    .map(|one| one.type_.as_str())
                    .collect::<Vec<_>>()
                    .join(" ");
                let (good, bad) = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
                let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
                let listed = uncounted.succeeded.unwrap_or_default().len()
                    + uncounted.failed.unwrap_or_default().len();
                format!("status good={good} bad={bad} listed={listed} [{list}]")
            }
            Step::RemoveFinalizers(pods) => format!("release {}", names(pods)),
            Step::Create(indexes) => format!("create {indexes:?}"),
            Step::Delete(pods) => format!("delete {}", names(pods)),
            Step::RequeueAfter(delay) => format!("requeue {}s", delay.as_secs()),
        }
    }

    #[test]
    fn as_many_pods_run_as_parallelism_and_completions_allow() {
        let job = job(json!({"parallelism": 5, "completions": 2}), json!({}));
        check(&job, &[], 0, &["status good=0 bad=0 listed=0 []", "create [None, None]"]);
    }

    #[test]
    fn a_finished_pod_is_listed_then_released_then_counted() {
        let spec = || json!({"parallelism": 1, "completions": 2});
        let steps = ["status good=0 bad=0 listed=1 []", "release a", "create [None]"];
        check(&job(spec(), json!({})), &[pod("a", "Succeeded", true)], 0, &steps);
        let listed =
            json!({"startTime": "1970-01-01T00:00:00Z", "uncountedTerminatedPods": {"succeeded": ["a"]}});
        let steps = ["status good=1 bad=0 listed=0 []", "create [None]"];
        check(&job(spec(), listed), &[pod("a", "Succeeded", false)], 0, &steps);
    }

    #[test]
    fn the_last_success_completes_the_job_when_it_is_counted() {
        let spec = || json!({"parallelism": 1, "completions": 1});
        let steps = ["status good=0 bad=0 listed=1 [SuccessCriteriaMet]", "release a"];
        check(&job(spec(), json!({})), &[pod("a", "Succeeded", true)], 0, &steps);
        let listed = json!({"uncountedTerminatedPods": {"succeeded": ["a"]}});
        let steps = ["status good=1 bad=0 listed=0 [SuccessCriteriaMet Complete]"];
        check(&job(spec(), listed), &[pod("a", "Succeeded", false)], 0, &steps);
    }

    #[test]
    fn a_failed_pod_is_replaced_after_a_delay() {
        let spec = || json!({"parallelism": 1, "completions": 1});
        let counted = || json!({"startTime": "1970-01-01T00:00:00Z", "failed": 1, "ready": 0, "terminating": 0, "uncountedTerminatedPods": {}});
        check(&job(spec(), counted()), &[pod("a", "Failed", false)], 4, &["requeue 6s"]);
        check(&job(spec(), counted()), &[pod("a", "Failed", false)], 11, &["create [None]"]);
    }

    #[test]
    fn too_many_failures_fail_the_job_and_stop_the_rest() {
        let job = job(json!({"parallelism": 2, "completions": 2, "backoffLimit": 0}), json!({}));
        let pods = [pod("a", "Failed", true), pod("b", "Running", true)];
        check(&job, &pods, 0, &["status good=0 bad=0 listed=1 [FailureTarget]", "release a", "delete b"]);
    }

    #[test]
    fn a_suspended_job_runs_nothing() {
        let job = job(json!({"parallelism": 1, "completions": 1, "suspend": true}), json!({}));
        check(
            &job,
            &[pod("a", "Running", true)],
            0,
            &["status good=0 bad=0 listed=0 [Suspended]", "delete a"],
        );
    }

    #[test]
    fn an_indexed_job_fills_the_lowest_free_indexes() {
        let spec = json!({"parallelism": 3, "completions": 4, "completionMode": "Indexed"});
        let job = job(spec, json!({"completedIndexes": "1", "succeeded": 1}));
        check(&job, &[], 0, &["status good=1 bad=0 listed=0 []", "create [Some(0), Some(2), Some(3)]"]);
    }

    #[test]
    fn indexes_are_written_as_ranges() {
        let indexes = [0, 1, 2, 5, 7, 8].into();
        assert_eq!(format_indexes(&indexes), "0-2,5,7,8");
        assert_eq!(parse_indexes("0-2,5,7,8"), indexes);
    }

    #[test]
    fn a_finished_job_only_lets_its_pods_go() {
        let done = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        check(&job(json!({}), done), &[pod("a", "Running", true)], 0, &["release a"]);
    }
}
