//! Claims get volumes, given or made, and volumes follow what becomes of their claims.

use controller_manager::Config;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// A cluster that makes volumes of folders, which no test has.
async fn with_provisioner() -> Cluster {
    let mut cluster = Cluster::without_manager().await;
    let config = Config { host_path_volumes: Some("/nowhere/volumes".into()), ..cluster.config() };
    let manager = cluster.run_manager(config);
    cluster.keep(manager);
    cluster
}

fn volumes(cluster: &Cluster) -> Api<PersistentVolume> {
    Api::all(cluster.client.clone())
}

async fn volume(cluster: &Cluster, name: &str, spec: Value) {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
        "hostPath": {"path": "/data"}, "persistentVolumeReclaimPolicy": "Retain"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let volume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": all})).unwrap();
    volumes(cluster).create(&PostParams::default(), &volume).await.unwrap();
}

async fn claim(cluster: &Cluster, name: &str, spec: Value) -> PersistentVolumeClaim {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    cluster.create(json!({"metadata": {"name": name}, "spec": all})).await
}

async fn class(cluster: &Cluster, name: &str, mode: &str) {
    let class = json!({"metadata": {"name": name}, "provisioner": "coxswain.dev/host-path", "volumeBindingMode": mode});
    let api: Api<StorageClass> = Api::all(cluster.client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
}

fn phase_of(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

async fn until_claim(cluster: &Cluster, name: &str, phase: &str) -> PersistentVolumeClaim {
    let look = || async {
        let claim = cluster.api::<PersistentVolumeClaim>("default").get(name).await.unwrap();
        (phase_of(&claim) == phase).then_some(claim)
    };
    cluster.until_idle(&format!("claim {name} {phase}"), look).await
}

async fn until_volume(cluster: &Cluster, name: &str, phase: &str) -> PersistentVolume {
    let look = || async {
        let volume = volumes(cluster).get(name).await.unwrap();
        (volume.status.as_ref()?.phase.as_deref() == Some(phase)).then_some(volume)
    };
    cluster.until_idle(&format!("volume {name} {phase}"), look).await
}

async fn until_event(cluster: &Cluster, reason: &str) -> String {
    let look = || async {
        let events = cluster.api::<Event>("default").list(&ListParams::default()).await.unwrap();
        let found = events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))?;
        found.message
    };
    cluster.until_idle(&format!("event {reason}"), look).await
}

#[tokio::test]
async fn a_claim_and_a_volume_find_each_other_and_part_when_the_claim_goes() {
    let cluster = Cluster::start().await;
    claim(&cluster, "c", json!({"storageClassName": ""})).await;
    let waits = until_event(&cluster, "FailedBinding").await;
    assert_eq!(waits, "no persistent volumes available for this claim and no storage class is set");
    volume(&cluster, "v", json!({})).await;
    let bound = until_claim(&cluster, "c", "Bound").await;
    assert_eq!(bound.spec.as_ref().unwrap().volume_name.as_deref(), Some("v"));
    let annotations = bound.metadata.annotations.unwrap();
    assert_eq!(annotations["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(annotations["pv.kubernetes.io/bound-by-controller"], "yes");
    assert_eq!(bound.status.unwrap().capacity.unwrap()["storage"].0, "2Gi");
    let volume = until_volume(&cluster, "v", "Bound").await;
    let reference = volume.spec.unwrap().claim_ref.unwrap();
    assert_eq!((reference.name.as_deref(), reference.uid), (Some("c"), bound.metadata.uid));
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    until_volume(&cluster, "v", "Released").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_bound_volume_that_is_deleted_stays_until_its_claim_goes() {
    let cluster = Cluster::start().await;
    volume(&cluster, "v", json!({})).await;
    claim(&cluster, "c", json!({"storageClassName": ""})).await;
    until_volume(&cluster, "v", "Bound").await;
    volumes(&cluster).delete("v", &DeleteParams::default()).await.unwrap();
    // One that nobody uses is deleted after it, and when that is gone, the first was looked at.
    volume(&cluster, "free", json!({})).await;
    volumes(&cluster).delete("free", &DeleteParams::default()).await.unwrap();
    let gone = |name: &'static str| {
        let volumes = volumes(&cluster);
        move || {
            let volumes = volumes.clone();
            async move { volumes.get_opt(name).await.unwrap().is_none().then_some(()) }
        }
    };
    cluster.until_idle("the free volume gone", gone("free")).await;
    let kept = volumes(&cluster).get("v").await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_some());
    assert_eq!(kept.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    cluster.until_idle("the volume gone", gone("v")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn of_two_claims_one_gets_the_volume() {
    let cluster = Cluster::start().await;
    claim(&cluster, "a", json!({"storageClassName": ""})).await;
    claim(&cluster, "b", json!({"storageClassName": ""})).await;
    volume(&cluster, "v", json!({})).await;
    until_volume(&cluster, "v", "Bound").await;
    let winner = || async {
        let claims: Vec<PersistentVolumeClaim> = cluster.list("").await;
        let phases: Vec<&str> = claims.iter().map(phase_of).collect();
        matches!(phases.as_slice(), ["Bound", "Pending"] | ["Pending", "Bound"]).then_some(())
    };
    cluster.until_idle("one bound, one pending", winner).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_volume_kept_for_a_claim_is_taken_and_one_that_is_lost_is_told() {
    let cluster = Cluster::start().await;
    volume(&cluster, "small", json!({"capacity": {"storage": "1Gi"}})).await;
    let kept = json!({"claimRef": {"namespace": "default", "name": "c"}, "capacity": {"storage": "9Gi"}});
    volume(&cluster, "kept", kept).await;
    until_volume(&cluster, "kept", "Available").await;
    claim(&cluster, "c", json!({"storageClassName": ""})).await;
    let bound = until_claim(&cluster, "c", "Bound").await;
    assert_eq!(bound.spec.unwrap().volume_name.as_deref(), Some("kept"));
    let no_finalizer = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes(&cluster).delete("kept", &DeleteParams::default()).await.unwrap();
    volumes(&cluster).patch("kept", &PatchParams::default(), &no_finalizer).await.unwrap();
    until_claim(&cluster, "c", "Lost").await;
    let told = until_event(&cluster, "ClaimLost").await;
    assert_eq!(told, "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    cluster.stop().await;
}

#[tokio::test]
async fn a_claim_of_the_default_class_gets_a_volume_that_goes_with_it() {
    let cluster = with_provisioner().await;
    claim(&cluster, "c", json!({})).await;
    let bound = until_claim(&cluster, "c", "Bound").await;
    let spec = bound.spec.unwrap();
    assert_eq!(spec.storage_class_name.as_deref(), Some("standard"));
    let name = format!("pvc-{}", bound.metadata.uid.unwrap());
    assert_eq!(spec.volume_name.as_deref(), Some(name.as_str()));
    let volume = until_volume(&cluster, &name, "Bound").await;
    assert_eq!(volume.spec.unwrap().host_path.unwrap().path, format!("/nowhere/volumes/{name}"));
    let larger = json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}});
    cluster.patch::<PersistentVolumeClaim>("c", larger).await;
    cluster
        .until_idle("more room", || async {
            let claim = cluster.api::<PersistentVolumeClaim>("default").get("c").await.unwrap();
            (claim.status?.capacity?.get("storage")?.0 == "3Gi").then_some(())
        })
        .await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("the volume gone", || async {
            volumes(&cluster).get_opt(&name).await.unwrap().is_none().then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_class_that_waits_for_a_consumer_makes_the_volume_for_its_node() {
    let cluster = with_provisioner().await;
    class(&cluster, "late", "WaitForFirstConsumer").await;
    claim(&cluster, "c", json!({"storageClassName": "late"})).await;
    let waits = until_event(&cluster, "WaitForFirstConsumer").await;
    assert_eq!(waits, "waiting for first consumer to be created before binding");
    let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}});
    cluster.patch::<PersistentVolumeClaim>("c", chosen).await;
    let bound = until_claim(&cluster, "c", "Bound").await;
    let volume = volumes(&cluster).get(bound.spec.unwrap().volume_name.as_deref().unwrap()).await.unwrap();
    assert!(serde_json::to_string(&volume.spec.unwrap().node_affinity).unwrap().contains("n1"));
    cluster.stop().await;
}

#[tokio::test]
async fn a_claim_of_a_class_that_is_not_there_says_so() {
    let cluster = Cluster::start().await;
    claim(&cluster, "c", json!({"storageClassName": "gone"})).await;
    let told = until_event(&cluster, "ProvisioningFailed").await;
    assert_eq!(told, "storageclass.storage.k8s.io \"gone\" not found");
    cluster.stop().await;
}

#[tokio::test]
async fn the_claim_of_an_ephemeral_volume_lives_as_long_as_its_pod() {
    let cluster = with_provisioner().await;
    let claim =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": claim}}]}});
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    cluster
        .until_idle("the pod", || async {
            let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
            cluster.api("default").create(&PostParams::default(), &pod).await.ok()
        })
        .await;
    cluster
        .until_idle("the claim", || async {
            claims.get_opt("p-scratch").await.unwrap().filter(|c| phase_of(c) == "Bound")
        })
        .await;
    cluster.api::<Pod>("default").delete("p", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("the claim gone", || async {
            claims.get_opt("p-scratch").await.unwrap().is_none().then_some(())
        })
        .await;
    cluster.stop().await;
}
