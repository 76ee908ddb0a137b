//! NodeRestriction: a node writes its own Node, lease and CSI node, the status of the pods bound to it and
//! mirrors of the pods that only it knows, and takes tokens for its pods; nothing else.

mod audiences;
mod labels;
mod pods;

use api_types::status::Status;
use serde_json::Value;

use self::labels::forbidden_labels;
use super::certificate_subject_restriction::subject_of;
use super::{Operation, Plugin, Review};
use crate::authn::is_in;
use crate::authz::node::node_of;

pub(crate) struct NodeRestriction;

impl Plugin for NodeRestriction {
    const NAME: &'static str = "NodeRestriction";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        check(review)
    }

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        check(review)
    }
}

fn check(review: &Review<'_>) -> Result<(), Status> {
    if !is_in(review.user, "system:nodes") {
        return Ok(());
    }
    let Some(node) = node_of(review.user) else {
        let user = &review.user.name;
        return Err(review.forbidden(&format!("could not determine node from user {user:?}")));
    };
    match (review.kind.storage.as_str(), review.subresource) {
        ("pods", "") => pods::check_pod(review, node),
        ("pods", "status") => pods::check_status(review, node),
        ("pods", "eviction") => pods::check_eviction(review, node),
        ("pods", other) => Err(review.forbidden(&format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        ))),
        ("nodes", _) => check_node(review, node),
        ("persistentvolumeclaims", "status") => Ok(()),
        ("persistentvolumeclaims", _) => Err(review.forbidden("may only update PVC status")),
        ("serviceaccounts", "token") => check_token(review, node),
        ("coordination.k8s.io/leases", _) => check_lease(review, node),
        ("storage.k8s.io/csinodes", _) => check_csi_node(review, node),
        ("resource.k8s.io/resourceslices", _) => check_slice(review, node),
        ("certificates.k8s.io/certificatesigningrequests", "") => check_request(review, node),
        _ => Ok(()),
    }
}

/// The name of the object: in the path, or at creation in the body.
fn name_of<'a>(review: &'a Review<'_>) -> &'a str {
    match review.name {
        "" => review.new.as_deref().and_then(|o| o["metadata"]["name"].as_str()).unwrap_or_default(),
        name => name,
    }
}

fn check_node(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let name = name_of(review);
    if name != node {
        return Err(review.forbidden(&format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let Some(new) = review.new.as_deref() else { return Ok(()) };
    let bad = forbidden_labels(new, review.old);
    match (review.operation, review.old) {
        (Operation::Create, _) => {
            if new["spec"]["configSource"].is_object() {
                let why = format!("node {node:?} is not allowed to create pods with a non-nil configSource");
                return Err(review.forbidden(&why));
            }
            if !bad.is_empty() {
                let labels = bad.join(", ");
                let why = format!("node {node:?} is not allowed to set the following labels: {labels}");
                return Err(review.forbidden(&why));
            }
        }
        (Operation::Update, Some(old)) => {
            let differs = |path: &str| new.pointer(path) != old.pointer(path);
            if new["spec"]["configSource"].is_object() && differs("/spec/configSource") {
                let why = format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                );
                return Err(review.forbidden(&why));
            }
            if differs("/spec/taints") {
                return Err(review.forbidden(&format!("node {node:?} is not allowed to modify taints")));
            }
            if !bad.is_empty() {
                let labels = bad.join(", ");
                return Err(review.forbidden(&format!("is not allowed to modify labels: {labels}")));
            }
            if differs("/metadata/ownerReferences") {
                let why = format!("node {node:?} is not allowed to modify ownerReferences");
                return Err(review.forbidden(&why));
            }
        }
        _ => {}
    }
    Ok(())
}

fn check_lease(review: &Review<'_>, node: &str) -> Result<(), Status> {
    const NAMESPACE: &str = "kube-node-lease";
    if review.namespace != NAMESPACE {
        return Err(
            review.forbidden(&format!("can only access leases in the {NAMESPACE:?} system namespace"))
        );
    }
    match name_of(review) == node {
        true => Ok(()),
        false => {
            Err(review.forbidden("can only access node lease with the same name as the requesting node"))
        }
    }
}

fn check_csi_node(review: &Review<'_>, node: &str) -> Result<(), Status> {
    match name_of(review) == node {
        true => Ok(()),
        false => Err(review.forbidden("can only access CSINode with the same name as the requesting node")),
    }
}

fn check_slice(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let is_own = |slice: Option<&Value>| slice.is_none_or(|slice| slice["spec"]["nodeName"] == node);
    let verb = match review.operation {
        Operation::Create => "create",
        Operation::Delete => "delete",
        _ => "update",
    };
    let why = format!("can only {verb} ResourceSlice with the same NodeName as the requesting node");
    match is_own(review.new.as_deref()) && is_own(review.old) {
        true => Ok(()),
        false => Err(review.forbidden(&why)),
    }
}

fn check_request(review: &Review<'_>, node: &str) -> Result<(), Status> {
    const SIGNERS: &[&str] =
        &["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let Some(request) = review.new.as_deref().filter(|_| review.operation == Operation::Create) else {
        return Ok(());
    };
    let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
    let wanted = format!("system:node:{node}");
    if SIGNERS.contains(&signer) && subject_of(request).is_none_or(|subject| subject.common_name != wanted) {
        return Err(review.forbidden(&format!("can only create a node CSR with CN={wanted}")));
    }
    Ok(())
}

fn check_token(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let Some(request) = review.new.as_deref() else { return Ok(()) };
    let reference = &request["spec"]["boundObjectRef"];
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return Err(review.forbidden("node requested token not bound to a pod"));
    }
    if text("uid").is_empty() {
        return Err(review.forbidden("node requested token with a pod binding without a uid"));
    }
    let Some(pod) = review.view.object("pods", review.namespace, text("name")) else {
        return Err(pods::missing(text("name")));
    };
    if pod["metadata"]["uid"] != text("uid") {
        let uid = text("uid");
        return Err(review.forbidden(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    match pod["spec"]["nodeName"] == node {
        true => audiences::check(review, request, &pod),
        false => Err(review.forbidden("node requested token bound to a pod scheduled on a different node")),
    }
}

#[cfg(test)]
mod tests;
