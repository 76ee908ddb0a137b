//! `replicationcontroller-controller`: keeps as many pods as a ReplicationController asks for.
//!
//! # Watches
//! ReplicationControllers, and pods by their controlling owner; a pod without controller wakes those that
//! select it.
//!
//! # Writes
//! Pods (create, delete, owner references) and the ReplicationController's status.
//!
//! # Guarantees
//! Those of `replicaset-controller`: both run on one mechanism.
//!
//! # Differs from Kubernetes
//! A batch of creations has at most 64 pods.

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::key::ObjectKey;
use crate::replicas::{Replicas, Replicated};

pub(crate) struct ReplicationControllerController(Replicas<ReplicationController>);

#[async_trait]
impl Controller for ReplicationControllerController {
    const NAME: &'static str = "replicationcontroller-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        Self(Replicas::watches(setup))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        self.0.reconcile(key).await
    }
}

impl Replicated for ReplicationController {
    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn selector(&self) -> LabelSelector {
        let match_labels = self.spec.as_ref().and_then(|spec| spec.selector.clone());
        LabelSelector { match_labels, match_expressions: None }
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default()
    }

    fn conditions(&self) -> Vec<ReplicaSetCondition> {
        let all = self.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let general = all.into_iter().map(|one| ReplicaSetCondition {
            type_: one.type_,
            status: one.status,
            reason: one.reason,
            message: one.message,
            last_transition_time: one.last_transition_time,
        });
        general.collect()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Option<Self> {
        let condition = |one: ReplicaSetCondition| ReplicationControllerCondition {
            type_: one.type_,
            status: one.status,
            reason: one.reason,
            message: one.message,
            last_transition_time: one.last_transition_time,
        };
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
        };
        let changed = self.status.as_ref() != Some(&status);
        changed.then(|| Self { status: Some(status), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_written_in_its_own_form_and_only_when_it_changes() {
        let failed = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]);
        let general: ReplicaSetStatus = serde_json::from_value(
            json!({"replicas": 2, "readyReplicas": 1, "terminatingReplicas": 1, "conditions": failed}),
        )
        .unwrap();
        let bare: ReplicationController = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        let told = bare.with_status(general.clone()).unwrap();
        let expected = json!({"replicas": 2, "readyReplicas": 1, "conditions": failed});
        assert_eq!(serde_json::to_value(&told.status).unwrap(), expected);
        assert_eq!(told.with_status(general), None);
        assert_eq!(told.conditions()[0].type_, "ReplicaFailure");
    }
}
