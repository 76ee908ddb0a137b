//! `persistentvolume-protection-controller`: lets a volume go once no claim is bound to it.
//!
//! # Watches
//! PersistentVolumes.
//!
//! # Writes
//! Takes `kubernetes.io/pv-protection` from volumes.
//!
//! # Guarantees
//! A volume stays while it is bound.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::finalizers::{drop_finalizer, waits_for};
use crate::informers::Informer;
use crate::key::ObjectKey;

const FINALIZER: &str = "kubernetes.io/pv-protection";

pub(crate) struct PersistentVolumeProtection {
    client: Client,
    volumes: Arc<Informer<PersistentVolume>>,
}

#[async_trait]
impl Controller for PersistentVolumeProtection {
    const NAME: &'static str = "persistentvolume-protection-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        Self { client: setup.client.clone(), volumes: setup.watch_own::<PersistentVolume>() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let waiting = self.volumes.get(key).filter(|volume| waits_for(&volume.metadata, FINALIZER));
        let Some(volume) = waiting else { return Ok(Action::Done) };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Bound") {
            drop_finalizer(&Api::all(self.client.clone()), &*volume, FINALIZER).await?;
        }
        Ok(Action::Done)
    }
}
