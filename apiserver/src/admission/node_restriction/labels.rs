//! Which labels a node gives itself: its own, none of Kubernetes' except those that describe a machine, and
//! none by which others keep work to trusted nodes.

use serde_json::Value;

/// Labels of Kubernetes that describe a machine.
const KNOWN: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// The labels that `new` sets, changes or drops and a node may not, sorted.
pub(super) fn forbidden_labels(new: &Value, old: Option<&Value>) -> Vec<String> {
    let empty = serde_json::Map::new();
    let labels = |object: Option<&Value>| -> serde_json::Map<String, Value> {
        object.and_then(|object| object["metadata"]["labels"].as_object()).unwrap_or(&empty).clone()
    };
    let (new, old) = (labels(Some(new)), labels(old));
    let mut changed: Vec<String> =
        new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key)).cloned().collect();
    changed.retain(|label| !may_set(label));
    changed.sort();
    changed.dedup();
    changed
}

fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let is_in =
        |wanted: &str| domain.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if is_in("node-restriction.kubernetes.io") {
        return false;
    }
    let of_kubernetes = is_in("kubernetes.io") || is_in("k8s.io");
    let of_nodes = is_in("kubelet.kubernetes.io") || is_in("node.kubernetes.io");
    !of_kubernetes || of_nodes || KNOWN.contains(&label)
}
