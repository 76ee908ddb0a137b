//! `certificatesigningrequest-approving-controller`: approves the client certificates that node agents ask for.
//!
//! # Watches
//! CertificateSigningRequests.
//!
//! # Writes
//! The condition `Approved`.
//!
//! # Guarantees
//! A request is approved only when it is for a node's client certificate and its author may create
//! `certificatesigningrequests/nodeclient`, or `selfnodeclient` for its own name. All others wait for a person.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::signing_request::{self, KUBELET_CLIENT, Subject};

pub(crate) struct Approving {
    client: Client,
    requests: Arc<Informer<CertificateSigningRequest>>,
}

/// What an author has to be allowed, and what an approval then says.
#[derive(Debug, PartialEq, Eq)]
struct Recognized {
    permission: &'static str,
    message: &'static str,
}

const OWN: Recognized = Recognized {
    permission: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const ANY: Recognized = Recognized {
    permission: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// Which rights would do, the narrower first; none if the request is not ours to approve.
fn recognize(signer: &str, author: &str, subject: &Subject, usages: &[String]) -> Vec<Recognized> {
    if signer != KUBELET_CLIENT || signing_request::check(KUBELET_CLIENT, subject, usages).is_err() {
        return Vec::new();
    }
    match author == subject.common_name {
        true => vec![OWN, ANY],
        false => vec![ANY],
    }
}

#[async_trait]
impl Controller for Approving {
    const NAME: &'static str = "certificatesigningrequest-approving-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        Self { client: setup.client.clone(), requests: setup.watch_own() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(csr) = self.requests.get(key) else { return Ok(Action::Done) };
        let decided = ["Approved", "Denied"].iter().any(|kind| signing_request::has_condition(&csr, kind));
        if decided || signing_request::certificate(&csr).is_some() {
            return Ok(Action::Done);
        }
        let Some(subject) = signing_request::der_of(&csr).and_then(|der| signing_request::subject_of(&der))
        else {
            return Ok(Action::Done);
        };
        let author = csr.spec.username.as_deref().unwrap_or_default();
        let usages = csr.spec.usages.as_deref().unwrap_or_default();
        let recognized = recognize(&csr.spec.signer_name, author, &subject, usages);
        for one in &recognized {
            if self.is_allowed(&csr, one.permission).await? {
                self.approve(&csr, one.message).await?;
                return Ok(Action::Done);
            }
        }
        match recognized.as_slice() {
            [] => Ok(Action::Done),
            _ => Err(ReconcileError::Again(format!(
                "recognized csr {:?} but subject access review was not approved",
                key.name
            ))),
        }
    }
}

impl Approving {
    async fn is_allowed(
        &self,
        csr: &CertificateSigningRequest,
        subresource: &str,
    ) -> Result<bool, kube::Error> {
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some("create".to_owned()),
            version: Some("*".to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn approve(&self, csr: &CertificateSigningRequest, message: &str) -> Result<(), kube::Error> {
        let mut conditions = csr.status.clone().and_then(|status| status.conditions).unwrap_or_default();
        let approved =
            json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message});
        conditions
            .extend(serde_json::from_value::<Vec<_>>(json!([approved])).map_err(kube::Error::SerdeError)?);
        let body = json!({
            "metadata": {"resourceVersion": csr.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let name = csr.metadata.name.as_deref().unwrap_or_default();
        api.patch_subresource("approval", name, &PatchParams::default(), &Patch::Merge(&body)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_client_certificates_of_nodes_are_recognized() {
        let node = Subject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Subject::default()
        };
        let usages = ["digital signature", "client auth"].map(str::to_owned);
        assert_eq!(recognize(KUBELET_CLIENT, "system:node:n1", &node, &usages), [OWN, ANY]);
        assert_eq!(recognize(KUBELET_CLIENT, "system:bootstrap:x", &node, &usages), [ANY]);
        assert_eq!(recognize("kubernetes.io/kube-apiserver-client", "system:node:n1", &node, &usages), []);
        assert_eq!(recognize(KUBELET_CLIENT, "jane", &Subject::default(), &usages), []);
    }
}
