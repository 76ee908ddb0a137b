//! What the scheduler writes: bindings, conditions of pods that fit nowhere, deletions of victims, and events.

use std::sync::Arc;

use component_base::client::told;
use component_base::clock::Clock;
use component_base::events::{EventType, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::brain::Report;
use crate::framework::{BindError, Bound, Points};
use crate::pod::PodInfo;

/// Writes for all pods. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Clock,
}

/// A report that was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("cannot make the request")]
    Build(#[source] kube::core::request::Error),
    #[error("cannot write the pod's condition")]
    Condition(#[source] kube::Error),
    #[error("cannot delete a victim")]
    Victim(#[source] kube::Error),
}

impl Writer {
    /// Runs the binding plugins of the profile.
    pub(crate) async fn bind(&self, points: &Points, pod: &PodInfo, node: &str) -> Result<(), BindError> {
        for attached in &points.pre_bind {
            attached.plugin.pre_bind(&self.client, pod, node).await?;
        }
        for attached in &points.bind {
            if attached.plugin.bind(&self.client, pod, node).await? == Bound::Done {
                self.bound(points, pod, node);
                return Ok(());
            }
        }
        Err(BindError::NoBinder)
    }

    fn bound(&self, points: &Points, pod: &PodInfo, node: &str) {
        for attached in &points.post_bind {
            attached.plugin.post_bind(pod, node);
        }
        let message = format!("Successfully assigned {} to {node}", pod.key());
        self.recorder.record(&pod.scheduler, reference(pod), EventType::Normal, "Scheduled", &message);
    }

    /// Tells the user why a pod fits nowhere, and removes the victims of its preemption.
    pub(crate) async fn report(&self, report: &Report) -> Result<(), ReportError> {
        let pod = &report.pod;
        if report.news {
            let (about, message) = (reference(pod), &report.message);
            self.recorder.record(&pod.scheduler, about, EventType::Warning, "FailedScheduling", message);
        }
        let mut status = json!({"conditions": [self.condition(report)]});
        if let Some(node) = &report.nominated {
            status["nominatedNodeName"] = if node.is_empty() { Value::Null } else { json!(&**node) };
        }
        self.patch_status(pod, status).await?;
        for victim in &report.victims {
            self.evict(victim, report).await?;
        }
        Ok(())
    }

    /// The time of the last transition is left as it is where the pod has the condition already.
    fn condition(&self, report: &Report) -> Value {
        let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": report.reason,
            "message": report.message});
        if report.pod.state.unscheduled.is_none() {
            condition["lastTransitionTime"] = json!(self.clock.time());
            condition["lastProbeTime"] = Value::Null;
        }
        condition
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value) -> Result<(), ReportError> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": &*pod.uid}, "status": status}));
        let request = kube::core::Request::new(Pod::url_path(&(), Some(&pod.namespace)))
            .patch_subresource("status", &pod.name, &PatchParams::default(), &patch)
            .map_err(ReportError::Build)?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(ReportError::Condition(error)),
        }
    }

    async fn evict(&self, victim: &Arc<PodInfo>, report: &Report) -> Result<(), ReportError> {
        let message = format!("{}: preempting to accommodate a higher priority pod", report.pod.scheduler);
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": message, "lastTransitionTime": self.clock.time()});
        self.patch_status(victim, json!({"conditions": [condition]})).await?;
        let preconditions = Preconditions { uid: Some(victim.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
        match pods.delete(&victim.name, &params).await {
            Ok(_) => {
                let node = report.nominated.as_deref().unwrap_or_default();
                let message = format!("Preempted by pod {} on node {node}", report.pod.uid);
                let scheduler = &report.pod.scheduler;
                self.recorder.record(scheduler, reference(victim), EventType::Normal, "Preempted", &message);
                Ok(())
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(ReportError::Victim(error)),
        }
    }
}

/// Whether there is no such pod any more, or another one of its name.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// What the user reads of a failed binding; none when the pod is gone.
pub(crate) fn explain(pod: &PodInfo, node: &str, error: &BindError) -> Option<String> {
    if matches!(error, BindError::Gone) {
        debug!(pod = pod.key(), node, "pod was deleted before it was bound");
        return None;
    }
    let text = told(error);
    warn!(pod = pod.key(), node, error = text, "cannot bind; trying again");
    Some(if matches!(error, BindError::Volumes(_)) { text } else { format!("binding rejected: {text}") })
}
