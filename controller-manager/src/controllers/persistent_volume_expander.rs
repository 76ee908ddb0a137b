//! `persistentvolume-expander-controller`: enlarges bound claims whose request has grown.
//!
//! # Watches
//! PersistentVolumeClaims and PersistentVolumes.
//!
//! # Writes
//! The capacity of volumes that are folders of a node, and of their claims. For all other volumes the event
//! `ExternalExpanding`: whoever made them enlarges them.
//!
//! # Guarantees
//! Nothing shrinks. The volume is written before the claim says that it has grown.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use api_types::quantity::Quantity;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{is_deleting, name_of};

pub(crate) struct PersistentVolumeExpander {
    client: Client,
    events: Events,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
}

#[derive(Debug, PartialEq)]
enum Step {
    Keep,
    /// Let volume and claim be this large.
    Grow(String),
    /// Wait for whoever made the volume.
    Wait,
}

fn parsed(amount: Option<&Amount>) -> Quantity {
    Quantity::parse_or_zero(amount.map_or("", |amount| amount.0.as_str()))
}

fn plan(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Step {
    let status = claim.status.as_ref();
    let is_bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
    let has = parsed(status.and_then(|status| status.capacity.as_ref()?.get("storage")));
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let asked = resources.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    let is_folder = volume.spec.as_ref().is_some_and(|spec| spec.host_path.is_some());
    match asked.filter(|_| is_bound && !is_deleting(&claim.metadata)) {
        Some(asked) if parsed(Some(asked)) > has && is_folder => Step::Grow(asked.0.clone()),
        Some(asked) if parsed(Some(asked)) > has => Step::Wait,
        _ => Step::Keep,
    }
}

#[async_trait]
impl Controller for PersistentVolumeExpander {
    const NAME: &'static str = "persistentvolume-expander-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let claims = setup.watch_own::<PersistentVolumeClaim>();
        Self { client: setup.client.clone(), events: setup.events(), claims, volumes: setup.read() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Action::Done) };
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        let Some(volume) = self.volumes.get(&ObjectKey::cluster(name)) else { return Ok(Action::Done) };
        match plan(&claim, &volume) {
            Step::Keep => {}
            Step::Wait => {
                let message = "waiting for an external controller to expand this PVC";
                self.events.normal(&*claim, "ExternalExpanding", message);
            }
            Step::Grow(size) => self.grow(&claim, &volume, &size).await?,
        }
        Ok(Action::Done)
    }
}

impl PersistentVolumeExpander {
    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        size: &str,
    ) -> Result<(), kube::Error> {
        let params = PatchParams::default();
        let capacity = json!({"capacity": {"storage": size}});
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let larger = Patch::Merge(json!({"spec": capacity}));
        volumes.patch(name_of(&volume.metadata), &params, &larger).await?;
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let larger = Patch::Merge(json!({"status": capacity}));
        claims.patch_status(name_of(&claim.metadata), &params, &larger).await?;
        self.events.normal(
            claim,
            "VolumeResizeSuccessful",
            &format!("Resize volume {} succeeded", name_of(&volume.metadata)),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn check(asked: &str, has: &str, phase: &str, source: Value, expected: Step) {
        let claim = json!({"spec": {"resources": {"requests": {"storage": asked}}},
            "status": {"phase": phase, "capacity": {"storage": has}}, "metadata": {}});
        let volume = json!({"metadata": {}, "spec": source});
        let (claim, volume) =
            (serde_json::from_value(claim).unwrap(), serde_json::from_value(volume).unwrap());
        assert_eq!(plan(&claim, &volume), expected);
    }

    #[test]
    fn a_bound_claim_that_asks_for_more_grows() {
        let folder = || json!({"hostPath": {"path": "/v"}});
        check("2Gi", "1Gi", "Bound", folder(), Step::Grow("2Gi".to_owned()));
        check("1Gi", "2Gi", "Bound", folder(), Step::Keep);
        check("2Gi", "1Gi", "Pending", folder(), Step::Keep);
        check("2Gi", "1Gi", "Bound", json!({"csi": {"driver": "d", "volumeHandle": "h"}}), Step::Wait);
    }
}
