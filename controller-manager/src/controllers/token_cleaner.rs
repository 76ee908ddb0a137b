//! `token-cleaner-controller`: deletes bootstrap tokens that have ended.
//!
//! # Watches
//! The Secrets of bootstrap tokens in `kube-system`.
//!
//! # Writes
//! Deletes them.
//!
//! # Guarantees
//! A token goes when its `expiration` has come, or at once if that cannot be read; one without stays.
//!
//! # Differs from Kubernetes
//! It runs unless it is excluded; kube-controller-manager has it off until it is asked for.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::clock::Clock;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use crate::bootstrap_token::{NAMESPACE, SELECTOR, end_of};
use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::is_deleting;

pub(crate) struct TokenCleaner {
    client: Client,
    clock: Clock,
    tokens: Arc<Informer<Secret>>,
}

#[async_trait]
impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let tokens = setup.read_where::<Secret>(SELECTOR);
        setup.subscribe(&tokens, |token| vec![ObjectKey::of(token)]);
        Self { client: setup.client.clone(), clock: setup.clock, tokens }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let token =
            self.tokens.get(key).filter(|token| key.namespace == NAMESPACE && !is_deleting(&token.metadata));
        let Some((token, end)) = token.and_then(|token| end_of(&token).map(|end| (token, end))) else {
            return Ok(Action::Done);
        };
        if let Ok(left) = (end - self.clock.now()).to_std()
            && !left.is_zero()
        {
            return Ok(Action::RequeueAfter(left));
        }
        // The very token that was looked at: its end may have been put off meanwhile.
        let preconditions = Preconditions {
            uid: token.metadata.uid.clone(),
            resource_version: token.metadata.resource_version.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.delete(&key.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(Action::Done),
            other => other.map(|_| Action::Done).map_err(Into::into),
        }
    }
}
