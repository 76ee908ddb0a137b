//! What is known of a job: its pods sorted by how they stand, and the counts that follow. Pure.
//!
//! A pod is *held* while it carries the tracking finalizer. What has ended and is held has not been counted
//! yet, unless the status lists its uid; what is not held any more is in the counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_types::pods;
use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{Failures, finish_time};
use super::indexes::Indexes;
use super::policies::{Verdict, judge};
use crate::owners::{annotation, uid_of};

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What `plan` sees.
pub(super) struct Observed<'a> {
    pub job: &'a Job,
    pub pods: &'a [Arc<Pod>],
    /// Uids of pods that the cache shows as held though they were let go.
    pub released: &'a BTreeSet<String>,
    /// Whether the cache shows all that was created and deleted before.
    pub settled: bool,
    /// The failures seen so far; none when this process sees the job for the first time.
    pub failures: Option<&'a Failures>,
    pub now: DateTime<Utc>,
}

/// Failures of an index before the pod that this is noted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IndexFailures {
    pub counted: u32,
    pub ignored: u32,
}

/// The facts that all decisions use.
pub(super) struct Facts<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    pub status: JobStatus,
    /// In the order of their indexes.
    pub pods: Vec<&'a Arc<Pod>>,
    pub active: Vec<&'a Arc<Pod>>,
    pub terminating: Vec<&'a Arc<Pod>>,
    /// Uids that the status lists.
    pub listed_good: BTreeSet<String>,
    pub listed_bad: BTreeSet<String>,
    pub succeeded: i32,
    pub failed: i32,
    /// Indexes that succeeded, by the status and by the pods.
    pub done: Indexes,
    /// Indexes that are not tried again; only with a limit for each index.
    pub failed_indexes: Option<Indexes>,
    /// Of each index that has to be tried again, the pod whose failure count the next one continues.
    pub to_replace: BTreeMap<i32, &'a Arc<Pod>>,
    pub failures: Failures,
    released: &'a BTreeSet<String>,
}

pub(super) fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER)
}

pub(super) fn has_succeeded(pod: &Pod) -> bool {
    pods::phase(pod) == "Succeeded"
}

pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok().filter(|index| *index >= 0)
}

pub(super) fn index_failures(pod: &Pod) -> IndexFailures {
    let read = |name| annotation(&pod.metadata, name).and_then(|text| text.parse().ok()).unwrap_or(0);
    IndexFailures { counted: read(FAILURES), ignored: read(IGNORED_FAILURES) }
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether a pod is replaced only when it has ended, not when it begins to.
pub(super) fn waits_for_end(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

fn size<T>(all: &[T]) -> i32 {
    i32::try_from(all.len()).unwrap_or(i32::MAX)
}

impl<'a> Facts<'a> {
    pub(super) fn gather(observed: &Observed<'a>, spec: &'a JobSpec) -> Self {
        let status = observed.job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let set = |uids: Option<Vec<String>>| uids.unwrap_or_default().into_iter().collect();
        let mut pods: Vec<&Arc<Pod>> = observed.pods.iter().collect();
        if is_indexed(spec) {
            pods.sort_by_key(|pod| index_of(pod));
        }
        let active = pods.iter().copied().filter(|pod| pods::is_active(pod)).collect();
        let ending = |pod: &&Arc<Pod>| pods::is_terminating(pod) && !pods::is_terminal(pod);
        let mut facts = Self {
            job: observed.job,
            spec,
            terminating: pods.iter().copied().filter(ending).collect(),
            active,
            pods,
            listed_good: set(uncounted.succeeded),
            listed_bad: set(uncounted.failed),
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            done: Indexes::default(),
            failed_indexes: None,
            to_replace: BTreeMap::new(),
            failures: Failures::default(),
            released: observed.released,
            status,
        };
        facts.count(observed);
        if is_indexed(spec) {
            facts.count_indexes();
        }
        facts
    }

    /// What succeeded and failed, with what the status does not list yet.
    fn count(&mut self, observed: &Observed<'a>) {
        let good: Vec<_> = self.uncounted().filter(|pod| has_succeeded(pod)).collect();
        let bad: Vec<_> = self.uncounted().filter(|pod| self.has_failed(pod)).collect();
        let policy = self.spec.pod_failure_policy.as_ref();
        let ignored = bad.iter().filter(|pod| judge(policy, pod) == Verdict::Ignore).count();
        let listed = |set: &BTreeSet<String>| i32::try_from(set.len()).unwrap_or(i32::MAX);
        self.failures = match observed.failures {
            Some(before) => before.and(&good, &bad),
            None => {
                let ended = |pod: &&Arc<Pod>| has_succeeded(pod) || self.has_failed(pod);
                Failures::of(&self.pods.iter().copied().filter(ended).collect::<Vec<_>>())
            }
        };
        self.succeeded += size(&good) + listed(&self.listed_good);
        self.failed += size(&bad) - i32::try_from(ignored).unwrap_or(0) + listed(&self.listed_bad);
    }

    fn count_indexes(&mut self) {
        let done = Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or_default(), self.bound());
        let good = self.uncounted().filter(|pod| has_succeeded(pod)).filter_map(|pod| index_of(pod));
        self.done = done.with(&good.collect());
        self.succeeded = self.done.count();
        let Some(limit) = self.spec.backoff_limit_per_index else { return };
        let limit = u32::try_from(limit).unwrap_or(0);
        let failed = Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or_default(), self.bound());
        let held = self.pods.iter().copied().filter(|pod| self.is_held(pod) && self.is_in_range(pod));
        let bad = held.filter(|pod| self.fails_index(pod, limit)).filter_map(|pod| index_of(pod));
        let failed = failed.with(&bad.collect());
        self.to_replace = self.find_to_replace(&failed);
        self.failed_indexes = Some(failed);
    }

    fn fails_index(&self, pod: &Arc<Pod>, limit: u32) -> bool {
        if !self.has_failed(pod) {
            return false;
        }
        match judge(self.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => index_failures(pod).counted >= limit,
        }
    }

    /// The failed pods that stay held until the next pod of their index carries their count on.
    fn find_to_replace(&self, failed: &Indexes) -> BTreeMap<i32, &'a Arc<Pod>> {
        let running: BTreeSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        let rank = |pod: &Pod| {
            let failures = index_failures(pod);
            (failures.counted + failures.ignored, finish_time(pod))
        };
        let mut last: BTreeMap<i32, &'a Arc<Pod>> = BTreeMap::new();
        for pod in self.pods.iter().copied() {
            let Some(index) = index_of(pod).filter(|_| self.is_held(pod) && self.is_in_range(pod)) else {
                continue;
            };
            let over = self.done.contains(index) || failed.contains(index) || running.contains(&index);
            if !over
                && self.has_failed(pod)
                && last.get(&index).is_none_or(|before| rank(before) <= rank(pod))
            {
                last.insert(index, pod);
            }
        }
        last
    }

    /// Held pods that the status does not list, with an index that the job has.
    fn uncounted(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        let listed = |pod: &Pod| {
            let uid = uid_of(&pod.metadata);
            self.listed_good.contains(uid) || self.listed_bad.contains(uid)
        };
        let fits = move |pod: &&Arc<Pod>| self.is_held(pod) && self.is_in_range(pod) && !listed(pod);
        self.pods.iter().copied().filter(fits)
    }

    /// How many indexes there are.
    pub(super) fn bound(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// Whether the pod has an index that the job still has; always true without indexes.
    pub(super) fn is_in_range(&self, pod: &Pod) -> bool {
        !is_indexed(self.spec) || index_of(pod).is_some_and(|index| index < self.bound())
    }

    pub(super) fn is_held(&self, pod: &Pod) -> bool {
        has_finalizer(pod) && !self.released.contains(uid_of(&pod.metadata))
    }

    /// A pod that is deleted before it succeeds has failed: it may never come to say so itself.
    pub(super) fn has_failed(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Failed"
            || (!waits_for_end(self.spec) && pods::is_terminating(pod) && !has_succeeded(pod))
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }
}
