//! `volumeattributesclass-protection-controller`: lets a class of volume attributes go once nothing names it.
//!
//! # Watches
//! VolumeAttributesClasses, and the PersistentVolumeClaims and PersistentVolumes that name them.
//!
//! # Writes
//! Takes `kubernetes.io/vac-protection` from classes.
//!
//! # Guarantees
//! A class stays while a claim wants it, has it or is on the way to it, and while a volume has it.
//!
//! # Differs from Kubernetes
//! Classes get the finalizer from admission only.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::finalizers::{drop_finalizer, is_used_by, waits_for};
use crate::informers::Informer;
use crate::key::ObjectKey;

const FINALIZER: &str = "kubernetes.io/vac-protection";

pub(crate) struct VolumeAttributesClassProtection {
    client: Client,
    classes: Arc<Informer<VolumeAttributesClass>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
}

#[async_trait]
impl Controller for VolumeAttributesClassProtection {
    const NAME: &'static str = "volumeattributesclass-protection-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let classes = setup.watch_own::<VolumeAttributesClass>();
        let claims = setup.watch(|claim: &PersistentVolumeClaim| keys(of_claim(claim)));
        let volumes = setup.watch(|volume: &PersistentVolume| keys(of_volume(volume)));
        Self { client: setup.client.clone(), classes, claims, volumes }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let waiting = self.classes.get(key).filter(|class| waits_for(&class.metadata, FINALIZER));
        let Some(class) = waiting else { return Ok(Action::Done) };
        let claims = |claim: &PersistentVolumeClaim| of_claim(claim).any(|name| name == key.name);
        let holds = |volume: &PersistentVolume| of_volume(volume).any(|name| name == key.name);
        let seen = self.claims.all().iter().any(|claim| claims(claim))
            || self.volumes.all().iter().any(|volume| holds(volume));
        let used = seen
            || is_used_by(&Api::all(self.client.clone()), None, claims).await?
            || is_used_by(&Api::all(self.client.clone()), None, holds).await?;
        if !used {
            drop_finalizer(&Api::all(self.client.clone()), &*class, FINALIZER).await?;
        }
        Ok(Action::Done)
    }
}

fn keys<'a>(names: impl Iterator<Item = &'a str>) -> Vec<ObjectKey> {
    names.map(|name| ObjectKey::new("", name)).collect()
}

/// The classes that a claim names.
fn of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let modified = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = modified.and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty())
}

/// The class that a volume has.
fn of_volume(volume: &PersistentVolume) -> impl Iterator<Item = &str> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    name.into_iter().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_names_the_class_it_wants_has_and_is_on_the_way_to() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "c"}, "spec": {"volumeAttributesClassName": "gold"},
            "status": {"currentVolumeAttributesClassName": "",
                "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "silver"}},
        }))
        .unwrap();
        assert_eq!(of_claim(&claim).collect::<Vec<_>>(), ["gold", "silver"]);
    }

    #[test]
    fn a_volume_names_the_class_it_has() {
        let volume: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": "v"}, "spec": {"volumeAttributesClassName": "gold"},
        }))
        .unwrap();
        assert_eq!(of_volume(&volume).collect::<Vec<_>>(), ["gold"]);
    }
}
