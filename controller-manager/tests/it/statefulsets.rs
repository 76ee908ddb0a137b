//! StatefulSets, one test for each thing that conformance asks of them.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, template};

fn set(replicas: i32, more: Value) -> Value {
    let mut spec = json!({"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                          "template": template("db", "v1")});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "db", "labels": {"app": "db"}}, "spec": spec})
}

fn new_template(image: &str) -> Value {
    json!({"spec": {"template": template("db", image)}})
}

fn from(partition: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}})
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap()
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap()
}

fn revision_of(pod: &Pod) -> &str {
    &pod.metadata.labels.as_ref().unwrap()["controller-revision-hash"]
}

async fn shown(cluster: &Cluster) -> Value {
    serde_json::to_value(cluster.api::<StatefulSet>("default").get("db").await.unwrap()).unwrap()
}

async fn pods(cluster: &Cluster) -> Vec<Pod> {
    let mut pods: Vec<Pod> = cluster.list("app=db").await;
    pods.sort_by_key(|pod| name_of(pod).to_owned());
    pods
}

/// Each pod as name and image.
async fn images(cluster: &Cluster) -> Vec<String> {
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    pods(cluster).await.iter().map(|pod| format!("{} {}", name_of(pod), image(pod))).collect()
}

fn seen(set: &Value) -> bool {
    set["status"]["observedGeneration"] == set["metadata"]["generation"]
}

async fn ready(cluster: &Cluster, count: i32) -> Value {
    cluster
        .until(&format!("{count} ready pods"), || async {
            let set = shown(cluster).await;
            let all = set["status"]["readyReplicas"].as_i64().unwrap_or(0) == i64::from(count);
            (seen(&set) && all && set["status"]["replicas"] == count).then_some(set)
        })
        .await
}

/// Waits until every pod has the set's template.
async fn updated(cluster: &Cluster) -> Value {
    cluster
        .until("the update everywhere", || async {
            let set = shown(cluster).await;
            let (status, wanted) = (&set["status"], &set["spec"]["replicas"]);
            let all = status["updatedReplicas"] == *wanted && status["readyReplicas"] == *wanted;
            (seen(&set) && all && status["currentRevision"] == status["updateRevision"]).then_some(set)
        })
        .await
}

/// Lets all but the broken pods run, until `look` gives something.
async fn until_but<T, F>(cluster: &Cluster, broken: &[&str], what: &str, look: impl Fn() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let look = &look;
    cluster
        .until_idle(what, || async move {
            cluster.run_pods_but(broken).await;
            look().await
        })
        .await
}

#[tokio::test]
async fn pods_have_stable_names_hosts_and_labels() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(2, json!({"ordinals": {"start": 3}}))).await;
    let set = ready(&cluster, 2).await;
    let pods = pods(&cluster).await;
    for (pod, ordinal) in pods.iter().zip(["3", "4"]) {
        let (name, labels) = (name_of(pod), pod.metadata.labels.clone().unwrap());
        assert_eq!(name, format!("db-{ordinal}"));
        assert_eq!(labels["statefulset.kubernetes.io/pod-name"], name);
        assert_eq!(labels["apps.kubernetes.io/pod-index"], ordinal);
        assert_eq!(json!(labels["controller-revision-hash"]), set["status"]["updateRevision"]);
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some(name), Some("db")));
    }
    let events = || async {
        let events: Vec<Event> = cluster.list("").await;
        let expected = "create Pod db-3 in StatefulSet db successful";
        events.iter().any(|event| event.message.as_deref() == Some(expected)).then_some(())
    };
    cluster.until("the event", events).await;
    cluster.stop().await;
}

#[tokio::test]
async fn rolling_updates_wait_for_broken_pods_and_roll_back_to_the_same_revision() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(3, json!({}))).await;
    let first = ready(&cluster, 3).await["status"]["currentRevision"].clone();
    let not_ready = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    cluster.set_status("db-1", not_ready).await;
    let before: Vec<_> = pods(&cluster).await.iter().map(uid_of).collect();
    cluster.patch::<StatefulSet>("db", new_template("v2")).await;
    let set = until_but(&cluster, &["db-1"], "a new revision that waits", || async {
        let set = shown(&cluster).await;
        (seen(&set) && set["status"]["updateRevision"] != first && set["status"]["readyReplicas"] == 2)
            .then_some(set)
    })
    .await;
    assert_eq!(set["status"]["currentRevision"], first);
    assert_eq!(
        pods(&cluster).await.iter().map(uid_of).collect::<Vec<_>>(),
        before,
        "nothing is replaced meanwhile"
    );
    cluster
        .until("the update, from the top", || async {
            let outdated: Vec<_> =
                pods(&cluster).await.into_iter().filter(|pod| json!(revision_of(pod)) == first).collect();
            let names: Vec<_> = outdated.iter().map(name_of).collect();
            assert!(["db-0", "db-1", "db-2"].starts_with(&names), "{names:?}");
            names.is_empty().then_some(())
        })
        .await;
    updated(&cluster).await;
    cluster.patch::<StatefulSet>("db", new_template("v1")).await;
    let back = updated(&cluster).await;
    assert_eq!(back["status"]["currentRevision"], first, "the same revision again");
    let revisions: Vec<ControllerRevision> = cluster.list("").await;
    let mut numbers: Vec<_> = revisions.iter().map(|one| one.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    cluster.stop().await;
}

#[tokio::test]
async fn canaries_and_phased_updates_keep_to_the_partition() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(3, json!({"updateStrategy": from(3)}))).await;
    let first = ready(&cluster, 3).await["status"]["currentRevision"].clone();
    cluster.patch::<StatefulSet>("db", new_template("v2")).await;
    let images_are = async |what: &str, expected: [&str; 3]| {
        cluster
            .until(what, || async {
                let set = shown(&cluster).await;
                let settled = seen(&set)
                    && set["status"]["readyReplicas"] == 3
                    && set["status"]["updateRevision"] != first;
                (settled && images(&cluster).await == expected).then_some(())
            })
            .await;
    };
    images_are("no pod above the partition", ["db-0 v1", "db-1 v1", "db-2 v1"]).await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"updateStrategy": from(2)}})).await;
    images_are("the canary", ["db-0 v1", "db-1 v1", "db-2 v2"]).await;
    assert_eq!(shown(&cluster).await["status"]["currentRevision"], first);
    for name in ["db-0", "db-2"] {
        cluster.api::<Pod>("default").delete(name, &DeleteParams::default()).await.unwrap();
    }
    images_are("the deleted pods restored as they were", ["db-0 v1", "db-1 v1", "db-2 v2"]).await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"updateStrategy": from(1)}})).await;
    images_are("the next phase", ["db-0 v1", "db-1 v2", "db-2 v2"]).await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"updateStrategy": from(0)}})).await;
    images_are("the last phase", ["db-0 v2", "db-1 v2", "db-2 v2"]).await;
    updated(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn on_delete_updates_only_what_the_user_deletes() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(2, json!({"updateStrategy": {"type": "OnDelete"}}))).await;
    ready(&cluster, 2).await;
    cluster.patch::<StatefulSet>("db", new_template("v2")).await;
    cluster.api::<Pod>("default").delete("db-1", &DeleteParams::default()).await.unwrap();
    cluster
        .until("the deleted pod updated, the other not", || async {
            let ready = shown(&cluster).await["status"]["readyReplicas"] == 2;
            (ready && images(&cluster).await == ["db-0 v1", "db-1 v2"]).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn scaling_is_in_order_and_halts_at_an_unhealthy_pod() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(3, json!({}))).await;
    until_but(&cluster, &["db-1"], "a second pod that is not ready", || async {
        (pods(&cluster).await.len() == 2).then_some(())
    })
    .await;
    until_but(&cluster, &["db-1"], "a halt before the third", || async {
        let set = shown(&cluster).await;
        assert_eq!(pods(&cluster).await.len(), 2);
        (set["status"]["readyReplicas"] == 1 && set["status"]["replicas"] == 2).then_some(())
    })
    .await;
    ready(&cluster, 3).await;
    let not_ready = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    cluster.set_status("db-0", not_ready).await;
    let halted = || async {
        let set = shown(&cluster).await;
        assert_eq!(pods(&cluster).await.len(), 3, "a pod went although db-0 is not ready");
        (seen(&set) && set["status"]["readyReplicas"] == 2).then_some(())
    };
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    until_but(&cluster, &["db-0"], "a halt before the scale down", halted).await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}})).await;
    cluster
        .until("the pods going from the last to the first", || async {
            let left: Vec<_> = pods(&cluster).await;
            let names: Vec<_> = left.iter().map(name_of).collect();
            assert!(["db-0", "db-1", "db-2"].starts_with(&names), "{names:?}");
            names.is_empty().then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn parallel_sets_scale_although_pods_are_unhealthy() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(3, json!({"podManagementPolicy": "Parallel"}))).await;
    let count = async |what: &str, count: usize| {
        let broken = ["db-0", "db-1", "db-2", "db-3", "db-4"];
        until_but(&cluster, &broken, what, || async { (pods(&cluster).await.len() == count).then_some(()) })
            .await;
    };
    count("three pods at once", 3).await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 5}})).await;
    count("five pods", 5).await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}})).await;
    count("none", 0).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_failed_pod_is_made_again() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(1, json!({}))).await;
    ready(&cluster, 1).await;
    let before = uid_of(&pods(&cluster).await[0]);
    cluster.set_status("db-0", json!({"phase": "Failed", "reason": "Evicted", "conditions": null})).await;
    cluster
        .until("another pod of the same name", || async {
            let pods = pods(&cluster).await;
            let again = pods.iter().find(|pod| uid_of(pod) != before && api_types::pods::is_ready(pod))?;
            (name_of(again) == "db-0").then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_waits_for_its_name() {
    let cluster = Cluster::start().await;
    let mut other = template("other", "v1");
    other["metadata"]["name"] = json!("db-0");
    cluster.create::<Pod>(other).await;
    cluster.create::<StatefulSet>(set(1, json!({}))).await;
    cluster.until_idle("the set seen", || async { seen(&shown(&cluster).await).then_some(()) }).await;
    cluster.api::<Pod>("default").delete("db-0", &DeleteParams::default()).await.unwrap();
    ready(&cluster, 1).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_stateful_set_has_a_working_scale() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(1, json!({}))).await;
    ready(&cluster, 1).await;
    let api = cluster.api::<StatefulSet>("default");
    let mut scale = api.get_scale("db").await.unwrap();
    assert_eq!((scale.spec.clone().unwrap().replicas, scale.status.clone().unwrap().replicas), (Some(1), 1));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    api.replace_scale("db", &PostParams::default(), &scale).await.unwrap();
    ready(&cluster, 2).await;
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    api.patch_scale("db", &PatchParams::default(), &patch).await.unwrap();
    ready(&cluster, 4).await;
    cluster.stop().await;
}

#[tokio::test]
async fn stateful_sets_are_listed_patched_and_deleted_as_a_collection() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(1, json!({}))).await;
    ready(&cluster, 1).await;
    let patch = json!({"metadata": {"labels": {"test-ss": "patched"}}, "spec": {"replicas": 2, "template": template("db", "v2")}});
    cluster.patch::<StatefulSet>("db", patch).await;
    updated(&cluster).await;
    let foreign =
        json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from a test"});
    let lost = Patch::Merge(
        json!({"status": {"readyReplicas": 0, "availableReplicas": 0, "conditions": [foreign]}}),
    );
    let api = cluster.api::<StatefulSet>("default");
    api.patch_status("db", &PatchParams::default(), &lost).await.unwrap();
    assert_eq!(ready(&cluster, 2).await["status"]["conditions"][0]["reason"], "E2E");
    let found = ListParams::default().labels("test-ss=patched");
    assert_eq!(api.list(&found).await.unwrap().items.len(), 1);
    api.delete_collection(&DeleteParams::background(), &found).await.unwrap();
    cluster
        .until("no set, pod or revision", || async {
            let (pods, revisions): (Vec<Pod>, Vec<ControllerRevision>) =
                (cluster.list("").await, cluster.list("").await);
            (pods.is_empty() && revisions.is_empty()).then_some(())
        })
        .await;
    cluster.stop().await;
}

fn claiming(replicas: i32) -> Value {
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    set(
        replicas,
        json!({"volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}}),
    )
}

async fn claims_are(cluster: &Cluster, what: &str, expected: &[&str]) {
    cluster
        .until(what, || async {
            let claims: Vec<PersistentVolumeClaim> = cluster.list("").await;
            let mut names: Vec<_> = claims.iter().map(|claim| claim.metadata.name.clone().unwrap()).collect();
            names.sort();
            (names == expected).then_some(())
        })
        .await;
}

#[tokio::test]
async fn claims_are_made_for_pods_and_go_as_the_policy_says() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(claiming(2)).await;
    ready(&cluster, 2).await;
    claims_are(&cluster, "a claim a pod", &["data-db-0", "data-db-1"]).await;
    let pod: Pod = cluster.api("default").get("db-1").await.unwrap();
    let volume = pod.spec.unwrap().volumes.unwrap().into_iter().find(|volume| volume.name == "data").unwrap();
    assert_eq!(volume.persistent_volume_claim.unwrap().claim_name, "data-db-1");
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    claims_are(&cluster, "the claim gone with the pod scaled away", &["data-db-0"]).await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 2}})).await;
    ready(&cluster, 2).await;
    claims_are(&cluster, "a new claim for the new pod", &["data-db-0", "data-db-1"]).await;
    cluster.api::<StatefulSet>("default").delete("db", &DeleteParams::background()).await.unwrap();
    claims_are(&cluster, "the claims gone with the set", &[]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn revisions_beyond_the_limit_are_forgotten() {
    let cluster = Cluster::start().await;
    cluster.create::<StatefulSet>(set(1, json!({"revisionHistoryLimit": 1}))).await;
    ready(&cluster, 1).await;
    for image in ["v2", "v3", "v4"] {
        cluster.patch::<StatefulSet>("db", new_template(image)).await;
        updated(&cluster).await;
    }
    cluster
        .until("the current revision and one before", || async {
            let revisions: Vec<ControllerRevision> = cluster.list("").await;
            let mut numbers: Vec<_> = revisions.iter().map(|one| one.revision).collect();
            numbers.sort_unstable();
            (numbers == [3, 4]).then_some(())
        })
        .await;
    cluster.stop().await;
}
