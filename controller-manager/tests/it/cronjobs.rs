//! CronJobs; their last Job was long ago, so that one is due at once.

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// A CronJob `tick` whose schedule comes once a year, so that tests do not run into a new minute.
async fn create(cluster: &Cluster, more: Value) {
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let mut spec = json!({"schedule": "@yearly", "jobTemplate": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cluster.create::<CronJob>(json!({"metadata": {"name": "tick"}, "spec": spec})).await;
    let long_ago = Patch::Merge(json!({"status": {"lastScheduleTime": "2023-12-31T00:00:00Z"}}));
    cluster.api::<CronJob>("default").patch_status("tick", &PatchParams::default(), &long_ago).await.unwrap();
}

async fn status(cluster: &Cluster) -> CronJobStatus {
    cluster.api::<CronJob>("default").get("tick").await.unwrap().status.unwrap_or_default()
}

/// Waits until the status lists so many Jobs, and gives their names.
async fn until_active(cluster: &Cluster, count: usize) -> Vec<String> {
    let listed = || async {
        let active = status(cluster).await.active.unwrap_or_default();
        let names: Vec<String> = active.into_iter().filter_map(|one| one.name).collect();
        (names.len() == count).then_some(names)
    };
    cluster.until("that many active jobs", listed).await
}

/// A Job runs, and from now on another is due each month.
async fn one_runs_and_another_is_due(cluster: &Cluster, policy: &str) -> String {
    create(cluster, json!({"concurrencyPolicy": policy})).await;
    let first = until_active(cluster, 1).await.remove(0);
    let long_ago = Patch::Merge(json!({"status": {"lastScheduleTime": "2023-12-31T00:00:00Z"}}));
    let api = cluster.api::<CronJob>("default");
    api.patch_status("tick", &PatchParams::default(), &long_ago).await.unwrap();
    cluster.patch::<CronJob>("tick", json!({"spec": {"schedule": "30 1 1,8,15,22 * *"}})).await;
    first
}

#[tokio::test]
async fn the_job_that_was_missed_starts_and_is_named_by_its_time() {
    let cluster = Cluster::start().await;
    create(&cluster, json!({"timeZone": "Etc/UTC"})).await;
    let names = until_active(&cluster, 1).await;
    let job: Job = cluster.api("default").get(&names[0]).await.unwrap();
    let stamp = &job.metadata.annotations.unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    let time = chrono::DateTime::parse_from_rfc3339(stamp).unwrap();
    assert_eq!(names[0], format!("tick-{}", time.timestamp() / 60));
    let last = status(&cluster).await.last_schedule_time.unwrap();
    assert_eq!(component_base::clock::moment_of(&last), time.to_utc());
    cluster.until_events("CronJob/tick", &["SuccessfulCreate"]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_that_ended_leaves_the_list_and_old_ones_go() {
    let cluster = Cluster::start().await;
    create(&cluster, json!({"successfulJobsHistoryLimit": 0})).await;
    let names = until_active(&cluster, 1).await;
    let name = names[0].as_str();
    let gone = || async {
        for pod in cluster.active_pods("").await {
            cluster.set_status(pod.metadata.name.as_deref().unwrap(), json!({"phase": "Succeeded"})).await;
        }
        cluster.api::<Job>("default").get_opt(name).await.unwrap().is_none().then_some(())
    };
    cluster.until_idle("the finished job gone", gone).await;
    until_active(&cluster, 0).await;
    assert!(status(&cluster).await.last_successful_time.is_some());
    cluster.until_events("CronJob/tick", &["SawCompletedJob", "SuccessfulCreate", "SuccessfulDelete"]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn jobs_run_beside_each_other_when_that_is_allowed() {
    let cluster = Cluster::start().await;
    let first = one_runs_and_another_is_due(&cluster, "Allow").await;
    let names = until_active(&cluster, 2).await;
    assert!(names.contains(&first));
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_that_runs_holds_up_the_next_when_that_is_forbidden() {
    let cluster = Cluster::start().await;
    let first = one_runs_and_another_is_due(&cluster, "Forbid").await;
    cluster.until_events("CronJob/tick", &["JobAlreadyActive", "SuccessfulCreate"]).await;
    assert_eq!(until_active(&cluster, 1).await, [first]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_that_runs_is_replaced_by_the_next() {
    let cluster = Cluster::start().await;
    let first = one_runs_and_another_is_due(&cluster, "Replace").await;
    let replaced = || async {
        let old = cluster.api::<Job>("default").get_opt(&first).await.unwrap();
        let active = status(&cluster).await.active.unwrap_or_default();
        (old.is_none() && active.len() == 1 && active[0].name.as_ref() != Some(&first)).then_some(())
    };
    cluster.until("the old job gone and a new one there", replaced).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_suspended_cron_job_starts_nothing_until_it_goes_on() {
    let cluster = Cluster::start().await;
    create(&cluster, json!({"suspend": true})).await;
    let other = json!({"metadata": {"name": "other"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    cluster.create::<Job>(other).await;
    cluster
        .until("the other job runs", || async { (cluster.active_pods("").await.len() == 1).then_some(()) })
        .await;
    assert_eq!(status(&cluster).await.active, None);
    cluster.patch::<CronJob>("tick", json!({"spec": {"suspend": false}})).await;
    until_active(&cluster, 1).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_deleted_by_hand_is_missed() {
    let cluster = Cluster::start().await;
    create(&cluster, json!({})).await;
    let names = until_active(&cluster, 1).await;
    cluster.api::<Job>("default").delete(&names[0], &DeleteParams::background()).await.unwrap();
    until_active(&cluster, 0).await;
    cluster.until_events("CronJob/tick", &["MissingJob", "SuccessfulCreate"]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_zone_in_the_schedule_is_refused() {
    let cluster = Cluster::without_manager().await;
    let spec = json!({"schedule": "TZ=UTC 0 * * * *", "jobTemplate": {"spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}});
    let cron: CronJob = serde_json::from_value(json!({"metadata": {"name": "tick"}, "spec": spec})).unwrap();
    let refused = cluster.api::<CronJob>("default").create(&PostParams::default(), &cron).await.unwrap_err();
    assert!(refused.to_string().contains("cannot use TZ or CRON_TZ in schedule"), "{refused}");
    cluster.stop().await;
}
