//! `persistentvolume-binder-controller`: gives claims their volumes, and volumes back what happens to claims.
//!
//! # Watches
//! PersistentVolumeClaims, PersistentVolumes, StorageClasses, and the pods that use claims.
//!
//! # Writes
//! The two references between a claim and its volume, the annotations `pv.kubernetes.io/bind-completed` and
//! `pv.kubernetes.io/bound-by-controller`, the phases of both, a claim's default class, and the annotation
//! that asks an external provisioner for a volume. Events about what a claim waits for.
//!
//! # Guarantees
//! The volume is written first, on condition that nobody changed it, so no two claims get the same one; a
//! binding that was interrupted is taken up again. A claim that was bound once is never given another volume.
//!
//! # Differs from Kubernetes
//! Volumes are neither made nor deleted here, whatever their type: that is for provisioners. A claim that
//! waits for its first consumer is also bound when a pod that uses it has a node and nobody selected one.

mod claim;
mod matching;
mod volume;

use std::sync::Arc;

use async_trait::async_trait;
use component_base::clock::{Clock, time_of};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::claims::claims_of;
use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::{Cached, Informer};
use crate::key::ObjectKey;
use crate::owners::{annotation, is_deleting, name_of, uid_of};
use crate::queue::Queue;

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const DEFAULT_CLASS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// Something to record as an event.
#[derive(Debug, PartialEq)]
struct Told {
    warning: bool,
    reason: &'static str,
    message: String,
}

impl Told {
    fn normal(reason: &'static str, message: String) -> Self {
        Self { warning: false, reason, message }
    }

    fn warning(reason: &'static str, message: String) -> Self {
        Self { warning: true, reason, message }
    }

    fn record<K: Cached>(&self, events: &Events, about: &K) {
        if self.warning {
            events.warning(about, self.reason, &self.message);
        } else {
            events.normal(about, self.reason, &self.message);
        }
    }
}

pub(crate) struct PersistentVolumeBinder {
    client: Client,
    clock: Clock,
    events: Events,
    queue: Queue,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    pods: Arc<Informer<Pod>>,
}

#[async_trait]
impl Controller for PersistentVolumeBinder {
    const NAME: &'static str = "persistentvolume-binder-controller";
    const CONCURRENCY: usize = 1;

    /// A claim's key has a namespace, a volume's has none.
    fn watches(setup: &Setup<'_>) -> Self {
        let claims = setup.watch(|claim: &PersistentVolumeClaim| {
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            let volume = Some(volume).filter(|name| !name.is_empty()).map(ObjectKey::cluster);
            volume.into_iter().chain([ObjectKey::of(claim)]).collect()
        });
        let open = claims.clone();
        let volumes = setup.watch(move |volume: &PersistentVolume| {
            let mut keys = vec![ObjectKey::of(volume)];
            keys.extend(claim_of(volume));
            if keys.len() == 1 {
                keys.extend(open_claims(&open));
            }
            keys
        });
        let open = claims.clone();
        let classes = setup.watch(move |_: &StorageClass| open_claims(&open));
        let open = claims.clone();
        let pods = setup.watch(move |pod: &Pod| {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let keys = claims_of(pod).into_iter().map(|name| ObjectKey::new(namespace.clone(), name));
            keys.filter(|key| open.get(key).is_some_and(|claim| !is_bound(&claim))).collect()
        });
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            queue: setup.queue.clone(),
            claims,
            volumes,
            classes,
            pods,
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        if key.namespace.is_empty() {
            if let Some(volume) = self.volumes.get(key) {
                self.sync_volume(&volume).await?;
            }
        } else if let Some(claim) = self.claims.get(key).filter(|claim| !is_deleting(&claim.metadata)) {
            self.sync_claim(&claim).await?;
        }
        Ok(Action::Done)
    }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

fn open_claims(claims: &Informer<PersistentVolumeClaim>) -> Vec<ObjectKey> {
    claims.all().iter().filter(|claim| !is_bound(claim)).map(|claim| ObjectKey::of(&**claim)).collect()
}

/// The key of the claim that the volume refers to.
fn claim_of(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.clone()?, reference.name.clone()?))
}

impl PersistentVolumeBinder {
    async fn sync_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), kube::Error> {
        let volumes = self.volumes.all();
        let class = self.classes.get(&ObjectKey::cluster(matching::class_of_claim(claim)));
        let default_class = self.default_class();
        let (unscheduled, node) = self.consumers(claim);
        let observed = claim::Observed {
            claim,
            volumes: &volumes,
            class: class.as_deref(),
            default_class: default_class.as_deref(),
            unscheduled,
            node,
        };
        for step in claim::plan(&observed) {
            self.do_for_claim(claim, step).await?;
        }
        Ok(())
    }

    async fn do_for_claim(
        &self,
        claim: &PersistentVolumeClaim,
        step: claim::Step,
    ) -> Result<(), kube::Error> {
        match step {
            claim::Step::SetClass(class) => {
                self.patch_claim(claim, json!({"spec": {"storageClassName": class}})).await
            }
            claim::Step::Bind(volume) => self.bind(claim, &volume).await,
            claim::Step::Provision { provisioner, node } => {
                let mut annotations = json!({PROVISIONER: provisioner, OLD_PROVISIONER: provisioner});
                if let Some(node) = node {
                    annotations[SELECTED_NODE] = node.into();
                }
                self.patch_claim(claim, json!({"metadata": {"annotations": annotations}})).await
            }
            claim::Step::Phase(phase) => {
                let now = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                if now == Some(phase) {
                    return Ok(());
                }
                self.patch_claim_status(claim, json!({"phase": phase})).await
            }
            claim::Step::Tell(told) => {
                told.record(&self.events, claim);
                Ok(())
            }
        }
    }

    async fn sync_volume(&self, volume: &PersistentVolume) -> Result<(), kube::Error> {
        let claim = match claim_of(volume) {
            None => None,
            Some(key) => self.living_claim(volume, &key).await?,
        };
        for step in volume::plan(volume, claim.as_deref()) {
            match step {
                volume::Step::Phase(phase, message) => self.set_phase(volume, phase, message).await?,
                volume::Step::Unbind { keep_name } => self.unbind(volume, keep_name).await?,
                volume::Step::LookAtClaim => claim_of(volume).into_iter().for_each(|key| self.queue.add(key)),
                volume::Step::Tell(told) => told.record(&self.events, volume),
            }
        }
        Ok(())
    }

    /// The claim of this very reference. That it is gone is taken from the server, never from the cache.
    async fn living_claim(
        &self,
        volume: &PersistentVolume,
        key: &ObjectKey,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, kube::Error> {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let uid = reference.and_then(|reference| reference.uid.clone()).unwrap_or_default();
        let is_it = |claim: &PersistentVolumeClaim| uid.is_empty() || uid_of(&claim.metadata) == uid;
        if let Some(claim) = self.claims.get(key).filter(|claim| is_it(claim)) {
            return Ok(Some(claim));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(&key.name).await?.filter(is_it).map(Arc::new))
    }

    /// Writes what is missing of a binding, in the order in which a crash leaves no volume with two claims.
    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), kube::Error> {
        let name = name_of(&volume.metadata);
        if let Some(patch) = self.claim_reference(claim, volume) {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        let annotations = claim::annotations_of_binding(claim);
        if !annotations.is_empty() {
            let annotations: Value = annotations.into_iter().map(|name| (name, "yes")).collect();
            let patch = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}});
            self.patch_claim(claim, patch).await?;
        }
        if !is_bound(claim) {
            let spec = volume.spec.as_ref();
            let status = json!({
                "phase": "Bound",
                "accessModes": spec.and_then(|spec| spec.access_modes.clone()),
                "capacity": spec.and_then(|spec| spec.capacity.clone()),
                "currentVolumeAttributesClassName":
                    spec.and_then(|spec| spec.volume_attributes_class_name.clone()),
            });
            // The volume is of one kind with the claim from here on: both phases follow.
            self.patch_claim_status(claim, status).await?;
            self.queue.add(ObjectKey::cluster(name));
        }
        Ok(())
    }

    /// The patch that makes the volume the claim's, if it is not yet.
    fn claim_reference(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
        let old = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let (meta, uid) = (&claim.metadata, uid_of(&claim.metadata));
        if old.is_some_and(|old| old.uid.as_deref() == Some(uid)) {
            return None;
        }
        let mut patch = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version},
            "spec": {"claimRef": {
                "kind": "PersistentVolumeClaim",
                "apiVersion": "v1",
                "namespace": meta.namespace,
                "name": meta.name,
                "uid": uid,
                "resourceVersion": meta.resource_version,
            }},
        });
        if !matching::is_bound_to(volume, claim)
            && annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_none()
        {
            patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        Some(patch)
    }

    async fn patch_claim(&self, claim: &PersistentVolumeClaim, patch: Value) -> Result<(), kube::Error> {
        let api = self.api_of(claim);
        api.patch(name_of(&claim.metadata), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    async fn patch_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: Value,
    ) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({"metadata": {"uid": claim.metadata.uid}, "status": status}));
        let api = self.api_of(claim);
        api.patch_status(name_of(&claim.metadata), &PatchParams::default(), &patch).await.map(drop)
    }

    fn api_of(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), claim.metadata.namespace.as_deref().unwrap_or_default())
    }

    async fn set_phase(
        &self,
        volume: &PersistentVolume,
        phase: &'static str,
        message: Option<String>,
    ) -> Result<(), kube::Error> {
        let now = time_of(self.clock.now());
        let patch = json!({
            "metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version},
            "status": {"phase": phase, "message": message, "lastPhaseTransitionTime": now},
        });
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = name_of(&volume.metadata);
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// Lets go of the claim; a name that a user wrote stays.
    async fn unbind(&self, volume: &PersistentVolume, keep_name: bool) -> Result<(), kube::Error> {
        let reference = if keep_name { json!({"uid": null, "resourceVersion": null}) } else { Value::Null };
        let patch = json!({
            "metadata": {
                "resourceVersion": volume.metadata.resource_version,
                "annotations": {BOUND_BY_CONTROLLER: null},
            },
            "spec": {"claimRef": reference},
        });
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        api.patch(name_of(&volume.metadata), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// The newest of the classes that are marked as default.
    fn default_class(&self) -> Option<String> {
        let classes = self.classes.all();
        let marked = classes.iter().filter(|class| {
            DEFAULT_CLASS.iter().any(|mark| annotation(&class.metadata, mark) == Some("true"))
        });
        let age = |class: &&Arc<StorageClass>| {
            let made = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (made, std::cmp::Reverse(name_of(&class.metadata).to_owned()))
        };
        marked.max_by_key(age).map(|class| name_of(&class.metadata).to_owned())
    }

    /// The pods of the claim that have no node yet, and the node of one that has.
    fn consumers(&self, claim: &PersistentVolumeClaim) -> (Vec<String>, Option<String>) {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let name = name_of(&claim.metadata);
        let pods = self.pods.in_namespace(namespace);
        let users = pods
            .iter()
            .filter(|pod| !api_types::pods::is_terminal(pod) && claims_of(pod).iter().any(|one| one == name));
        let (mut waiting, mut node) = (Vec::new(), None);
        for pod in users {
            match pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()) {
                Some(found) => node = Some(found),
                None => waiting.push(name_of(&pod.metadata).to_owned()),
            }
        }
        (waiting, node)
    }
}
