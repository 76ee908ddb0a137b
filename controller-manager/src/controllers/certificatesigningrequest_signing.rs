//! `certificatesigningrequest-signing-controller`: signs approved requests of Kubernetes' own signers.
//!
//! # Watches
//! CertificateSigningRequests.
//!
//! # Writes
//! `status.certificate`, or the condition `Failed`.
//!
//! # Guarantees
//! Only what was approved and not denied is signed, with the subject, key and alternative names of the request,
//! for no longer than it asks for, the configured time, and the authority's own end. A request that the signer
//! does not sign gets the condition `Failed` with the reason `SignerValidationFailure`.
//!
//! # Differs from Kubernetes
//! One authority signs for all signers. Without one, nothing is signed.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::clock::Clock;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::signing::Authority;
use crate::signing_request::{self, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};

pub(crate) struct Signing {
    client: Client,
    clock: Clock,
    authority: Option<Arc<Authority>>,
    requests: Arc<Informer<CertificateSigningRequest>>,
}

/// Whether the request waits for one of our signers.
fn is_due(csr: &CertificateSigningRequest) -> bool {
    let has = |kind| signing_request::has_condition(csr, kind);
    [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&csr.spec.signer_name.as_str())
        && has("Approved")
        && !has("Denied")
        && !has("Failed")
        && signing_request::certificate(csr).is_none()
}

#[async_trait]
impl Controller for Signing {
    const NAME: &'static str = "certificatesigningrequest-signing-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            authority: setup.config.signing.clone(),
            requests: setup.watch_own(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let (Some(csr), Some(authority)) = (self.requests.get(key), &self.authority) else {
            return Ok(Action::Done);
        };
        if !is_due(&csr) {
            return Ok(Action::Done);
        }
        let status = match self.sign(&csr, authority) {
            Ok(pem) => json!({"certificate": ByteString(pem.into_bytes())}),
            Err(why) => failed(&csr, &why),
        };
        let body = json!({
            "metadata": {"resourceVersion": csr.metadata.resource_version},
            "status": status,
        });
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&body)).await?;
        Ok(Action::Done)
    }
}

impl Signing {
    fn sign(&self, csr: &CertificateSigningRequest, authority: &Authority) -> Result<String, String> {
        let der = signing_request::der_of(csr).ok_or("unable to parse csr")?;
        let subject = signing_request::subject_of(&der).ok_or("unable to parse csr")?;
        let usages = csr.spec.usages.as_deref().unwrap_or_default();
        signing_request::check(&csr.spec.signer_name, &subject, usages)?;
        authority.sign(&der, usages, csr.spec.expiration_seconds, self.clock.now(), rand::random())
    }
}

fn failed(csr: &CertificateSigningRequest, why: &str) -> Value {
    let mut conditions =
        json!(csr.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default());
    if let Some(list) = conditions.as_array_mut() {
        list.push(json!({
            "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
        }));
    }
    json!({"conditions": conditions})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(signer: &str, conditions: &[&str]) -> CertificateSigningRequest {
        let conditions: Vec<Value> =
            conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        serde_json::from_value(json!({
            "spec": {"signerName": signer, "request": "", "usages": []}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_was_approved_for_our_signers_is_signed() {
        let cases = [
            (CLIENT, &["Approved"][..], true),
            (CLIENT, &[][..], false),
            (CLIENT, &["Approved", "Failed"][..], false),
            (CLIENT, &["Denied"][..], false),
            ("example.com/mine", &["Approved"][..], false),
        ];
        for (signer, conditions, due) in cases {
            assert_eq!(is_due(&csr(signer, conditions)), due, "{signer} {conditions:?}");
        }
    }
}
