//! The rules of jobs, as tables: a job and its pods in, steps out.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::backoff::Failures;
use super::facts::{FAILURES, FINALIZER, INDEX, Observed};
use super::plan::{NewPod, Step, plan};
use crate::owners::name_of;

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    let policy = spec.get("restartPolicy").cloned().unwrap_or(json!("Never"));
    spec["template"] = json!({"spec": {"containers": [], "restartPolicy": policy}});
    let mut status = status;
    if status.get("startTime").is_none() {
        status["startTime"] = json!("1970-01-01T00:00:00Z");
    }
    let meta = json!({"name": "j", "namespace": "ns", "uid": "j"});
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
}

/// A pod as `name phase words…`: `free` without finalizer, `going`, `ready`, `#3` index, `!2` failures of the
/// index before it, `exit=4`, `restarts=4`, `disrupted`.
fn pod(text: &str) -> Arc<Pod> {
    let mut words = text.split(' ');
    let (name, phase) = (words.next().unwrap(), words.next().unwrap());
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "finalizers": [FINALIZER], "annotations": {},
            "creationTimestamp": "1970-01-01T00:00:00Z"},
        "status": {"phase": phase, "conditions": []},
    });
    let container = |restarts: i32, state: Value| json!([{"name": "c", "ready": false, "image": "", "imageID": "", "restartCount": restarts, "state": state}]);
    for word in words {
        match word {
            "free" => pod["metadata"]["finalizers"] = json!([]),
            "going" => pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z"),
            "ready" => pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]),
            "disrupted" => {
                pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}])
            }
            word if word.starts_with('#') => pod["metadata"]["annotations"][INDEX] = json!(word[1..]),
            word if word.starts_with('!') => pod["metadata"]["annotations"][FAILURES] = json!(word[1..]),
            word => {
                let (key, number) = word.split_once('=').unwrap();
                let number: i32 = number.parse().unwrap();
                pod["status"]["containerStatuses"] = match key {
                    "exit" => container(
                        0,
                        json!({"terminated": {"exitCode": number, "finishedAt": "1970-01-01T00:00:00Z"}}),
                    ),
                    _ => container(number, json!({"running": {}})),
                };
            }
        }
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// Plans at a second after the epoch, with nothing under way.
fn steps(job: &Job, pods: &[&str], second: i64) -> Vec<Step> {
    let pods: Vec<Arc<Pod>> = pods.iter().map(|text| pod(text)).collect();
    let now = at(second);
    plan(&Observed { job, pods: &pods, released: &BTreeSet::new(), settled: true, failures: None, now }).0
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::Duration::seconds(second)
}

/// The failures lie so far back that nothing has to wait.
fn check(job: &Job, pods: &[&str], expected: &[&str]) {
    check_at(job, pods, 10_000, expected);
}

fn check_at(job: &Job, pods: &[&str], second: i64, expected: &[&str]) {
    let told: Vec<String> = steps(job, pods, second).iter().map(tell).collect();
    assert_eq!(told, expected);
}

fn names(pods: &[Arc<Pod>]) -> String {
    pods.iter().map(|pod| name_of(&pod.metadata)).collect::<Vec<_>>().join(" ")
}

fn tell(step: &Step) -> String {
    match step {
        Step::UpdateStatus(status) => tell_status(status),
        Step::Release(pods) => format!("release {}", names(pods)),
        Step::Create(new) => format!("create{}", new.iter().map(tell_new).collect::<String>()),
        Step::Stop(pods) => format!("stop {}", names(pods)),
        Step::Delete(pods) => format!("delete {}", names(pods)),
        Step::RequeueAfter(delay) => format!("requeue {}s", delay.as_secs()),
    }
}

fn tell_new(new: &NewPod) -> String {
    let index = new.index.map_or(" one".to_owned(), |index| format!(" #{index}"));
    index + &new.failures.map(|failures| format!("!{}", failures.counted)).unwrap_or_default()
}

/// `active/succeeded/failed`, uids on their way into the counters, conditions with reasons.
fn tell_status(status: &JobStatus) -> String {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let mut text =
        format!("status {}/{}/{}", number(status.active), number(status.succeeded), number(status.failed));
    for (sign, uids) in [("+", uncounted.succeeded), ("-", uncounted.failed)] {
        uids.iter().flatten().for_each(|uid| text.push_str(&format!(" {sign}{uid}")));
    }
    for (sign, indexes) in [("done", &status.completed_indexes), ("bad", &status.failed_indexes)] {
        indexes.iter().for_each(|indexes| text.push_str(&format!(" {sign}={indexes}")));
    }
    for one in status.conditions.iter().flatten() {
        let sign = if one.status == "True" { "" } else { "!" };
        text.push_str(&format!(" {sign}{}:{}", one.type_, one.reason.as_deref().unwrap_or_default()));
    }
    text
}

#[test]
fn as_many_pods_run_as_parallelism_and_completions_allow() {
    let few = job(json!({"parallelism": 5, "completions": 2}), json!({}));
    check(&few, &[], &["create one one", "status 2/0/0"]);
    let queue = job(json!({"parallelism": 3}), json!({}));
    check(&queue, &["a Running"], &["create one one", "status 3/0/0"]);
    check(&queue, &["a Succeeded", "b Running"], &["status 1/0/0 +a", "release a"]);
}

#[test]
fn a_finished_pod_is_listed_then_released_then_counted() {
    let spec = || json!({"parallelism": 1, "completions": 2});
    let fresh = job(spec(), json!({}));
    check(&fresh, &["a Succeeded"], &["create one", "status 1/0/0 +a", "release a"]);
    let listed = job(spec(), json!({"uncountedTerminatedPods": {"succeeded": ["a"]}}));
    check(&listed, &["a Succeeded free"], &["create one", "status 1/1/0"]);
    check(&listed, &["b Running"], &["status 1/1/0"]);
    check(&listed, &["a Succeeded", "b Running"], &["status 1/0/0 +a", "release a"]);
}

#[test]
fn a_pod_that_was_let_go_counts_before_the_cache_shows_it() {
    let job =
        job(json!({"completions": 2}), json!({"uncountedTerminatedPods": {"succeeded": ["a"]}, "active": 1}));
    let pods = [pod("a Succeeded"), pod("b Running")];
    let released = BTreeSet::from(["a".to_owned()]);
    let observed =
        Observed { job: &job, pods: &pods, released: &released, settled: true, failures: None, now: at(0) };
    assert_eq!(plan(&observed).0.iter().map(tell).collect::<Vec<_>>(), ["status 1/1/0"]);
}

#[test]
fn nothing_is_created_or_ended_before_the_cache_shows_what_was_done() {
    let job = job(json!({"completions": 2, "backoffLimit": 0}), json!({}));
    let told = |pods: &[Arc<Pod>]| {
        let none = BTreeSet::new();
        let observed =
            Observed { job: &job, pods, released: &none, settled: false, failures: None, now: at(0) };
        plan(&observed).0.iter().map(tell).collect::<Vec<_>>()
    };
    assert_eq!(told(&[]), ["status 0/0/0"]);
    assert_eq!(told(&[pod("a Failed"), pod("b Running")]), ["status 1/0/0 -a", "release a"]);
}

#[test]
fn the_last_success_completes_the_job_when_it_is_counted() {
    let spec = || json!({"parallelism": 1, "completions": 1});
    let reached = "SuccessCriteriaMet:CompletionsReached";
    let steps = [format!("status 0/0/0 +a {reached}"), "release a".to_owned()];
    check(&job(spec(), json!({})), &["a Succeeded"], &steps.each_ref().map(String::as_str));
    let listed = json!({"uncountedTerminatedPods": {"succeeded": ["a"]}});
    let done = format!("status 0/1/0 {reached} Complete:CompletionsReached");
    check(&job(spec(), listed), &["a Succeeded free"], &[&done]);
}

#[test]
fn more_than_five_hundred_pods_are_counted_in_turns() {
    let names: Vec<String> = (0..700).map(|n| format!("p{n:03} Succeeded")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let steps = steps(&job(json!({"parallelism": 1, "completions": 1000}), json!({})), &all, 0);
    let Some(Step::Release(released)) = steps.last() else { panic!("{steps:?}") };
    assert_eq!(released.len(), 500);
    let uids: Vec<String> = (200..700).map(|n| format!("p{n:03}")).collect();
    let full = json!({"uncountedTerminatedPods": {"succeeded": uids}});
    let again = self::steps(&job(json!({"parallelism": 1, "completions": 1000}), full), &all, 0);
    let Some(Step::Release(released)) = again.last() else { panic!("{again:?}") };
    assert_eq!((released.len(), name_of(&released[0].metadata)), (500, "p200"));
}

#[test]
fn a_failed_pod_is_replaced_after_a_delay() {
    let counted = json!({"failed": 1, "ready": 0, "terminating": 0, "uncountedTerminatedPods": {}});
    let job = job(json!({"completions": 1}), counted);
    check_at(&job, &["a Failed free"], 4, &["requeue 6s"]);
    check_at(&job, &["a Failed free"], 11, &["create one", "status 1/0/1"]);
}

#[test]
fn too_many_failures_fail_the_job_and_what_runs_fails_with_it() {
    let spec = || json!({"parallelism": 2, "completions": 2, "backoffLimit": 0});
    let target = "FailureTarget:BackoffLimitExceeded";
    let first = format!("status 0/0/0 -a -b {target}");
    check(&job(spec(), json!({})), &["a Failed", "b Running"], &["delete b", &first, "release a b"]);
    let deciding = json!({"uncountedTerminatedPods": {"failed": ["a", "b"]},
        "conditions": [{"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"}]});
    let waiting = format!("status 0/0/2 {target}");
    check(&job(spec(), deciding.clone()), &["a Failed free", "b Running going free"], &[&waiting]);
    let over = format!("{waiting} Failed:BackoffLimitExceeded");
    check(&job(spec(), deciding), &["a Failed free"], &[&over]);
}

#[test]
fn restarts_in_place_count_against_the_limit() {
    let spec = |limit: i32| json!({"completions": 1, "backoffLimit": limit, "restartPolicy": "OnFailure"});
    let over = ["delete a", "status 0/0/0 -a FailureTarget:BackoffLimitExceeded", "release a"];
    check(&job(spec(2), json!({})), &["a Running restarts=2"], &over);
    check(&job(spec(2), json!({})), &["a Running restarts=1"], &["status 1/0/0"]);
    check(&job(spec(0), json!({})), &["a Running restarts=1"], &over);
}

#[test]
fn a_job_that_is_too_late_fails() {
    let late = job(json!({"completions": 1, "activeDeadlineSeconds": 60}), json!({}));
    check_at(&late, &["a Running"], 59, &["status 1/0/0", "requeue 1s"]);
    let over = ["delete a", "status 0/0/0 -a FailureTarget:DeadlineExceeded", "release a"];
    check_at(&late, &["a Running"], 60, &over);
}

#[test]
fn a_suspended_job_runs_nothing_and_its_pods_do_not_count() {
    let suspended = json!({"parallelism": 1, "completions": 1, "suspend": true, "activeDeadlineSeconds": 5});
    let steps = ["stop a", "status 0/0/0 Suspended:JobSuspended"];
    check(&job(suspended, json!({})), &["a Running"], &steps);
}

#[test]
fn a_resumed_job_starts_again_with_a_new_start_time() {
    let before = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    let job = job(json!({"completions": 1, "suspend": false}), before);
    let steps = steps(&job, &[], 77);
    assert_eq!(
        steps.iter().map(tell).collect::<Vec<_>>(),
        ["create one", "status 1/0/0 !Suspended:JobResumed"]
    );
    let Step::UpdateStatus(status) = &steps[1] else { panic!() };
    assert_eq!(component_base::clock::moment_of(status.start_time.as_ref().unwrap()), at(77));
}

#[test]
fn a_smaller_parallelism_stops_what_is_least_useful() {
    let job = job(json!({"parallelism": 1, "completions": 3}), json!({}));
    check(&job, &["a Running ready", "b Pending"], &["stop b", "status 1/0/0"]);
}

fn indexed(more: Value) -> Value {
    let mut spec = json!({"parallelism": 3, "completions": 4, "completionMode": "Indexed"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[test]
fn an_indexed_job_fills_the_lowest_free_indexes() {
    let job = job(indexed(json!({})), json!({"completedIndexes": "1", "succeeded": 1}));
    check(&job, &[], &["create #0 #2 #3", "status 3/1/0 done=1"]);
}

#[test]
fn an_index_that_succeeds_is_done_without_being_listed() {
    let job = job(indexed(json!({"parallelism": 1})), json!({}));
    let pods = ["a Succeeded #0", "x Succeeded #9", "b Running #2"];
    check(&job, &pods, &["status 1/1/0 done=0", "release a x"]);
}

#[test]
fn pods_with_a_doubled_or_foreign_index_are_stopped() {
    let job = job(indexed(json!({})), json!({}));
    let pods = ["a Running ready #0", "b Pending #0", "c Running #1", "d Running #7"];
    check(&job, &pods, &["stop d b", "status 2/0/0"]);
}

#[test]
fn fewer_completions_take_the_last_indexes_away() {
    let fewer = indexed(json!({"completions": 2, "parallelism": 2}));
    let job = job(fewer, json!({"completedIndexes": "0,3", "succeeded": 2}));
    let pods = ["b Running #1", "c Running #2"];
    check(&job, &pods, &["stop c", "status 1/1/0 done=0"]);
}

#[test]
fn a_failed_index_stays_held_until_its_next_pod_runs() {
    let spec = || indexed(json!({"parallelism": 1, "completions": 2, "backoffLimitPerIndex": 2}));
    check_at(&job(spec(), json!({})), &["a Failed #0 !0"], 4, &["status 0/0/0 bad=", "requeue 6s"]);
    check(&job(spec(), json!({})), &["a Failed #0 !0"], &["create #0!1", "status 1/0/0 bad="]);
    let pods = ["a Failed #0 !0", "b Running #0 !1"];
    check(&job(spec(), json!({})), &pods, &["status 1/0/0 -a bad=", "release a"]);
}

#[test]
fn an_index_fails_at_its_own_limit_and_the_others_go_on() {
    let spec = || indexed(json!({"parallelism": 1, "completions": 2, "backoffLimitPerIndex": 1}));
    check(
        &job(spec(), json!({})),
        &["a Failed #0 !1"],
        &["create #1!0", "status 1/0/0 -a bad=0", "release a"],
    );
    let status = || json!({"failedIndexes": "0", "completedIndexes": "1", "failed": 2, "succeeded": 1});
    let over = "status 0/1/2 done=1 bad=0 FailureTarget:FailedIndexes Failed:FailedIndexes";
    check(&job(spec(), status()), &[], &[over]);
}

#[test]
fn too_many_failed_indexes_fail_the_job() {
    let spec = indexed(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 1}));
    let pods = ["a Failed #0", "b Failed #1", "c Running #2"];
    let told = "status 0/0/0 -a -b -c bad=0,1 FailureTarget:MaxFailedIndexesExceeded";
    check(&job(spec, json!({})), &pods, &["delete c", told, "release a b c"]);
}

fn rule(action: &str) -> Value {
    json!({"action": action, "onExitCodes": {"operator": "In", "values": [3]}})
}

#[test]
fn a_failure_policy_fails_the_job_ignores_or_counts() {
    let spec = |action: &str| json!({"completions": 1, "backoffLimit": 0, "podFailurePolicy": {"rules": [rule(action)]}});
    let failed = "status 0/0/0 -a FailureTarget:PodFailurePolicy";
    check(&job(spec("FailJob"), json!({})), &["a Failed exit=3"], &[failed, "release a"]);
    check(
        &job(spec("Ignore"), json!({})),
        &["a Failed exit=3"],
        &["create one", "status 1/0/0", "release a"],
    );
    let counted = "status 0/0/0 -a FailureTarget:BackoffLimitExceeded";
    check(&job(spec("Count"), json!({})), &["a Failed exit=3"], &[counted, "release a"]);
}

#[test]
fn a_failure_policy_fails_an_index_at_once() {
    let policy = json!({"rules": [rule("FailIndex")]});
    let spec = indexed(json!({"parallelism": 1, "backoffLimitPerIndex": 5, "podFailurePolicy": policy}));
    let steps = ["create #1!0", "status 1/0/0 -a bad=0", "release a"];
    check(&job(spec, json!({})), &["a Failed #0 exit=3"], &steps);
}

#[test]
fn a_disrupted_pod_can_be_ignored() {
    let pattern = json!([{"type": "DisruptionTarget", "status": "True"}]);
    let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": pattern}]});
    let job = job(json!({"completions": 1, "backoffLimit": 0, "podFailurePolicy": policy}), json!({}));
    check(&job, &["a Failed disrupted"], &["create one", "status 1/0/0", "release a"]);
}

#[test]
fn a_success_policy_ends_the_job_while_others_run() {
    let policy = json!({"rules": [{"succeededIndexes": "0"}]});
    let spec = || indexed(json!({"successPolicy": policy}));
    let met = "SuccessCriteriaMet:SuccessPolicy";
    let first = format!("status 0/1/0 done=0 {met}");
    let steps = ["delete b", &first, "release a b"];
    check(&job(spec(), json!({})), &["a Succeeded #0", "b Running #1"], &steps);
    let status = || {
        json!({"completedIndexes": "0", "succeeded": 1,
        "conditions": [{"type": "SuccessCriteriaMet", "status": "True", "reason": "SuccessPolicy"}]})
    };
    check(&job(spec(), status()), &["b Running #1 going free"], &[&first]);
    check(&job(spec(), status()), &[], &[&format!("{first} Complete:SuccessPolicy")]);
}

#[test]
fn a_pod_that_is_going_is_replaced_at_once_or_when_it_has_ended() {
    let spec = |policy: &str| json!({"completions": 1, "podReplacementPolicy": policy});
    let at_once = ["create one", "status 1/0/0 -a", "release a"];
    check(&job(spec("TerminatingOrFailed"), json!({})), &["a Running going"], &at_once);
    check(&job(spec("Failed"), json!({})), &["a Running going"], &["status 0/0/0"]);
    check(&job(spec("Failed"), json!({})), &["a Failed going"], &at_once);
}

#[test]
fn a_deleted_job_lets_its_pods_go_and_makes_no_more() {
    let mut job = job(json!({"parallelism": 2, "completions": 2}), json!({}));
    job.metadata.deletion_timestamp = Some(component_base::clock::time_of(at(0)));
    check(&job, &["a Running", "b Failed"], &["status 1/0/0 -b", "release a b"]);
}

#[test]
fn a_finished_job_only_lets_its_pods_go() {
    let done = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    check(&job(json!({}), done), &["a Running"], &["release a"]);
}

#[test]
fn failures_are_remembered_when_their_pods_are_gone() {
    let job = job(json!({"completions": 1}), json!({"failed": 1}));
    let before = Failures::of(&[&pod("a Failed")]);
    let none = BTreeSet::new();
    let observed = Observed {
        job: &job,
        pods: &[],
        released: &none,
        settled: true,
        failures: Some(&before),
        now: at(4),
    };
    assert!(plan(&observed).0.iter().map(tell).any(|told| told == "requeue 6s"));
}
