//! Claims on devices, and what becomes of pods whose devices are not fit for use.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn slice(taints: Value) -> Value {
    let devices = json!([{"name": "gpu-0", "taints": taints}]);
    let pool = json!({"name": "n1", "generation": 1, "resourceSliceCount": 1});
    json!({"metadata": {"name": "n1-gpus"},
        "spec": {"driver": "gpu.example.com", "nodeName": "n1", "pool": pool, "devices": devices}})
}

/// A pod on a node with a claim that has got the device `gpu-0` and is reserved for it.
async fn pod_with_device(cluster: &Cluster) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({"metadata": {"name": "n1"}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let spec = json!({"devices": {"requests": [request]}});
    cluster.create::<ResourceClaim>(json!({"metadata": {"name": "c"}, "spec": spec})).await;
    let spec = json!({
        "nodeName": "n1", "tolerations": [{"operator": "Exists"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}],
        "containers": [{"name": "a", "image": "i", "resources": {"claims": [{"name": "gpu"}]}}],
    });
    let pod: Pod = cluster.create(json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let used = json!({"request": "r", "driver": "gpu.example.com", "pool": "n1", "device": "gpu-0"});
    let consumer = json!({"resource": "pods", "name": "p", "uid": pod.metadata.uid});
    let status = json!({"allocation": {"devices": {"results": [used]}}, "reservedFor": [consumer]});
    let claims = cluster.api::<ResourceClaim>("default");
    let patch = Patch::Merge(json!({ "status": status }));
    claims.patch_status("c", &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test]
async fn a_pod_goes_when_its_device_is_tainted() {
    let cluster = Cluster::start().await;
    let slices: Api<ResourceSlice> = Api::all(cluster.client.clone());
    let fit = serde_json::from_value(slice(json!([]))).unwrap();
    slices.create(&PostParams::default(), &fit).await.unwrap();
    pod_with_device(&cluster).await;
    let taint = json!([{"key": "example.com/broken", "effect": "NoExecute"}]);
    let broken = Patch::Merge(json!({"spec": slice(taint)["spec"]}));
    slices.patch("n1-gpus", &PatchParams::default(), &broken).await.unwrap();
    let going = cluster
        .until_idle("the pod going", || async {
            let pod = cluster.api::<Pod>("default").get("p").await.unwrap();
            pod.metadata.deletion_timestamp.is_some().then_some(pod)
        })
        .await;
    let conditions = going.status.unwrap().conditions.unwrap();
    let why = conditions.iter().find(|one| one.type_ == "DisruptionTarget").unwrap();
    assert_eq!(why.reason.as_deref(), Some("DeletionByDeviceTaintManager"));
    cluster.until_events("Pod/p", &["DeviceTaintManagerEviction"]).await;
    cluster.stop().await;
}
