//! StatefulSets, DaemonSets, Services, budgets and nodes.

use std::time::Duration;

use controller_manager::Config;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, template};

async fn add_node(cluster: &Cluster, name: &str) {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    api.create(&PostParams::default(), &node).await.unwrap();
    let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-01T00:00:00Z"});
    let status = Patch::Merge(json!({"status": {"conditions": [ready]}}));
    api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
}

fn names(pods: &[Pod]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

#[tokio::test]
async fn a_stateful_set_grows_in_order_and_rolls_from_the_top() {
    let cluster = Cluster::start().await;
    let set = json!({"metadata": {"name": "db"}, "spec": {
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "v1"),
    }});
    cluster.create::<StatefulSet>(set).await;
    cluster
        .until("three pods, each after the one before it was ready", || async {
            let pods: Vec<Pod> = cluster.list("app=db").await;
            let unready = pods.iter().filter(|pod| !api_types::pods::is_ready(pod)).count();
            assert!(unready <= 1, "{:?}", names(&pods));
            (pods.len() == 3 && unready == 0).then_some(())
        })
        .await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"template": template("db", "v2")}})).await;
    cluster
        .until("the update everywhere", || async {
            let set: StatefulSet = cluster.api("default").get("db").await.unwrap();
            let status = set.status?;
            let done = status.updated_replicas == Some(3) && status.ready_replicas == Some(3);
            (done && status.current_revision == status.update_revision).then_some(())
        })
        .await;
    let pods: Vec<Pod> = cluster.list("app=db").await;
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_daemon_set_covers_each_node_once() {
    let cluster = Cluster::start().await;
    add_node(&cluster, "n1").await;
    add_node(&cluster, "n2").await;
    let set = json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "v1"),
    }});
    cluster.create::<DaemonSet>(set).await;
    let on_each = |count: usize| {
        let cluster = &cluster;
        move || async move {
            let pods = cluster.active_pods("app=agent").await;
            assert!(pods.len() <= count, "{:?}", names(&pods));
            let set: DaemonSet = cluster.api("default").get("agent").await.unwrap();
            let ready = set.status.map_or(0, |status| status.number_ready);
            (pods.len() == count && usize::try_from(ready).unwrap() == count).then_some(())
        }
    };
    cluster.until("a ready pod on each of two nodes", on_each(2)).await;
    add_node(&cluster, "n3").await;
    cluster.until("a ready pod on the third node", on_each(3)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_service_lists_the_pods_behind_it() {
    let cluster = Cluster::start().await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.create::<Service>(service).await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("a");
    cluster.create::<Pod>(pod).await;
    cluster
        .until("the pod ready in slice and endpoints", || async {
            let slices: Vec<EndpointSlice> = cluster.list("kubernetes.io/service-name=web").await;
            let ready = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
            let ready = ready
                .filter(|one| one.conditions.as_ref().is_some_and(|all| all.ready == Some(true)))
                .count();
            let endpoints = cluster.api::<Endpoints>("default").get_opt("web").await.unwrap()?;
            let listed = endpoints.subsets.iter().flatten().any(|subset| subset.addresses.is_some());
            (ready == 1 && listed).then_some(())
        })
        .await;
    cluster.api::<Service>("default").delete("web", &DeleteParams::default()).await.unwrap();
    cluster
        .until("no slices and no endpoints of the deleted service", || async {
            let slices: Vec<EndpointSlice> = cluster.list("kubernetes.io/service-name=web").await;
            let endpoints = cluster.api::<Endpoints>("default").get_opt("web").await.unwrap();
            (slices.is_empty() && endpoints.is_none()).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_budget_says_how_many_pods_may_go() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        let mut pod = template("web", "v1");
        pod["metadata"]["name"] = json!(name);
        cluster.create::<Pod>(pod).await;
    }
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    cluster
        .until("one disruption allowed", || async {
            let budget: PodDisruptionBudget = cluster.api("default").get("web").await.unwrap();
            (budget.status?.disruptions_allowed == Some(1)).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_is_ready_loses_its_taint() {
    let cluster = Cluster::start().await;
    add_node(&cluster, "n1").await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    cluster
        .until_idle("no taint", || async {
            let taints = api.get("n1").await.unwrap().spec.and_then(|spec| spec.taints);
            taints.is_none_or(|taints| taints.is_empty()).then_some(())
        })
        .await;
    api.patch("n1", &PatchParams::default(), &Patch::Merge(json!({"spec": {"unschedulable": true}})))
        .await
        .unwrap();
    cluster
        .until_idle("the taint of a cordoned node", || async {
            let taints = api.get("n1").await.unwrap().spec.and_then(|spec| spec.taints)?;
            taints.iter().any(|taint| taint.key == "node.kubernetes.io/unschedulable").then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_silent_node_is_unreachable_and_loses_pods_that_do_not_tolerate_it() {
    let mut cluster = Cluster::without_manager().await;
    let impatient = Duration::from_millis(300);
    let manager = cluster.run_manager(Config { node_monitor_grace_period: impatient, ..cluster.config() });
    cluster.keep(manager);
    add_node(&cluster, "n1").await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("a");
    pod["spec"]["nodeName"] = json!("n1");
    let tolerate = |name: &str| json!({"key": name, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0});
    pod["spec"]["tolerations"] =
        json!([tolerate("node.kubernetes.io/unreachable"), tolerate("node.kubernetes.io/not-ready")]);
    cluster.create::<Pod>(pod).await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    cluster
        .until_idle("the taint of a silent node", || async {
            let taints = api.get("n1").await.unwrap().spec.and_then(|spec| spec.taints)?;
            taints.iter().any(|taint| taint.key == "node.kubernetes.io/unreachable").then_some(())
        })
        .await;
    cluster
        .until_idle("the pod going", || async {
            let pod = cluster.api::<Pod>("default").get_opt("a").await.unwrap();
            pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(())
        })
        .await;
    cluster.stop().await;
}
