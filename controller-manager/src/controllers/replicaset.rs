//! `replicaset-controller`: keeps as many pods as a ReplicaSet asks for.
//!
//! # Watches
//! ReplicaSets, and pods by their controlling owner; a pod without controller wakes the sets that select it.
//!
//! # Writes
//! Pods (create, delete, owner references) and the ReplicaSet's status.
//!
//! # Guarantees
//! Never a pod too many, also when its cache lags or it is restarted in between. Pods without controller
//! that match are adopted, pods that no longer match are released. Of too many pods those go first that are
//! worth least (unassigned, pending, not ready, cheap, crowded, ready for a short time, restarted, young).
//!
//! # Differs from Kubernetes
//! A batch of creations has at most 64 pods.

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::key::ObjectKey;
use crate::replicas::{Replicas, Replicated};

pub(crate) struct ReplicaSetController(Replicas<ReplicaSet>);

#[async_trait]
impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        Self(Replicas::watches(setup))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        self.0.reconcile(key).await
    }
}

impl Replicated for ReplicaSet {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn selector(&self) -> LabelSelector {
        self.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default()
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
    }

    fn conditions(&self) -> Vec<ReplicaSetCondition> {
        self.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Option<Self> {
        let changed = self.status.as_ref() != Some(&status);
        changed.then(|| Self { status: Some(status), ..self.clone() })
    }
}
