//! What a node does with pods: reports on its own, deletes and evicts its own, and mirrors those that only it
//! knows.

use api_types::kinds;
use api_types::status::Status;
use serde_json::Value;

use super::super::{Operation, Review};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod that somebody speaks of and that is not there.
pub(super) fn missing(name: &str) -> Status {
    match kinds::find_resource("", "v1", "pods") {
        Some(row) => Status::not_found(row, name),
        None => Status::unknown_resource(),
    }
}

fn is_on(pod: Option<&Value>, node: &str) -> bool {
    pod.is_some_and(|pod| pod["spec"]["nodeName"] == node)
}

pub(super) fn check_pod(review: &Review<'_>, node: &str) -> Result<(), Status> {
    match review.operation {
        Operation::Create => check_mirror(review, node),
        Operation::Delete if is_on(review.old, node) => Ok(()),
        Operation::Delete => {
            Err(review
                .forbidden(&format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
        }
        other => {
            let operation = other.as_str();
            Err(review.forbidden(&format!(
                "unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"
            )))
        }
    }
}

pub(super) fn check_status(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let (Operation::Update, Some(old), Some(new)) = (review.operation, review.old, review.new.as_deref())
    else {
        let operation = review.operation.as_str();
        return Err(review.forbidden(&format!("unexpected operation {operation:?}")));
    };
    if !is_on(Some(old), node) {
        return Err(review.forbidden(&format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )));
    }
    if new["metadata"]["labels"] != old["metadata"]["labels"] {
        return Err(review.forbidden(&format!("node {node:?} cannot update labels through pod status")));
    }
    if new["status"]["resourceClaimStatuses"] != old["status"]["resourceClaimStatuses"] {
        return Err(review.forbidden(&format!("node {node:?} cannot update resource claim statuses")));
    }
    Ok(())
}

pub(super) fn check_eviction(review: &Review<'_>, node: &str) -> Result<(), Status> {
    if review.operation != Operation::Create {
        let operation = review.operation.as_str();
        return Err(review.forbidden(&format!("unexpected operation {operation}")));
    }
    let pod = review.view.object("pods", review.namespace, review.name);
    let pod = pod.ok_or_else(|| missing(review.name))?;
    match is_on(Some(&pod), node) {
        true => Ok(()),
        false => {
            Err(review
                .forbidden(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
        }
    }
}

/// A mirror is bound to the node, owned by it, and refers to nothing that the node could learn by it.
fn check_mirror(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let Some(pod) = review.new.as_deref() else { return Ok(()) };
    let refuse = |why: String| Err(review.forbidden(&why));
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if !is_on(Some(pod), node) {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    check_owner(review, node, pod)?;
    match reference_in(pod) {
        Some(what) => refuse(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

fn check_owner(review: &Review<'_>, node: &str, pod: &Value) -> Result<(), Status> {
    let refuse = |why: String| Err(review.forbidden(&why));
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    let owner = match owners {
        [one] => one,
        [] => {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return refuse(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        let why = "can only create pods with a controller owner reference set to itself";
        return refuse(format!("node {node:?} {why}"));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let known = review.view.object("nodes", "", node);
    let uid = known.as_ref().and_then(|node| node["metadata"]["uid"].as_str()).unwrap_or_default();
    let given = owner["uid"].as_str().unwrap_or_default();
    if uid != given {
        return refuse(format!("node {node} UID mismatch: expected {given} got {uid}"));
    }
    Ok(())
}

/// What the pod refers to and a mirror may not.
fn reference_in(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("a service account");
    }
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let containers: Vec<&Value> =
        lists.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten()).collect();
    let volumes: Vec<&Value> = spec["volumes"].as_array().into_iter().flatten().collect();
    let sources = |volume: &Value| volume["projected"]["sources"].as_array().cloned().unwrap_or_default();
    let in_env = |reference: &str, key: &str| {
        containers.iter().any(|container| {
            let from = container["envFrom"].as_array().into_iter().flatten();
            let env = container["env"].as_array().into_iter().flatten();
            from.into_iter().any(|source| source[reference].is_object())
                || env.into_iter().any(|var| var["valueFrom"][key].is_object())
        })
    };
    let in_volume = |field: &str| {
        let projected = |volume: &Value| sources(volume).iter().any(|source| source[field].is_object());
        volumes.iter().any(|volume| volume[field].is_object() || projected(volume))
    };
    let pulls = spec["imagePullSecrets"].as_array().is_some_and(|secrets| !secrets.is_empty());
    if pulls || in_volume("secret") || in_env("secretRef", "secretKeyRef") {
        return Some("secrets");
    }
    if in_volume("configMap") || in_env("configMapRef", "configMapKeyRef") {
        return Some("configmaps");
    }
    if in_volume("clusterTrustBundle") {
        return Some("clustertrustbundles");
    }
    if in_volume("persistentVolumeClaim") {
        return Some("persistentvolumeclaims");
    }
    spec["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty()).then_some("resourceclaims")
}
