//! `persistentvolume-host-path-provisioner`: makes volumes of folders, for clusters whose nodes share a disk.
//!
//! The class `standard` (provisioner `coxswain.dev/host-path`) is made at the start and is the default one.
//! Off unless a folder is configured, as only nodes of one machine see the same folders.
//!
//! # Watches
//! PersistentVolumeClaims that ask for this provisioner, and the PersistentVolumes it made.
//!
//! # Writes
//! The StorageClass `standard`; PersistentVolumes of type `hostPath`; deletes released ones with their folder.
//!
//! # Guarantees
//! A claim gets one volume, named after its uid, however often it is asked. Only folders directly below the
//! configured one are removed.
//!
//! # Differs from Kubernetes
//! Kubernetes has a provisioner of this kind for tests only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use component_base::client::said;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{annotation, is_deleting, name_of, uid_of};

const CLASS: &str = "standard";
const PROVISIONER: &str = "coxswain.dev/host-path";
const ASKED: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

pub(crate) struct HostPathProvisioner {
    client: Client,
    events: Events,
    folder: Option<PathBuf>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
}

#[async_trait]
impl Controller for HostPathProvisioner {
    const NAME: &'static str = "persistentvolume-host-path-provisioner";

    /// A claim's key has a namespace, a volume's has none; the empty key is the class.
    fn watches(setup: &Setup<'_>) -> Self {
        let folder = setup.config.host_path_volumes.clone();
        let (claims, volumes) = (setup.read(), setup.read());
        if folder.is_some() {
            setup.subscribe(&claims, |claim: &PersistentVolumeClaim| {
                let asks = annotation(&claim.metadata, ASKED) == Some(PROVISIONER);
                asks.then(|| ObjectKey::of(claim)).into_iter().collect()
            });
            setup.subscribe(&volumes, |volume: &PersistentVolume| {
                is_ours(volume).then(|| ObjectKey::of(volume)).into_iter().collect()
            });
            setup.queue.add(ObjectKey::cluster(""));
        }
        let (client, events) = (setup.client.clone(), setup.events());
        Self { client, events, folder, claims, volumes, classes: setup.read() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(folder) = &self.folder else { return Ok(Action::Done) };
        match (key.namespace.as_str(), key.name.as_str()) {
            ("", "") => self.make_class().await?,
            ("", _) => {
                let released = self.volumes.get(key).filter(|volume| is_to_go(volume));
                if let Some(volume) = released {
                    self.remove(&volume, folder).await?;
                }
            }
            _ => {
                if let Some(claim) = self.claims.get(key).filter(|claim| is_waiting(claim)) {
                    self.make(&claim, folder).await?;
                }
            }
        }
        Ok(Action::Done)
    }
}

fn is_ours(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
}

/// Whether nobody has the volume any more and its policy is to delete it.
fn is_to_go(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    is_ours(volume) && phase == Some("Released") && policy == Some("Delete") && !is_deleting(&volume.metadata)
}

fn is_waiting(claim: &PersistentVolumeClaim) -> bool {
    let has_volume =
        claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_deref().is_some_and(|v| !v.is_empty()));
    annotation(&claim.metadata, ASKED) == Some(PROVISIONER) && !has_volume && !is_deleting(&claim.metadata)
}

fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", uid_of(&claim.metadata))
}

fn the_class() -> Value {
    json!({
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": true,
    })
}

/// The volume for the claim, kept for it from the start.
fn plan(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, folder: &Path) -> Value {
    let (meta, spec) = (&claim.metadata, claim.spec.clone().unwrap_or_default());
    let name = volume_name(claim);
    let request = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let mut volume = json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": request.get("storage")},
            "accessModes": spec.access_modes,
            "volumeMode": spec.volume_mode,
            "storageClassName": spec.storage_class_name,
            "persistentVolumeReclaimPolicy": class.and_then(|class| class.reclaim_policy.as_deref()).unwrap_or("Delete"),
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta.namespace,
                "name": meta.name,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
            "hostPath": {"path": folder.join(&name), "type": "DirectoryOrCreate"},
        },
    });
    if let Some(node) = annotation(meta, SELECTED_NODE) {
        let term = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        volume["spec"]["nodeAffinity"] =
            json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}});
    }
    volume
}

fn typed<K: DeserializeOwned>(object: Value) -> Result<K, ReconcileError> {
    serde_json::from_value(object).map_err(|error| ReconcileError::Terminal(error.to_string()))
}

/// That it exists already is as good.
fn made<K>(result: Result<K, kube::Error>) -> Result<Option<K>, kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        result => result.map(Some),
    }
}

impl HostPathProvisioner {
    async fn make_class(&self) -> Result<(), ReconcileError> {
        if self.classes.get(&ObjectKey::cluster(CLASS)).is_none() {
            let class: StorageClass = typed(the_class())?;
            made(Api::all(self.client.clone()).create(&PostParams::default(), &class).await)?;
        }
        Ok(())
    }

    async fn make(&self, claim: &PersistentVolumeClaim, folder: &Path) -> Result<(), ReconcileError> {
        let name = volume_name(claim);
        if self.volumes.get(&ObjectKey::cluster(&name)).is_some() {
            return Ok(());
        }
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
        let class = self.classes.get(&ObjectKey::cluster(class));
        let volume: PersistentVolume = typed(plan(claim, class.as_deref(), folder))?;
        match made(Api::all(self.client.clone()).create(&PostParams::default(), &volume).await) {
            Ok(None) => {}
            Ok(Some(_)) => {
                let message = format!("Successfully provisioned volume {name}");
                self.events.normal(claim, "ProvisioningSucceeded", &message);
            }
            Err(error) => {
                let message =
                    format!("failed to provision volume with StorageClass {CLASS:?}: {}", said(&error));
                self.events.warning(claim, "ProvisioningFailed", &message);
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn remove(&self, volume: &PersistentVolume, folder: &Path) -> Result<(), ReconcileError> {
        let name = name_of(&volume.metadata);
        let path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref()).map(|source| &source.path);
        if path.is_some_and(|path| Path::new(path) == folder.join(name)) {
            match tokio::fs::remove_dir_all(folder.join(name)).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    self.events.warning(volume, "VolumeFailedDelete", &error.to_string());
                    return Err(ReconcileError::Again(error.to_string()));
                }
                _ => {}
            }
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(annotations: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
                "resources": {"requests": {"storage": "3Gi"}}},
        }))
        .unwrap()
    }

    #[test]
    fn a_claim_that_asks_gets_a_folder_of_its_own() {
        let asks = claim(json!({ASKED: PROVISIONER}));
        assert!(is_waiting(&asks) && !is_waiting(&claim(json!({ASKED: "example.org/disk"}))));
        let volume = plan(&asks, None, Path::new("/data"));
        assert_eq!(volume["spec"]["hostPath"]["path"], "/data/pvc-u");
        assert_eq!(volume["spec"]["capacity"]["storage"], "3Gi");
        assert_eq!(volume["spec"]["claimRef"]["uid"], "u");
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
        assert!(volume["spec"].get("nodeAffinity").is_none());
    }

    #[test]
    fn a_volume_for_a_node_stays_on_it() {
        let asks = claim(json!({ASKED: PROVISIONER, SELECTED_NODE: "n1"}));
        let volume = plan(&asks, None, Path::new("/data"));
        let affinity = volume["spec"]["nodeAffinity"].to_string();
        assert!(affinity.contains(r#""values":["n1"]"#), "{affinity}");
    }

    #[test]
    fn only_released_volumes_of_this_provisioner_go() {
        let volume = |by: &str, phase: &str, policy: &str| -> PersistentVolume {
            serde_json::from_value(json!({
                "metadata": {"name": "v", "annotations": {PROVISIONED_BY: by}},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}}))
            .unwrap()
        };
        assert!(is_to_go(&volume(PROVISIONER, "Released", "Delete")));
        assert!(!is_to_go(&volume(PROVISIONER, "Bound", "Delete")));
        assert!(!is_to_go(&volume(PROVISIONER, "Released", "Retain")));
        assert!(!is_to_go(&volume("example.org/disk", "Released", "Delete")));
    }
}
