//! ReplicaSets and ReplicationControllers: what holds for both is tested for both.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Event, Pod, ReplicationController, ResourceQuota};
use kube::Resource;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::{Cluster, template};

trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
    fn selector() -> Value;
}

impl Kind for ReplicaSet {
    fn selector() -> Value {
        json!({"matchLabels": {"app": "web"}})
    }
}

impl Kind for ReplicationController {
    fn selector() -> Value {
        json!({"app": "web"})
    }
}

fn set<K: Kind>(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": replicas, "selector": K::selector(), "template": template("web", "v1")},
    })
}

/// The set as JSON: both kinds look alike there.
async fn shown<K: Kind>(cluster: &Cluster) -> Value {
    serde_json::to_value(cluster.api::<K>("default").get("web").await.unwrap()).unwrap()
}

async fn status_is<K: Kind>(cluster: &Cluster, what: &str, expected: &[(&str, Value)]) {
    cluster
        .until(what, || async {
            let set = shown::<K>(cluster).await;
            let seen = set["status"]["observedGeneration"] == set["metadata"]["generation"];
            let equal = expected.iter().all(|(field, value)| set["status"][*field] == *value);
            (seen && equal).then_some(())
        })
        .await;
}

fn failure_of(set: &Value) -> Option<Value> {
    let all = set["status"]["conditions"].as_array()?;
    all.iter().find(|one| one["type"] == "ReplicaFailure").cloned()
}

async fn an_exceeded_quota_shows_until_it_is_resolved<K: Kind>() {
    let cluster = Cluster::start().await;
    let quota = json!({"metadata": {"name": "condition-test"}, "spec": {"hard": {"pods": "2"}}});
    cluster.create::<ResourceQuota>(quota).await;
    cluster
        .until_idle("the quota's limit in its status", || async {
            let quota: ResourceQuota = cluster.api("default").get("condition-test").await.unwrap();
            quota.status.and_then(|status| status.hard).map(drop)
        })
        .await;
    cluster.create::<K>(set::<K>(3)).await;
    let failure =
        cluster.until("the failure condition", || async { failure_of(&shown::<K>(&cluster).await) }).await;
    assert_eq!((&failure["status"], &failure["reason"]), (&json!("True"), &json!("FailedCreate")));
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("exceeded quota: condition-test"), "{message}");
    cluster
        .until("an event that tells of it", || async {
            let events: Vec<Event> = cluster.list("").await;
            let told = |event: &Event| {
                event.reason.as_deref() == Some("FailedCreate")
                    && event
                        .message
                        .as_deref()
                        .is_some_and(|text| text.starts_with("Error creating: pods \"web-"))
            };
            events.iter().any(told).then_some(())
        })
        .await;
    cluster.patch::<K>("web", json!({"spec": {"replicas": 2}})).await;
    cluster
        .until("two ready pods and no failure", || async {
            let set = shown::<K>(&cluster).await;
            (failure_of(&set).is_none() && set["status"]["readyReplicas"] == 2).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_replica_set_tells_of_an_exceeded_quota() {
    an_exceeded_quota_shows_until_it_is_resolved::<ReplicaSet>().await;
}

#[tokio::test]
async fn a_replication_controller_tells_of_an_exceeded_quota() {
    an_exceeded_quota_shows_until_it_is_resolved::<ReplicationController>().await;
}

fn owner_of(pod: &Pod) -> Option<(String, String, bool)> {
    let owner = pod.metadata.owner_references.as_ref()?.iter().find(|one| one.controller == Some(true))?;
    Some((owner.kind.clone(), owner.uid.clone(), owner.block_owner_deletion == Some(true)))
}

async fn pods_are_adopted_and_released<K: Kind>() {
    let cluster = Cluster::start().await;
    let mut orphan = template("web", "v1");
    orphan["metadata"]["name"] = json!("orphan");
    cluster.create::<Pod>(orphan).await;
    let set: K = cluster.create(set::<K>(1)).await;
    let ours = (K::kind(&()).into_owned(), set.meta().uid.clone().unwrap(), true);
    cluster
        .until("the orphan adopted", || async {
            let pod: Pod = cluster.api("default").get("orphan").await.unwrap();
            (owner_of(&pod) == Some(ours.clone())).then_some(())
        })
        .await;
    status_is::<K>(&cluster, "one replica, the adopted one", &[("replicas", json!(1))]).await;
    cluster.patch::<Pod>("orphan", json!({"metadata": {"labels": {"app": "other"}}})).await;
    cluster
        .until("the pod released and another in its place", || async {
            let released: Pod = cluster.api("default").get("orphan").await.unwrap();
            let pods: Vec<Pod> = cluster.list("app=web").await;
            (owner_of(&released).is_none() && pods.len() == 1 && owner_of(&pods[0]) == Some(ours.clone()))
                .then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_replica_set_adopts_matching_pods_and_releases_others() {
    pods_are_adopted_and_released::<ReplicaSet>().await;
}

#[tokio::test]
async fn a_replication_controller_adopts_matching_pods_and_releases_others() {
    pods_are_adopted_and_released::<ReplicationController>().await;
}

async fn the_scale_is_read_replaced_and_patched<K: Kind>() {
    let cluster = Cluster::start().await;
    cluster.create::<K>(set::<K>(1)).await;
    status_is::<K>(&cluster, "one ready pod", &[("readyReplicas", json!(1))]).await;
    let api = cluster.api::<K>("default");
    let mut scale = api.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.as_ref().unwrap().replicas, Some(1));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    let replaced = api.replace_scale("web", &PostParams::default(), &scale).await.unwrap();
    assert_eq!(replaced.spec.unwrap().replicas, Some(2));
    status_is::<K>(&cluster, "two ready pods", &[("readyReplicas", json!(2))]).await;
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    api.patch_scale("web", &PatchParams::default(), &patch).await.unwrap();
    status_is::<K>(&cluster, "four ready pods", &[("readyReplicas", json!(4))]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_replica_set_has_a_working_scale() {
    the_scale_is_read_replaced_and_patched::<ReplicaSet>().await;
}

#[tokio::test]
async fn a_replication_controller_has_a_working_scale() {
    the_scale_is_read_replaced_and_patched::<ReplicationController>().await;
}

async fn a_status_written_by_others_is_put_right_and_foreign_conditions_stay<K: Kind>() {
    let cluster = Cluster::start().await;
    cluster.create::<K>(set::<K>(1)).await;
    let settled = [("readyReplicas", json!(1)), ("availableReplicas", json!(1))];
    status_is::<K>(&cluster, "one available pod", &settled).await;
    let foreign =
        json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from a test"});
    let patch = json!({"status": {"readyReplicas": 0, "availableReplicas": 0, "conditions": [foreign]}});
    let api = cluster.api::<K>("default");
    let patched = api.patch_status("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let patched = serde_json::to_value(patched).unwrap();
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusUpdate");
    status_is::<K>(&cluster, "the counts as they are", &settled).await;
    assert_eq!(shown::<K>(&cluster).await["status"]["conditions"][0]["message"], "Set from a test");
    cluster.stop().await;
}

#[tokio::test]
async fn a_replica_set_counts_again_after_a_foreign_status() {
    a_status_written_by_others_is_put_right_and_foreign_conditions_stay::<ReplicaSet>().await;
}

#[tokio::test]
async fn a_replication_controller_counts_again_after_a_foreign_status() {
    a_status_written_by_others_is_put_right_and_foreign_conditions_stay::<ReplicationController>().await;
}

async fn a_collection_is_deleted_with_its_pods<K: Kind>() {
    let cluster = Cluster::start().await;
    cluster.create::<K>(set::<K>(3)).await;
    status_is::<K>(&cluster, "three ready pods", &[("readyReplicas", json!(3))]).await;
    let found = ListParams::default().labels("app=web");
    let deletion = DeleteParams::background();
    cluster.api::<K>("default").delete_collection(&deletion, &found).await.unwrap();
    cluster
        .until("no set and no pod", || async {
            let (sets, pods): (Vec<K>, Vec<Pod>) = (cluster.list("").await, cluster.list("").await);
            (sets.is_empty() && pods.is_empty()).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_collection_of_replica_sets_goes_with_its_pods() {
    a_collection_is_deleted_with_its_pods::<ReplicaSet>().await;
}

#[tokio::test]
async fn a_collection_of_replication_controllers_goes_with_its_pods() {
    a_collection_is_deleted_with_its_pods::<ReplicationController>().await;
}

#[tokio::test]
async fn a_replica_set_is_patched_with_a_new_template_that_only_new_pods_have() {
    let cluster = Cluster::start().await;
    cluster.create::<ReplicaSet>(set::<ReplicaSet>(1)).await;
    status_is::<ReplicaSet>(&cluster, "one ready pod", &[("readyReplicas", json!(1))]).await;
    let patch = json!({
        "metadata": {"labels": {"test-rs": "patched"}},
        "spec": {"replicas": 3, "template": template("web", "v2")},
    });
    let patched: ReplicaSet = cluster.patch("web", patch).await;
    assert_eq!(patched.metadata.labels.unwrap()["test-rs"], "patched");
    status_is::<ReplicaSet>(&cluster, "three ready pods", &[("readyReplicas", json!(3))]).await;
    let pods: Vec<Pod> = cluster.list("app=web").await;
    let mut images: Vec<_> =
        pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect();
    images.sort();
    assert_eq!(images, ["v1", "v2", "v2"]);
    cluster.stop().await;
}

#[tokio::test]
async fn pods_of_a_deleted_replica_set_can_be_left_to_live() {
    let cluster = Cluster::start().await;
    cluster.create::<ReplicaSet>(set::<ReplicaSet>(2)).await;
    status_is::<ReplicaSet>(&cluster, "two ready pods", &[("readyReplicas", json!(2))]).await;
    cluster.api::<ReplicaSet>("default").delete("web", &DeleteParams::orphan()).await.unwrap();
    cluster
        .until("two pods without an owner", || async {
            let pods: Vec<Pod> = cluster.list("app=web").await;
            (pods.len() == 2 && pods.iter().all(|pod| owner_of(pod).is_none())).then_some(())
        })
        .await;
    cluster.stop().await;
}
