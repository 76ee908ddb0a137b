//! What leads from a node to other objects: its pods, what these name, their claims and volumes.

use serde_json::Value;

use crate::view::View;

/// Whether the object is one that the node needs for its pods.
pub(super) fn is_related(view: &dyn View, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
    match resource {
        "persistentvolumes" => {
            view.object(resource, "", name).is_some_and(|volume| is_volume_of(view, node, &volume))
        }
        "volumeattachments" => view
            .object("storage.k8s.io/volumeattachments", "", name)
            .is_some_and(|attachment| attachment["spec"]["nodeName"] == node),
        "resourceslices" => view
            .object("resource.k8s.io/resourceslices", "", name)
            .is_some_and(|slice| slice["spec"]["nodeName"] == node),
        "secrets" => {
            names_any(view, node, resource, namespace, name)
                || is_secret_of_volume(view, node, namespace, name)
        }
        _ => names_any(view, node, resource, namespace, name),
    }
}

/// Whether a pod of the node names the object of its own namespace.
fn names_any(view: &dyn View, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let pods = view.objects_on("pods", node, namespace);
    pods.iter().filter(|pod| !is_mirror(pod)).any(|pod| refers(pod, resource, name))
}

/// The image in the API of a pod that the node runs by itself; what it names gives the node no rights.
fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some()
}

/// Whether a pod of the node uses the claim that the volume is bound to.
fn is_volume_of(view: &dyn View, node: &str, volume: &Value) -> bool {
    let claim = &volume["spec"]["claimRef"];
    match (claim["namespace"].as_str(), claim["name"].as_str()) {
        (Some(namespace), Some(name)) => names_any(view, node, "persistentvolumeclaims", namespace, name),
        _ => false,
    }
}

/// Secrets with which a node mounts a volume. Looked for only when no pod names the Secret.
fn is_secret_of_volume(view: &dyn View, node: &str, namespace: &str, name: &str) -> bool {
    const OF_DRIVERS: &[&str] = &[
        "nodeStageSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
        "controllerExpandSecretRef",
        "controllerPublishSecretRef",
    ];
    const OF_KINDS: &[&str] = &["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];
    let uses = |volume: &Value| {
        let spec = &volume["spec"];
        let is_it = |reference: &Value| {
            let home = reference["namespace"].as_str().or(spec["claimRef"]["namespace"].as_str());
            reference["name"] == name && home == Some(namespace)
        };
        let azure = &spec["azureFile"];
        let home = azure["secretNamespace"].as_str().or(spec["claimRef"]["namespace"].as_str());
        OF_DRIVERS.iter().any(|field| is_it(&spec["csi"][*field]))
            || OF_KINDS.iter().any(|kind| is_it(&spec[*kind]["secretRef"]))
            || (azure["secretName"] == name && home == Some(namespace))
    };
    let volumes = view.objects("persistentvolumes", None);
    volumes.iter().any(|volume| uses(volume) && is_volume_of(view, node, volume))
}

/// Whether the pod names the object.
fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    match resource {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "secrets" => {
            items(&spec["imagePullSecrets"]).any(|pull| pull["name"] == name)
                || volume_refers(spec, "secret", "secretName", name)
                || volume_secret(spec, name)
                || containers_refer(spec, "secretKeyRef", "secretRef", name)
        }
        "configmaps" => {
            volume_refers(spec, "configMap", "name", name)
                || containers_refer(spec, "configMapKeyRef", "configMapRef", name)
        }
        "persistentvolumeclaims" => items(&spec["volumes"]).any(|volume| {
            volume["persistentVolumeClaim"]["claimName"] == name
                || (volume["ephemeral"].is_object() && is_joined(name, pod, volume))
        }),
        "resourceclaims" => {
            items(&spec["resourceClaims"]).any(|claim| claim["resourceClaimName"] == name)
                || items(&pod["status"]["resourceClaimStatuses"])
                    .any(|claim| claim["resourceClaimName"] == name)
        }
        _ => false,
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The claim of an ephemeral volume is named after the pod and the volume.
fn is_joined(name: &str, pod: &Value, volume: &Value) -> bool {
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    name == format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]))
}

fn volume_refers(spec: &Value, source: &str, field: &str, name: &str) -> bool {
    items(&spec["volumes"]).any(|volume| {
        volume[source][field] == name
            || items(&volume["projected"]["sources"]).any(|s| s[source]["name"] == name)
    })
}

/// Secrets that volumes of other sorts are mounted with.
fn volume_secret(spec: &Value, name: &str) -> bool {
    const SOURCES: &[&str] = &["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];
    items(&spec["volumes"]).any(|volume| {
        SOURCES.iter().any(|source| volume[*source]["secretRef"]["name"] == name)
            || volume["csi"]["nodePublishSecretRef"]["name"] == name
            || volume["azureFile"]["secretName"] == name
    })
}

fn containers_refer(spec: &Value, key_ref: &str, whole_ref: &str, name: &str) -> bool {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.iter().flat_map(|list| items(&spec[*list])).any(|container| {
        items(&container["env"]).any(|e| e["valueFrom"][key_ref]["name"] == name)
            || items(&container["envFrom"]).any(|f| f[whole_ref]["name"] == name)
    })
}
