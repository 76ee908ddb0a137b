//! Node identities: `system:node:NAME` in `system:nodes` reaches the objects of its own node and no others.
//!
//! Reads follow the pods that are bound to the node: their secrets, config maps, accounts, claims and volumes. What a
//! node may write is narrowed further by the admission plugin NodeRestriction, which sees the object.

use std::sync::Arc;

use super::{Attributes, Authorizer, Decision, node_graph};
use crate::UserInfo;
use crate::authn::is_in;
use crate::view::View;

pub(crate) struct Node {
    view: Arc<dyn View>,
}

impl Node {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view }
    }
}

/// The node that the user is, if it is one.
pub(crate) fn node_of(user: &UserInfo) -> Option<&str> {
    if !is_in(user, "system:nodes") {
        return None;
    }
    user.name.strip_prefix("system:node:").filter(|name| !name.is_empty())
}

impl Authorizer for Node {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let Some(node) = node_of(&attributes.user) else { return Decision::NoOpinion(String::new()) };
        match decide(attributes, node, &*self.view) {
            Ok(true) => Decision::Allow(String::new()),
            Ok(false) => Decision::NoOpinion(String::new()),
            Err(why) => Decision::NoOpinion(why),
        }
    }
}

/// What a node may do whatever the object: (group, resource with subresource, verbs).
const FREELY: &[(&str, &str, &[&str])] = &[
    ("", "services", &["get", "list", "watch"]),
    ("", "namespaces", &["get"]),
    ("", "events", &["create", "update", "patch"]),
    ("events.k8s.io", "events", &["create", "update", "patch"]),
    ("discovery.k8s.io", "endpointslices", &["get", "list", "watch"]),
    ("node.k8s.io", "runtimeclasses", &["get", "list", "watch"]),
    ("storage.k8s.io", "csidrivers", &["get", "list", "watch"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "localsubjectaccessreviews", &["create"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
    // Which node's these are is admission's to say, which sees the object.
    ("", "nodes", &["create"]),
    ("", "pods", &["create", "delete"]),
    ("", "pods/status", &["update", "patch"]),
    ("", "pods/eviction", &["create"]),
];

fn decide(attributes: &Attributes, node: &str, view: &dyn View) -> Result<bool, String> {
    let path = attributes.resource_path();
    let verb = attributes.verb.as_str();
    match (attributes.group.as_str(), path.as_str()) {
        ("", "secrets" | "configmaps") => match verb {
            "get" | "list" | "watch" => related(attributes, node, view),
            _ => Err("can only read resources of this type".to_owned()),
        },
        ("", "persistentvolumeclaims" | "persistentvolumes")
        | ("resource.k8s.io", "resourceclaims")
        | ("storage.k8s.io", "volumeattachments") => match verb {
            "get" => related(attributes, node, view),
            _ => Err("can only get individual resources of this type".to_owned()),
        },
        ("", "persistentvolumeclaims/status") => match verb {
            "update" | "patch" => related(attributes, node, view),
            _ => Err("can only update status of this type".to_owned()),
        },
        ("", "serviceaccounts/token") if verb == "create" => related(attributes, node, view),
        ("", "serviceaccounts") if verb == "get" => related(attributes, node, view),
        ("storage.k8s.io", "csinodes") => own_csi_node(attributes, node),
        ("resource.k8s.io", "resourceslices") => own_slices(attributes, node, view),
        ("", "nodes" | "nodes/status") if verb != "create" => own_node(attributes, node),
        ("", "pods") if matches!(verb, "get" | "list" | "watch") => own_pods(attributes, node, view),
        ("coordination.k8s.io", "leases") => own_lease(attributes, node),
        (group, path) => {
            Ok(FREELY.iter().any(|(g, r, verbs)| *g == group && *r == path && verbs.contains(&verb)))
        }
    }
}

fn own_node(attributes: &Attributes, node: &str) -> Result<bool, String> {
    let readable = matches!(attributes.verb.as_str(), "get" | "list" | "watch");
    match (attributes.verb.as_str(), attributes.name == node) {
        ("delete" | "deletecollection", _) => Ok(false),
        (_, true) => Ok(true),
        (_, false) if readable && attributes.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        (_, false) if readable => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", attributes.name))
        }
        (_, false) => Err(format!("node {node:?} is not allowed to modify node {:?}", attributes.name)),
    }
}

fn own_pods(attributes: &Attributes, node: &str, view: &dyn View) -> Result<bool, String> {
    if attributes.name.is_empty() {
        let selects_own =
            attributes.fields.iter().any(|(path, value)| path == "spec.nodeName" && value == node);
        return match selects_own {
            true => Ok(true),
            false => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
        };
    }
    let pod = view.object("pods", &attributes.namespace, &attributes.name);
    match pod {
        Some(pod) if pod["spec"]["nodeName"] == node => Ok(true),
        // A watch of one name goes on after the pod is gone.
        None => Ok(true),
        Some(_) => Err(no_relationship(node)),
    }
}

fn own_lease(attributes: &Attributes, node: &str) -> Result<bool, String> {
    if attributes.namespace != "kube-node-lease" {
        return Err(format!(
            "can only access leases in the \"kube-node-lease\" system namespace, not {:?}",
            attributes.namespace
        ));
    }
    match attributes.verb.as_str() {
        "create" => Ok(true),
        "get" | "update" | "patch" | "delete" if attributes.name == node => Ok(true),
        "get" | "update" | "patch" | "delete" => {
            Err("can only access node lease with the same name as the requesting node".to_owned())
        }
        _ => Ok(false),
    }
}

fn no_relationship(node: &str) -> String {
    format!("no relationship found between node {node:?} and this object")
}

fn own_csi_node(attributes: &Attributes, node: &str) -> Result<bool, String> {
    match attributes.verb.as_str() {
        "create" => Ok(true),
        "get" | "update" | "patch" | "delete" if attributes.name == node => Ok(true),
        "get" | "update" | "patch" | "delete" => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        _ => Err("can only get, create, update, patch, or delete a CSINode".to_owned()),
    }
}

/// Which node a new slice is for is admission's to say.
fn own_slices(attributes: &Attributes, node: &str, view: &dyn View) -> Result<bool, String> {
    match attributes.verb.as_str() {
        "create" => Ok(true),
        "get" | "update" | "patch" | "delete" => related(attributes, node, view),
        "list" | "watch" | "deletecollection" => {
            let selected = |(path, value): &(String, String)| path == "spec.nodeName" && value == node;
            match attributes.fields.iter().any(selected) {
                true => Ok(true),
                false => {
                    Err("can only list/watch/deletecollection resourceslices with nodeName field selector".to_owned())
                }
            }
        }
        _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".to_owned()),
    }
}

/// Whether something leads from the node to the object.
fn related(attributes: &Attributes, node: &str, view: &dyn View) -> Result<bool, String> {
    let (resource, namespace, name) = (&attributes.resource, &attributes.namespace, &attributes.name);
    if name.is_empty() {
        return Err("No Object name found".to_owned());
    }
    match node_graph::is_related(view, node, resource, namespace, name) {
        true => Ok(true),
        false => Err(no_relationship(node)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authn::authenticated;
    use crate::view::fixture::Fixture;

    fn world() -> Fixture {
        let volume = |name: &str, claim: &str| {
            json!({"metadata": {"name": name}, "spec": {"claimRef": {"namespace": "ns", "name": claim},
                "csi": {"nodeStageSecretRef": {"namespace": "drivers", "name": "mount"}}}})
        };
        let attachment =
            |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node}});
        let world = Fixture::default()
            .with("persistentvolumes", volume("pv1", "data"))
            .with("persistentvolumes", volume("pv2", "other"))
            .with("storage.k8s.io/volumeattachments", attachment("va1", "n1"))
            .with("storage.k8s.io/volumeattachments", attachment("va2", "n2"));
        world.with(
            "pods",
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": "n1", "serviceAccountName": "robot",
                "resourceClaims": [{"name": "g", "resourceClaimName": "gpu"}],
                "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "scratch", "ephemeral": {}}, {"name": "v", "secret": {"secretName": "tls"}}, {"name": "w", "projected": {"sources": [{"configMap": {"name": "ca"}}]}}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}]}]}}),
        )
    }

    fn may(verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let group = match group {
            "storage" | "resource" => &format!("{group}.k8s.io"),
            other => other,
        };
        let attributes = Attributes {
            user: authenticated("system:node:n1", &["system:nodes"]),
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        matches!(Node::new(Arc::new(world())).authorize(&attributes), Decision::Allow(_))
    }

    #[test]
    fn a_node_reaches_its_own_objects_only() {
        let cases = [
            ("get", "secrets", "ns", "tls", true),
            ("get", "secrets", "ns", "other", false),
            ("get", "secrets", "elsewhere", "tls", false),
            ("list", "secrets", "ns", "", false),
            ("update", "secrets", "ns", "tls", false),
            ("get", "configmaps", "ns", "ca", true),
            ("watch", "configmaps", "ns", "env", true),
            ("create", "serviceaccounts/token", "ns", "robot", true),
            ("create", "serviceaccounts/token", "ns", "admin", false),
            ("get", "nodes", "", "n1", true),
            ("get", "nodes", "", "n2", false),
            ("patch", "nodes/status", "", "n1", true),
            ("patch", "nodes/status", "", "n2", false),
            ("delete", "nodes", "", "n1", false),
            ("get", "pods", "ns", "p", true),
            ("list", "pods", "", "", false),
            ("update", "leases.coordination.k8s.io", "kube-node-lease", "n1", true),
            ("update", "leases.coordination.k8s.io", "kube-node-lease", "n2", false),
            ("get", "leases.coordination.k8s.io", "kube-system", "n1", false),
            ("get", "persistentvolumeclaims", "ns", "data", true),
            ("get", "persistentvolumeclaims", "ns", "p-scratch", true),
            ("get", "persistentvolumeclaims", "ns", "other", false),
            ("list", "persistentvolumeclaims", "ns", "", false),
            ("patch", "persistentvolumeclaims/status", "ns", "data", true),
            ("get", "persistentvolumes", "", "pv1", true),
            ("get", "persistentvolumes", "", "pv2", false),
            ("get", "secrets", "drivers", "mount", true),
            ("get", "volumeattachments.storage", "", "va1", true),
            ("get", "volumeattachments.storage", "", "va2", false),
            ("get", "resourceclaims.resource", "ns", "gpu", true),
            ("patch", "csinodes.storage", "", "n1", true),
            ("patch", "csinodes.storage", "", "n2", false),
            ("create", "resourceslices.resource", "", "", true),
            ("list", "resourceslices.resource", "", "", false),
            ("list", "services", "", "", true),
            ("create", "deployments.apps", "ns", "", false),
        ];
        for (verb, resource, namespace, name, allowed) in cases {
            assert_eq!(may(verb, resource, namespace, name), allowed, "{verb} {resource} {namespace}/{name}");
        }
    }

    #[test]
    fn a_node_lists_pods_only_by_its_own_name() {
        let mut attributes = Attributes {
            user: authenticated("system:node:n1", &["system:nodes"]),
            verb: "watch".into(),
            resource: "pods".into(),
            fields: vec![("spec.nodeName".into(), "n1".into())],
            ..Attributes::default()
        };
        assert_eq!(decide(&attributes, "n1", &world()), Ok(true));
        attributes.fields[0].1 = "n2".into();
        assert!(decide(&attributes, "n1", &world()).is_err());
    }
}
