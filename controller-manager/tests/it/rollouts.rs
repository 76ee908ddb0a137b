//! Deployments and ReplicaSets.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::cluster::{Cluster, template};

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", image),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        },
    })
}

async fn rolled_out(cluster: &Cluster, image: &str, replicas: usize) {
    cluster
        .until(&format!("{replicas} available pods of {image} and no others"), || async {
            let deployment: Deployment = cluster.api("default").get("web").await.unwrap();
            let status = deployment.status.clone().unwrap_or_default();
            let pods: Vec<Pod> = cluster.list("app=web").await;
            let all_new = pods.iter().all(|pod| image_of(pod) == image);
            let seen = status.observed_generation == deployment.metadata.generation;
            (seen
                && all_new
                && pods.len() == replicas
                && status.available_replicas == i32::try_from(replicas).ok())
            .then_some(())
        })
        .await;
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

#[tokio::test]
async fn a_deployment_gets_its_pods() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(3, "v1")).await;
    rolled_out(&cluster, "v1", 3).await;
    let deployment: Deployment = cluster.api("default").get("web").await.unwrap();
    let conditions = deployment.status.unwrap().conditions.unwrap();
    assert!(api_types::conditions::is_true(&conditions, "Available"));
    cluster.stop().await;
}

#[tokio::test]
async fn a_new_template_rolls_out_within_the_limits_and_can_be_undone() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(3, "v1")).await;
    rolled_out(&cluster, "v1", 3).await;
    let new_template = |image: &str| json!({"spec": {"template": template("web", image)}});
    cluster.patch::<Deployment>("web", new_template("v2")).await;
    cluster
        .until("the rollout of v2, never above four pods nor below three available", || async {
            let pods = cluster.active_pods("app=web").await;
            let ready = pods.iter().filter(|pod| api_types::pods::is_ready(pod)).count();
            assert!(pods.len() <= 4, "surge: {}", pods.len());
            assert!(ready >= 3, "available: {ready}");
            (pods.iter().all(|pod| image_of(pod) == "v2") && pods.len() == 3 && ready == 3).then_some(())
        })
        .await;
    rolled_out(&cluster, "v2", 3).await;
    cluster.patch::<Deployment>("web", new_template("v1")).await;
    rolled_out(&cluster, "v1", 3).await;
    let sets: Vec<ReplicaSet> = cluster.list("app=web").await;
    assert_eq!(sets.len(), 2, "the first set is used again");
    let deployment: Deployment = cluster.api("default").get("web").await.unwrap();
    assert_eq!(deployment.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "3");
    cluster.stop().await;
}

#[tokio::test]
async fn restarts_of_the_manager_make_no_pod_too_many() {
    let mut cluster = Cluster::without_manager().await;
    cluster.create::<Deployment>(deployment(40, "v1")).await;
    for round in 1..=4 {
        cluster.start_manager();
        cluster
            .until_idle("some progress", || async {
                let pods = cluster.active_pods("app=web").await;
                assert!(pods.len() <= 40, "too many: {}", pods.len());
                (pods.len() >= round * 8).then_some(())
            })
            .await;
        cluster.stop_manager().await;
    }
    cluster.start_manager();
    cluster
        .until("all pods available", || async {
            let pods: Vec<Pod> = cluster.list("app=web").await;
            assert!(pods.len() <= 40, "too many: {}", pods.len());
            let deployment: Deployment = cluster.api("default").get("web").await.unwrap();
            (deployment.status.unwrap_or_default().available_replicas == Some(40)).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_deployment_takes_its_sets_and_pods_along() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(2, "v1")).await;
    rolled_out(&cluster, "v1", 2).await;
    cluster.api::<Deployment>("default").delete("web", &DeleteParams::background()).await.unwrap();
    cluster
        .until("no set and no pod", || async {
            let (sets, pods): (Vec<ReplicaSet>, Vec<Pod>) = (cluster.list("").await, cluster.list("").await);
            (sets.is_empty() && pods.is_empty()).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn foreground_deletion_waits_for_the_pods() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(2, "v1")).await;
    rolled_out(&cluster, "v1", 2).await;
    cluster.api::<Deployment>("default").delete("web", &DeleteParams::foreground()).await.unwrap();
    cluster
        .until("the deployment gone, and no pod left before it", || async {
            let left = cluster.api::<Deployment>("default").get_opt("web").await.unwrap();
            let pods: Vec<Pod> = cluster.list("").await;
            assert!(left.is_some() || pods.is_empty(), "it went before its pods");
            left.is_none().then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn orphaned_pods_stay_and_are_adopted_again() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(2, "v1")).await;
    rolled_out(&cluster, "v1", 2).await;
    let before: Vec<ReplicaSet> = cluster.list("").await;
    cluster.api::<Deployment>("default").delete("web", &DeleteParams::orphan()).await.unwrap();
    cluster
        .until("the deployment gone and the set without owner", || async {
            let gone = cluster.api::<Deployment>("default").get_opt("web").await.unwrap().is_none();
            let sets: Vec<ReplicaSet> = cluster.list("").await;
            (gone && sets.len() == 1 && sets[0].metadata.owner_references.is_none()).then_some(())
        })
        .await;
    cluster.create::<Deployment>(deployment(2, "v1")).await;
    let adopted = cluster
        .until("the set adopted", || async {
            let sets: Vec<ReplicaSet> = cluster.list("").await;
            sets.into_iter().find(|set| set.metadata.owner_references.is_some())
        })
        .await;
    assert_eq!(adopted.metadata.uid, before[0].metadata.uid);
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_controller_writes_says_what_it_reacted_to() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(1, "v1")).await;
    rolled_out(&cluster, "v1", 1).await;
    let sets: Vec<ReplicaSet> = cluster.list("app=web").await;
    let name = sets[0].metadata.name.clone().unwrap();
    let path = format!("/apis/apps/v1/namespaces/default/replicasets/{name}?history=true");
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let history: Value = cluster.client.request(request).await.unwrap();
    let first = &history["items"][0];
    assert_eq!(
        (&first["change"], first["request"].as_str().unwrap().split(' ').next()),
        (&json!("Created"), Some("POST"))
    );
    let acted_on: u64 = first["actedOn"].as_str().unwrap().parse().unwrap();
    let revision: u64 = first["revision"].as_str().unwrap().parse().unwrap();
    assert!(acted_on < revision, "{first}");
    for item in history["items"].as_array().unwrap() {
        assert!(item["actedOn"].is_string(), "{item}");
    }
    cluster.stop().await;
}
