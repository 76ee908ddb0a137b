//! What a node may write, and what not.

use serde_json::json;

use super::*;
use crate::UserInfo;
use crate::admission::fixture::review;
use crate::authn::authenticated;
use crate::view::fixture::Fixture;

/// What the node n1 is told; empty when it may.
fn told(
    operation: Operation,
    storage: &str,
    subresource: &str,
    old: Option<Value>,
    new: Option<Value>,
) -> String {
    let user: UserInfo = authenticated("system:node:n1", &["system:nodes"]);
    let world = Fixture::default()
        .with(
            "pods",
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"nodeName": "n2"}}),
        )
        .with(
            "pods",
            json!({"metadata": {"name": "mine", "namespace": "ns", "uid": "m"}, "spec": {"nodeName": "n1", "volumes": [
                {"name": "a", "projected": {"sources": [{"serviceAccountToken": {}}, {"serviceAccountToken": {"audience": "vault"}}]}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "disk"}},
            ]}}),
        )
        .with(
            "persistentvolumeclaims",
            json!({"metadata": {"name": "disk", "namespace": "ns"}, "spec": {"volumeName": "pv"}}),
        )
        .with("persistentvolumes", json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d.example"}}}))
        .with(
            "storage.k8s.io/csidrivers",
            json!({"metadata": {"name": "d.example"}, "spec": {"tokenRequests": [{"audience": "disks"}]}}),
        )
        .with("nodes", json!({"metadata": {"name": "n1", "uid": "n"}}));
    review(&world, &user, operation, storage, subresource, old.as_ref(), new, |review| {
        check(review).err().map(|status| status.message).unwrap_or_default()
    })
}

fn may(operation: Operation, storage: &str, sub: &str, old: Option<Value>, new: Option<Value>) -> bool {
    told(operation, storage, sub, old, new).is_empty()
}

fn pod(node: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": node}})
}

fn node(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {}})
}

#[test]
fn a_node_reports_on_its_own_pods_only() {
    assert!(may(Operation::Update, "pods", "status", Some(pod("n1")), Some(pod("n1"))));
    assert!(!may(Operation::Update, "pods", "status", Some(pod("n2")), Some(pod("n2"))));
    let mut relabelled = pod("n1");
    relabelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(!may(Operation::Update, "pods", "status", Some(pod("n1")), Some(relabelled)));
    assert!(!may(Operation::Update, "pods", "", Some(pod("n1")), Some(pod("n1"))));
    assert!(may(Operation::Delete, "pods", "", Some(pod("n1")), None));
    assert!(!may(Operation::Delete, "pods", "", Some(pod("n2")), None));
}

#[test]
fn a_mirror_is_bound_owned_and_refers_to_nothing() {
    let mirror = |change: fn(&mut Value)| {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n", "controller": true});
        let mut pod = pod("n1");
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        pod["metadata"]["ownerReferences"] = json!([owner]);
        change(&mut pod);
        told(Operation::Create, "pods", "", None, Some(pod))
    };
    assert_eq!(mirror(|_| ()), "");
    assert!(mirror(|p| p["metadata"]["annotations"] = json!({})).contains("can only create mirror pods"));
    assert!(mirror(|p| p["spec"]["nodeName"] = json!("n2")).contains("spec.nodeName set to itself"));
    assert!(mirror(|p| p["metadata"]["ownerReferences"][0]["uid"] = json!("z")).contains("UID mismatch"));
    let secret = mirror(|p| p["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]));
    assert!(secret.ends_with("node \"n1\" can not create pods that reference secrets"));
}

#[test]
fn a_node_keeps_to_its_own_node_and_to_labels_that_describe_it() {
    let plain = json!({"kubernetes.io/hostname": "n1", "example.com/rack": "1"});
    assert!(may(Operation::Create, "nodes", "", None, Some(node("n1", plain.clone()))));
    assert!(!may(Operation::Create, "nodes", "", None, Some(node("n2", plain.clone()))));
    let trusted = json!({"node-restriction.kubernetes.io/trusted": "yes"});
    assert_eq!(
        told(Operation::Update, "nodes", "", Some(node("n1", plain.clone())), Some(node("n1", trusted))),
        "nodes \"n1\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/trusted"
    );
    let role = json!({"node-role.kubernetes.io/control-plane": ""});
    assert!(!may(Operation::Create, "nodes", "", None, Some(node("n1", role))));
    let mut tainted = node("n1", plain.clone());
    tainted["spec"]["taints"] = json!([{"key": "x"}]);
    assert!(!may(Operation::Update, "nodes", "", Some(tainted), Some(node("n1", plain))));
}

#[test]
fn a_token_is_for_a_pod_that_runs_here() {
    let request = |name: &str, uid: &str| {
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        let body =
            json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"boundObjectRef": reference}});
        told(Operation::Create, "serviceaccounts", "token", None, Some(body))
    };
    assert_eq!(request("mine", "m"), "");
    assert!(request("p", "u").ends_with("bound to a pod scheduled on a different node"));
    assert!(request("mine", "other").contains("does not match the UID in record"));
    assert_eq!(request("none", "x"), "pods \"none\" not found");
}

#[test]
fn a_token_is_for_an_audience_that_the_pods_volumes_name() {
    let request = |audiences: Value| {
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "mine", "uid": "m"});
        let body = json!({"metadata": {"name": "a", "namespace": "ns"},
            "spec": {"boundObjectRef": reference, "audiences": audiences}});
        told(Operation::Create, "serviceaccounts", "token", None, Some(body))
    };
    for audiences in [json!([]), json!(["vault"]), json!(["disks"])] {
        assert_eq!(request(audiences.clone()), "", "{audiences}");
    }
    assert!(request(json!(["vault", "disks"])).ends_with("node may only request 0 or 1 audiences"));
    assert!(request(json!(["bank"])).ends_with(
        "audience \"bank\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"
    ));
}

#[test]
fn leases_and_csi_nodes_have_the_nodes_name() {
    let lease = |namespace: &str, name: &str| {
        may(
            Operation::Create,
            "coordination.k8s.io/leases",
            "",
            None,
            Some(json!({"metadata": {"name": name, "namespace": namespace}})),
        )
    };
    assert!(lease("kube-node-lease", "n1"));
    assert!(!lease("kube-node-lease", "n2"));
    assert!(!lease("default", "n1"));
    let csi = |name: &str| {
        may(Operation::Create, "storage.k8s.io/csinodes", "", None, Some(json!({"metadata": {"name": name}})))
    };
    assert!(csi("n1") && !csi("n2"));
}
