//! `cronjob-controller`: starts a Job whenever a schedule says so.
//!
//! # Watches
//! CronJobs, and Jobs by their controlling owner.
//!
//! # Writes
//! Jobs (create, delete) and the CronJob's status.
//!
//! # Guarantees
//! A scheduled time starts one Job at most: the Job's name is made from it. Times that passed while nothing
//! ran are made up by one Job, the latest, if the starting deadline allows. Schedules follow the time zone,
//! daylight saving included.
//!
//! # Differs from Kubernetes
//! `@every` schedules are refused.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use api_types::conditions;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use component_base::client::said;
use component_base::clock::{Clock, moment_of, time_of};
use croner::Cron;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client, Resource};

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, annotation, name_of, uid_of};
use crate::pod_control::delete_exactly;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub(crate) struct CronJobController {
    client: Client,
    clock: Clock,
    events: Events,
    crons: Arc<Informer<CronJob>>,
    jobs: Arc<Informer<Job>>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Start the Job of this scheduled time.
    Start(DateTime<Utc>),
    /// Stop a running Job for a newer one.
    Replace(Arc<Job>),
    /// Remove a finished Job beyond the history limit.
    Forget(Arc<Job>),
    /// A time came and a Job of before still runs.
    Skip,
    RequeueAfter(Duration),
}

/// What `plan` sees.
struct Observed<'a> {
    cron: &'a CronJob,
    jobs: &'a [Arc<Job>],
    now: DateTime<Utc>,
}

/// A schedule that cannot be followed.
#[derive(Debug, PartialEq, thiserror::Error)]
enum ScheduleError {
    #[error("unparseable schedule {0:?}: {1}")]
    Parse(String, String),
    #[error("unknown time zone {0:?}")]
    TimeZone(String),
}

/// When a CronJob's Jobs are due.
struct Schedule {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    fn of(spec: &CronJobSpec) -> Result<Self, ScheduleError> {
        let cron = Cron::from_str(&spec.schedule);
        let cron = cron.map_err(|error| ScheduleError::Parse(spec.schedule.clone(), error.to_string()))?;
        let zone = spec.time_zone.as_deref().unwrap_or("UTC");
        let zone = zone.parse().map_err(|_| ScheduleError::TimeZone(zone.to_owned()))?;
        Ok(Self { cron, zone })
    }

    /// The latest time that is due, not after `now`.
    fn latest(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&self.zone);
        self.cron.find_previous_occurrence(&local, true).ok().map(|time| time.to_utc())
    }

    fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = now.with_timezone(&self.zone);
        self.cron.find_next_occurrence(&local, false).ok().map(|time| time.to_utc())
    }
}

fn finished(job: &Job) -> Option<&'static str> {
    let all = job.status.as_ref()?.conditions.as_deref()?;
    ["Complete", "Failed"].into_iter().find(|type_| conditions::is_true(all, type_))
}

fn plan(observed: &Observed<'_>) -> Result<Vec<Step>, ScheduleError> {
    let spec = &observed.cron.spec;
    let mut steps = forget_history(spec, observed.jobs);
    if spec.suspend == Some(true) || owners::is_deleting(&observed.cron.metadata) {
        return Ok(steps);
    }
    let schedule = Schedule::of(spec)?;
    if let Some(time) = due(observed, spec, &schedule) {
        let running: Vec<_> = observed.jobs.iter().filter(|job| finished(job).is_none()).collect();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => steps.push(Step::Skip),
            Some("Replace") => {
                steps.extend(running.into_iter().cloned().map(Step::Replace));
                steps.push(Step::Start(time));
            }
            _ => steps.push(Step::Start(time)),
        }
    }
    if let Some(next) = schedule.next(observed.now) {
        let wait = (next - observed.now).to_std().unwrap_or(Duration::ZERO);
        steps.push(Step::RequeueAfter(wait + Duration::from_millis(20)));
    }
    Ok(steps)
}

/// The scheduled time whose Job has to start now, if there is one.
fn due(observed: &Observed<'_>, spec: &CronJobSpec, schedule: &Schedule) -> Option<DateTime<Utc>> {
    let latest = schedule.latest(observed.now)?;
    let status = observed.cron.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let since = last.or(observed.cron.metadata.creation_timestamp.as_ref()).map(moment_of)?;
    let in_time = spec
        .starting_deadline_seconds
        .is_none_or(|seconds| latest + chrono::Duration::seconds(seconds) >= observed.now);
    let name = job_name(observed.cron, latest);
    let started = observed.jobs.iter().any(|job| name_of(&job.metadata) == name);
    (latest > since && in_time && !started).then_some(latest)
}

fn forget_history(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Step> {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    let mut steps = Vec::new();
    for (outcome, limit) in limits {
        let mut of_outcome: Vec<_> = jobs.iter().filter(|job| finished(job) == Some(outcome)).collect();
        of_outcome.sort_by_key(|job| {
            (job.status.as_ref().and_then(|status| status.start_time.clone()), job.metadata.name.clone())
        });
        let surplus = of_outcome.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let gone = of_outcome.into_iter().take(surplus).filter(|job| !owners::is_deleting(&job.metadata));
        steps.extend(gone.cloned().map(Step::Forget));
    }
    steps
}

fn job_name(cron: &CronJob, time: DateTime<Utc>) -> String {
    format!("{}-{}", name_of(&cron.metadata), time.timestamp() / 60)
}

fn job_for(cron: &CronJob, spec: &CronJobSpec, time: DateTime<Utc>) -> Job {
    let template = spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let stamp = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    annotations.insert(SCHEDULED.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, time)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn scheduled_time(job: &Job) -> Option<DateTime<Utc>> {
    let text = annotation(&job.metadata, SCHEDULED)?;
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// The status that the Jobs show; the last scheduled time never goes back.
fn status(cron: &CronJob, jobs: &[Arc<Job>]) -> CronJobStatus {
    let old = cron.status.clone().unwrap_or_default();
    let running = jobs.iter().filter(|job| finished(job).is_none() && !owners::is_deleting(&job.metadata));
    let active: Vec<ObjectReference> = running.map(|job| job.object_ref(&())).collect();
    let scheduled = jobs.iter().filter_map(|job| scheduled_time(job)).max().map(time_of);
    let done = jobs.iter().filter(|job| finished(job) == Some("Complete"));
    let succeeded = done.filter_map(|job| job.status.as_ref()?.completion_time.clone()).max();
    CronJobStatus {
        active: (!active.is_empty()).then_some(active),
        last_schedule_time: scheduled.max(old.last_schedule_time),
        last_successful_time: succeeded.max(old.last_successful_time),
    }
}

#[async_trait]
impl Controller for CronJobController {
    const NAME: &'static str = "cronjob-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let crons = setup.watch_own::<CronJob>();
        let jobs =
            setup.watch::<Job>(|job| owners::controller_key::<CronJob>(&job.metadata).into_iter().collect());
        Self { client: setup.client.clone(), clock: setup.clock, events: setup.events(), crons, jobs }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(cron) = self.crons.get(key) else { return Ok(Action::Done) };
        let mut jobs = self.jobs.owned_by(uid_of(&cron.metadata));
        let steps = match plan(&Observed { cron: &cron, jobs: &jobs, now: self.clock.now() }) {
            Ok(steps) => steps,
            Err(problem) => {
                self.events.warning(&*cron, "InvalidSchedule", &problem.to_string());
                return Err(ReconcileError::Terminal(problem.to_string()));
            }
        };
        let mut action = Action::Done;
        for step in steps {
            match step {
                Step::RequeueAfter(delay) => action = Action::RequeueAfter(delay),
                Step::Start(time) => jobs.extend(self.start(&cron, time).await?),
                step => self.apply(&cron, step).await?,
            }
        }
        self.write_status(&cron, status(&cron, &jobs)).await?;
        Ok(action)
    }
}

impl CronJobController {
    async fn start(&self, cron: &CronJob, time: DateTime<Utc>) -> Result<Option<Arc<Job>>, kube::Error> {
        let spec = &cron.spec;
        let api: Api<Job> =
            Api::namespaced(self.client.clone(), cron.metadata.namespace.as_deref().unwrap_or_default());
        let job = job_for(cron, spec, time);
        match api.create(&PostParams::default(), &job).await {
            Ok(created) => {
                let message = format!("Created job {}", name_of(&created.metadata));
                self.events.normal(cron, "SuccessfulCreate", &message);
                Ok(Some(Arc::new(created)))
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
            Err(error) => {
                self.events.warning(cron, "FailedCreate", &format!("Error creating job: {}", said(&error)));
                Err(error)
            }
        }
    }

    async fn apply(&self, cron: &CronJob, step: Step) -> Result<(), kube::Error> {
        match step {
            Step::Replace(job) | Step::Forget(job) => {
                delete_exactly(&self.client, &*job, DeleteParams::background()).await?;
                let message = format!("Deleted job {}", name_of(&job.metadata));
                self.events.normal(cron, "SuccessfulDelete", &message);
            }
            Step::Skip => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.events.normal(cron, "JobAlreadyActive", message);
            }
            Step::Start(_) | Step::RequeueAfter(_) => {}
        }
        Ok(())
    }

    async fn write_status(&self, cron: &CronJob, status: CronJobStatus) -> Result<(), kube::Error> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let api: Api<CronJob> =
            Api::namespaced(self.client.clone(), cron.metadata.namespace.as_deref().unwrap_or_default());
        let wanted = CronJob { status: Some(status), ..cron.clone() };
        api.replace_status(name_of(&cron.metadata), &PostParams::default(), &wanted).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    fn cron(schedule: &str, more: serde_json::Value) -> CronJob {
        let mut spec = json!({"schedule": schedule, "jobTemplate": {}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let meta = json!({"name": "c", "namespace": "ns", "creationTimestamp": "2024-03-30T00:00:30Z"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn job(name: &str, condition: Option<&str>) -> Arc<Job> {
        let conditions: Vec<_> = condition.iter().map(|one| json!({"type": one, "status": "True"})).collect();
        let status = json!({"conditions": conditions, "startTime": "2024-03-30T00:00:00Z"});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
    }

    fn check(cron: &CronJob, jobs: &[Arc<Job>], now: &str, expected: &[&str]) {
        let steps = plan(&Observed { cron, jobs, now: at(now) }).unwrap();
        let told: Vec<String> = steps
            .iter()
            .map(|step| match step {
                Step::Start(time) => format!("start {}", time.format("%dT%H:%M")),
                Step::Replace(job) => format!("replace {}", name_of(&job.metadata)),
                Step::Forget(job) => format!("forget {}", name_of(&job.metadata)),
                Step::Skip => "skip".to_owned(),
                Step::RequeueAfter(delay) => format!("requeue {}s", delay.as_secs()),
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_job_starts_when_its_minute_has_come() {
        let every_minute = cron("* * * * *", json!({}));
        check(&every_minute, &[], "2024-03-30T00:00:45Z", &["requeue 15s"]);
        check(&every_minute, &[], "2024-03-30T00:01:00Z", &["start 30T00:01", "requeue 60s"]);
    }

    #[test]
    fn of_many_missed_times_only_the_latest_starts() {
        check(
            &cron("0 * * * *", json!({})),
            &[],
            "2024-03-30T10:30:00Z",
            &["start 30T10:00", "requeue 1800s"],
        );
    }

    #[test]
    fn a_missed_time_beyond_the_deadline_does_not_start() {
        let strict = cron("0 * * * *", json!({"startingDeadlineSeconds": 60}));
        check(&strict, &[], "2024-03-30T10:30:00Z", &["requeue 1800s"]);
    }

    #[test]
    fn the_schedule_follows_the_time_zone() {
        let berlin = cron("0 3 * * *", json!({"timeZone": "Europe/Berlin"}));
        check(&berlin, &[], "2024-03-30T02:00:00Z", &["start 30T02:00", "requeue 82800s"]);
    }

    #[test]
    fn forbid_skips_while_a_job_runs_and_replace_stops_it() {
        let running = [job("old", None)];
        check(
            &cron("* * * * *", json!({"concurrencyPolicy": "Forbid"})),
            &running,
            "2024-03-30T00:01:00Z",
            &["skip", "requeue 60s"],
        );
        let replace = cron("* * * * *", json!({"concurrencyPolicy": "Replace"}));
        check(&replace, &running, "2024-03-30T00:01:00Z", &["replace old", "start 30T00:01", "requeue 60s"]);
    }

    #[test]
    fn finished_jobs_beyond_the_limits_go() {
        let strict = cron("* * * * *", json!({"suspend": true, "successfulJobsHistoryLimit": 1}));
        let jobs = [job("a", Some("Complete")), job("b", Some("Complete")), job("f", Some("Failed"))];
        check(&strict, &jobs, "2024-03-30T00:01:00Z", &["forget a"]);
    }

    #[test]
    fn a_schedule_that_cannot_be_read_is_said() {
        let broken = cron("every day", json!({}));
        let error =
            plan(&Observed { cron: &broken, jobs: &[], now: at("2024-03-30T00:01:00Z") }).unwrap_err();
        assert!(error.to_string().contains("every day"));
    }
}
