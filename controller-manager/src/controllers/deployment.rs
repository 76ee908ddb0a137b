//! `deployment-controller`: rolls a Deployment's template out over ReplicaSets.
//!
//! `plan` decides and this file does; the parts are in `deployment/`: the facts that all decisions use in
//! `wanted`, the numbers of a rollout in `rolling`, `recreate` and `scaling`, revisions and the making of a
//! new set in `history`, and what the Deployment says of itself in `status`.
//!
//! # Watches
//! Deployments; ReplicaSets by their controlling owner or by labels; pods, for Recreate.
//!
//! # Writes
//! ReplicaSets (create, scale, annotations, delete old ones), and the Deployment's status together with its
//! revision annotation, once for all that a reconcile changed.
//!
//! # Guarantees
//! While a rolling update runs there are at most `replicas + maxSurge` pods and at least
//! `replicas - maxUnavailable` available ones. Recreate starts nothing before every old pod is gone. A
//! template that was there before takes its old ReplicaSet again, so `kubectl rollout undo` works. A
//! ReplicaSet's name is made from its template, so no two are made for one, whatever the cache shows.
//!
//! # Differs from Kubernetes
//! The deprecated `rollbackTo` annotation is not read. Hash values differ from those of kube-controller-manager.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::pods;
use async_trait::async_trait;
use component_base::client::said;
use component_base::clock::Clock;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::expectations::Expectations;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, annotation, name_of, uid_of};
use crate::pod_control::{claim_all, delete_exactly, is_namespace_going};
use crate::why;
use history::REVISION;
use wanted::{Wanted, has_template, size};

mod history;
mod recreate;
mod rolling;
mod scaling;
mod status;
#[cfg(test)]
mod tests;
mod wanted;

pub(crate) struct DeploymentController {
    client: Client,
    clock: Clock,
    events: Events,
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
    /// Sets that were written: without them, a lagging cache would have two templates rolled out at once.
    expectations: Expectations,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Box<ReplicaSet>),
    Change(Change),
    Delete(Arc<ReplicaSet>),
}

/// How a set is to change; it is written once, whatever changes.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    set: Arc<ReplicaSet>,
    replicas: i32,
    annotations: BTreeMap<String, String>,
    min_ready_seconds: Option<i32>,
}

/// What `plan` sees.
struct Observed<'a> {
    deployment: &'a Deployment,
    /// The sets that the Deployment controls.
    sets: &'a [Arc<ReplicaSet>],
    /// Whether a pod of an old set is still there; only Recreate asks.
    old_pods: bool,
}

/// What a reconcile is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It is going: nothing but to tell how far it is.
    Tell,
    /// It is paused, or its number changed: sets are sized, and no template is rolled out.
    Scale,
    Recreate,
    Roll,
}

impl Mode {
    fn of(wanted: &Wanted<'_>) -> Self {
        if owners::is_deleting(&wanted.deployment.metadata) {
            Self::Tell
        } else if wanted.is_paused() || scaling::is_due(wanted) {
            Self::Scale
        } else if wanted.is_recreate() {
            Self::Recreate
        } else {
            Self::Roll
        }
    }
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    let deployment = observed.deployment;
    let Some(wanted) = Wanted::of(deployment, observed.sets) else { return Vec::new() };
    let moves = match Mode::of(&wanted) {
        Mode::Tell => return Vec::new(),
        Mode::Scale => scaling::steps(&wanted),
        Mode::Recreate => recreate::steps(&wanted, observed.old_pods),
        Mode::Roll => rolling::steps(&wanted),
    };
    let mut steps: Vec<Step> = history::renew(&wanted).into_iter().map(Step::Change).collect();
    merge(&mut steps, moves);
    if steps.is_empty() && (wanted.is_paused() || wanted.is_complete(deployment.status.as_ref())) {
        steps = history::forget(&wanted);
    }
    steps
}

/// Joins changes of the same set, so that each set is written once.
fn merge(steps: &mut Vec<Step>, moves: Vec<Step>) {
    for step in moves {
        let Step::Change(change) = step else {
            steps.push(step);
            continue;
        };
        let earlier = steps.iter_mut().find_map(|earlier| match earlier {
            Step::Change(one) if name_of(&one.set.metadata) == name_of(&change.set.metadata) => Some(one),
            _ => None,
        });
        match earlier {
            Some(one) => {
                one.replicas = change.replicas;
                one.annotations.extend(change.annotations);
            }
            None => steps.push(Step::Change(change)),
        }
    }
}

/// What came of the step that makes the new set.
#[derive(Debug, Default)]
enum Creation {
    #[default]
    None,
    /// A set of this name was made.
    Made(String),
    /// Its name is taken by a set with another template or owner.
    Collided,
    Refused(kube::Error),
}

#[async_trait]
impl Controller for DeploymentController {
    const NAME: &'static str = "deployment-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let deployments = setup.watch_own::<Deployment>();
        let selecting = deployments.clone();
        let sets = setup.watch::<ReplicaSet>(move |set| keys_of(set, &selecting));
        let (recreating, of_sets) = (deployments.clone(), sets.clone());
        let pods =
            setup.watch::<Pod>(move |pod| recreate_key(pod, &of_sets, &recreating).into_iter().collect());
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            deployments,
            sets,
            pods,
            expectations: Expectations::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(deployment) = self.deployments.get(key) else {
            self.expectations.forget(key);
            return Ok(Action::Done);
        };
        if !self.expectations.are_met(key, &*self.sets) {
            why::waits_for("its replica sets as they were written");
            return Ok(Action::Done);
        }
        let Some(spec) = deployment.spec.as_ref() else { return Ok(Action::Done) };
        if owners::is_empty(&spec.selector) {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.warning(&*deployment, "SelectingAll", text);
            return Err(ReconcileError::Terminal("the selector is empty".to_owned()));
        }
        let candidates = self.sets.claimable(uid_of(&deployment.metadata), &key.namespace);
        let mut sets = claim_all(&self.client, &*deployment, &spec.selector, candidates).await?;
        let Some(before) = Wanted::of(&deployment, &sets) else { return Ok(Action::Done) };
        let mode = Mode::of(&before);
        let old_pods = mode == Mode::Recreate && self.has_old_pods(&before);
        let mut creation = Creation::None;
        for step in plan(&Observed { deployment: &deployment, sets: &sets, old_pods }) {
            match step {
                Step::Create(set) => creation = self.create(&deployment, &set, &mut sets).await?,
                Step::Change(change) => self.change(&deployment, change, &mut sets).await?,
                Step::Delete(set) => delete_exactly(&self.client, &*set, DeleteParams::background()).await?,
            }
        }
        self.tell(&deployment, &sets, mode, creation).await
    }
}

/// The Deployments that a change of `set` concerns.
fn keys_of(set: &ReplicaSet, deployments: &Informer<Deployment>) -> Vec<ObjectKey> {
    if let Some(key) = owners::controller_key::<Deployment>(&set.metadata) {
        return vec![key];
    }
    if owners::controller_of(&set.metadata).is_some() {
        return Vec::new();
    }
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let selecting = deployments.in_namespace(namespace).into_iter().filter(|one| {
        let selector = one.spec.as_ref().map(|spec| &spec.selector);
        selector.is_some_and(|selector| {
            !owners::is_empty(selector) && owners::selects(selector, set.metadata.labels.as_ref())
        })
    });
    selecting.map(|one| ObjectKey::of(&*one)).collect()
}

/// The Deployment that waits for `pod` to go, if one does.
fn recreate_key(
    pod: &Pod,
    sets: &Informer<ReplicaSet>,
    deployments: &Informer<Deployment>,
) -> Option<ObjectKey> {
    let set = sets.get(&owners::controller_key::<ReplicaSet>(&pod.metadata)?)?;
    let key = owners::controller_key::<Deployment>(&set.metadata)?;
    let deployment = deployments.get(&key)?;
    let strategy = deployment.spec.as_ref()?.strategy.as_ref()?;
    (strategy.type_.as_deref() == Some("Recreate")).then_some(key)
}

impl DeploymentController {
    /// Whether an old set still has, or says that it has, pods that did not finish.
    fn has_old_pods(&self, wanted: &Wanted<'_>) -> bool {
        wanted.old.iter().any(|set| {
            let counted = set.status.as_ref().is_some_and(|status| status.replicas > 0);
            let owned = self.pods.owned_by(uid_of(&set.metadata));
            counted || owned.iter().any(|pod| !pods::is_terminal(pod))
        })
    }

    fn sets_api(&self, deployment: &Deployment) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), deployment.metadata.namespace.as_deref().unwrap_or_default())
    }

    async fn create(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        sets: &mut Vec<Arc<ReplicaSet>>,
    ) -> Result<Creation, ReconcileError> {
        let (api, name) = (self.sets_api(deployment), name_of(&set.metadata));
        match api.create(&PostParams::default(), set).await {
            Ok(created) => {
                self.expectations.created(&ObjectKey::of(deployment), &self.sets, &created);
                self.tell_scaled(deployment, name, 0, size(set));
                sets.push(Arc::new(created));
                Ok(Creation::Made(name.to_owned()))
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let taken = api.get(name).await?;
                let owner = owners::controller_of(&taken.metadata).map(|owner| &owner.uid);
                let template = deployment.spec.as_ref().map(|spec| &spec.template);
                let is_ours = owner == deployment.metadata.uid.as_ref()
                    && template.is_some_and(|template| has_template(&taken, template));
                if !is_ours {
                    return Ok(Creation::Collided);
                }
                self.expectations.created(&ObjectKey::of(deployment), &self.sets, &taken);
                sets.push(Arc::new(taken));
                Ok(Creation::None)
            }
            Err(error) if is_namespace_going(&error) => Ok(Creation::None),
            Err(error) => {
                let message = status::refusal(name, &said(&error));
                self.events.warning(deployment, status::CREATE_ERROR, &message);
                Ok(Creation::Refused(error))
            }
        }
    }

    async fn change(
        &self,
        deployment: &Deployment,
        change: Change,
        sets: &mut [Arc<ReplicaSet>],
    ) -> Result<(), kube::Error> {
        let (name, before) = (name_of(&change.set.metadata), size(&change.set));
        let mut patch = json!({
            "metadata": {"resourceVersion": change.set.metadata.resource_version},
            "spec": {"replicas": change.replicas},
        });
        if !change.annotations.is_empty() {
            patch["metadata"]["annotations"] = json!(change.annotations);
        }
        if let Some(seconds) = change.min_ready_seconds {
            patch["spec"]["minReadySeconds"] = json!(seconds);
        }
        let api = self.sets_api(deployment);
        let changed = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.expectations.created(&ObjectKey::of(deployment), &self.sets, &changed);
        self.tell_scaled(deployment, name, before, change.replicas);
        if let Some(set) = sets.iter_mut().find(|set| name_of(&set.metadata) == name) {
            *set = Arc::new(changed);
        }
        Ok(())
    }

    fn tell_scaled(&self, deployment: &Deployment, name: &str, before: i32, after: i32) {
        if before != after {
            let way = if after > before { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {name} from {before} to {after}");
            self.events.normal(deployment, "ScalingReplicaSet", &message);
        }
    }

    /// Writes how far the Deployment is, seen from its sets as they are after the steps.
    async fn tell(
        &self,
        deployment: &Deployment,
        sets: &[Arc<ReplicaSet>],
        mode: Mode,
        creation: Creation,
    ) -> Result<Action, ReconcileError> {
        let now = self.clock.now();
        let Some(wanted) = Wanted::of(deployment, sets) else { return Ok(Action::Done) };
        let told = match &creation {
            Creation::Collided => status::collided(deployment),
            Creation::Refused(error) => status::refused(&wanted, &said(error), now),
            Creation::Made(name) => status::status(&wanted, mode, Some(name), now),
            Creation::None => status::status(&wanted, mode, None, now),
        };
        let left = status::deadline_in(&wanted, &told, now);
        let number = wanted.new.as_ref().and_then(|set| annotation(&set.metadata, REVISION));
        self.write_status(deployment, told, number).await?;
        match creation {
            Creation::Refused(error) => Err(error.into()),
            // A moment later than the deadline, when it is surely past.
            _ => Ok(Action::after(left.map(|left| left + Duration::from_secs(1)))),
        }
    }

    /// The revision goes along with the status: a change of annotations by itself would count as a new generation.
    async fn write_status(
        &self,
        deployment: &Deployment,
        status: DeploymentStatus,
        number: Option<&str>,
    ) -> Result<(), kube::Error> {
        let number = number.filter(|number| annotation(&deployment.metadata, REVISION) != Some(*number));
        if deployment.status.as_ref() == Some(&status) && number.is_none() {
            return Ok(());
        }
        let mut wanted = Deployment { status: Some(status), ..deployment.clone() };
        if let Some(number) = number {
            let annotations = wanted.metadata.annotations.get_or_insert_default();
            annotations.insert(REVISION.to_owned(), number.to_owned());
        }
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        api.replace_status(name_of(&deployment.metadata), &PostParams::default(), &wanted).await.map(drop)
    }
}
