//! The decision about a CronJob: which Jobs to start, replace and forget, and what its status says. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_types::conditions;
use api_types::cron::Schedule;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;

use super::times::Times;
use crate::owners::{is_deleting, name_of, uid_of};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Record something that went as it should.
    Tell {
        reason: &'static str,
        message: String,
    },
    /// Record something that did not.
    Warn {
        reason: &'static str,
        message: String,
    },
    /// Stop a Job that runs, for a newer one.
    Replace(ObjectReference),
    /// Start the Job of this scheduled time.
    Start(DateTime<Utc>),
    /// Remove a finished Job beyond the history limit.
    Forget(Arc<Job>),
    RequeueAfter(Duration),
}

/// What `plan` sees.
pub(super) struct Observed<'a> {
    pub cron: &'a CronJob,
    /// The Jobs that it controls.
    pub jobs: &'a [Arc<Job>],
    /// Uids of Jobs that the cache does not show and the server has.
    pub unseen: &'a BTreeSet<String>,
    pub now: DateTime<Utc>,
}

pub(super) fn finished(job: &Job) -> Option<&'static str> {
    let all = job.status.as_ref()?.conditions.as_deref()?;
    ["Complete", "Failed"].into_iter().find(|type_| conditions::is_true(all, type_))
}

pub(super) fn job_name(cron: &CronJob, time: DateTime<Utc>) -> String {
    format!("{}-{}", name_of(&cron.metadata), time.timestamp() / 60)
}

/// The steps, and the status before they are done.
pub(super) fn plan(observed: &Observed<'_>) -> (Vec<Step>, CronJobStatus) {
    let mut status = observed.cron.status.clone().unwrap_or_default();
    let mut active = status.active.take().unwrap_or_default();
    let mut steps = Vec::new();
    look_at_jobs(observed, &mut status, &mut active, &mut steps);
    look_for_lost(observed, &mut active, &mut steps);
    schedule(observed, &status, &active, &mut steps);
    forget_history(observed, &mut active, &mut steps);
    status.active = (!active.is_empty()).then_some(active);
    (steps, status)
}

/// Takes Jobs that ended from the list of active ones, and notes the last success.
fn look_at_jobs(
    observed: &Observed<'_>,
    status: &mut CronJobStatus,
    active: &mut Vec<ObjectReference>,
    steps: &mut Vec<Step>,
) {
    for job in observed.jobs {
        let (name, uid) = (name_of(&job.metadata), job.metadata.uid.as_ref());
        let listed = active.iter().any(|one| one.uid.as_ref() == uid);
        match (listed, finished(job)) {
            (false, None) => {
                let message = format!("Saw a job that the controller did not create or forgot: {name}");
                steps.push(Step::Warn { reason: "UnexpectedJob", message });
            }
            (true, Some(end)) => {
                active.retain(|one| one.uid.as_ref() != uid);
                let message = format!("Saw completed job: {name}, condition: {end}");
                steps.push(Step::Tell { reason: "SawCompletedJob", message });
            }
            _ => {}
        }
        if finished(job) == Some("Complete") {
            let end = job.status.as_ref().and_then(|status| status.completion_time.clone());
            status.last_successful_time = end.max(status.last_successful_time.take());
        }
    }
}

/// Takes Jobs that are gone from the list of active ones: they would hold up the next for ever.
fn look_for_lost(observed: &Observed<'_>, active: &mut Vec<ObjectReference>, steps: &mut Vec<Step>) {
    let known: BTreeSet<&str> = observed.jobs.iter().map(|job| uid_of(&job.metadata)).collect();
    active.retain(|one| {
        let uid = one.uid.as_deref().unwrap_or_default();
        let is_there = known.contains(uid) || observed.unseen.contains(uid);
        if !is_there {
            let message = format!("Active job went missing: {}", one.name.as_deref().unwrap_or_default());
            steps.push(Step::Tell { reason: "MissingJob", message });
        }
        is_there
    });
}

fn schedule(
    observed: &Observed<'_>,
    status: &CronJobStatus,
    active: &[ObjectReference],
    steps: &mut Vec<Step>,
) {
    let (cron, now) = (observed.cron, observed.now);
    if is_deleting(&cron.metadata) {
        return;
    }
    let zone = cron.spec.time_zone.as_deref().unwrap_or("UTC");
    let Ok(zone) = zone.parse::<Tz>() else {
        let message = format!("invalid timeZone: {zone:?}: unknown time zone {zone}");
        return steps.push(Step::Warn { reason: "UnknownTimeZone", message });
    };
    if cron.spec.suspend == Some(true) {
        return;
    }
    let text = &cron.spec.schedule;
    let schedule = match Schedule::parse(text) {
        Ok(schedule) => schedule,
        Err(why) => {
            let message = format!("unparseable schedule: {text:?} : {why}");
            return steps.push(Step::Warn { reason: "UnparseableSchedule", message });
        }
    };
    let times = Times { cron, schedule, zone };
    let due = match times.due(now, true) {
        Ok(due) => due,
        Err(error) => {
            let message = format!("invalid schedule: {text} : {error}");
            return steps.push(Step::Warn { reason: "InvalidSchedule", message });
        }
    };
    if due.too_many_missed {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        steps.push(Step::Warn { reason: "TooManyMissedTimes", message: message.to_owned() });
    }
    if let Some(time) = due.latest {
        start(observed, time, status, active, steps);
    }
    steps.extend(times.wait(now).map(Step::RequeueAfter));
}

/// Starts the Job of `time` as the concurrency policy says, unless it was started or is too late.
fn start(
    observed: &Observed<'_>,
    time: DateTime<Utc>,
    status: &CronJobStatus,
    active: &[ObjectReference],
    steps: &mut Vec<Step>,
) {
    let spec = &observed.cron.spec;
    let deadline = spec.starting_deadline_seconds.and_then(chrono::Duration::try_seconds);
    let ends = deadline.and_then(|deadline| time.checked_add_signed(deadline));
    if ends.is_some_and(|end| end < observed.now) {
        let when = time.format("%a, %d %b %Y %H:%M:%S +0000");
        let message = format!("Missed scheduled time to start a job: {when}");
        return steps.push(Step::Warn { reason: "MissSchedule", message });
    }
    let name = job_name(observed.cron, time);
    let listed = active.iter().any(|one| one.name.as_ref() == Some(&name));
    let last = status.last_schedule_time.as_ref().map(component_base::clock::moment_of);
    if listed || last == Some(time) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            steps.push(Step::Tell { reason: "JobAlreadyActive", message: message.to_owned() });
        }
        Some("Replace") => {
            steps.extend(active.iter().cloned().map(Step::Replace));
            steps.push(Step::Start(time));
        }
        _ => steps.push(Step::Start(time)),
    }
}

/// Removes the oldest Jobs that ended, beyond the limits.
fn forget_history(observed: &Observed<'_>, active: &mut Vec<ObjectReference>, steps: &mut Vec<Step>) {
    let spec = &observed.cron.spec;
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    for (outcome, limit) in limits {
        let Some(limit) = limit else { continue };
        let mut ended: Vec<_> = observed.jobs.iter().filter(|job| finished(job) == Some(outcome)).collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.clone());
            (start.is_none(), start, job.metadata.name.clone())
        });
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in ended.into_iter().take(surplus).filter(|job| !is_deleting(&job.metadata)) {
            active.retain(|one| one.uid != job.metadata.uid);
            steps.push(Step::Forget(job.clone()));
        }
    }
}
