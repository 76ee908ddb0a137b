//! `serviceaccount-controller`: gives each namespace its ServiceAccount `default`.
//!
//! # Watches
//! Namespaces, and the ServiceAccounts named `default`.
//!
//! # Writes
//! ServiceAccounts.
//!
//! # Guarantees
//! Every active namespace has the account; it comes back when it is deleted.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::is_deleting;
use crate::pod_control::is_namespace_going;

const DEFAULT: &str = "default";

pub(crate) struct ServiceAccountController {
    client: Client,
    namespaces: Arc<Informer<Namespace>>,
    accounts: Arc<Informer<ServiceAccount>>,
}

#[async_trait]
impl Controller for ServiceAccountController {
    const NAME: &'static str = "serviceaccount-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let namespaces = setup.watch_own::<Namespace>();
        let accounts = setup.read_where::<ServiceAccount>("metadata.name=default");
        let of_namespace = |account: &ServiceAccount| {
            ObjectKey::cluster(account.metadata.namespace.clone().unwrap_or_default())
        };
        setup.subscribe(&accounts, move |account| vec![of_namespace(account)]);
        Self { client: setup.client.clone(), namespaces, accounts }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let live = self.namespaces.get(key).is_some_and(|namespace| !is_deleting(&namespace.metadata));
        if !live || self.accounts.get(&ObjectKey::new(&key.name, DEFAULT)).is_some() {
            return Ok(Action::Done);
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.name);
        let metadata = ObjectMeta { name: Some(DEFAULT.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => Ok(Action::Done),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(Action::Done),
            Err(error) if is_namespace_going(&error) => Ok(Action::Done),
            Err(error) => Err(error.into()),
        }
    }
}
