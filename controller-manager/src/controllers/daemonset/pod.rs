//! The pod of a node: pinned to it, and tolerating what ails nodes.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use api_types::pods;

use crate::owners::{self, name_of};
use crate::pod_control::pod_of;
use crate::revisions::HASH;

/// The taints of nodes in trouble, which daemons stay on.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The node a pod is on or pinned to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names =
        fields.filter(|field| field.key == "metadata.name").filter_map(|field| field.values.as_ref());
    names.next()?.first().map(String::as_str)
}

/// What the pods tolerate besides what their template says.
pub(super) fn tolerations(template: &PodSpec) -> Vec<Toleration> {
    let network = (template.host_network == Some(true))
        .then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let tolerate = |(key, effect): (&str, &str)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    TOLERATED.into_iter().chain(network).map(tolerate).collect()
}

/// The new pod of `node`.
pub(super) fn pod_for(set: &DaemonSet, spec: &DaemonSetSpec, node: &str, hash: &str) -> Pod {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let owner = owners::controller_reference(set);
    let mut pod = pod_of(&spec.template, owner, namespace, name_of(&set.metadata));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    if let Some(generation) = owners::annotation(&set.metadata, "deprecated.daemonset.template.generation") {
        labels.insert("pod-template-generation".to_owned(), generation.to_owned());
    }
    let inner = pod.spec.get_or_insert_default();
    let ours = tolerations(inner);
    let all = inner.tolerations.get_or_insert_default();
    // Of tolerations of the same taint ours counts: it has no end.
    let same = |one: &Toleration, other: &Toleration| {
        one.key == other.key
            && one.effect == other.effect
            && one.operator == other.operator
            && one.value.as_deref().unwrap_or_default() == other.value.as_deref().unwrap_or_default()
    };
    all.retain(|one| !ours.iter().any(|other| same(one, other)));
    all.extend(ours);
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    let affinity = inner.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}
