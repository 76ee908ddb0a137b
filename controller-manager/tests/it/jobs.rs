//! Jobs; the test decides how pods end.

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
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

/// Creates the job `sum`.
async fn create(cluster: &Cluster, spec: Value) {
    cluster.create::<Job>(json!({"metadata": {"name": "sum"}, "spec": spec})).await;
}

async fn status(cluster: &Cluster) -> JobStatus {
    cluster.api::<Job>("default").get("sum").await.unwrap().status.unwrap_or_default()
}

/// The reason and message of a condition that is true.
async fn said(cluster: &Cluster, condition: &str) -> Option<(String, String)> {
    let all = status(cluster).await.conditions?;
    let found = all.into_iter().find(|one| one.type_ == condition && one.status == "True")?;
    Some((found.reason.unwrap_or_default(), found.message.unwrap_or_default()))
}

async fn until_active(cluster: &Cluster, count: usize) -> Vec<Pod> {
    let enough = || async { Some(cluster.active_pods("").await).filter(|pods| pods.len() == count) };
    cluster.until_idle("that many pods", enough).await
}

fn index_of(pod: &Pod) -> i32 {
    pod.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/job-completion-index"].parse().unwrap()
}

/// Ends pods as `code` says, long ago, so that nothing waits for a back-off; none goes on.
async fn exit_pods(cluster: &Cluster, code: impl Fn(&Pod) -> Option<i32>) {
    for pod in cluster.active_pods("").await {
        let Some(code) = code(&pod) else { continue };
        let state = json!({"terminated": {"exitCode": code, "finishedAt": "2024-01-01T00:00:00Z"}});
        let container = json!({"name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "", "state": state});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let status = json!({"phase": phase, "containerStatuses": [container]});
        cluster.set_status(pod.metadata.name.as_deref().unwrap(), status).await;
    }
}

fn indexed(completions: i32, more: Value) -> Value {
    let mut spec = job_spec(completions, json!({"completionMode": "Indexed", "parallelism": completions}));
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[tokio::test]
async fn a_job_adopts_its_orphans_and_releases_what_is_no_longer_its_own() {
    let cluster = Cluster::start().await;
    create(&cluster, job_spec(2, json!({}))).await;
    let pods = until_active(&cluster, 2).await;
    let name = pods[0].metadata.name.as_deref().unwrap();
    cluster.patch::<Pod>(name, json!({"metadata": {"ownerReferences": null}})).await;
    let owned = |wanted: bool| {
        let cluster = &cluster;
        move || async move {
            let meta = cluster.api::<Pod>("default").get(name).await.unwrap().metadata;
            let held = meta.finalizers.as_ref().is_some_and(|all| !all.is_empty());
            let owner = meta.owner_references.as_ref().is_some_and(|all| all[0].name == "sum");
            (held == wanted && owner == wanted).then_some(())
        }
    };
    cluster.until_idle("the orphan adopted again", owned(true)).await;
    cluster.patch::<Pod>(name, json!({"metadata": {"labels": null}})).await;
    cluster.until_idle("the pod without labels released", owned(false)).await;
    until_active(&cluster, 3).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_suspended_job_waits_and_a_resumed_one_runs() {
    let cluster = Cluster::start().await;
    create(&cluster, job_spec(2, json!({"suspend": true}))).await;
    let suspended = || async { said(&cluster, "Suspended").await };
    let told = cluster.until_idle("the job suspended", suspended).await;
    assert_eq!(told, ("JobSuspended".to_owned(), "Job suspended".to_owned()));
    assert_eq!(status(&cluster).await.start_time, None);
    cluster.patch::<Job>("sum", json!({"spec": {"suspend": false}})).await;
    until_active(&cluster, 2).await;
    cluster.patch::<Job>("sum", json!({"spec": {"suspend": true}})).await;
    cluster
        .until("no pods while suspended", || async { cluster.list::<Pod>("").await.is_empty().then_some(()) })
        .await;
    assert_eq!(status(&cluster).await.failed, None, "pods that are stopped have not failed");
    cluster.patch::<Job>("sum", json!({"spec": {"suspend": false}})).await;
    finished(&cluster, "sum", "Complete", "Succeeded").await;
    cluster
        .until_events(
            "Job/sum",
            &["Completed", "Resumed", "SuccessfulCreate", "SuccessfulDelete", "Suspended"],
        )
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn an_exit_code_fails_the_job_early() {
    let cluster = Cluster::start().await;
    let rules = json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]);
    create(&cluster, job_spec(4, json!({"backoffLimit": 9, "podFailurePolicy": {"rules": rules}}))).await;
    let pods = until_active(&cluster, 2).await;
    let first = pods[0].metadata.name.clone();
    exit_pods(&cluster, |pod| (pod.metadata.name == first).then_some(3)).await;
    let failed = || async { said(&cluster, "Failed").await };
    let (reason, message) = cluster.until("the job failed", failed).await;
    let pod = first.unwrap();
    let expected =
        format!("Container c for pod default/{pod} failed with exit code 3 matching FailJob rule at index 0");
    assert_eq!((reason.as_str(), message.as_str()), ("PodFailurePolicy", expected.as_str()));
    assert_eq!(status(&cluster).await.failed, Some(2), "what still ran has failed with the job");
    cluster.until_events("Job/sum", &["PodFailurePolicy"]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_disrupted_pod_is_replaced_and_does_not_count() {
    let cluster = Cluster::start().await;
    let rules =
        json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    create(&cluster, indexed(2, json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}))).await;
    for pod in until_active(&cluster, 2).await {
        let container = json!({"name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
            "state": {"terminated": {"exitCode": 137, "finishedAt": "2024-01-01T00:00:00Z"}}});
        let disrupted = json!({"phase": "Failed", "containerStatuses": [container],
            "conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        cluster.set_status(pod.metadata.name.as_deref().unwrap(), disrupted).await;
    }
    let job = finished(&cluster, "sum", "Complete", "Succeeded").await;
    let status = job.status.unwrap();
    assert_eq!((status.succeeded, status.failed), (Some(2), None));
    cluster.stop().await;
}

#[tokio::test]
async fn all_indexes_run_though_some_fail_at_their_own_limit() {
    let cluster = Cluster::start().await;
    create(&cluster, indexed(4, json!({"backoffLimitPerIndex": 1}))).await;
    let failed = || async {
        exit_pods(&cluster, |pod| Some(index_of(pod) % 2)).await;
        said(&cluster, "Failed").await
    };
    let (reason, _) = cluster.until_idle("the job failed", failed).await;
    let status = status(&cluster).await;
    assert_eq!(reason, "FailedIndexes");
    assert_eq!(
        (status.completed_indexes.as_deref(), status.failed_indexes.as_deref()),
        (Some("0,2"), Some("1,3"))
    );
    assert_eq!((status.succeeded, status.failed), (Some(2), Some(4)), "two tries of each bad index");
    cluster.stop().await;
}

#[tokio::test]
async fn too_many_failed_indexes_end_the_job() {
    let cluster = Cluster::start().await;
    create(&cluster, indexed(4, json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 1}))).await;
    until_active(&cluster, 4).await;
    exit_pods(&cluster, |pod| (index_of(pod) < 2).then_some(1)).await;
    let failed = || async { said(&cluster, "Failed").await };
    let (reason, _) = cluster.until("the job failed", failed).await;
    assert_eq!(reason, "MaxFailedIndexesExceeded");
    assert_eq!(status(&cluster).await.failed_indexes.as_deref(), Some("0,1"));
    assert!(cluster.active_pods("").await.is_empty(), "the others were stopped");
    cluster.stop().await;
}

#[tokio::test]
async fn a_success_policy_completes_the_job_while_indexes_are_pending() {
    let cluster = Cluster::start().await;
    let policy = json!({"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]});
    create(&cluster, indexed(4, json!({"successPolicy": policy}))).await;
    until_active(&cluster, 4).await;
    exit_pods(&cluster, |pod| (index_of(pod) == 2).then_some(0)).await;
    let complete = || async { said(&cluster, "Complete").await };
    let told = cluster.until("the job complete", complete).await;
    assert_eq!(told, ("SuccessPolicy".to_owned(), "Matched rules at index 0".to_owned()));
    assert_eq!(said(&cluster, "SuccessCriteriaMet").await, Some(told));
    let status = status(&cluster).await;
    assert_eq!((status.succeeded, status.failed, status.active), (Some(1), None, None));
    cluster.stop().await;
}

#[tokio::test]
async fn an_indexed_job_grows_and_shrinks_while_it_runs() {
    let cluster = Cluster::start().await;
    create(&cluster, indexed(2, json!({}))).await;
    until_active(&cluster, 2).await;
    cluster.patch::<Job>("sum", json!({"spec": {"completions": 4, "parallelism": 4}})).await;
    let mut indexes: Vec<i32> = until_active(&cluster, 4).await.iter().map(index_of).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 2, 3]);
    cluster.patch::<Job>("sum", json!({"spec": {"completions": 1, "parallelism": 1}})).await;
    cluster.until("one pod", || async { (cluster.list::<Pod>("").await.len() == 1).then_some(()) }).await;
    finished(&cluster, "sum", "Complete", "Succeeded").await;
    assert_eq!(status(&cluster).await.completed_indexes.as_deref(), Some("0"));
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_of_another_manager_is_left_alone() {
    let cluster = Cluster::start().await;
    create(&cluster, job_spec(1, json!({"managedBy": "example.com/other"}))).await;
    cluster.create::<Job>(json!({"metadata": {"name": "ours"}, "spec": job_spec(1, json!({}))})).await;
    finished(&cluster, "ours", "Complete", "Succeeded").await;
    assert_eq!(status(&cluster).await, JobStatus::default());
    assert_eq!(cluster.list::<Pod>("job-name=sum").await.len(), 0);
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_deleted_by_hand_has_failed_and_goes() {
    let cluster = Cluster::start().await;
    create(&cluster, job_spec(1, json!({"backoffLimit": 0}))).await;
    let pods = until_active(&cluster, 1).await;
    let name = pods[0].metadata.name.as_deref().unwrap();
    cluster.api::<Pod>("default").delete(name, &DeleteParams::default()).await.unwrap();
    let failed = || async { said(&cluster, "Failed").await };
    let (reason, _) = cluster.until("the job failed", failed).await;
    assert_eq!(reason, "BackoffLimitExceeded");
    assert_eq!((status(&cluster).await.failed, cluster.list::<Pod>("").await.len()), (Some(1), 0));
    cluster.stop().await;
}
