//! The rules of CronJobs, as tables: a CronJob and its Jobs in, steps and status out.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use serde_json::{Value, json};

use super::plan::{Observed, Step, plan};
use crate::owners::name_of;

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// A CronJob whose last Job was that of midnight, with these Jobs in its list.
fn cron(schedule: &str, more: Value, active: &[&str]) -> CronJob {
    let mut spec = json!({"schedule": schedule, "jobTemplate": {}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let meta = json!({"name": "c", "namespace": "ns", "creationTimestamp": "2024-03-30T00:00:30Z"});
    let active: Vec<Value> = active.iter().map(|name| json!({"name": name, "uid": name})).collect();
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": {"active": active}})).unwrap()
}

fn job(name: &str, condition: Option<&str>) -> Arc<Job> {
    let conditions: Vec<_> = condition.iter().map(|one| json!({"type": one, "status": "True"})).collect();
    let status = json!({"conditions": conditions, "startTime": "2024-03-30T00:00:00Z",
        "completionTime": condition.map(|_| "2024-03-30T00:00:40Z")});
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "status": status})).unwrap(),
    )
}

fn check(cron: &CronJob, jobs: &[Arc<Job>], now: &str, expected: &[&str]) -> CronJobStatus {
    let (steps, status) = plan(&Observed { cron, jobs, unseen: &BTreeSet::new(), now: at(now) });
    let told: Vec<String> = steps
        .iter()
        .map(|step| match step {
            Step::Tell { reason, message } => format!("{reason}: {message}"),
            Step::Warn { reason, message } => format!("!{reason}: {message}"),
            Step::Start(time) => format!("start {}", time.format("%dT%H:%M")),
            Step::Replace(job) => format!("replace {}", job.name.as_deref().unwrap()),
            Step::Forget(job) => format!("forget {}", name_of(&job.metadata)),
            Step::RequeueAfter(delay) => format!("requeue {}s", delay.as_secs()),
        })
        .collect();
    assert_eq!(told, expected);
    status
}

fn active(status: &CronJobStatus) -> Vec<&str> {
    status.active.iter().flatten().filter_map(|one| one.name.as_deref()).collect()
}

#[test]
fn a_job_starts_when_its_minute_has_come_and_only_once() {
    let every_minute = cron("* * * * *", json!({}), &[]);
    check(&every_minute, &[], "2024-03-30T00:00:45Z", &["requeue 15s"]);
    check(&every_minute, &[], "2024-03-30T00:01:00Z", &["start 30T00:01", "requeue 60s"]);
    let listed = cron("* * * * *", json!({}), &["c-28529281"]);
    let status = check(&listed, &[job("c-28529281", None)], "2024-03-30T00:01:10Z", &["requeue 50s"]);
    assert_eq!(active(&status), ["c-28529281"]);
}

#[test]
fn the_schedule_follows_the_time_zone() {
    let berlin = cron("0 3 * * *", json!({"timeZone": "Europe/Berlin"}), &[]);
    check(&berlin, &[], "2024-03-30T02:00:00Z", &["start 30T02:00", "requeue 82800s"]);
}

#[test]
fn a_time_that_clocks_leap_over_is_not_missed_and_one_that_comes_twice_is_run_twice() {
    let at_half_past_two = |last: &str| {
        let mut cron = cron("30 2 * * *", json!({"timeZone": "Europe/Berlin"}), &[]);
        let last = component_base::clock::time_of(at(last));
        cron.status.get_or_insert_default().last_schedule_time = Some(last);
        cron
    };
    // At two o'clock of the 31st of March it is three.
    let spring = at_half_past_two("2024-03-30T01:30:00Z");
    check(&spring, &[], "2024-03-31T12:00:00Z", &["requeue 45000s"]);
    check(&spring, &[], "2024-04-01T00:30:00Z", &["start 01T00:30", "requeue 86400s"]);
    // At three o'clock of the 27th of October it is two again.
    let autumn = at_half_past_two("2024-10-26T00:30:00Z");
    check(&autumn, &[], "2024-10-27T00:30:00Z", &["start 27T00:30", "requeue 3600s"]);
    let again = at_half_past_two("2024-10-27T00:30:00Z");
    check(&again, &[], "2024-10-27T01:30:00Z", &["start 27T01:30", "requeue 86400s"]);
}

#[test]
fn a_missed_time_beyond_the_deadline_does_not_start() {
    let strict = cron("0 * * * *", json!({"startingDeadlineSeconds": 60}), &[]);
    check(&strict, &[], "2024-03-30T10:30:00Z", &["requeue 1800s"]);
}

#[test]
fn too_many_missed_times_are_told_and_the_latest_starts() {
    let told = "!TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
    let every_minute = cron("* * * * *", json!({}), &[]);
    check(&every_minute, &[], "2024-03-30T05:00:00Z", &[told, "start 30T05:00", "requeue 60s"]);
}

#[test]
fn forbid_skips_while_a_job_runs_and_replace_stops_it() {
    let skipped = "JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid";
    let running = [job("old", None)];
    let forbid = cron("* * * * *", json!({"concurrencyPolicy": "Forbid"}), &["old"]);
    check(&forbid, &running, "2024-03-30T00:01:00Z", &[skipped, "requeue 60s"]);
    let replace = cron("* * * * *", json!({"concurrencyPolicy": "Replace"}), &["old"]);
    check(&replace, &running, "2024-03-30T00:01:00Z", &["replace old", "start 30T00:01", "requeue 60s"]);
    let allow = cron("* * * * *", json!({"concurrencyPolicy": "Allow"}), &["old"]);
    let status = check(&allow, &running, "2024-03-30T00:01:00Z", &["start 30T00:01", "requeue 60s"]);
    assert_eq!(active(&status), ["old"]);
}

#[test]
fn a_job_that_ended_leaves_the_list_and_its_success_is_noted() {
    let cron = cron("* * * * *", json!({"suspend": true}), &["a", "b"]);
    let jobs = [job("a", Some("Complete")), job("b", None)];
    let status = check(
        &cron,
        &jobs,
        "2024-03-30T00:01:00Z",
        &["SawCompletedJob: Saw completed job: a, condition: Complete"],
    );
    assert_eq!(active(&status), ["b"]);
    assert!(status.last_successful_time.is_some());
}

#[test]
fn the_list_is_mended_and_strangers_are_told() {
    let cron = cron("* * * * *", json!({"suspend": true}), &["lost"]);
    let told = [
        "!UnexpectedJob: Saw a job that the controller did not create or forgot: new",
        "MissingJob: Active job went missing: lost",
    ];
    let status = check(&cron, &[job("new", None)], "2024-03-30T00:01:00Z", &told);
    assert!(active(&status).is_empty());
}

#[test]
fn a_job_that_only_the_server_shows_stays_in_the_list() {
    let cron = cron("* * * * *", json!({"suspend": true}), &["fresh"]);
    let unseen = BTreeSet::from(["fresh".to_owned()]);
    let observed = Observed { cron: &cron, jobs: &[], unseen: &unseen, now: at("2024-03-30T00:01:00Z") };
    let (steps, status) = plan(&observed);
    assert_eq!((steps.len(), active(&status)), (0, vec!["fresh"]));
}

#[test]
fn finished_jobs_beyond_the_limits_go_oldest_first() {
    let limits = json!({"suspend": true, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0});
    let jobs = [job("a", Some("Complete")), job("b", Some("Complete")), job("f", Some("Failed"))];
    check(&cron("* * * * *", limits, &[]), &jobs, "2024-03-30T00:01:00Z", &["forget a", "forget f"]);
}

#[test]
fn a_schedule_or_zone_that_cannot_be_read_is_told() {
    let now = "2024-03-30T00:01:00Z";
    let why = "!UnparseableSchedule: unparseable schedule: \"every day\" : expected exactly 5 fields, found 2: [every day]";
    check(&cron("every day", json!({}), &[]), &[], now, &[why]);
    let why = "!UnknownTimeZone: invalid timeZone: \"Mars/Base\": unknown time zone Mars/Base";
    check(&cron("* * * * *", json!({"timeZone": "Mars/Base"}), &[]), &[], now, &[why]);
    let why = "!InvalidSchedule: invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second";
    check(&cron("0 0 31 2 *", json!({}), &[]), &[], now, &[why]);
}

#[test]
fn a_deleted_cron_job_starts_nothing() {
    let mut cron = cron("* * * * *", json!({}), &[]);
    cron.metadata.deletion_timestamp = Some(component_base::clock::time_of(at("2024-03-30T00:00:50Z")));
    check(&cron, &[], "2024-03-30T00:01:00Z", &[]);
}
