//! NodeRestriction: a node writes its own Node, its own lease and the pods bound to it, nothing else.

use api_types::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};
use crate::authz::node::node_of;

pub(crate) struct NodeRestriction;

impl Plugin for NodeRestriction {
    const NAME: &'static str = "NodeRestriction";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        check(review)
    }

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        // Deletions are only validated.
        if review.operation == Operation::Delete { check(review) } else { Ok(()) }
    }
}

fn check(review: &Review<'_>) -> Result<(), Status> {
    let Some(node) = node_of(review.user) else { return Ok(()) };
    match review.kind.storage.as_str() {
        "pods" => check_pod(review, node),
        "nodes" => check_node(review, node),
        "coordination.k8s.io/leases" => check_lease(review, node),
        "serviceaccounts" if review.subresource == "token" => check_token(review, node),
        _ => Ok(()),
    }
}

fn check_pod(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let bound_to = |pod: Option<&Value>| pod.is_some_and(|pod| pod["spec"]["nodeName"] == node);
    match (review.operation, review.subresource) {
        (Operation::Create, "") => {
            let mirror = review
                .new
                .as_deref()
                .is_some_and(|p| p["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some());
            match (mirror, bound_to(review.new.as_deref())) {
                (false, _) => Err(review.forbidden(&format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"))),
                (true, false) => Err(review.forbidden(&format!("node {node:?} can only create pods with spec.nodeName set to itself"))),
                (true, true) => Ok(()),
            }
        }
        (Operation::Create, _) => {
            let pod = review.view.object("pods", review.namespace, review.name);
            match bound_to(pod.as_deref()) {
                true => Ok(()),
                false => Err(review.forbidden(&format!(
                    "node {node:?} can only evict pods with spec.nodeName set to itself"
                ))),
            }
        }
        (Operation::Update | Operation::Delete, _) if !bound_to(review.old) => {
            let verb = if review.operation == Operation::Delete { "delete" } else { "update" };
            Err(review
                .forbidden(&format!("node {node:?} can only {verb} pods with spec.nodeName set to itself")))
        }
        _ => Ok(()),
    }
}

fn check_node(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let name = match review.new.as_deref().and_then(|n| n["metadata"]["name"].as_str()) {
        Some(name) => name,
        None => review.name,
    };
    if name != node {
        return Err(review.forbidden(&format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let (Some(new), Some(old)) = (review.new.as_deref(), review.old) else { return Ok(()) };
    if review.operation == Operation::Update && new["spec"]["taints"] != old["spec"]["taints"] {
        return Err(review.forbidden(&format!("node {node:?} is not allowed to modify taints")));
    }
    Ok(())
}

fn check_lease(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let name = review.new.as_deref().and_then(|l| l["metadata"]["name"].as_str()).unwrap_or(review.name);
    match review.namespace == "kube-node-lease" && name == node {
        true => Ok(()),
        false => Err(review.forbidden(&format!(
            "can only access node lease with the same name as the requesting node {node:?}"
        ))),
    }
}

fn check_token(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let Some(request) = review.new.as_deref() else { return Ok(()) };
    let reference = &request["spec"]["boundObjectRef"];
    let pod = match (reference["kind"].as_str(), reference["name"].as_str()) {
        (Some("Pod"), Some(name)) => review.view.object("pods", review.namespace, name),
        _ => return Err(review.forbidden("node requested token not bound to a pod")),
    };
    match pod {
        Some(pod) if pod["spec"]["nodeName"] == node => Ok(()),
        _ => Err(review.forbidden("node requested token bound to a pod scheduled on a different node")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::UserInfo;
    use crate::admission::fixture::review;
    use crate::authn::authenticated;
    use crate::view::fixture::Fixture;

    fn node_may(
        operation: Operation,
        storage: &str,
        subresource: &str,
        old: Option<Value>,
        new: Option<Value>,
    ) -> bool {
        let user: UserInfo = authenticated("system:node:n1", &["system:nodes"]);
        let world = Fixture::default()
            .with("pods", json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": "n2"}}));
        review(&world, &user, operation, storage, subresource, old.as_ref(), new, |r| check(r)).is_ok()
    }

    #[test]
    fn a_node_writes_only_what_is_its_own() {
        let pod =
            |node: &str| json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": node}});
        let node = |name: &str| json!({"metadata": {"name": name}, "spec": {}});
        assert!(node_may(Operation::Update, "pods", "status", Some(pod("n1")), Some(pod("n1"))));
        assert!(!node_may(Operation::Update, "pods", "status", Some(pod("n2")), Some(pod("n2"))));
        assert!(!node_may(Operation::Delete, "pods", "", Some(pod("n2")), None));
        assert!(!node_may(Operation::Create, "pods", "", None, Some(pod("n1"))));
        assert!(node_may(Operation::Create, "nodes", "", None, Some(node("n1"))));
        assert!(!node_may(Operation::Create, "nodes", "", None, Some(node("n2"))));
        let untainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "x"}]}});
        assert!(!node_may(Operation::Update, "nodes", "", Some(untainted), Some(node("n1"))));
    }
}
