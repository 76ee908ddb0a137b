//! Counting pods that ended, exactly once each. Pure.
//!
//! A pod goes three ways in this order, each of which survives a crash: the status lists its uid, its
//! finalizer goes, and one write moves it from the list to the counter. A success of an indexed job needs no
//! list: its index is in the status, and there twice is there once.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_types::conditions;
use chrono::{DateTime, Utc};
use component_base::clock::time_of;
use k8s_openapi::api::batch::v1::UncountedTerminatedPods;
use k8s_openapi::api::core::v1::Pod;

use super::facts::{Facts, has_succeeded, index_of, is_indexed};
use super::plan::{Draft, Ending, Step, condition};
use super::policies::{Verdict, judge};
use crate::owners::{is_deleting, uid_of};

/// Uids the status lists at once, as in Kubernetes.
const UNCOUNTED_MAX: usize = 500;

/// The lists of uids that are on their way into the counters.
struct Lists {
    good: BTreeSet<String>,
    bad: BTreeSet<String>,
    /// Indexes that succeed in this very step.
    indexes: usize,
    release: Vec<Arc<Pod>>,
}

impl Lists {
    /// Whether one more pod may be listed; what is listed already only has to go.
    fn have_room_for(&self, uid: &str) -> bool {
        let listed = self.good.len() + self.bad.len() + self.indexes;
        let known = self.good.contains(uid) || self.bad.contains(uid);
        self.release.len() < UNCOUNTED_MAX && (known || listed < UNCOUNTED_MAX)
    }
}

/// Puts into the draft what is counted, listed and let go, and the conditions when the job ends.
pub(super) fn count(facts: &Facts<'_>, draft: &mut Draft, ending: Option<&Ending>, now: DateTime<Utc>) {
    let mut lists = settle(facts, draft);
    for pod in facts.pods.iter().copied().filter(|pod| facts.is_held(pod)) {
        if may_go(facts, ending, pod) && lists.have_room_for(uid_of(&pod.metadata)) {
            list(facts, ending, pod, &mut lists);
        }
    }
    if is_indexed(facts.spec) {
        draft.status.succeeded = Some(facts.done.count()).filter(|count| *count > 0);
        draft.status.completed_indexes = Some(facts.done.to_string()).filter(|text| !text.is_empty());
        draft.status.failed_indexes = facts.failed_indexes.as_ref().map(ToString::to_string);
    }
    let counted = lists.good.is_empty() && lists.bad.is_empty() && lists.release.is_empty();
    if let Some(ending) = ending {
        conclude(draft, ending, counted, now);
    }
    let uids = |set: BTreeSet<String>| (!set.is_empty()).then(|| set.into_iter().collect());
    let status = &mut draft.status;
    status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: uids(lists.good), failed: uids(lists.bad) });
    status.active = Some(draft.active).filter(|count| *count > 0);
    status.ready = Some(draft.ready);
    status.terminating = Some(draft.terminating);
    if facts.job.status.as_ref() != Some(status) {
        draft.steps.push(Step::UpdateStatus(Box::new(status.clone())));
    }
    if !lists.release.is_empty() {
        draft.steps.push(Step::Release(lists.release));
    }
}

/// Moves what is listed and not held any more into the counters.
fn settle(facts: &Facts<'_>, draft: &mut Draft) -> Lists {
    let held: BTreeSet<&str> =
        facts.pods.iter().filter(|pod| facts.is_held(pod)).map(|pod| uid_of(&pod.metadata)).collect();
    let split = |uids: &BTreeSet<String>| -> (BTreeSet<String>, i32) {
        let (held, free): (BTreeSet<String>, BTreeSet<String>) =
            uids.iter().cloned().partition(|uid| held.contains(uid.as_str()));
        (held, i32::try_from(free.len()).unwrap_or(i32::MAX))
    };
    let ((good, succeeded), (bad, failed)) = (split(&facts.listed_good), split(&facts.listed_bad));
    let add = |count: &mut Option<i32>, more: i32| {
        *count = Some(count.unwrap_or(0) + more).filter(|count| *count > 0);
    };
    add(&mut draft.status.succeeded, succeeded);
    add(&mut draft.status.failed, failed);
    Lists { good, bad, indexes: 0, release: Vec::new() }
}

/// Whether the pod's finalizer may go once the pod is listed.
fn may_go(facts: &Facts<'_>, ending: Option<&Ending>, pod: &Pod) -> bool {
    if is_deleting(&facts.job.metadata) || ending.is_some() || has_succeeded(pod) {
        return true;
    }
    let awaits_next = index_of(pod)
        .and_then(|index| facts.to_replace.get(&index))
        .is_some_and(|last| last.metadata.uid == pod.metadata.uid);
    facts.has_failed(pod) && !awaits_next
}

fn list(facts: &Facts<'_>, ending: Option<&Ending>, pod: &Arc<Pod>, lists: &mut Lists) {
    let uid = uid_of(&pod.metadata);
    lists.release.push(pod.clone());
    if lists.bad.contains(uid) || lists.good.contains(uid) || !facts.is_in_range(pod) {
        return;
    }
    if has_succeeded(pod) {
        if is_indexed(facts.spec) {
            lists.indexes += 1;
        } else {
            lists.good.insert(uid.to_owned());
        }
        return;
    }
    // Of a job that fails, what still runs has failed with it.
    let failed = facts.has_failed(pod) || ending.is_some_and(Ending::is_failure);
    if failed && judge(facts.spec.pod_failure_policy.as_ref(), pod) != Verdict::Ignore {
        lists.bad.insert(uid.to_owned());
    }
}

/// Says how the job ends; that it has ended, only when every pod is counted and gone.
fn conclude(draft: &mut Draft, ending: &Ending, counted: bool, now: DateTime<Utc>) {
    let mut all = draft.status.conditions.take().unwrap_or_default();
    let (reason, message) = (&ending.reason, &ending.message);
    if !conditions::is_true(&all, ending.target) {
        conditions::set(&mut all, condition(ending.target, "True", reason, message, now));
    }
    if counted && draft.terminating == 0 && draft.active == 0 {
        conditions::set(&mut all, condition(ending.terminal, "True", reason, message, now));
        if !ending.is_failure() {
            draft.status.completion_time = Some(time_of(now));
        }
    }
    draft.status.conditions = Some(all);
}
