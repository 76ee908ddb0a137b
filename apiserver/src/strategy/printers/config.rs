//! Configuration, accounts and storage.

use serde_json::{Value, json};

use super::{Node, Printed};

fn entries(printed: &Printed<'_>, pointers: &[&str]) -> Value {
    let count: usize =
        pointers.iter().map(|pointer| printed.at(pointer).as_object().map_or(0, <[_]>::len)).sum();
    json!(count)
}

pub(super) fn config_map(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), entries(printed, &["/data", "/binaryData"]), printed.age()]
}

pub(super) fn secret(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), json!(printed.text("/type")), entries(printed, &["/data"]), printed.age()]
}

pub(super) fn service_account(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), printed.age()]
}

pub(super) fn resource_quota(printed: &Printed<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let hard = printed.at("/status/hard");
    for (name, amount) in super::sorted(hard) {
        let used = printed.at("/status/used");
        let text =
            format!("{name}: {}/{}", used[name].as_str().unwrap_or("0"), amount.as_str().unwrap_or_default());
        if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![printed.name(), json!(requests.join(", ")), json!(limits.join(", ")), printed.age()]
}

const MODES: &[(&str, &str)] = &[
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

/// `RWO,ROX`: access modes in short, always in the same order.
fn access_modes(modes: &[Node<'_>]) -> Value {
    let given = MODES.iter().filter(|(mode, _)| modes.iter().any(|given| given.as_str() == Some(mode)));
    json!(super::join(given.map(|(_, short)| *short)))
}

/// The class that a volume or claim names, in the annotation of old or in its field.
fn storage_class_of<'p>(printed: &'p Printed<'_>) -> &'p str {
    let annotated = printed.at("/metadata/annotations").get("volume.beta.kubernetes.io/storage-class");
    annotated.and_then(Node::as_str).unwrap_or_else(|| printed.text("/spec/storageClassName"))
}

fn set_or_unset(text: &str) -> Value {
    json!(if text.is_empty() { "<unset>" } else { text })
}

pub(super) fn volume_claim(printed: &Printed<'_>) -> Vec<Value> {
    let deleting = !printed.text("/metadata/deletionTimestamp").is_empty();
    let status = if deleting { "Terminating" } else { printed.text("/status/phase") };
    let bound = !printed.text("/spec/volumeName").is_empty();
    let modes = access_modes(printed.list("/status/accessModes"));
    let capacity = match (bound, printed.text("/status/capacity/storage")) {
        (false, _) => "",
        (true, "") => "0",
        (true, capacity) => capacity,
    };
    vec![
        printed.name(),
        json!(status),
        json!(printed.text("/spec/volumeName")),
        json!(capacity),
        if bound { modes } else { json!("") },
        json!(storage_class_of(printed)),
        set_or_unset(printed.text("/spec/volumeAttributesClassName")),
        printed.age(),
        set_or_unset(printed.text("/spec/volumeMode")),
    ]
}

pub(super) fn volume(printed: &Printed<'_>) -> Vec<Value> {
    let deleting = !printed.text("/metadata/deletionTimestamp").is_empty();
    let claim = match (printed.text("/spec/claimRef/namespace"), printed.text("/spec/claimRef/name")) {
        (_, "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        printed.name(),
        json!(printed.text("/spec/capacity/storage")),
        access_modes(printed.list("/spec/accessModes")),
        json!(printed.text("/spec/persistentVolumeReclaimPolicy")),
        json!(if deleting { "Terminating" } else { printed.text("/status/phase") }),
        json!(claim),
        json!(storage_class_of(printed)),
        set_or_unset(printed.text("/spec/volumeAttributesClassName")),
        json!(printed.text("/status/reason")),
        printed.age(),
        set_or_unset(printed.text("/spec/volumeMode")),
    ]
}

pub(super) fn storage_class(printed: &Printed<'_>) -> Vec<Value> {
    let annotations = printed.at("/metadata/annotations");
    let is_default = ["storageclass", "storageclass.beta"]
        .iter()
        .any(|prefix| annotations[&format!("{prefix}.kubernetes.io/is-default-class")] == "true");
    let name = printed.text("/metadata/name");
    vec![
        json!(if is_default { format!("{name} (default)") } else { name.to_owned() }),
        printed.cell("/provisioner"),
        json!(printed.text("/reclaimPolicy")),
        json!(printed.text("/volumeBindingMode")),
        json!(printed.at("/allowVolumeExpansion").is_true()),
        printed.age(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_config_map_counts_text_and_binary_entries() {
        let object = json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "data": {"a": "1", "b": "2"}, "binaryData": {"c": ""}});
        check(config_map, &object, &["c", "3", "5m"]);
    }

    #[test]
    fn a_volume_shows_modes_in_order_and_its_class_wherever_it_stands() {
        let object = json!({"metadata": {"name": "v", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain"}, "status": {"phase": "Pending"}});
        let unset = "<unset>";
        check(
            volume,
            &object,
            &["v", "1Gi", "RWO,RWX", "Retain", "Pending", "", "old", unset, "", "5m", unset],
        );
    }

    #[test]
    fn a_claim_on_a_volume_has_a_capacity_even_if_nobody_said_which() {
        let object = json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"volumeName": "v"}, "status": {"phase": "Pending"}});
        let unset = "<unset>";
        check(volume_claim, &object, &["c", "Pending", "v", "0", "", "", unset, "5m", unset]);
    }

    #[test]
    fn a_quota_lists_its_resources_in_order() {
        let object = json!({"metadata": {"name": "q", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"hard": {"secrets": "3", "limits.cpu": "2", "pods": "1"}, "used": {"pods": "1"}}});
        check(resource_quota, &object, &["q", "pods: 1/1, secrets: 0/3", "limits.cpu: 0/2", "5m"]);
    }
}
