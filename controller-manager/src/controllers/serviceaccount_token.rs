//! `serviceaccount-token-controller`: fills the Secrets that keep a token for a service account.
//!
//! # Watches
//! Secrets of type `kubernetes.io/service-account-token`, and ServiceAccounts.
//!
//! # Writes
//! The data `token`, `ca.crt` and `namespace` of such Secrets, and the annotation with the account's uid.
//! Deletes those whose account is gone.
//!
//! # Guarantees
//! A Secret that names an account by name, and by uid if it does, has a token of that account. The token ends
//! with the Secret or the account.
//!
//! # Differs from Kubernetes
//! Without the signing key nothing is filled in.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{annotation, is_deleting, uid_of};
use crate::token_signer::TokenSigner;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

pub(crate) struct ServiceAccountToken {
    client: Client,
    signer: Option<Arc<TokenSigner>>,
    root_ca: Option<String>,
    secrets: Arc<Informer<Secret>>,
    accounts: Arc<Informer<ServiceAccount>>,
}

/// What to do about a Secret.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Delete,
    /// These annotations and data are missing or wrong.
    Fill(Value),
}

fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    root_ca: Option<&str>,
    sign: impl FnOnce(&str) -> Option<String>,
) -> Step {
    let annotations = secret.metadata.annotations.clone().unwrap_or_default();
    let uid = account.and_then(|account| account.metadata.uid.as_deref());
    let wanted = annotations.get(UID).filter(|uid| !uid.is_empty());
    let Some(uid) = uid.filter(|uid| wanted.is_none_or(|wanted| wanted == uid)) else { return Step::Delete };
    let data = secret.data.clone().unwrap_or_default();
    let mut missing: BTreeMap<&str, ByteString> = BTreeMap::new();
    let mut want = |key: &'static str, value: &[u8]| {
        if data.get(key).is_none_or(|held| held.0 != value) {
            missing.insert(key, ByteString(value.to_vec()));
        }
    };
    if let Some(root_ca) = root_ca {
        want("ca.crt", root_ca.as_bytes());
    }
    want("namespace", secret.metadata.namespace.as_deref().unwrap_or_default().as_bytes());
    if data.get("token").is_none_or(|token| token.0.is_empty()) {
        let Some(token) = sign(uid) else { return Step::Nothing };
        want("token", token.as_bytes());
    }
    match missing.is_empty() && wanted.is_some() {
        true => Step::Nothing,
        false => Step::Fill(json!({"metadata": {"annotations": {UID: uid}}, "data": missing})),
    }
}

#[async_trait]
impl Controller for ServiceAccountToken {
    const NAME: &'static str = "serviceaccount-token-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let secrets = setup.read_where::<Secret>("type=kubernetes.io/service-account-token");
        setup.subscribe(&secrets, |secret| vec![ObjectKey::of(secret)]);
        let held = Arc::downgrade(&secrets);
        let accounts = setup.watch(move |account: &ServiceAccount| {
            let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
            let secrets = held.upgrade().map(|secrets| secrets.in_namespace(namespace)).unwrap_or_default();
            let of_account =
                secrets.iter().filter(|secret| account_of(secret) == account.metadata.name.as_deref());
            of_account.map(|secret| ObjectKey::of(&**secret)).collect()
        });
        let (signer, root_ca) = (setup.config.token_signer.clone(), setup.config.root_ca.clone());
        Self { client: setup.client.clone(), signer, root_ca, secrets, accounts }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Action::Done) };
        let (Some(signer), Some(name)) = (&self.signer, account_of(&secret)) else { return Ok(Action::Done) };
        if secret.type_.as_deref() != Some(TYPE) || is_deleting(&secret.metadata) {
            return Ok(Action::Done);
        }
        let cached = self.accounts.get(&ObjectKey::new(&key.namespace, name));
        let account = match cached.filter(|account| is_meant(&secret, account)) {
            Some(account) => Some(account),
            // The cache may be behind, and deleting cannot be taken back.
            None => {
                let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
                api.get_opt(name).await?.map(Arc::new)
            }
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let sign = |uid: &str| signer.sign(&key.namespace, &key.name, name, uid);
        match plan(&secret, account.as_deref(), self.root_ca.as_deref(), sign) {
            Step::Nothing => {}
            Step::Delete => {
                let preconditions =
                    Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                match api.delete(&key.name, &params).await {
                    Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                    other => drop(other?),
                }
            }
            Step::Fill(mut body) => {
                body["metadata"]["resourceVersion"] = json!(secret.metadata.resource_version);
                api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&body)).await?;
            }
        }
        Ok(Action::Done)
    }
}

/// Whether the secret is for this very account, as far as it says.
fn is_meant(secret: &Secret, account: &ServiceAccount) -> bool {
    let wanted = annotation(&secret.metadata, UID).filter(|uid| !uid.is_empty());
    wanted.is_none_or(|wanted| wanted == uid_of(&account.metadata))
}

fn account_of(secret: &Secret) -> Option<&str> {
    secret.metadata.annotations.as_ref()?.get(NAME).map(String::as_str).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: &str, data: Value) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns", "annotations": {NAME: "robot", UID: uid}}, "data": data}))
            .unwrap()
    }

    fn account() -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "robot", "namespace": "ns", "uid": "u1"}}))
            .unwrap()
    }

    fn step(secret: &Secret, account: Option<&ServiceAccount>) -> Step {
        plan(secret, account, Some("ca"), |uid| Some(format!("token of {uid}")))
    }

    #[test]
    fn a_new_secret_gets_token_authority_and_namespace() {
        let Step::Fill(body) = step(&secret("", json!({})), Some(&account())) else { panic!("not filled") };
        assert_eq!(body["metadata"]["annotations"][UID], "u1");
        assert_eq!(body["data"].as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_secret_of_an_account_that_is_gone_or_another_is_deleted() {
        assert_eq!(step(&secret("u1", json!({})), None), Step::Delete);
        assert_eq!(step(&secret("u0", json!({})), Some(&account())), Step::Delete);
    }

    #[test]
    fn an_account_of_the_name_is_not_enough() {
        let meant = |uid: &str| is_meant(&secret(uid, json!({})), &account());
        assert!(meant("") && meant("u1") && !meant("u0"));
    }

    #[test]
    fn a_full_secret_is_left_alone() {
        let full = json!({"token": "dA==", "ca.crt": "Y2E=", "namespace": "bnM="});
        assert_eq!(step(&secret("u1", full), Some(&account())), Step::Nothing);
    }
}
