//! Quotas are charged by the server and counted again by the controller; claims go when nothing uses them.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ResourceQuota};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::collection::{create_widget, define_widgets};

async fn used(cluster: &Cluster, name: &str) -> Option<String> {
    let quota = cluster.api::<ResourceQuota>("team").get("q").await.unwrap();
    Some(quota.status?.used?.get(name)?.0.clone())
}

/// Waits until the quota `name` in `team` says that `what` is used `amount` times.
async fn until_used(cluster: &Cluster, quota: &str, what: &str, amount: &str) {
    let shows = || async {
        let quota = cluster.api::<ResourceQuota>("team").get(quota).await.unwrap();
        let used = quota.status?.used?.get(what)?.0.clone();
        (used == amount).then_some(())
    };
    cluster.until_idle(&format!("{what}={amount} in {quota}"), shows).await;
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

async fn scoped(cluster: &Cluster, name: &str, spec: Value) {
    let quota = json!({"metadata": {"name": name, "namespace": "team"}, "spec": spec});
    cluster.create::<ResourceQuota>(quota).await;
}

#[tokio::test]
async fn scopes_count_only_their_pods() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("team").await;
    let scopes = ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating"];
    for scope in scopes {
        scoped(&cluster, &scope.to_lowercase(), json!({"hard": {"pods": "5"}, "scopes": [scope]})).await;
    }
    for scope in scopes {
        until_used(&cluster, &scope.to_lowercase(), "pods", "0").await;
    }
    let pods = cluster.api::<Pod>("team");
    for (name, requests, deadline) in [("plain", json!({}), None), ("sized", json!({"cpu": "1"}), Some(60))] {
        let container = json!({"name": "a", "image": "a", "resources": {"requests": requests}});
        let spec = json!({"containers": [container], "activeDeadlineSeconds": deadline});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        cluster
            .until_idle("the pod", || async { pods.create(&PostParams::default(), &pod).await.ok() })
            .await;
    }
    for scope in scopes {
        until_used(&cluster, &scope.to_lowercase(), "pods", "1").await;
    }
    pods.delete("plain", &DeleteParams::default()).await.unwrap();
    for (scope, left) in
        [("besteffort", "0"), ("notbesteffort", "1"), ("terminating", "1"), ("notterminating", "0")]
    {
        until_used(&cluster, scope, "pods", left).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn custom_objects_are_counted_as_they_come_and_go() {
    let cluster = Cluster::start().await;
    let kind = define_widgets(&cluster).await;
    cluster.create_namespace("team").await;
    create_widget(&cluster, &kind, "team", "before").await;
    limit(&cluster, json!({"count/widgets.example.org": "2"})).await;
    until_used(&cluster, "q", "count/widgets.example.org", "1").await;
    create_widget(&cluster, &kind, "team", "after").await;
    until_used(&cluster, "q", "count/widgets.example.org", "2").await;
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "team", &kind);
    let refused = widgets.create(&PostParams::default(), &DynamicObject::new("third", &kind)).await;
    assert!(refused.unwrap_err().to_string().contains("exceeded quota: q"));
    widgets.delete("before", &DeleteParams::default()).await.unwrap();
    until_used(&cluster, "q", "count/widgets.example.org", "1").await;
    cluster.stop().await;
}

#[tokio::test]
async fn limits_that_somebody_wrote_into_the_status_are_put_right() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("team").await;
    limit(&cluster, json!({"cpu": "500m"})).await;
    until_used(&cluster, "q", "cpu", "0").await;
    let quotas = cluster.api::<ResourceQuota>("team");
    let wrong = Patch::Merge(json!({"status": {"hard": {"cpu": "1", "memory": "1Gi"}}}));
    quotas.patch_status("q", &PatchParams::default(), &wrong).await.unwrap();
    let spec = Patch::Merge(json!({"spec": {"hard": {"cpu": "750m"}}}));
    quotas.patch("q", &PatchParams::default(), &spec).await.unwrap();
    cluster
        .until_idle("the limits of the spec", || async {
            let hard = quotas.get("q").await.unwrap().status?.hard?;
            (hard.len() == 1 && hard.get("cpu")?.0 == "750m").then_some(())
        })
        .await;
    cluster.stop().await;
}
