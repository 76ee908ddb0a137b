//! `persistentvolumeclaim-protection-controller`: lets a claim go once no pod uses it.
//!
//! # Watches
//! PersistentVolumeClaims that are being deleted, and the pods that use them.
//!
//! # Writes
//! Takes `kubernetes.io/pvc-protection` from claims.
//!
//! # Guarantees
//! A claim stays while a pod that is bound to a node uses it.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, Client};

use crate::claims::claims_of;
use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::finalizers::{drop_finalizer, waits_for};
use crate::informers::Informer;
use crate::key::ObjectKey;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

pub(crate) struct PersistentVolumeClaimProtection {
    client: Client,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    pods: Arc<Informer<Pod>>,
}

#[async_trait]
impl Controller for PersistentVolumeClaimProtection {
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let claims = setup.watch_own::<PersistentVolumeClaim>();
        let pods = setup.watch(|pod: &Pod| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            claims_of(pod).into_iter().map(|claim| ObjectKey::new(namespace.clone(), claim)).collect()
        });
        Self { client: setup.client.clone(), claims, pods }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(claim) = self.claims.get(key).filter(|claim| waits_for(&claim.metadata, FINALIZER)) else {
            return Ok(Action::Done);
        };
        if !self.pods.in_namespace(&key.namespace).iter().any(|pod| uses(pod, &key.name)) {
            let api = Api::namespaced(self.client.clone(), &key.namespace);
            drop_finalizer(&api, &*claim, FINALIZER).await?;
        }
        Ok(Action::Done)
    }
}

/// A pod that waits for a node does not count: no node starts one whose claim is going.
fn uses(pod: &Pod, claim: &str) -> bool {
    api_types::pods::is_bound(pod) && claims_of(pod).iter().any(|name| name == claim)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_pods_on_nodes_use_claims() {
        let pod = |node: &str| -> Pod {
            let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "e", "ephemeral": {}}]);
            let spec = json!({"nodeName": node, "containers": [], "volumes": volumes});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
        };
        assert!(uses(&pod("n"), "c") && uses(&pod("n"), "p-e"));
        assert!(!uses(&pod(""), "c") && !uses(&pod("n"), "other"));
    }
}
