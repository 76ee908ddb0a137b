//! Quotas are charged by the server and counted again by the controller; claims go when nothing uses them.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ResourceQuota};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::cluster::Cluster;

async fn used(cluster: &Cluster, name: &str) -> Option<String> {
    let quota = cluster.api::<ResourceQuota>("team").get("q").await.unwrap();
    Some(quota.status?.used?.get(name)?.0.clone())
}

async fn limit(cluster: &Cluster, hard: serde_json::Value) {
    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).unwrap();
    cluster.api("team").create(&PostParams::default(), &quota).await.unwrap();
}

#[tokio::test]
async fn of_many_who_create_at_once_just_as_many_as_fit_succeed() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("team").await;
    let certificate =
        || async { cluster.api::<ConfigMap>("team").get_opt("kube-root-ca.crt").await.unwrap() };
    cluster.until_idle("the certificate", certificate).await;
    limit(&cluster, json!({"configmaps": "6"})).await;
    cluster
        .until_idle("the count", || async { used(&cluster, "configmaps").await.filter(|used| used == "1") })
        .await;
    let create = |index: usize| {
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": format!("m{index}")}})).unwrap();
        let api = cluster.api::<ConfigMap>("team");
        async move { api.create(&PostParams::default(), &map).await }
    };
    let results = join_all((0..20).map(create)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
    let refusals: Vec<String> =
        results.into_iter().filter_map(|result| result.err().map(|error| error.to_string())).collect();
    let expected = "exceeded quota: q, requested: configmaps=1, used: configmaps=6, limited: configmaps=6";
    assert!(refusals.iter().all(|text| text.contains(expected)), "{refusals:?}");
    assert_eq!(used(&cluster, "configmaps").await.unwrap(), "6");
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_pod_used_is_free_when_it_is_gone() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("team").await;
    limit(&cluster, json!({"pods": "1", "requests.cpu": "1"})).await;
    cluster.until_idle("the count", || async { used(&cluster, "pods").await }).await;
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "a", "image": "a", "resources": {"requests": {"cpu": "700m"}}}]}}))
    .unwrap();
    let pods = cluster.api::<Pod>("team");
    cluster.until_idle("the pod", || async { pods.create(&PostParams::default(), &pod).await.ok() }).await;
    assert_eq!(used(&cluster, "requests.cpu").await.unwrap(), "700m");
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("room again", || async {
            used(&cluster, "requests.cpu").await.filter(|used| used == "0")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_claim_goes_when_nothing_uses_it() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("team").await;
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}))
    .unwrap();
    let claims = cluster.api::<PersistentVolumeClaim>("team");
    let made = claims.create(&PostParams::default(), &claim).await.unwrap();
    assert_eq!(made.metadata.finalizers.unwrap(), ["kubernetes.io/pvc-protection"]);
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("the claim gone", || async { claims.get_opt("c").await.unwrap().is_none().then_some(()) })
        .await;
    cluster.stop().await;
}
