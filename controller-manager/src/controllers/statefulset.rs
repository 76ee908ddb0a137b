//! `statefulset-controller`: keeps pods with stable names and claims, started and stopped in order.
//!
//! `plan` decides and this file does; the parts are in `statefulset/`: the decisions in `plan`, names and the
//! making of pods in `identity`, the pods' claims in `claims`, what the set says of itself in `status`.
//!
//! # Watches
//! StatefulSets, pods by their controlling owner or names. ControllerRevisions and claims are read.
//!
//! # Writes
//! Pods, claims, ControllerRevisions, the StatefulSet's status.
//!
//! # Guarantees
//! A name is used by one pod at a time. With OrderedReady a pod is made when all before it are available, and
//! removed when all after it are gone. A rolling update goes from the highest ordinal down to the partition,
//! with at most `maxUnavailable` pods missing. An ordered set whose next pod never gets ready stays so until
//! somebody deletes that pod, also when the template was mended meanwhile, as in Kubernetes.
//!
//! # Differs from Kubernetes
//! Claims get their owners when they are made, not in a second write. Conditions that others set are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::client::said;
use component_base::clock::Clock;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, name_of, uid_of};
use crate::pod_control::{claim_all, delete_exactly, is_namespace_going, slow_start};
use crate::revisions::{self, History};
use crate::why;
use claims::Owned;
use identity::{ordinal_of, pod_for, pod_name, revision_of};
use plan::{Observed, Steps, Template, plan};
use status::status;

mod claims;
mod identity;
mod plan;
mod status;
#[cfg(test)]
mod tests;

/// A pod's name that somebody else uses, or a claim that goes, is looked at again after this long.
const NAME_TAKEN_WAIT: Duration = Duration::from_secs(1);

/// What is done to a pod, with the reasons of the events about success and failure.
#[derive(Clone, Copy)]
struct Verb {
    name: &'static str,
    done: &'static str,
    failed: &'static str,
}

const CREATE: Verb = Verb { name: "create", done: "SuccessfulCreate", failed: "FailedCreate" };
const UPDATE: Verb = Verb { name: "update", done: "SuccessfulUpdate", failed: "FailedUpdate" };
const DELETE: Verb = Verb { name: "delete", done: "SuccessfulDelete", failed: "FailedDelete" };

pub(crate) struct StatefulSetController {
    client: Client,
    clock: Clock,
    events: Events,
    sets: Arc<Informer<StatefulSet>>,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    revisions: Arc<Informer<ControllerRevision>>,
}

#[async_trait]
impl Controller for StatefulSetController {
    const NAME: &'static str = "statefulset-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let sets = setup.watch_own::<StatefulSet>();
        let selecting = sets.clone();
        let pods = setup.watch::<Pod>(move |pod| keys_of(pod, &selecting));
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            sets,
            pods,
            claims: setup.read(),
            revisions: setup.read(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(set) = self.sets.get(key) else { return Ok(Action::Done) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Action::Done) };
        let mut candidates = self.pods.claimable(uid_of(&set.metadata), &key.namespace);
        candidates.retain(|pod| ordinal_of(&set, pod).is_some());
        let pods = claim_all(&self.client, &*set, &spec.selector, candidates).await?;
        if owners::is_deleting(&set.metadata) {
            return self.tell_going(&set, &pods).await;
        }
        let history = self.history(&set).await?;
        let current = current_of(&set, &history);
        let claims = self.claims_of(&set, &pods);
        let update = name_of(&history.update.metadata);
        let observed = Observed { set: &set, pods: &pods, claims: &claims, update, now: self.clock.now() };
        let done = self.apply(&set, &history, &current, plan(&observed)).await;
        let (status, next) = status(&observed, name_of(&current.metadata), history.collisions);
        self.write_status(&set, status).await?;
        let again = done?;
        let mut in_use: BTreeSet<String> =
            pods.iter().filter_map(|pod| revision_of(pod)).map(ToOwned::to_owned).collect();
        in_use.insert(name_of(&current.metadata).to_owned());
        revisions::forget_old(&self.client, &history, &in_use, spec.revision_history_limit).await?;
        Ok(Action::after(next.into_iter().chain(again).min()))
    }
}

/// The revision that the pods had before the update.
fn current_of(set: &StatefulSet, history: &History) -> Arc<ControllerRevision> {
    let name = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
    let found = history.all.iter().find(|one| one.metadata.name.as_deref() == name && name.is_some());
    found.unwrap_or(&history.update).clone()
}

/// The sets that a change of `pod` concerns.
fn keys_of(pod: &Pod, sets: &Informer<StatefulSet>) -> Vec<ObjectKey> {
    if let Some(key) = owners::controller_key::<StatefulSet>(&pod.metadata) {
        return vec![key];
    }
    if owners::controller_of(&pod.metadata).is_some() {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let named_like = sets.in_namespace(namespace).into_iter().filter(|set| ordinal_of(set, pod).is_some());
    named_like.map(|set| ObjectKey::of(&*set)).collect()
}

impl StatefulSetController {
    /// The set's revisions, that of its template among them, which is made when it is new.
    async fn history(&self, set: &StatefulSet) -> Result<History, ReconcileError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let spec = set.spec.clone().unwrap_or_default();
        let candidates = self.revisions.claimable(uid_of(&set.metadata), namespace);
        let known = claim_all(&self.client, set, &spec.selector, candidates).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        revisions::ensure_among(&self.client, known, set, &spec.template, collisions).await
    }

    /// Counts what is left of a set that is being deleted; nothing is made for it any more, not even a revision.
    async fn tell_going(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<Action, ReconcileError> {
        let Some(before) = set.status.as_ref() else { return Ok(Action::Done) };
        let update = before.update_revision.as_deref().unwrap_or_default();
        let current = before.current_revision.as_deref().unwrap_or_default();
        let claims = BTreeMap::new();
        let observed = Observed { set, pods, claims: &claims, update, now: self.clock.now() };
        let (status, _) = status(&observed, current, before.collision_count.unwrap_or(0));
        self.write_status(set, status).await?;
        Ok(Action::Done)
    }

    /// The claims of the set's pods, those that are and those that are to be, by name.
    fn claims_of(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
    ) -> BTreeMap<String, Arc<PersistentVolumeClaim>> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let there = pods.iter().filter_map(|pod| ordinal_of(set, pod));
        let names = plan::ordinals(set).chain(there).flat_map(|ordinal| claims::names(set, ordinal));
        let found = names.filter_map(|(_, name)| {
            let claim = self.claims.get(&ObjectKey::new(namespace, name.clone()))?;
            Some((name, claim))
        });
        found.collect()
    }

    /// Does the steps. Says after what time to look again, if something is in the way.
    async fn apply(
        &self,
        set: &StatefulSet,
        history: &History,
        current: &ControllerRevision,
        steps: Steps,
    ) -> Result<Option<Duration>, ReconcileError> {
        for claim in &steps.make_claims {
            self.make_claim(set, claim).await?;
        }
        for owned in &steps.own_claims {
            self.own_claim(owned).await?;
        }
        for (ordinal, pod) in &steps.label {
            self.label(set, *ordinal, pod).await?;
        }
        let create = |index: usize| {
            let (ordinal, template) = steps.create[index];
            self.create(set, history, current, ordinal, template)
        };
        match slow_start(steps.create.len(), create).await {
            Err(error) if is_namespace_going(&error) => return Ok(None),
            result => result?,
        }
        let deletions = steps.delete.iter().map(|pod| self.delete(set, pod));
        join_all(deletions).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        for (ordinal, why) in &steps.refused {
            let (pod, own) = (pod_name(set, *ordinal), name_of(&set.metadata));
            let what = format!("create Pod {pod} in StatefulSet {own} failed error: {why}");
            self.events.warning(set, CREATE.failed, &what);
        }
        if let Some(ordinal) = steps.waits_on {
            why::waits_for(format!("pod {} to be available", pod_name(set, ordinal)));
        }
        let taken = steps.create.iter().any(|(ordinal, _)| self.is_name_taken(set, *ordinal));
        Ok((taken || steps.waits).then_some(NAME_TAKEN_WAIT))
    }

    /// Whether a pod that the set does not control has the name of `ordinal`.
    fn is_name_taken(&self, set: &StatefulSet, ordinal: i32) -> bool {
        let namespace = set.metadata.namespace.clone().unwrap_or_default();
        let found = self.pods.get(&ObjectKey::new(namespace, pod_name(set, ordinal)));
        found.is_some_and(|pod| {
            owners::controller_of(&pod.metadata).map(|one| &one.uid) != set.metadata.uid.as_ref()
        })
    }

    fn api<K>(&self, set: &StatefulSet) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), set.metadata.namespace.as_deref().unwrap_or_default())
    }

    async fn make_claim(&self, set: &StatefulSet, claim: &PersistentVolumeClaim) -> Result<(), kube::Error> {
        let (name, own) = (name_of(&claim.metadata), name_of(&set.metadata));
        let pod = claims::pod_of(set, name);
        match self.api(set).create(&PostParams::default(), claim).await {
            Ok(_) => {
                let what = format!("create Claim {name} Pod {pod} in StatefulSet {own} success");
                self.events.normal(set, "SuccessfulCreate", &what);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => {
                let why = said(&error);
                let what =
                    format!("create Claim {name} for Pod {pod} in StatefulSet {own} failed error: {why}");
                self.events.warning(set, "FailedCreate", &what);
                Err(error)
            }
        }
    }

    async fn own_claim(&self, (claim, owners): &Owned) -> Result<(), kube::Error> {
        let meta = &claim.metadata;
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default());
        let patch = json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
        }});
        api.patch(name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    async fn label(&self, set: &StatefulSet, ordinal: i32, pod: &Pod) -> Result<(), kube::Error> {
        let labels: BTreeMap<String, String> = identity::labels(set, ordinal).into();
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}}));
        let name = name_of(&pod.metadata);
        let result = self.api::<Pod>(set).patch(name, &PatchParams::default(), &patch).await;
        self.tell(set, UPDATE, name, result.map(drop))
    }

    async fn create(
        &self,
        set: &StatefulSet,
        history: &History,
        current: &ControllerRevision,
        ordinal: i32,
        template: Template,
    ) -> Result<(), kube::Error> {
        let revision = if template == Template::Current { current } else { &*history.update };
        let made_from = match revisions::template_of(revision) {
            Some(made_from) => made_from,
            // A revision that cannot be read is no template; the set's own is the best there is.
            None => set.spec.clone().unwrap_or_default().template,
        };
        let pod = pod_for(set, &made_from, ordinal, name_of(&revision.metadata));
        match self.api(set).create(&PostParams::default(), &pod).await {
            // The cache has not seen the last one with this name come or go, or it is somebody else's.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            result => self.tell(set, CREATE, name_of(&pod.metadata), result.map(drop)),
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), kube::Error> {
        let result = delete_exactly(&self.client, pod, DeleteParams::default()).await;
        self.tell(set, DELETE, name_of(&pod.metadata), result)
    }

    /// Records what came of doing `verb` to the pod.
    fn tell(
        &self,
        set: &StatefulSet,
        verb: Verb,
        pod: &str,
        result: Result<(), kube::Error>,
    ) -> Result<(), kube::Error> {
        let own = name_of(&set.metadata);
        match &result {
            Ok(()) => {
                let what = format!("{} Pod {pod} in StatefulSet {own} successful", verb.name);
                self.events.normal(set, verb.done, &what);
            }
            Err(error) => {
                let why = said(error);
                let what = format!("{} Pod {pod} in StatefulSet {own} failed error: {why}", verb.name);
                self.events.warning(set, verb.failed, &what);
            }
        }
        result
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let wanted = StatefulSet { status: Some(status), ..set.clone() };
        let api: Api<StatefulSet> = self.api(set);
        api.replace_status(name_of(&set.metadata), &PostParams::default(), &wanted).await.map(drop)
    }
}
