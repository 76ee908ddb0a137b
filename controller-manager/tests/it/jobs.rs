//! Jobs and CronJobs; the test decides how pods end.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn job_spec(completions: i32, more: Value) -> Value {
    let mut spec = json!({
        "completions": completions, "parallelism": 2,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

async fn end_pods(cluster: &Cluster, phase: &str) {
    for pod in cluster.active_pods("").await {
        cluster.set_status(pod.metadata.name.as_deref().unwrap(), json!({"phase": phase})).await;
    }
}

async fn finished(cluster: &Cluster, name: &str, condition: &str, phase: &str) -> Job {
    cluster
        .until_idle(&format!("the job {name} {condition}"), || async {
            end_pods(cluster, phase).await;
            let job: Job = cluster.api("default").get_opt(name).await.unwrap()?;
            let conditions = job.status.as_ref()?.conditions.clone()?;
            api_types::conditions::is_true(&conditions, condition).then_some(job)
        })
        .await
}

#[tokio::test]
async fn a_job_completes_when_its_pods_have_succeeded() {
    let cluster = Cluster::start().await;
    cluster.create::<Job>(json!({"metadata": {"name": "sum"}, "spec": job_spec(3, json!({}))})).await;
    let job = finished(&cluster, "sum", "Complete", "Succeeded").await;
    let status = job.status.unwrap();
    assert_eq!(status.succeeded, Some(3));
    assert!(status.completion_time.is_some());
    let pods: Vec<Pod> = cluster.list("").await;
    assert_eq!(pods.len(), 3);
    assert!(
        pods.iter().all(|pod| pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty)),
        "no finalizer is left"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn an_indexed_job_runs_each_index_once() {
    let cluster = Cluster::start().await;
    let spec = job_spec(3, json!({"completionMode": "Indexed"}));
    cluster.create::<Job>(json!({"metadata": {"name": "sum"}, "spec": spec})).await;
    let job = finished(&cluster, "sum", "Complete", "Succeeded").await;
    assert_eq!(job.status.unwrap().completed_indexes.as_deref(), Some("0-2"));
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_fails_at_its_backoff_limit() {
    let cluster = Cluster::start().await;
    let spec = job_spec(2, json!({"backoffLimit": 0}));
    cluster.create::<Job>(json!({"metadata": {"name": "sum"}, "spec": spec})).await;
    let job = finished(&cluster, "sum", "Failed", "Failed").await;
    assert_eq!(job.status.unwrap().succeeded, None);
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_and_its_pods_go_together() {
    let cluster = Cluster::start().await;
    cluster.create::<Job>(json!({"metadata": {"name": "sum"}, "spec": job_spec(2, json!({}))})).await;
    let two = || async { (cluster.active_pods("").await.len() == 2).then_some(()) };
    cluster.until_idle("two pods", two).await;
    cluster.api::<Job>("default").delete("sum", &DeleteParams::background()).await.unwrap();
    let none = || async { cluster.list::<Pod>("").await.is_empty().then_some(()) };
    cluster.until("no pods", none).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_finished_job_goes_after_its_time() {
    let cluster = Cluster::start().await;
    let spec = job_spec(1, json!({"ttlSecondsAfterFinished": 0}));
    cluster.create::<Job>(json!({"metadata": {"name": "sum"}, "spec": spec})).await;
    cluster
        .until_idle("the job gone", || async {
            end_pods(&cluster, "Succeeded").await;
            cluster.api::<Job>("default").get_opt("sum").await.unwrap().is_none().then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_cron_job_starts_the_job_that_it_missed() {
    let cluster = Cluster::start().await;
    let cron = json!({
        "metadata": {"name": "tick"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job_spec(1, json!({}))}},
    });
    cluster.create::<CronJob>(cron).await;
    let long_ago = Patch::Merge(json!({"status": {"lastScheduleTime": "2024-01-01T00:00:00Z"}}));
    cluster.api::<CronJob>("default").patch_status("tick", &PatchParams::default(), &long_ago).await.unwrap();
    let one = || async { (cluster.list::<Job>("").await.len() == 1).then_some(()) };
    cluster.until_idle("one job", one).await;
    let listed = || async {
        let cron: CronJob = cluster.api("default").get("tick").await.unwrap();
        cron.status?.active.filter(|active| active.len() == 1)
    };
    cluster.until_idle("the job in the status", listed).await;
    cluster.stop().await;
}
