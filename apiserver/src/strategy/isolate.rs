//! Spec and status are written through different doors; generation counts changes of the spec.

use api_types::kinds::Kind;
use serde_json::{Value, json};

/// What belongs to `metadata` and the server alone sets, whoever says otherwise. A change of the uid or of the end is
/// refused instead.
const SERVER_OWNED: &[&str] = &["creationTimestamp", "selfLink"];

/// Where objects are kept of kinds with a generation although they have no status subresource.
const COUNTED_WITHOUT_STATUS: &[&str] = &[
    "podtemplates",
    "admissionregistration.k8s.io/mutatingadmissionpolicies",
    "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
    "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingadmissionpolicybindings",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
    "discovery.k8s.io/endpointslices",
    "networking.k8s.io/ingressclasses",
    "networking.k8s.io/networkpolicies",
    "resource.k8s.io/deviceclasses",
    "resource.k8s.io/resourceslices",
    "scheduling.k8s.io/priorityclasses",
    "storage.k8s.io/csidrivers",
];
/// And of kinds without one although they have the subresource.
const UNCOUNTED_WITH_STATUS: &[&str] = &[
    "namespaces",
    "nodes",
    "persistentvolumes",
    "persistentvolumeclaims",
    "services",
    "resourcequotas",
    "apiregistration.k8s.io/apiservices",
    "autoscaling/horizontalpodautoscalers",
    "certificates.k8s.io/certificatesigningrequests",
    "networking.k8s.io/servicecidrs",
    "resource.k8s.io/resourceclaims",
    "storage.k8s.io/volumeattachments",
];
/// Counted from the first change on: a new object of these has no generation yet.
const COUNTED_FROM_ZERO: &[&str] = &["storage.k8s.io/csidrivers"];
/// Born with a generation that stays what it is.
const COUNTED_ONCE: &[&str] = &["scheduling.k8s.io/priorityclasses"];
/// A change of labels counts as one of the spec.
const COUNTED_WITH_LABELS: &[&str] = &["discovery.k8s.io/endpointslices"];

/// The parts of an object by paths, as those who write it come to own them.
type Paths = &'static [&'static [&'static str]];

/// What of the metadata a write of the status leaves as it was, and so nobody comes to own by it.
struct Sheltered {
    storage: &'static [&'static str],
    fields: &'static [&'static str],
    paths: Paths,
}

const SHELTERED_FROM_STATUS: &[Sheltered] = &[
    Sheltered {
        storage: &["pods"],
        fields: &["ownerReferences"],
        paths: &[&["spec"], &["metadata", "ownerReferences"]],
    },
    Sheltered {
        storage: &["apps/deployments"],
        fields: &["labels"],
        paths: &[&["spec"], &["metadata", "labels"]],
    },
    Sheltered {
        storage: &[
            "admissionregistration.k8s.io/validatingadmissionpolicies",
            "apiregistration.k8s.io/apiservices",
            "flowcontrol.apiserver.k8s.io/flowschemas",
            "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations",
            "networking.k8s.io/servicecidrs",
            "resource.k8s.io/resourceclaims",
            "storage.k8s.io/volumeattachments",
        ],
        fields: &["labels", "annotations", "finalizers", "ownerReferences"],
        paths: &[&["spec"], &["metadata"]],
    },
];

fn sheltered(kind: &Kind) -> Option<&'static Sheltered> {
    SHELTERED_FROM_STATUS.iter().find(|row| row.storage.contains(&kind.storage.as_str()))
}

/// What a write of the status cannot change, and nobody comes to own by it.
pub(crate) fn kept_by_status(kind: &Kind) -> Paths {
    match sheltered(kind) {
        Some(row) => row.paths,
        None if kind.custom.is_some() => &[&["spec"], &["metadata"]],
        None => &[&["spec"]],
    }
}

/// Whether `metadata.generation` counts changes of this kind's spec. Custom kinds always have one.
pub(crate) fn is_counted(kind: &Kind) -> bool {
    let storage = kind.storage.as_str();
    if kind.definition.is_empty() || COUNTED_WITHOUT_STATUS.contains(&storage) {
        return true;
    }
    kind.find_subresource("status").is_some() && !UNCOUNTED_WITH_STATUS.contains(&storage)
}

/// The generation of a new object.
fn first_generation(kind: &Kind) -> Option<i64> {
    (is_counted(kind) && !COUNTED_FROM_ZERO.contains(&kind.storage.as_str())).then_some(1)
}

/// A node agent registers its node with capacity and conditions in one write, as in Kubernetes.
const BORN_WITH_STATUS: &[&str] = &["nodes"];

fn has_status(kind: &Kind) -> bool {
    kind.find_subresource("status").is_some()
}

/// A new object starts without status and, where changes are counted, at generation 1; elsewhere a generation is
/// what its author says.
pub(crate) fn for_create(kind: &Kind, new: &mut Value) {
    if has_status(kind)
        && !BORN_WITH_STATUS.contains(&kind.storage.as_str())
        && let Some(object) = new.as_object_mut()
    {
        object.shift_remove("status");
    }
    if let Some(first) = first_generation(kind) {
        set_generation(new, Some(first));
    }
}

/// Keeps what this request may not change. `subresource` is empty for the object itself.
pub(crate) fn for_update(kind: &Kind, subresource: &str, new: &mut Value, old: &Value) {
    keep_server_owned(new, old);
    match subresource {
        "status" => keep_all_but_status(kind, new, old),
        // These change spec and status in one write.
        "binding" | "approval" => {}
        _ if has_status(kind) => keep_status(new, old),
        _ => {}
    }
    let generation = old.pointer("/metadata/generation").and_then(Value::as_i64);
    match (is_counted(kind), subresource) {
        (true, "status" | "binding" | "approval") | (false, _) => set_generation(new, generation),
        (true, _) => set_generation(new, Some(next_generation(kind, new, old, generation))),
    }
}

fn keep_server_owned(new: &mut Value, old: &Value) {
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in SERVER_OWNED {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(kept) => metadata.insert((*field).to_owned(), kept.clone()),
            None => metadata.shift_remove(*field),
        };
    }
}

/// A write of the status may change the status, and the metadata as far as the kind does not shelter it.
fn keep_all_but_status(kind: &Kind, new: &mut Value, old: &Value) {
    let (Some(object), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    object.retain(|field, _| matches!(field.as_str(), "metadata" | "status") || before.contains_key(field));
    for (field, value) in before {
        // Most writes bring the rest as it is.
        if field != "status" && !object.get(field).is_some_and(|kept| field == "metadata" || kept == value) {
            object.insert(field.clone(), value.clone());
        }
    }
    if let Some(metadata) = object.get_mut("metadata") {
        for field in sheltered(kind).map_or(&[][..], |row| row.fields) {
            copy_field(metadata, old.get("metadata"), field);
        }
    }
}

fn copy_field(into: &mut Value, from: Option<&Value>, field: &str) {
    let Some(object) = into.as_object_mut() else { return };
    match from.and_then(|f| f.get(field)) {
        Some(value) => object.insert(field.to_owned(), value.clone()),
        None => object.shift_remove(field),
    };
}

fn keep_status(new: &mut Value, old: &Value) {
    copy_field(new, Some(old), "status");
}

fn next_generation(kind: &Kind, new: &Value, old: &Value, generation: Option<i64>) -> i64 {
    let before = generation.unwrap_or(0);
    let storage = kind.storage.as_str();
    let deletion_began = old.pointer("/metadata/deletionTimestamp").is_none()
        && new.pointer("/metadata/deletionTimestamp").is_some();
    let counts_spec = !COUNTED_ONCE.contains(&storage) && is_spec_changed(new, old);
    let counts_labels =
        COUNTED_WITH_LABELS.contains(&storage) && new["metadata"]["labels"] != old["metadata"]["labels"];
    match counts_spec || counts_labels || deletion_began {
        true => before + 1,
        false => before,
    }
}

/// Whether anything but metadata and status differs.
pub(crate) fn is_spec_changed(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new != old };
    let counts = |field: &&String| !matches!(field.as_str(), "metadata" | "status" | "kind" | "apiVersion");
    let changed = new.keys().filter(counts).any(|field| new.get(field) != old.get(field));
    changed || old.keys().filter(counts).any(|field| !new.contains_key(field))
}

fn set_generation(object: &mut Value, generation: Option<i64>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match generation.filter(|generation| *generation > 0) {
        Some(generation) => metadata.insert("generation".to_owned(), json!(generation)),
        None => metadata.shift_remove("generation"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployments() -> &'static Kind {
        api_types::kinds::find_resource("apps", "v1", "deployments").unwrap()
    }

    fn stored() -> Value {
        json!({"metadata": {"name": "a", "uid": "u", "generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}})
    }

    #[test]
    fn a_new_object_has_no_status_and_generation_one() {
        let mut new =
            json!({"metadata": {"name": "a", "generation": 9}, "spec": {}, "status": {"replicas": 5}});
        for_create(deployments(), &mut new);
        assert_eq!(new, json!({"metadata": {"name": "a", "generation": 1}, "spec": {}}));
    }

    #[test]
    fn a_changed_spec_bumps_the_generation_and_keeps_the_status() {
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        for_update(deployments(), "", &mut new, &stored());
        assert_eq!(new["metadata"], json!({"name": "a", "generation": 4}));
        assert_eq!(new["status"], json!({"replicas": 1}));
    }

    #[test]
    fn a_write_of_the_status_changes_what_of_the_metadata_is_not_sheltered() {
        let old = json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {}});
        for (group, kind, kept) in [
            ("apps", "Deployment", &["labels"][..]),
            ("apps", "ReplicaSet", &[]),
            ("", "Pod", &["ownerReferences"]),
            ("storage.k8s.io", "VolumeAttachment", &["labels", "annotations", "ownerReferences"]),
        ] {
            let kind = api_types::kinds::find_kind(group, "v1", kind).unwrap();
            let mut new = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "annotations": {"x": "y"},
                "ownerReferences": [{"uid": "1"}]}, "spec": {}, "status": {}});
            let sent = new.clone();
            for_update(kind, "status", &mut new, &old);
            for field in ["labels", "annotations", "ownerReferences"] {
                let expected = if kept.contains(&field) { &old } else { &sent };
                assert_eq!(new["metadata"][field], expected["metadata"][field], "{} {field}", kind.kind);
            }
        }
    }

    #[test]
    fn changed_labels_do_not_bump_the_generation() {
        let mut new = stored();
        new["metadata"]["labels"] = json!({"x": "y"});
        for_update(deployments(), "", &mut new, &stored());
        assert_eq!(new["metadata"]["generation"], 3);
    }

    #[test]
    fn what_counts_differs_between_kinds() {
        for (group, plural, change, expected) in [
            ("discovery.k8s.io", "endpointslices", json!({"metadata": {"labels": {"x": "y"}}}), 2),
            ("discovery.k8s.io", "endpointslices", json!({"metadata": {}, "ports": []}), 2),
            ("scheduling.k8s.io", "priorityclasses", json!({"metadata": {}, "description": "x"}), 1),
        ] {
            let kind = api_types::kinds::find_resource(group, "v1", plural).unwrap();
            let mut new = change.clone();
            for_update(kind, "", &mut new, &json!({"metadata": {"generation": 1}}));
            assert_eq!(new["metadata"]["generation"], expected, "{plural} {change}");
        }
    }

    #[test]
    fn a_status_write_changes_the_status_only() {
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"replicas": 7}, "status": {"replicas": 2}});
        for_update(deployments(), "status", &mut new, &stored());
        assert_eq!(new["spec"], json!({"replicas": 1}));
        assert_eq!(new["status"], json!({"replicas": 2}));
        assert_eq!(new["metadata"]["generation"], 3);
    }
}
