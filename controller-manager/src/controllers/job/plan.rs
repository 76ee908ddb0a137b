//! The decision about a job: which pods to create and stop, what to count, how it ends. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{conditions, pods};
use chrono::{DateTime, Utc};
use component_base::clock::{moment_of, time_of};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{Failures, left_of_index};
use super::counting;
use super::facts::{
    Facts, IndexFailures, Observed, has_finalizer, index_failures, index_of, is_indexed, waits_for_end,
};
use super::policies::{Verdict, judge, success};

/// Pods created or deleted in one reconcile at most.
const BURST_MAX: usize = 500;

/// One thing to do. The status lists a pod before its finalizer goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create(Vec<NewPod>),
    /// Delete pods that nobody will count: their finalizer goes first.
    Stop(Vec<Arc<Pod>>),
    /// Delete pods that are still to be counted.
    Delete(Vec<Arc<Pod>>),
    UpdateStatus(Box<JobStatus>),
    Release(Vec<Arc<Pod>>),
    RequeueAfter(Duration),
}

/// A pod to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewPod {
    pub index: Option<i32>,
    /// What the pod is told of failures of its index before it.
    pub failures: Option<IndexFailures>,
}

/// How a job ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ending {
    pub target: &'static str,
    pub terminal: &'static str,
    pub reason: String,
    pub message: String,
}

impl Ending {
    fn failure(reason: &str, message: &str) -> Self {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Self { target: "FailureTarget", terminal: "Failed", reason, message }
    }

    fn success(reason: &str, message: &str) -> Self {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Self { target: "SuccessCriteriaMet", terminal: "Complete", reason, message }
    }

    pub(super) fn is_failure(&self) -> bool {
        self.terminal == "Failed"
    }
}

/// What becomes of the status and the pods, while it is being decided.
pub(super) struct Draft {
    pub status: JobStatus,
    pub steps: Vec<Step>,
    pub active: i32,
    pub ready: i32,
    pub terminating: i32,
    requeue: Option<Duration>,
}

impl Draft {
    fn of(facts: &Facts<'_>, now: DateTime<Utc>) -> Self {
        let mut status = facts.status.clone();
        if !facts.is_suspended() {
            status.start_time.get_or_insert_with(|| time_of(now));
        }
        let size = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Self {
            status,
            steps: Vec::new(),
            active: size(facts.active.len()),
            ready: size(facts.active.iter().filter(|pod| pods::is_ready(pod)).count()),
            terminating: size(facts.terminating.len()),
            requeue: None,
        }
    }

    fn requeue(&mut self, delay: Duration) {
        self.requeue = Some(self.requeue.map_or(delay, |other| other.min(delay)));
    }

    /// The pods stop running; what the status says of them follows.
    fn take_down(&mut self, gone: &[Arc<Pod>]) {
        let size = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        self.active -= size(gone.len());
        self.terminating += size(gone.len());
        self.ready -= size(gone.iter().filter(|pod| pods::is_ready(pod)).count());
    }
}

pub(super) fn is_finished(job: &Job) -> bool {
    let all = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions::is_true(all, "Complete") || conditions::is_true(all, "Failed")
}

/// The steps, and the failures to remember once the status is written.
pub(super) fn plan(observed: &Observed<'_>) -> (Vec<Step>, Failures) {
    let Some(spec) = observed.job.spec.as_ref() else { return Default::default() };
    if is_finished(observed.job) {
        let held: Vec<_> = observed.pods.iter().filter(|pod| has_finalizer(pod)).cloned().collect();
        let steps = if held.is_empty() { Vec::new() } else { vec![Step::Release(held)] };
        return (steps, Failures::default());
    }
    let facts = Facts::gather(observed, spec);
    let mut draft = Draft::of(&facts, observed.now);
    let decided = decide(&facts, &mut draft, observed.now);
    let ending = match decided {
        Some(ending) if observed.settled => {
            delete_active(&facts, &mut draft);
            Some(ending)
        }
        // The cache may not show pods that run: they have to be stopped first.
        Some(_) => None,
        None => go_on(&facts, &mut draft, observed),
    };
    counting::count(&facts, &mut draft, ending.as_ref(), observed.now);
    let mut steps = draft.steps;
    steps.extend(draft.requeue.map(Step::RequeueAfter));
    (steps, facts.failures)
}

fn delete_active(facts: &Facts<'_>, draft: &mut Draft) {
    if facts.active.is_empty() {
        return;
    }
    let active: Vec<Arc<Pod>> = facts.active.iter().map(|pod| Arc::clone(pod)).collect();
    draft.take_down(&active);
    draft.steps.push(Step::Delete(active));
}

/// Keeps the right number of pods running; says when that was enough.
fn go_on(facts: &Facts<'_>, draft: &mut Draft, observed: &Observed<'_>) -> Option<Ending> {
    let managed = observed.settled && facts.job.metadata.deletion_timestamp.is_none();
    if managed {
        manage(facts, draft, observed.now);
    }
    let enough = match facts.spec.completions {
        Some(completions) => facts.succeeded >= completions,
        None => facts.succeeded > 0,
    };
    if enough && draft.active == 0 {
        let message = "Reached expected number of succeeded pods";
        return Some(Ending::success("CompletionsReached", message));
    }
    if managed {
        note_suspension(facts.is_suspended(), &mut draft.status, observed.now);
    }
    None
}

/// Whether and how the job ends: as decided before, else by its policies and limits.
fn decide(facts: &Facts<'_>, draft: &mut Draft, now: DateTime<Utc>) -> Option<Ending> {
    let all = facts.status.conditions.as_deref().unwrap_or_default();
    let earlier = |type_: &str, make: fn(&str, &str) -> Ending| {
        let found = conditions::find(all, type_).filter(|one| one.status == "True")?;
        Some(make(found.reason.as_deref().unwrap_or_default(), found.message.as_deref().unwrap_or_default()))
    };
    earlier("SuccessCriteriaMet", Ending::success)
        .or_else(|| earlier("FailureTarget", Ending::failure))
        .or_else(|| failure_by_policy(facts))
        .or_else(|| failure_by_limit(facts))
        .or_else(|| failure_by_deadline(facts, draft, now))
        .or_else(|| failure_by_index(facts))
        .or_else(|| {
            let message = success(facts.spec.success_policy.as_ref(), &facts.done, facts.bound())?;
            is_indexed(facts.spec).then(|| Ending::success("SuccessPolicy", &message))
        })
}

fn failure_by_policy(facts: &Facts<'_>) -> Option<Ending> {
    let policy = facts.spec.pod_failure_policy.as_ref()?;
    facts.pods.iter().filter(|pod| facts.has_failed(pod)).find_map(|pod| match judge(Some(policy), pod) {
        Verdict::FailJob(message) => Some(Ending::failure("PodFailurePolicy", &message)),
        _ => None,
    })
}

fn failure_by_limit(facts: &Facts<'_>) -> Option<Ending> {
    let limit = facts.spec.backoff_limit.unwrap_or(6);
    let template = facts.spec.template.spec.as_ref();
    let in_place = template.is_some_and(|template| template.restart_policy.as_deref() == Some("OnFailure"));
    let running = |pod: &&&Arc<Pod>| matches!(pods::phase(pod), "Running" | "Pending");
    let restarts: i32 = facts.pods.iter().filter(running).map(|pod| restarts(pod)).sum();
    let restarted = in_place && if limit == 0 { restarts > 0 } else { restarts >= limit };
    let message = "Job has reached the specified backoff limit";
    (facts.failed > limit || restarted).then(|| Ending::failure("BackoffLimitExceeded", message))
}

fn restarts(pod: &Pod) -> i32 {
    let Some(status) = pod.status.as_ref() else { return 0 };
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.map(|container| container.restart_count).sum()
}

fn failure_by_deadline(facts: &Facts<'_>, draft: &mut Draft, now: DateTime<Utc>) -> Option<Ending> {
    let seconds = facts.spec.active_deadline_seconds.filter(|_| !facts.is_suspended())?;
    let start = moment_of(draft.status.start_time.as_ref()?);
    let end = start.checked_add_signed(chrono::Duration::try_seconds(seconds)?)?;
    match (end - now).to_std().ok().filter(|left| !left.is_zero()) {
        Some(left) => {
            draft.requeue(left);
            None
        }
        None => Some(Ending::failure("DeadlineExceeded", "Job was active longer than specified deadline")),
    }
}

fn failure_by_index(facts: &Facts<'_>) -> Option<Ending> {
    let failed = facts.failed_indexes.as_ref()?.count();
    if facts.spec.max_failed_indexes.is_some_and(|max| failed > max) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(Ending::failure("MaxFailedIndexesExceeded", message));
    }
    let over = failed > 0 && failed + facts.done.count() >= facts.bound();
    over.then(|| Ending::failure("FailedIndexes", "Job has failed indexes"))
}

fn note_suspension(suspended: bool, status: &mut JobStatus, now: DateTime<Utc>) {
    let mut all = status.conditions.take().unwrap_or_default();
    let was = conditions::is_true(&all, "Suspended");
    match (suspended, was) {
        (true, false) => {
            conditions::set(&mut all, condition("Suspended", "True", "JobSuspended", "Job suspended", now));
        }
        (false, true) => {
            conditions::set(&mut all, condition("Suspended", "False", "JobResumed", "Job resumed", now));
            // The deadline counts from here.
            status.start_time = Some(time_of(now));
        }
        _ => {}
    }
    status.conditions = (!all.is_empty()).then_some(all);
}

pub(super) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: DateTime<Utc>,
) -> JobCondition {
    JobCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(time_of(now)),
        last_probe_time: Some(time_of(now)),
    }
}

/// Creates or stops pods so that as many run as should; never both at once.
fn manage(facts: &Facts<'_>, draft: &mut Draft, now: DateTime<Utc>) {
    let active = facts.active.len();
    let parallelism = usize::try_from(facts.spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match facts.spec.completions {
        _ if facts.is_suspended() => 0,
        None if facts.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => usize::try_from(completions - facts.succeeded).unwrap_or(0).min(parallelism),
    };
    let mut surplus = surplus(facts, active.saturating_sub(wanted), now);
    surplus.truncate(BURST_MAX);
    if !surplus.is_empty() {
        draft.take_down(&surplus);
        draft.steps.push(Step::Stop(surplus));
        return;
    }
    let ending = if waits_for_end(facts.spec) { facts.terminating.len() } else { 0 };
    let missing = wanted.saturating_sub(active + ending).min(BURST_MAX);
    let new = if facts.is_suspended() { Vec::new() } else { new_pods(facts, missing, draft, now) };
    if !new.is_empty() {
        draft.active += i32::try_from(new.len()).unwrap_or(i32::MAX);
        draft.steps.push(Step::Create(new));
    }
}

/// At least `count` active pods to stop: first those without an index of their own, then the least useful.
fn surplus(facts: &Facts<'_>, count: usize, now: DateTime<Utc>) -> Vec<Arc<Pod>> {
    let order = |one: &Arc<Pod>, other: &Arc<Pod>| crate::pods::deletion_order(one, other, now, |_| 0);
    let mut left: Vec<Arc<Pod>> = facts.active.iter().map(|pod| Arc::clone(pod)).collect();
    let mut stopped = Vec::new();
    if is_indexed(facts.spec) {
        let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in left {
            match index_of(&pod).filter(|index| *index < facts.bound()) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => stopped.push(pod),
            }
        }
        left = Vec::new();
        for mut twins in by_index.into_values() {
            twins.sort_by(order);
            left.extend(twins.pop());
            stopped.extend(twins);
        }
    }
    left.sort_by(order);
    left.truncate(count.saturating_sub(stopped.len()));
    stopped.extend(left);
    stopped
}

/// The pods to create now, `count` at most; what has to wait after failures is asked for later.
fn new_pods(facts: &Facts<'_>, count: usize, draft: &mut Draft, now: DateTime<Utc>) -> Vec<NewPod> {
    if count == 0 {
        return Vec::new();
    }
    let per_index = facts.spec.backoff_limit_per_index.is_some();
    let wait = facts.failures.left(now);
    if !per_index && !wait.is_zero() {
        draft.requeue(wait);
        return Vec::new();
    }
    if !is_indexed(facts.spec) {
        return vec![NewPod { index: None, failures: None }; count];
    }
    let mut new = Vec::new();
    for index in free_indexes(facts, count) {
        let before = facts.to_replace.get(&index).copied();
        let wait = if per_index { left_of_index(before, now) } else { Duration::ZERO };
        if wait.is_zero() {
            let failures = per_index.then(|| failures_after(facts, before));
            new.push(NewPod { index: Some(index), failures });
        } else {
            draft.requeue(wait);
        }
    }
    new
}

fn free_indexes(facts: &Facts<'_>, count: usize) -> Vec<i32> {
    let mut taken =
        facts.active.iter().filter_map(|pod| index_of(pod)).collect::<std::collections::BTreeSet<_>>();
    if waits_for_end(facts.spec) {
        taken.extend(facts.terminating.iter().filter_map(|pod| index_of(pod)));
    }
    let over = facts.done.with(&taken);
    let over = facts.failed_indexes.as_ref().map_or_else(|| over.clone(), |failed| over.union(failed));
    over.missing(count, facts.bound())
}

fn failures_after(facts: &Facts<'_>, before: Option<&Arc<Pod>>) -> IndexFailures {
    let Some(pod) = before else { return IndexFailures::default() };
    let mut failures = index_failures(pod);
    match judge(facts.spec.pod_failure_policy.as_ref(), pod) {
        Verdict::Ignore => failures.ignored += 1,
        _ => failures.counted += 1,
    }
    failures
}
