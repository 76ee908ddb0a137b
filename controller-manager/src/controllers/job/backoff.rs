//! How long a job waits before it replaces pods that failed: 10 s, 20 s, … up to 10 minutes. Pure.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use component_base::backoff::Backoff;
use component_base::clock::moment_of;
use k8s_openapi::api::core::v1::Pod;

use super::facts::{has_succeeded, index_failures};
use crate::pods::ready_condition;

const BACKOFF: Backoff = Backoff { base: Duration::from_secs(10), max: Duration::from_secs(600) };

/// The failures of a job since its last success.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Failures {
    count: u32,
    last: Option<DateTime<Utc>>,
}

impl Failures {
    /// What these pods, all of them ended, tell by themselves: for a job that nothing is known of yet.
    pub(super) fn of(ended: &[&Arc<Pod>]) -> Self {
        let (good, bad): (Vec<_>, Vec<_>) = ended.iter().partition(|pod| has_succeeded(pod));
        Self::default().and(&good, &bad)
    }

    /// These and what has ended since; a success ends the row.
    pub(super) fn and(&self, succeeded: &[&Arc<Pod>], failed: &[&Arc<Pod>]) -> Self {
        let success = succeeded.iter().map(|pod| finish_time(pod)).max();
        let later = failed.iter().map(|pod| finish_time(pod)).filter(|time| Some(*time) > success);
        let later: Vec<DateTime<Utc>> = later.collect();
        let before = if success.is_some() { Self::default() } else { self.clone() };
        let added = u32::try_from(later.len()).unwrap_or(u32::MAX);
        Self { count: before.count.saturating_add(added), last: later.into_iter().max().max(before.last) }
    }

    /// How long new pods still have to wait; zero when they need not.
    pub(super) fn left(&self, now: DateTime<Utc>) -> Duration {
        self.last.map_or(Duration::ZERO, |last| left(self.count, last, now))
    }
}

/// How long the index of this failed pod still has to wait for its next.
pub(super) fn left_of_index(failed: Option<&Arc<Pod>>, now: DateTime<Utc>) -> Duration {
    let Some(pod) = failed else { return Duration::ZERO };
    let failures = index_failures(pod);
    left(failures.counted.saturating_add(failures.ignored).saturating_add(1), finish_time(pod), now)
}

fn left(failures: u32, last: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    let since = (now - last).to_std().unwrap_or(Duration::ZERO);
    BACKOFF.delay(failures).saturating_sub(since)
}

/// When a pod ended: when its last container did, else when it stopped being ready, else when it was
/// deleted, else when it was created.
pub(super) fn finish_time(pod: &Pod) -> DateTime<Utc> {
    let meta = &pod.metadata;
    let unready = || {
        let ready = ready_condition(pod).filter(|ready| ready.status == "False")?;
        ready.last_transition_time.as_ref().map(moment_of)
    };
    let deleted = || {
        let grace = chrono::Duration::seconds(meta.deletion_grace_period_seconds.unwrap_or(0));
        meta.deletion_timestamp.as_ref().map(|time| moment_of(time) - grace)
    };
    let created = || meta.creation_timestamp.as_ref().map(moment_of);
    containers_ended(pod).or_else(unready).or_else(deleted).or_else(created).unwrap_or_default()
}

fn containers_ended(pod: &Pod) -> Option<DateTime<Utc>> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ends = statuses
        .iter()
        .map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(moment_of));
    ends.collect::<Option<Vec<_>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(phase: &str, finished_second: i64) -> Arc<Pod> {
        let at = at(finished_second).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let state = json!({"terminated": {"exitCode": 1, "finishedAt": at}});
        let one = json!({"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state});
        let status = json!({"phase": phase, "containerStatuses": [one]});
        Arc::new(serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap())
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::seconds(second)
    }

    fn check(failures: &Failures, now: i64, expected_seconds: u64) {
        assert_eq!(failures.left(at(now)).as_secs(), expected_seconds);
    }

    #[test]
    fn the_wait_doubles_with_each_failure_and_runs_from_the_last() {
        let (one, two) = (pod("Failed", 100), pod("Failed", 105));
        check(&Failures::of(&[&one]), 104, 6);
        check(&Failures::of(&[&one, &two]), 110, 15);
        check(&Failures::of(&[&one]).and(&[], &[&two]), 110, 15);
        check(&Failures::of(&[&one, &two]), 125, 0);
    }

    #[test]
    fn a_success_ends_the_row() {
        let (bad, good, later) = (pod("Failed", 100), pod("Succeeded", 101), pod("Failed", 102));
        check(&Failures::of(&[&bad]).and(&[&good], &[]), 102, 0);
        check(&Failures::of(&[&bad]).and(&[&good], &[&later]), 102, 10);
    }

    #[test]
    fn many_failures_wait_ten_minutes_at_most() {
        let bad = pod("Failed", 100);
        check(&Failures::of(&vec![&bad; 50]), 100, 600);
    }

    #[test]
    fn a_deleted_pod_ended_when_it_was_deleted() {
        let meta = json!({"deletionTimestamp": "1970-01-01T00:01:40Z", "deletionGracePeriodSeconds": 30,
            "creationTimestamp": "1970-01-01T00:00:00Z"});
        let pod: Pod = serde_json::from_value(json!({ "metadata": meta })).unwrap();
        assert_eq!(finish_time(&pod), at(70));
    }
}
