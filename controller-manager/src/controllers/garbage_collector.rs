//! `garbage-collector-controller`: deletes what its owners left behind.
//!
//! # Watches
//! The metadata of every object of every kind the server has, custom ones among them; Events excepted.
//!
//! # Writes
//! Deletes objects without a living owner; removes owner references and the finalizers
//! `foregroundDeletion` and `orphan`. The event `OwnerRefInvalidNamespace` about an object that names an owner
//! of another namespace.
//!
//! # Guarantees
//! Nothing is deleted on the word of a cache: the object and its owners are asked for at the server before,
//! and the deletion names the uid. An owner that does not exist in the dependent's namespace counts as gone.
//! An owner of a kind the server does not know keeps its dependents until the kind appears; one that was seen
//! to go does not. A circle of owners that wait for each other is opened where it is found.
//!
//! # Differs from Kubernetes
//! Kinds are discovered again when a CustomResourceDefinition changes, not at an interval.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use component_base::Shutdown;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tracing::warn;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::key::ObjectKey;
use crate::metadata::{Listener, Metadata, MetadataWatches};
use crate::owners::{is_deleting, name_of, uid_of};
use crate::ownership::{FOREGROUND, Graph, Node, ORPHAN};
use crate::queue::Queue;
use crate::resources::ServedResource;

pub(crate) struct GarbageCollector {
    client: Client,
    shared: Arc<Shared>,
    kinds: Arc<MetadataWatches>,
    stop: Shutdown,
}

/// What the watches write and the reconciles read.
struct Shared {
    graph: Mutex<Graph>,
    kinds: Arc<MetadataWatches>,
    queue: Queue,
    events: Events,
}

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnerState {
    /// It lives.
    Solid,
    /// It is being deleted and waits for this dependent.
    Waiting,
    /// It is gone.
    Dangling,
}

/// What an object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dependents {
    None,
    Some,
    /// One of them waits for its own dependents, so this object may be part of a circle.
    Waiting,
}

/// What to do about an object that has owners.
#[derive(Debug, PartialEq)]
enum Step {
    Keep,
    /// Let go of the owners with these uids.
    Drop(BTreeSet<String>),
    Delete(PropagationPolicy),
    /// Hold up no owner any more, then delete in the foreground.
    Unblock,
}

fn plan(meta: &ObjectMeta, owners: &[(OwnerReference, OwnerState)], dependents: Dependents) -> Step {
    if owners.is_empty() {
        return Step::Keep;
    }
    let any = |state| owners.iter().any(|(_, one)| *one == state);
    let rest =
        || owners.iter().filter(|(_, state)| *state != OwnerState::Solid).map(|(owner, _)| owner.uid.clone());
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|one| one == finalizer);
    match (any(OwnerState::Solid), any(OwnerState::Waiting), dependents) {
        (true, _, _) if rest().next().is_none() => Step::Keep,
        (true, _, _) => Step::Drop(rest().collect()),
        (false, true, Dependents::Waiting) => Step::Unblock,
        (false, true, Dependents::Some) => Step::Delete(PropagationPolicy::Foreground),
        _ if has(ORPHAN) => Step::Delete(PropagationPolicy::Orphan),
        _ if has(FOREGROUND) => Step::Delete(PropagationPolicy::Foreground),
        _ => Step::Delete(PropagationPolicy::Background),
    }
}

#[async_trait]
impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector-controller";
    const CONCURRENCY: usize = 20;

    fn watches(setup: &Setup<'_>) -> Self {
        let kinds = setup.informers.metadata();
        let shared = Arc::new(Shared {
            graph: Mutex::default(),
            kinds: kinds.clone(),
            queue: setup.queue.clone(),
            events: setup.events(),
        });
        kinds.subscribe(shared.clone());
        let stop = setup.tasks.shutdown().clone();
        Self { client: setup.client.clone(), shared, kinds, stop }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        // Before every kind is listed, what has no dependents may only seem so.
        if self.stop.run_until_cancelled(self.kinds.wait_until_synced()).await.is_none() {
            return Ok(Action::Done);
        }
        self.visit(&key.name).await?;
        Ok(Action::Done)
    }
}

impl Listener for Shared {
    fn put(&self, resource: &ServedResource, object: &Metadata) {
        let node = Node::of(&resource.id(), &object.metadata);
        let noted = self.graph.lock().put(uid_of(&object.metadata), node);
        noted.misplaced.iter().for_each(|(uid, owner)| self.report_misplaced(uid, owner));
        self.visit_later(noted.visit);
    }

    fn remove(&self, _resource: &ServedResource, object: &Metadata) {
        self.forget(uid_of(&object.metadata));
    }

    fn listed(&self, resource: &ServedResource, uids: &BTreeSet<String>) {
        let known = self.graph.lock().of_resource(&resource.id());
        known.difference(uids).for_each(|uid| self.forget(uid));
        // An owner that lived when its dependent was looked at can have gone before its kind was first listed.
        let undecided = self.graph.lock().with_unknown_owners(|owner| is_of(owner, resource));
        self.visit_later(undecided);
    }

    /// What an unknown owner kept may now be decided.
    fn kinds_changed(&self) {
        let undecided = self.graph.lock().with_unknown_owners(|_| true);
        self.visit_later(undecided);
    }

    fn restored(&self) {
        self.graph.lock().forget_gone();
    }
}

impl Shared {
    fn report_misplaced(&self, dependent: &str, owner: &OwnerReference) {
        let Some(node) = self.graph.lock().get(dependent).cloned() else { return };
        let Some(resource) = self.kinds.resource(&node.resource) else { return };
        let message = misplaced_message(owner, &node.namespace);
        let about = ObjectReference {
            api_version: Some(resource.api.api_version),
            kind: Some(resource.api.kind),
            namespace: Some(node.namespace).filter(|namespace| !namespace.is_empty()),
            name: Some(node.name),
            uid: Some(dependent.to_owned()),
            ..ObjectReference::default()
        };
        self.events.warning_about(about, "OwnerRefInvalidNamespace", &message);
    }

    fn forget(&self, uid: &str) {
        let visit = self.graph.lock().remove(uid);
        self.visit_later(visit);
    }

    fn visit_later(&self, uids: Vec<String>) {
        uids.into_iter().for_each(|uid| self.queue.add(ObjectKey::cluster(uid)));
    }

    /// The resource that an owner reference means, in whatever version.
    fn resource_of(&self, owner: &OwnerReference) -> Option<ServedResource> {
        self.kinds.resources(|one| is_of(owner, one)).into_iter().next()
    }
}

/// Whether an owner reference means an object of the resource, in whatever version.
fn is_of(owner: &OwnerReference, resource: &ServedResource) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    resource.api.group == group && resource.api.kind == owner.kind
}

fn misplaced_message(owner: &OwnerReference, namespace: &str) -> String {
    let OwnerReference { api_version, kind, name, uid, .. } = owner;
    format!(
        "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}"
    )
}

impl GarbageCollector {
    fn api(&self, resource: &ServedResource, namespace: &str) -> Api<DynamicObject> {
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource.api)
        } else {
            Api::all_with(self.client.clone(), &resource.api)
        }
    }

    async fn visit(&self, uid: &str) -> Result<(), kube::Error> {
        let Some(node) = self.shared.graph.lock().get(uid).cloned() else { return Ok(()) };
        let Some(resource) = self.kinds.resource(&node.resource) else { return Ok(()) };
        let api = self.api(&resource, &node.namespace);
        let live = api.get_metadata_opt(&node.name).await?.filter(|live| uid_of(&live.metadata) == uid);
        let Some(live) = live else {
            self.shared.forget(uid);
            return Ok(());
        };
        let meta = &live.metadata;
        let now = Node::of(&node.resource, meta);
        match (now.orphans, now.waits, is_deleting(meta)) {
            (true, _, _) => self.orphan_dependents(&api, uid, meta).await,
            (_, true, _) => self.wait_for_dependents(&api, uid, meta).await,
            (_, _, true) => Ok(()),
            (_, _, false) => self.decide(&api, &resource, uid, meta).await,
        }
    }

    async fn decide(
        &self,
        api: &Api<DynamicObject>,
        resource: &ServedResource,
        uid: &str,
        meta: &ObjectMeta,
    ) -> Result<(), kube::Error> {
        let mut owners = Vec::new();
        for owner in meta.owner_references.iter().flatten() {
            owners.push((owner.clone(), self.state_of(owner, resource, meta).await?));
        }
        match plan(meta, &owners, self.dependents_of(uid)) {
            Step::Keep => Ok(()),
            Step::Drop(uids) => drop_owners(api, meta, &uids).await,
            Step::Delete(policy) => delete(api, meta, policy).await,
            Step::Unblock => match unblock_owners(api, meta).await? {
                Some(unblocked) => delete(api, &unblocked, PropagationPolicy::Foreground).await,
                None => Ok(()),
            },
        }
    }

    fn dependents_of(&self, uid: &str) -> Dependents {
        let graph = self.shared.graph.lock();
        match (graph.has_waiting_dependent(uid), graph.dependents(uid).is_empty()) {
            (true, _) => Dependents::Waiting,
            (false, false) => Dependents::Some,
            (false, true) => Dependents::None,
        }
    }

    async fn state_of(
        &self,
        owner: &OwnerReference,
        dependent: &ServedResource,
        meta: &ObjectMeta,
    ) -> Result<OwnerState, kube::Error> {
        if self.shared.graph.lock().is_gone(&owner.uid) {
            return Ok(OwnerState::Dangling);
        }
        let Some(resource) = self.shared.resource_of(owner) else {
            warn!(
                owner = owner.name,
                kind = owner.kind,
                api_version = owner.api_version,
                "owner of an unknown kind; its dependent stays"
            );
            return Ok(OwnerState::Solid);
        };
        if resource.namespaced && !dependent.namespaced {
            // A namespaced owner of a cluster-scoped object cannot be found; nothing is deleted for it.
            return Ok(OwnerState::Solid);
        }
        let api = self.api(&resource, meta.namespace.as_deref().unwrap_or_default());
        let live =
            api.get_metadata_opt(&owner.name).await?.filter(|live| uid_of(&live.metadata) == owner.uid);
        Ok(match live {
            None => OwnerState::Dangling,
            Some(live) if Node::of("", &live.metadata).waits => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
        })
    }

    /// The owner goes and its dependents stay.
    async fn orphan_dependents(
        &self,
        api: &Api<DynamicObject>,
        uid: &str,
        meta: &ObjectMeta,
    ) -> Result<(), kube::Error> {
        let dependents = self.shared.graph.lock().dependents(uid);
        for dependent in dependents {
            let Some(node) = self.shared.graph.lock().get(&dependent).cloned() else { continue };
            let Some(resource) = self.kinds.resource(&node.resource) else { continue };
            let of_dependent = self.api(&resource, &node.namespace);
            let live = of_dependent.get_metadata_opt(&node.name).await?;
            if let Some(live) = live.filter(|live| uid_of(&live.metadata) == dependent) {
                drop_owners(&of_dependent, &live.metadata, &[uid.to_owned()].into()).await?;
            }
        }
        remove_finalizer(api, meta, ORPHAN).await
    }

    /// The owner goes after its dependents.
    async fn wait_for_dependents(
        &self,
        api: &Api<DynamicObject>,
        uid: &str,
        meta: &ObjectMeta,
    ) -> Result<(), kube::Error> {
        let (blocked, dependents) = {
            let graph = self.shared.graph.lock();
            let mut dependents = graph.dependents(uid);
            dependents.retain(|one| !graph.waits(one));
            (graph.is_blocked(uid), dependents)
        };
        if !blocked {
            return remove_finalizer(api, meta, FOREGROUND).await;
        }
        self.shared.visit_later(dependents);
        Ok(())
    }
}

/// Deletes the object as it was read, and no other.
async fn delete(
    api: &Api<DynamicObject>,
    meta: &ObjectMeta,
    policy: PropagationPolicy,
) -> Result<(), kube::Error> {
    let preconditions =
        Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    let params = DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    unless_gone(api.delete(name_of(meta), &params).await.map(drop))
}

/// Says in all owner references that they hold up no deletion. Returns the metadata after that.
async fn unblock_owners(
    api: &Api<DynamicObject>,
    meta: &ObjectMeta,
) -> Result<Option<ObjectMeta>, kube::Error> {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
    }});
    match api.patch_metadata(name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(patched) => Ok(Some(patched.metadata)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn drop_owners(
    api: &Api<DynamicObject>,
    meta: &ObjectMeta,
    uids: &BTreeSet<String>,
) -> Result<(), kube::Error> {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    let before = owners.len();
    owners.retain(|owner| !uids.contains(&owner.uid));
    if owners.len() == before {
        return Ok(());
    }
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
    }});
    unless_gone(
        api.patch_metadata(name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop),
    )
}

async fn remove_finalizer(
    api: &Api<DynamicObject>,
    meta: &ObjectMeta,
    finalizer: &str,
) -> Result<(), kube::Error> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|one| one != finalizer);
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers,
    }});
    unless_gone(
        api.patch_metadata(name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop),
    )
}

fn unless_gone(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Dangling, Solid, Waiting};
    use super::*;

    fn check(states: &[OwnerState], finalizers: &[&str], dependents: Dependents, expected: Step) {
        let owner = |(index, state): (usize, &OwnerState)| {
            (OwnerReference { uid: index.to_string(), ..OwnerReference::default() }, *state)
        };
        let owners: Vec<_> = states.iter().enumerate().map(owner).collect();
        let finalizers = finalizers.iter().map(|one| (*one).to_owned()).collect();
        let meta = ObjectMeta { finalizers: Some(finalizers), ..ObjectMeta::default() };
        assert_eq!(plan(&meta, &owners, dependents), expected);
    }

    #[test]
    fn an_object_without_owners_stays() {
        check(&[], &[], Dependents::None, Step::Keep);
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        check(&[Dangling, Dangling], &[], Dependents::None, Step::Delete(PropagationPolicy::Background));
    }

    #[test]
    fn an_object_with_a_living_owner_only_forgets_the_others() {
        check(
            &[Solid, Dangling, Waiting],
            &[],
            Dependents::None,
            Step::Drop(["1".to_owned(), "2".to_owned()].into()),
        );
    }

    #[test]
    fn a_dependent_with_dependents_is_deleted_in_the_foreground_too() {
        check(&[Waiting], &[], Dependents::Some, Step::Delete(PropagationPolicy::Foreground));
        check(&[Waiting], &[], Dependents::None, Step::Delete(PropagationPolicy::Background));
    }

    #[test]
    fn a_circle_of_owners_that_wait_is_opened() {
        check(&[Waiting], &[], Dependents::Waiting, Step::Unblock);
        check(&[Dangling], &[], Dependents::Waiting, Step::Delete(PropagationPolicy::Background));
    }

    #[test]
    fn a_misplaced_reference_is_told_in_full() {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: "c".into(),
            uid: "7".into(),
            ..OwnerReference::default()
        };
        let expected =
            "ownerRef [v1/ConfigMap, namespace: team, name: c, uid: 7] does not exist in namespace \"team\"";
        assert_eq!(misplaced_message(&owner, "team"), expected);
    }

    #[test]
    fn an_own_finalizer_decides_how_it_goes() {
        check(&[Dangling], &[ORPHAN], Dependents::None, Step::Delete(PropagationPolicy::Orphan));
    }
}
