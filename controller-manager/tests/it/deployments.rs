//! Deployments, one test for each thing that conformance asks of them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, template};

fn deployment(replicas: i32, image: &str, strategy: Value) -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                 "template": template("web", image), "strategy": strategy},
    })
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn new_template(image: &str) -> Value {
    json!({"spec": {"template": template("web", image)}})
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

async fn shown(cluster: &Cluster) -> Value {
    serde_json::to_value(cluster.api::<Deployment>("default").get("web").await.unwrap()).unwrap()
}

fn is_complete(deployment: &Value) -> bool {
    let (wanted, status) = (&deployment["spec"]["replicas"], &deployment["status"]);
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && status["updatedReplicas"] == *wanted
        && status["replicas"] == *wanted
        && status["availableReplicas"] == *wanted
}

async fn complete(cluster: &Cluster, image: &str) -> Value {
    cluster
        .until(&format!("{image} rolled out"), || async {
            let deployment = shown(cluster).await;
            let current = deployment["spec"]["template"]["spec"]["containers"][0]["image"] == *image;
            (current && is_complete(&deployment)).then_some(deployment)
        })
        .await
}

fn condition(deployment: &Value, type_: &str) -> Option<(String, String)> {
    let one = deployment["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == type_)?;
    Some((one["status"].as_str()?.to_owned(), one["reason"].as_str()?.to_owned()))
}

/// Waits until the condition says this, with no kubelet.
async fn says(cluster: &Cluster, type_: &str, status: &str, reason: &str) {
    cluster
        .until_idle(&format!("{type_} {status} {reason}"), || async {
            let told = condition(&shown(cluster).await, type_)?;
            (told == (status.to_owned(), reason.to_owned())).then_some(())
        })
        .await;
}

/// A set of its own, made before the Deployment that will take it over.
fn replica_set(replicas: i32, image: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"name": "before", "labels": {"app": "web"}, "annotations": annotations},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", image)},
    })
}

async fn sizes_by_image(cluster: &Cluster) -> Vec<(String, i32)> {
    let sets: Vec<ReplicaSet> = cluster.list("app=web").await;
    let mut sizes: Vec<_> = sets
        .into_iter()
        .map(|set| {
            let spec = set.spec.unwrap();
            let image = spec.template.unwrap().spec.unwrap().containers[0].image.clone().unwrap();
            (image, spec.replicas.unwrap())
        })
        .collect();
    sizes.sort();
    sizes
}

#[tokio::test]
async fn a_rolling_update_takes_over_a_replica_set_and_counts_on_from_its_revision() {
    let cluster = Cluster::start().await;
    let revision = json!({"deployment.kubernetes.io/revision": "3546343826724305832"});
    cluster.create::<ReplicaSet>(replica_set(1, "v1", revision)).await;
    cluster
        .until("its pod", || async { (cluster.active_pods("app=web").await.len() == 1).then_some(()) })
        .await;
    cluster.create::<Deployment>(deployment(1, "v2", rolling(1, 0))).await;
    let deployment = complete(&cluster, "v2").await;
    let annotations = &deployment["metadata"]["annotations"];
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3546343826724305833");
    assert_eq!(sizes_by_image(&cluster).await, [("v1".to_owned(), 0), ("v2".to_owned(), 1)]);
    let before: ReplicaSet = cluster.api("default").get("before").await.unwrap();
    assert_eq!(before.metadata.owner_references.unwrap()[0].name, "web");
    cluster.stop().await;
}

#[tokio::test]
async fn recreate_never_runs_new_pods_beside_old_ones() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(3, "v1", json!({"type": "Recreate"}))).await;
    complete(&cluster, "v1").await;
    cluster.patch::<Deployment>("web", new_template("v2")).await;
    cluster
        .until("the new pods alone", || async {
            let pods: Vec<Pod> = cluster.list("app=web").await;
            let new = pods.iter().filter(|pod| image_of(pod) == "v2").count();
            assert!(new == 0 || new == pods.len(), "{new} new pods of {}", pods.len());
            let deployment = shown(&cluster).await;
            let (all, updated) =
                (&deployment["status"]["replicas"], &deployment["status"]["updatedReplicas"]);
            assert!(updated.is_null() || all == updated, "{}", deployment["status"]);
            (new == 3 && is_complete(&deployment)).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn old_replica_sets_go_beyond_the_history_limit() {
    let cluster = Cluster::start().await;
    cluster.create::<ReplicaSet>(replica_set(1, "v0", json!({}))).await;
    let mut limited = deployment(1, "v1", rolling(1, 0));
    limited["spec"]["revisionHistoryLimit"] = json!(0);
    cluster.create::<Deployment>(limited).await;
    complete(&cluster, "v1").await;
    cluster
        .until("the new set alone", || async {
            (sizes_by_image(&cluster).await == [("v1".to_owned(), 1)]).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_rollover_abandons_the_rollout_under_way() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(1, "v1", rolling(1, 0))).await;
    complete(&cluster, "v1").await;
    cluster.patch::<Deployment>("web", new_template("never-ready")).await;
    cluster
        .until_idle("a pod that does not get ready", || async {
            let pods = cluster.active_pods("app=web").await;
            pods.iter().any(|pod| image_of(pod) == "never-ready").then_some(())
        })
        .await;
    cluster.patch::<Deployment>("web", new_template("v2")).await;
    let deployment = complete(&cluster, "v2").await;
    assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    let expected = [("never-ready", 0), ("v1", 0), ("v2", 1)].map(|(image, size)| (image.to_owned(), size));
    assert_eq!(sizes_by_image(&cluster).await, expected);
    cluster.stop().await;
}

#[tokio::test]
async fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(10, "v1", rolling(3, 2))).await;
    complete(&cluster, "v1").await;
    cluster.patch::<Deployment>("web", new_template("never-ready")).await;
    let sizes = |new: i32, old: i32| [("never-ready".to_owned(), new), ("v1".to_owned(), old)];
    cluster
        .until_idle("the rollout stuck at its limits", || async {
            let settled = shown(&cluster).await["status"]["availableReplicas"] == 8;
            for pod in cluster.list::<Pod>("app=web").await {
                if pod.metadata.deletion_timestamp.is_some() {
                    cluster.finish_deletion(&pod.metadata.name.unwrap()).await;
                }
            }
            (settled && sizes_by_image(&cluster).await == sizes(5, 8)).then_some(())
        })
        .await;
    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 30}})).await;
    cluster
        .until_idle("each set with its share of the thirty", || async {
            (sizes_by_image(&cluster).await == sizes(13, 20)).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_life_of_a_deployment() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(2, "v1", rolling(1, 1))).await;
    let first = complete(&cluster, "v1").await;
    assert_eq!(condition(&first, "Available").unwrap().0, "True");
    let patch = json!({"metadata": {"labels": {"test": "patched"}}, "spec": {"replicas": 1, "template": template("web", "v2")}});
    cluster.patch::<Deployment>("web", patch).await;
    complete(&cluster, "v2").await;
    let api = cluster.api::<Deployment>("default");
    let foreign =
        json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from a test"});
    let mut updated = api.get_status("web").await.unwrap();
    let conditions = updated.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions.push(serde_json::from_value(foreign).unwrap());
    api.replace_status("web", &PostParams::default(), &updated).await.unwrap();
    let lost = Patch::Merge(json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    api.patch_status("web", &PatchParams::default(), &lost).await.unwrap();
    let again = complete(&cluster, "v2").await;
    assert_eq!(condition(&again, "StatusUpdate").unwrap(), ("True".to_owned(), "E2E".to_owned()));
    let found = ListParams::default().labels("test=patched");
    api.delete_collection(&DeleteParams::background(), &found).await.unwrap();
    cluster
        .until("nothing left", || async {
            let (sets, pods): (Vec<ReplicaSet>, Vec<Pod>) = (cluster.list("").await, cluster.list("").await);
            (sets.is_empty() && pods.is_empty()).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_deployment_has_a_working_scale() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(1, "v1", rolling(1, 0))).await;
    complete(&cluster, "v1").await;
    let api = cluster.api::<Deployment>("default");
    let mut scale = api.get_scale("web").await.unwrap();
    assert_eq!((scale.spec.clone().unwrap().replicas, scale.status.clone().unwrap().replicas), (Some(1), 1));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    api.replace_scale("web", &PostParams::default(), &scale).await.unwrap();
    complete(&cluster, "v1").await;
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    api.patch_scale("web", &PatchParams::default(), &patch).await.unwrap();
    let scaled = complete(&cluster, "v1").await;
    assert_eq!(scaled["status"]["readyReplicas"], 4);
    cluster.stop().await;
}

#[tokio::test]
async fn a_pause_holds_the_rollout_until_it_is_resumed() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(2, "v1", rolling(1, 0))).await;
    complete(&cluster, "v1").await;
    cluster.patch::<Deployment>("web", json!({"spec": {"paused": true}})).await;
    says(&cluster, "Progressing", "Unknown", "DeploymentPaused").await;
    let mut scaled = new_template("v2");
    scaled["spec"]["replicas"] = json!(3);
    cluster.patch::<Deployment>("web", scaled).await;
    cluster
        .until("the old template scaled", || async {
            let deployment = shown(&cluster).await;
            assert!(
                deployment["status"]["updatedReplicas"].is_null() || deployment["status"]["replicas"] != 3
            );
            (deployment["status"]["availableReplicas"] == 3).then_some(())
        })
        .await;
    assert_eq!(sizes_by_image(&cluster).await, [("v1".to_owned(), 3)]);
    cluster.patch::<Deployment>("web", json!({"spec": {"paused": false}})).await;
    let resumed = complete(&cluster, "v2").await;
    let told = condition(&resumed, "Progressing").unwrap();
    assert_eq!(told, ("True".to_owned(), "NewReplicaSetAvailable".to_owned()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_rollout_that_does_not_get_on_misses_its_deadline() {
    let cluster = Cluster::start().await;
    let mut hasty = deployment(1, "v1", rolling(1, 0));
    hasty["spec"]["progressDeadlineSeconds"] = json!(1);
    cluster.create::<Deployment>(hasty).await;
    says(&cluster, "Progressing", "False", "ProgressDeadlineExceeded").await;
    complete(&cluster, "v1").await;
    says(&cluster, "Progressing", "True", "NewReplicaSetAvailable").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_taken_name_makes_another_one() {
    let mut cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(1, "v1", rolling(1, 0))).await;
    complete(&cluster, "v1").await;
    let sets: Vec<ReplicaSet> = cluster.list("app=web").await;
    let name = sets[0].metadata.name.clone().unwrap();
    cluster.stop_manager().await;
    let orphaned = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.api::<ReplicaSet>("default").delete(&name, &orphaned).await.unwrap();
    let mut taken = replica_set(0, "another", json!({}));
    taken["metadata"] = json!({"name": name, "labels": {"app": "other"}});
    taken["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    taken["spec"]["template"] = template("other", "another");
    cluster.create::<ReplicaSet>(taken).await;
    cluster.start_manager();
    let another = cluster
        .until("another set", || async {
            let sets: Vec<ReplicaSet> = cluster.list("app=web").await;
            let rolled_out = is_complete(&shown(&cluster).await);
            sets.into_iter().next().filter(|_| rolled_out)
        })
        .await;
    assert_ne!(another.metadata.name, Some(name));
    assert_eq!(shown(&cluster).await["status"]["collisionCount"], 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_rollout_is_told_of_in_events_and_writes_no_more_than_it_has_to_say() {
    let cluster = Cluster::start().await;
    cluster.create::<Deployment>(deployment(3, "v1", rolling(3, 0))).await;
    complete(&cluster, "v1").await;
    let sets: Vec<ReplicaSet> = cluster.list("app=web").await;
    let expected = format!("Scaled up replica set {} from 0 to 3", sets[0].metadata.name.as_ref().unwrap());
    cluster
        .until("the event", || async {
            let events: Vec<Event> = cluster.list("").await;
            let told = |event: &Event| {
                event.reason.as_deref() == Some("ScalingReplicaSet")
                    && event.message.as_ref() == Some(&expected)
            };
            events.iter().any(told).then_some(())
        })
        .await;
    let path = "/apis/apps/v1/namespaces/default/deployments/web?history=true";
    let history: Value =
        cluster.client.request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
    let items = history["items"].as_array().unwrap();
    let generations: Vec<_> = items.iter().map(|item| &item["object"]["metadata"]["generation"]).collect();
    assert!(items.len() <= 1 + 2 + 2 * 3, "{} writes: {generations:?}", items.len());
    assert_eq!(shown(&cluster).await["metadata"]["generation"], 1, "the revision is no change of the spec");
    cluster.stop().await;
}
