//! `horizontal-pod-autoscaler-controller`: as many replicas as metrics ask for.
//!
//! [`metrics`] asks for figures, [`replicas`] says what size brings one metric to its target, [`behavior`] how fast
//! a size may change, and [`plan`] puts them together.
//!
//! # Watches
//! HorizontalPodAutoscalers; each is looked at every 15 seconds.
//!
//! # Writes
//! The scale of whatever the autoscaler names, custom kinds too; the autoscaler's status and events.
//!
//! # Guarantees
//! A metric without figures never shrinks a target. Of pods that several autoscalers select, none is scaled.
//!
//! # Differs from Kubernetes
//! What was recommended and done lately is remembered by this process: after a change of leaders, windows and
//! policies begin anew, as in Kubernetes.

mod behavior;
mod metrics;
mod plan;
mod replicas;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::conditions;
use api_types::selectors::LabelSelector;
use async_trait::async_trait;
use component_base::clock::{Clock, time_of};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::name_of;
use crate::resources::{ServedResource, served};
use behavior::History;
use plan::{Decision, Observed};

const PERIOD: Duration = Duration::from_secs(15);

pub(crate) struct HorizontalPodAutoscaling {
    client: Client,
    clock: Clock,
    events: Events,
    autoscalers: Arc<Informer<HorizontalPodAutoscaler>>,
    pods: Arc<Informer<Pod>>,
    histories: Mutex<HashMap<ObjectKey, History>>,
    /// Resources by group and kind, asked for when one is not known.
    resources: Mutex<HashMap<(String, String), ServedResource>>,
    /// The pods that each autoscaler selects.
    selectors: Mutex<HashMap<ObjectKey, LabelSelector>>,
}

/// Why the size of a target is not known: the reason, and whether it is about the target's pods.
struct Problem {
    condition: &'static str,
    reason: &'static str,
    message: String,
    event: String,
}

#[async_trait]
impl Controller for HorizontalPodAutoscaling {
    const NAME: &'static str = "horizontal-pod-autoscaler-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let autoscalers = setup.read::<HorizontalPodAutoscaler>();
        let queue = setup.queue.clone();
        autoscalers.subscribe(move |change| {
            // What this controller says in the status is no news.
            let spec = |object: Option<&Arc<HorizontalPodAutoscaler>>| object.map(|one| one.spec.clone());
            if spec(change.old) != spec(change.new) {
                change.new.or(change.old).into_iter().for_each(|one| queue.add(ObjectKey::of(&**one)));
            }
        });
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            autoscalers,
            pods: setup.read::<Pod>(),
            histories: Mutex::default(),
            resources: Mutex::default(),
            selectors: Mutex::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(hpa) = self.autoscalers.get(key) else {
            self.histories.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(Action::Done);
        };
        match self.decide(key, &hpa).await {
            Ok((decision, scale, api)) => self.carry_out(key, &hpa, decision, &scale, &api).await?,
            Err(problem) => self.report(&hpa, &problem).await?,
        }
        Ok(Action::RequeueAfter(PERIOD))
    }
}

fn unknown_scale(why: String) -> Problem {
    Problem {
        condition: "AbleToScale",
        reason: "FailedGetScale",
        message: format!("the HPA controller was unable to get the target's current scale: {why}"),
        event: why,
    }
}

fn unknown_pods(reason: &'static str, message: String) -> Problem {
    let event = message.clone();
    Problem { condition: "ScalingActive", reason, message, event }
}

impl HorizontalPodAutoscaling {
    async fn decide(
        &self,
        key: &ObjectKey,
        hpa: &HorizontalPodAutoscaler,
    ) -> Result<(Decision, Scale, Api<DynamicObject>), Problem> {
        let spec = hpa.spec.clone();
        let resource = self.resource_of(&spec.scale_target_ref).await.map_err(unknown_scale)?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource.api);
        let scale = api.get_scale(&spec.scale_target_ref.name).await;
        let scale = scale.map_err(|error| unknown_scale(words_of(&error)))?;
        let wanted = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let within = wanted >= spec.min_replicas.unwrap_or(1) && wanted <= spec.max_replicas && wanted > 0;
        let (mut pods, mut measured) = (Vec::new(), Vec::new());
        if within || (wanted == 0 && spec.min_replicas == Some(0)) {
            let text = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
            pods = self.selected(key, &text)?;
            let scope = metrics::Scope { client: &self.client, namespace: &key.namespace, selector: &text };
            for metric in spec.metrics.iter().flatten() {
                let described = match &metric.object {
                    Some(object) => self.resource_of(&object.described_object).await.ok(),
                    None => None,
                };
                measured.push(metrics::fetch(&scope, metric, described.as_ref()).await);
            }
        }
        let existing = scale.status.as_ref().map_or(0, |status| status.replicas);
        let observed = Observed { hpa, wanted, existing, pods: &pods, measured, now: self.clock.now() };
        let decision = plan::plan(&observed, self.histories.lock().entry(key.clone()).or_default());
        Ok((decision, scale, api))
    }

    /// The resource that a reference means, in whatever version.
    async fn resource_of(&self, reference: &CrossVersionObjectReference) -> Result<ServedResource, String> {
        let version = reference.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let id = (group.to_owned(), reference.kind.clone());
        if let Some(known) = self.resources.lock().get(&id).cloned() {
            return Ok(known);
        }
        let found = served(&self.client).await.map_err(|error| words_of(&error))?;
        let mut resources = self.resources.lock();
        *resources = found
            .into_iter()
            .map(|resource| ((resource.api.group.clone(), resource.api.kind.clone()), resource))
            .collect();
        let unknown = || format!("no matches for kind {:?} in group {group:?}", reference.kind);
        resources.get(&id).cloned().ok_or_else(unknown)
    }

    /// The pods that the target selects, if no other autoscaler's target selects one of them.
    fn selected(&self, key: &ObjectKey, text: &str) -> Result<Vec<Arc<Pod>>, Problem> {
        if text.is_empty() {
            let event = "selector is required".to_owned();
            let message = "the HPA target's scale is missing a selector".to_owned();
            return Err(Problem { event, ..unknown_pods("InvalidSelector", message) });
        }
        let selector = LabelSelector::parse(text).map_err(|error| {
            let why =
                format!("couldn't convert selector into a corresponding internal selector object: {error}");
            unknown_pods("InvalidSelector", why)
        })?;
        let labels = |pod: &Pod| pod.metadata.labels.clone().unwrap_or_default();
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selector.matches(&labels(pod)));
        let mut selectors = self.selectors.lock();
        selectors.insert(key.clone(), selector);
        let others = selectors.iter().filter(|(other, _)| *other != key && other.namespace == key.namespace);
        let mut rivals: Vec<String> = others
            .filter(|(_, selector)| pods.iter().any(|pod| selector.matches(&labels(pod))))
            .map(|(other, _)| other.to_string())
            .collect();
        if rivals.is_empty() {
            return Ok(pods);
        }
        rivals.push(key.to_string());
        rivals.sort();
        let message =
            format!("pods by selector {text} are controlled by multiple HPAs: [{}]", rivals.join(" "));
        Err(unknown_pods("AmbiguousSelector", message))
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        hpa: &HorizontalPodAutoscaler,
        mut decision: Decision,
        scale: &Scale,
        api: &Api<DynamicObject>,
    ) -> Result<(), ReconcileError> {
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let now = self.clock.now();
        for (reason, message) in &decision.warnings {
            self.events.warning(hpa, reason, message);
        }
        let old = hpa.status.clone().unwrap_or_default();
        let failed = decision.failure.is_some();
        let mut status = HorizontalPodAutoscalerStatus {
            current_replicas: Some(current),
            desired_replicas: if failed { old.desired_replicas } else { current },
            current_metrics: decision.metrics.take().or(old.current_metrics),
            last_scale_time: old.last_scale_time,
            observed_generation: old.observed_generation,
            conditions: Some(std::mem::take(&mut decision.conditions)),
        };
        let mut refused = None;
        if let Some((size, why)) = decision.rescale {
            let done = self.rescale(hpa, scale, api, size, &why).await;
            let (holds, reason, message) = match &done {
                Ok(()) => {
                    let rules = hpa.spec.behavior.as_ref();
                    self.histories.lock().entry(key.clone()).or_default().note(current, size, rules, now);
                    status.desired_replicas = size;
                    status.last_scale_time = Some(time_of(now));
                    let message = format!("the HPA controller was able to update the target scale to {size}");
                    (true, "SucceededRescale", message)
                }
                Err(error) => {
                    let why = words_of(error);
                    let message = format!("the HPA controller was unable to update the target scale: {why}");
                    (false, "FailedUpdateScale", message)
                }
            };
            self.set_condition(&mut status, "AbleToScale", holds, reason, message);
            refused = done.err();
        }
        self.write_status(hpa, status).await?;
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn rescale(
        &self,
        hpa: &HorizontalPodAutoscaler,
        scale: &Scale,
        api: &Api<DynamicObject>,
        size: i32,
        why: &str,
    ) -> Result<(), kube::Error> {
        let name = name_of(&scale.metadata);
        let patch = json!({
            "metadata": {"resourceVersion": scale.metadata.resource_version},
            "spec": {"replicas": size},
        });
        match api.patch_scale(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                self.events.normal(hpa, "SuccessfulRescale", &format!("New size: {size}; reason: {why}"));
                Ok(())
            }
            Err(error) => {
                let message = format!("New size: {size}; reason: {why}; error: {}", words_of(&error));
                self.events.warning(hpa, "FailedRescale", &message);
                Err(error)
            }
        }
    }

    /// Says why the target cannot be scaled.
    async fn report(&self, hpa: &HorizontalPodAutoscaler, problem: &Problem) -> Result<(), kube::Error> {
        let event = if problem.event == "selector is required" { "SelectorRequired" } else { problem.reason };
        self.events.warning(hpa, event, &problem.event);
        let mut status = hpa.status.clone().unwrap_or_default();
        if problem.condition != "AbleToScale" {
            let message = "the HPA controller was able to get the target's current scale".to_owned();
            self.set_condition(&mut status, "AbleToScale", true, "SucceededGetScale", message);
        }
        self.set_condition(&mut status, problem.condition, false, problem.reason, problem.message.clone());
        self.write_status(hpa, status).await
    }

    fn set_condition(
        &self,
        status: &mut HorizontalPodAutoscalerStatus,
        type_: &str,
        holds: bool,
        reason: &str,
        message: String,
    ) {
        let condition = HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(time_of(self.clock.now())),
        };
        conditions::set(status.conditions.get_or_insert_default(), condition);
    }

    async fn write_status(
        &self,
        hpa: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), kube::Error> {
        if hpa.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<HorizontalPodAutoscaler> =
            Api::namespaced(self.client.clone(), hpa.metadata.namespace.as_deref().unwrap_or_default());
        let patch = json!({"metadata": {"uid": hpa.metadata.uid}, "status": status});
        let name = name_of(&hpa.metadata);
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop),
        }
    }
}

/// What the server said.
fn words_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
