//! `ephemeral-volume-controller`: makes the claims of volumes that live as long as their pod.
//!
//! # Watches
//! Pods with `ephemeral` volumes, and claims that pods own.
//!
//! # Writes
//! A PersistentVolumeClaim `POD-VOLUME` for each such volume, owned by the pod, so that it goes with it.
//!
//! # Guarantees
//! A claim of that name which is not the pod's is left alone; an event says so.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::client::said;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod, Volume};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::claims::ephemeral_claim;
use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{controller_key, controller_of, controller_reference, is_deleting, name_of, uid_of};

pub(crate) struct EphemeralVolume {
    client: Client,
    events: Events,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
}

#[derive(Debug, PartialEq)]
enum Step {
    Create {
        volume: String,
        claim: Box<PersistentVolumeClaim>,
    },
    /// The name is taken by something else.
    Refuse {
        volume: String,
        message: String,
    },
}

fn ephemeral_volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

fn plan(pod: &Pod, claim_named: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>) -> Vec<Step> {
    if is_deleting(&pod.metadata) {
        return Vec::new();
    }
    let step = |volume: &Volume| {
        let name = ephemeral_claim(pod, &volume.name);
        let Some(found) = claim_named(&name) else {
            let claim = Box::new(claim_for(pod, volume, name));
            return Some(Step::Create { volume: volume.name.clone(), claim });
        };
        let owner = controller_of(&found.metadata);
        let is_ours = owner.is_some_and(|owner| owner.uid == uid_of(&pod.metadata));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let message = format!(
            "ephemeral volume {}: PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
            volume.name,
            name_of(&pod.metadata)
        );
        (!is_ours).then(|| Step::Refuse { volume: volume.name.clone(), message })
    };
    ephemeral_volumes(pod).filter_map(step).collect()
}

fn claim_for(pod: &Pod, volume: &Volume, name: String) -> PersistentVolumeClaim {
    let template =
        volume.ephemeral.clone().and_then(|source| source.volume_claim_template).unwrap_or_default();
    let given = template.metadata.unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec { ..template.spec }),
        status: None,
    }
}

#[async_trait]
impl Controller for EphemeralVolume {
    const NAME: &'static str = "ephemeral-volume-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let pods = setup.watch(|pod: &Pod| {
            let has_one = ephemeral_volumes(pod).next().is_some();
            has_one.then(|| ObjectKey::of(pod)).into_iter().collect()
        });
        let claims = setup.read::<PersistentVolumeClaim>();
        let queue = setup.queue.clone();
        claims.subscribe(move |change| {
            // A claim that is gone is made again while its pod lives.
            if let (Some(gone), None) = (change.old, change.new) {
                controller_key::<Pod>(&gone.metadata).into_iter().for_each(|key| queue.add(key));
            }
        });
        Self { client: setup.client.clone(), events: setup.events(), pods, claims }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        for step in plan(&pod, |name| self.claims.get(&ObjectKey::new(&*key.namespace, name))) {
            let problem = match step {
                Step::Create { volume, claim } => match api.create(&PostParams::default(), &claim).await {
                    Ok(_) => continue,
                    Err(error) => format!(
                        "ephemeral volume {volume}: create PVC {}: {}",
                        name_of(&claim.metadata),
                        said(&error)
                    ),
                },
                Step::Refuse { message, .. } => message,
            };
            self.events.warning(&*pod, "FailedBinding", &problem);
            return Err(ReconcileError::Again(problem));
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
        let volumes = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]);
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": volumes}}))
        .unwrap()
    }

    #[test]
    fn a_claim_is_made_that_the_pod_owns() {
        let steps = plan(&pod(), |_| None);
        let [Step::Create { claim, .. }] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(name_of(&claim.metadata), "p-scratch");
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(controller_of(&claim.metadata).unwrap().uid, "u");
        let made = Arc::new(PersistentVolumeClaim::clone(claim));
        assert!(plan(&pod(), |_| Some(made.clone())).is_empty());
    }

    #[test]
    fn a_claim_of_another_is_left_alone() {
        let steps = plan(&pod(), |_| Some(Arc::new(PersistentVolumeClaim::default())));
        let [Step::Refuse { message, .. }] = steps.as_slice() else { panic!("{steps:?}") };
        assert!(message.ends_with("PVC ns/p-scratch was not created for pod ns/p (pod is not owner)"));
    }
}
