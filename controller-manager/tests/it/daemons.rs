//! DaemonSets, as the conformance suite asks for them.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, template};

async fn add_node(cluster: &Cluster, name: &str) {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    api.create(&PostParams::default(), &node).await.unwrap();
    let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-01T00:00:00Z"});
    let status = Patch::Merge(json!({"status": {"conditions": [ready]}}));
    api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
}

async fn with_nodes(count: usize) -> Cluster {
    let cluster = Cluster::start().await;
    for index in 0..count {
        add_node(&cluster, &format!("n{index}")).await;
    }
    cluster
}

fn daemons(image: &str) -> Value {
    json!({"metadata": {"name": "agent", "labels": {"app": "agent"}}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", image)}})
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

/// The node that the pod is pinned to.
fn node_of(pod: &Pod) -> String {
    let affinity = pod.spec.clone().unwrap().affinity.unwrap().node_affinity.unwrap();
    let terms = affinity.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
    terms[0].match_fields.as_ref().unwrap()[0].values.as_ref().unwrap()[0].clone()
}

/// Waits for a ready pod of this image on each of `count` nodes, and never two on one.
async fn all_run(cluster: &Cluster, image: &str, count: usize) -> Vec<Pod> {
    cluster
        .until(&format!("{count} ready pods of {image}"), || async {
            let pods = cluster.active_pods("app=agent").await;
            let nodes: BTreeSet<String> = pods.iter().map(node_of).collect();
            assert_eq!(nodes.len(), pods.len(), "two pods on a node");
            let ready = pods.iter().all(|pod| image_of(pod) == image && api_types::pods::is_ready(pod));
            let set: DaemonSet = cluster.api("default").get("agent").await.unwrap();
            let status = set.status?;
            let told = status.number_available.unwrap_or(0) == i32::try_from(count).unwrap()
                && status.updated_number_scheduled == status.number_available
                && status.observed_generation == set.metadata.generation;
            (ready && told && pods.len() == count).then_some(pods)
        })
        .await
}

async fn revisions(cluster: &Cluster) -> Vec<ControllerRevision> {
    let mut all: Vec<ControllerRevision> = cluster.list("app=agent").await;
    all.sort_by_key(|one| one.revision);
    all
}

#[tokio::test]
async fn pods_that_are_deleted_or_fail_come_again() {
    let cluster = with_nodes(2).await;
    cluster.create::<DaemonSet>(daemons("v1")).await;
    let pods = all_run(&cluster, "v1", 2).await;
    let name = pods[0].metadata.name.clone().unwrap();
    cluster.api::<Pod>("default").delete(&name, &DeleteParams::default()).await.unwrap();
    cluster
        .until("another pod in its place", || async {
            let gone = cluster.api::<Pod>("default").get_opt(&name).await.unwrap().is_none();
            gone.then_some(())
        })
        .await;
    let pods = all_run(&cluster, "v1", 2).await;
    let failed = pods[1].metadata.name.clone().unwrap();
    cluster.set_status(&failed, json!({"phase": "Failed"})).await;
    cluster
        .until("the failed pod gone", || async {
            let gone = cluster.api::<Pod>("default").get_opt(&failed).await.unwrap().is_none();
            gone.then_some(())
        })
        .await;
    all_run(&cluster, "v1", 2).await;
    cluster
        .until_idle("the event that tells of it", || async {
            let events: Vec<Event> = cluster.list("").await;
            events.iter().any(|event| event.reason.as_deref() == Some("FailedDaemonPod")).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn pods_follow_the_labels_of_nodes() {
    let cluster = with_nodes(2).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let paint = |color: Value| {
        let (nodes, patch) = (nodes.clone(), Patch::Merge(json!({"metadata": {"labels": {"color": color}}})));
        async move { nodes.patch("n1", &PatchParams::default(), &patch).await.unwrap() }
    };
    let none = || async {
        let pods: Vec<Pod> = cluster.list("app=agent").await;
        let set: DaemonSet = cluster.api("default").get("agent").await.unwrap();
        let seen = set.status?.observed_generation == set.metadata.generation;
        (seen && pods.is_empty()).then_some(())
    };
    let mut set = daemons("v1");
    set["spec"]["template"]["spec"]["nodeSelector"] = json!({"color": "blue"});
    cluster.create::<DaemonSet>(set).await;
    cluster.until("no pods without a blue node", none).await;
    paint(json!("blue")).await;
    let pods = all_run(&cluster, "v1", 1).await;
    assert_eq!(node_of(&pods[0]), "n1");
    paint(json!("green")).await;
    cluster.until("no pods on a green node", none).await;
    let green = json!({"spec": {"template": {"spec": {"nodeSelector": {"color": "green"}}},
                       "updateStrategy": {"type": "RollingUpdate"}}});
    cluster.patch::<DaemonSet>("agent", green).await;
    all_run(&cluster, "v1", 1).await;
    cluster.stop().await;
}

#[tokio::test]
async fn an_update_rolls_node_by_node_and_is_written_down() {
    let cluster = with_nodes(3).await;
    cluster.create::<DaemonSet>(daemons("v1")).await;
    all_run(&cluster, "v1", 3).await;
    let first = revisions(&cluster).await;
    assert_eq!((first.len(), first[0].revision), (1, 1));
    cluster.patch::<DaemonSet>("agent", json!({"spec": {"template": template("agent", "v2")}})).await;
    cluster
        .until("the update, two nodes always served", || async {
            let pods = cluster.active_pods("app=agent").await;
            let ready = pods.iter().filter(|pod| api_types::pods::is_ready(pod)).count();
            assert!(ready >= 2, "only {ready} pods are ready");
            pods.iter().all(|pod| image_of(pod) == "v2").then_some(())
        })
        .await;
    let pods = all_run(&cluster, "v2", 3).await;
    let all = revisions(&cluster).await;
    let hash = all[1].metadata.labels.as_ref().unwrap()["controller-revision-hash"].clone();
    assert_eq!((all.len(), all[1].revision), (2, 2));
    assert!(pods.iter().all(|pod| pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"] == hash));
    cluster.stop().await;
}

#[tokio::test]
async fn an_update_that_does_not_come_up_is_rolled_back_without_restarts() {
    let cluster = with_nodes(3).await;
    cluster.create::<DaemonSet>(daemons("v1")).await;
    let before: BTreeSet<_> =
        all_run(&cluster, "v1", 3).await.into_iter().map(|pod| pod.metadata.uid.unwrap()).collect();
    cluster.patch::<DaemonSet>("agent", json!({"spec": {"template": template("agent", "broken")}})).await;
    let old = cluster
        .until_idle("a broken pod", || async {
            let pods: Vec<Pod> = cluster.list("app=agent").await;
            for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
                let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
                let name = pod.metadata.name.as_deref().unwrap();
                cluster.api::<Pod>("default").delete(name, &now).await.unwrap();
            }
            pods.iter().any(|pod| image_of(pod) == "broken").then_some(pods)
        })
        .await;
    assert_eq!(old.iter().filter(|pod| image_of(pod) == "v1").count(), 2);
    cluster.patch::<DaemonSet>("agent", json!({"spec": {"template": template("agent", "v1")}})).await;
    let after: BTreeSet<_> =
        all_run(&cluster, "v1", 3).await.into_iter().map(|pod| pod.metadata.uid.unwrap()).collect();
    assert_eq!(before.intersection(&after).count(), 2, "pods that ran were restarted");
    let all = revisions(&cluster).await;
    assert_eq!(all.iter().map(|one| one.revision).collect::<Vec<_>>(), [2, 3]);
    cluster.stop().await;
}

#[tokio::test]
async fn the_status_keeps_conditions_of_others_and_sets_go_together() {
    let cluster = with_nodes(1).await;
    cluster.create::<DaemonSet>(daemons("v1")).await;
    all_run(&cluster, "v1", 1).await;
    let api = cluster.api::<DaemonSet>("default");
    let condition = json!({"type": "StatusPatched", "status": "True", "reason": "E2E"});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    api.patch_status("agent", &PatchParams::default(), &patch).await.unwrap();
    add_node(&cluster, "n9").await;
    all_run(&cluster, "v1", 2).await;
    let conditions = api.get("agent").await.unwrap().status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].type_, "StatusPatched");
    let labelled = ListParams::default().labels("app=agent");
    assert_eq!(api.list(&labelled).await.unwrap().items.len(), 1);
    api.delete_collection(&DeleteParams::background(), &labelled).await.unwrap();
    cluster
        .until("nothing left of them", || async {
            let pods: Vec<Pod> = cluster.list("app=agent").await;
            (pods.is_empty() && revisions(&cluster).await.is_empty()).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn history_has_a_limit() {
    let cluster = with_nodes(1).await;
    let mut set = daemons("v0");
    set["spec"]["revisionHistoryLimit"] = json!(1);
    cluster.create::<DaemonSet>(set).await;
    for version in 0..4 {
        let image = format!("v{version}");
        let spec = json!({"spec": {"template": template("agent", &image)}});
        cluster.patch::<DaemonSet>("agent", spec).await;
        all_run(&cluster, &image, 1).await;
    }
    cluster
        .until("the current and one old revision", || async {
            let numbers: Vec<_> = revisions(&cluster).await.iter().map(|one| one.revision).collect();
            (numbers == [3, 4]).then_some(())
        })
        .await;
    cluster.stop().await;
}
