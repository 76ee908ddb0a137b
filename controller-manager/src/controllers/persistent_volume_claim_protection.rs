//! `persistentvolumeclaim-protection-controller`: lets a claim go once no pod uses it.
//!
//! # Watches
//! PersistentVolumeClaims that are being deleted, and the pods that use them.
//!
//! # Writes
//! Takes `kubernetes.io/pvc-protection` from claims.
//!
//! # Guarantees
//! A claim stays while a pod that is bound to a node uses it: the server is asked before a claim goes, as the cache
//! may not show such a pod yet.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client};

use crate::claims::{claims_of, ephemeral_claim};
use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::finalizers::{drop_finalizer, is_used_by, waits_for};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{controller_of, is_deleting, name_of, uid_of};

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
        if self.pods.in_namespace(&key.namespace).iter().any(|pod| uses(pod, &claim)) {
            return Ok(Action::Done);
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        if !is_used_by(&pods, Some("spec.nodeName!="), |pod| uses(pod, &claim)).await? {
            let api = Api::namespaced(self.client.clone(), &key.namespace);
            drop_finalizer(&api, &*claim, FINALIZER).await?;
        }
        Ok(Action::Done)
    }
}

/// A pod that waits for a node does not count: no node starts one whose claim is going. Nor does one that has
/// been shut down and waits only for the claim that was made for it.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = name_of(&claim.metadata);
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let named = |volume: &Volume| {
        volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == name)
    };
    let made = |volume: &Volume| {
        let owner = controller_of(&claim.metadata);
        volume.ephemeral.is_some()
            && ephemeral_claim(pod, &volume.name) == name
            && owner.is_some_and(|owner| owner.uid == uid_of(&pod.metadata))
    };
    let is_shut_down = is_deleting(&pod.metadata) && pod.metadata.deletion_grace_period_seconds == Some(0);
    api_types::pods::is_bound(pod) && volumes().any(|volume| named(volume) || (!is_shut_down && made(volume)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(node: &str, more: Value) -> Pod {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}]);
        let spec = json!({"nodeName": node, "containers": [], "volumes": volumes});
        let mut metadata = json!({"name": "p", "uid": "u"});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn claim(name: &str, owner: &str) -> PersistentVolumeClaim {
        let owner =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
        serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owner}})).unwrap()
    }

    #[test]
    fn only_pods_on_nodes_use_claims() {
        let bound = pod("n", json!({}));
        assert!(uses(&bound, &claim("c", "other")) && uses(&bound, &claim("p-e", "u")));
        assert!(!uses(&bound, &claim("p-e", "other")), "it was made for another pod");
        assert!(!uses(&pod("", json!({})), &claim("c", "u")) && !uses(&bound, &claim("other", "u")));
    }

    #[test]
    fn a_pod_that_was_shut_down_does_not_hold_the_claim_that_it_waits_for() {
        let going = |grace: i64| json!({"deletionTimestamp": "2024-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace});
        assert!(uses(&pod("n", going(30)), &claim("p-e", "u")));
        assert!(!uses(&pod("n", going(0)), &claim("p-e", "u")));
        assert!(uses(&pod("n", going(0)), &claim("c", "other")));
    }
}
