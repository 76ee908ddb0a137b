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
    for (name, amount) in hard.as_object().into_iter().flatten() {
        let used = printed.at("/status/used");
        let text =
            format!("{name}: {}/{}", used[name].as_str().unwrap_or("0"), amount.as_str().unwrap_or_default());
        if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![printed.name(), json!(requests.join(", ")), json!(limits.join(", ")), printed.age()]
}

/// `RWO,ROX`: access modes in short.
fn access_modes(modes: &[Node<'_>]) -> Value {
    let short = modes.iter().map(|mode| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    json!(super::join(short))
}

fn set_or_unset(text: &str) -> Value {
    json!(if text.is_empty() { "<unset>" } else { text })
}

pub(super) fn volume_claim(printed: &Printed<'_>) -> Vec<Value> {
    let deleting = !printed.text("/metadata/deletionTimestamp").is_empty();
    let status = if deleting { "Terminating" } else { printed.text("/status/phase") };
    let bound = !printed.text("/spec/volumeName").is_empty();
    let modes = access_modes(printed.list("/status/accessModes"));
    vec![
        printed.name(),
        json!(status),
        json!(printed.text("/spec/volumeName")),
        json!(if bound { printed.text("/status/capacity/storage") } else { "" }),
        if bound { modes } else { json!("") },
        json!(printed.text("/spec/storageClassName")),
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
        json!(printed.text("/spec/storageClassName")),
        set_or_unset(printed.text("/spec/volumeAttributesClassName")),
        json!(printed.text("/status/reason")),
        printed.age(),
        set_or_unset(printed.text("/spec/volumeMode")),
    ]
}

pub(super) fn storage_class(printed: &Printed<'_>) -> Vec<Value> {
    let is_default =
        printed.at("/metadata/annotations")["storageclass.kubernetes.io/is-default-class"] == "true";
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
}
