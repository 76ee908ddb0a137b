//! CertificateApproval: who approves a request for a certificate may speak for its signer.

use api_types::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};
use crate::authz::Attributes;

pub(crate) struct CertificateApproval;

pub(super) const REQUESTS: &str = "certificates.k8s.io/certificatesigningrequests";

impl Plugin for CertificateApproval {
    const NAME: &'static str = "CertificateApproval";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let approves = review.kind.storage == REQUESTS
            && review.subresource == "approval"
            && review.operation == Operation::Update;
        let (true, Some(old)) = (approves, review.old) else { return Ok(()) };
        let signer = signer_of(old);
        match may(review, "approve", signer) {
            true => Ok(()),
            false => Err(review
                .forbidden(&format!("user not permitted to approve requests with signerName {signer:?}"))),
        }
    }
}

pub(super) fn signer_of(request: &Value) -> &str {
    request["spec"]["signerName"].as_str().unwrap_or_default()
}

/// Whether the user has the verb on the signer, or on all of its domain.
pub(super) fn may(review: &Review<'_>, verb: &str, signer: &str) -> bool {
    let allowed = |name: String| {
        review.authorizers.allows(&Attributes {
            user: review.user.clone(),
            verb: verb.to_owned(),
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        })
    };
    let domain = signer.split('/').next().unwrap_or_default();
    allowed(signer.to_owned()) || allowed(format!("{domain}/*"))
}
