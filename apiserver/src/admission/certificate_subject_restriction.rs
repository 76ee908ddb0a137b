//! CertificateSubjectRestriction: nobody asks for a client certificate that may do everything.

use api_types::status::Status;
use base64::Engine as _;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::certificate_approval::{REQUESTS, signer_of};
use super::{Plugin, Review};
use crate::authn::MASTERS;

pub(crate) struct CertificateSubjectRestriction;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

impl Plugin for CertificateSubjectRestriction {
    const NAME: &'static str = "CertificateSubjectRestriction";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let Some(request) = review.new.as_deref().filter(|_| review.creates(REQUESTS)) else { return Ok(()) };
        let subject = subject_of(request).unwrap_or_default();
        if signer_of(request) != SIGNER || !subject.organizations.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        Err(review.forbidden(&format!("use of {SIGNER} signer with {MASTERS} group is not allowed")))
    }
}

/// Who a certificate would be for.
#[derive(Default)]
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
}

/// The subject of a CertificateSigningRequest; nothing when it has no request that can be read.
pub(super) fn subject_of(request: &Value) -> Option<Subject> {
    let pem = base64::engine::general_purpose::STANDARD.decode(request["spec"]["request"].as_str()?).ok()?;
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).ok()?;
    let subject = &parsed.certification_request_info.subject;
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned));
    let common_name = subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
    Some(Subject { common_name: common_name.to_owned(), organizations: organizations.collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::UserInfo;
    use crate::admission::Operation;
    use crate::admission::fixture::review;
    use crate::view::fixture::Fixture;

    fn is_refused(signer: &str, organization: &str) -> bool {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = base64::engine::general_purpose::STANDARD.encode(pem);
        let object = json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": request}});
        let (world, user) = (Fixture::default(), UserInfo::admin());
        review(&world, &user, Operation::Create, REQUESTS, "", None, Some(object), |review| {
            CertificateSubjectRestriction::validate(review).is_err()
        })
    }

    #[test]
    fn masters_are_not_made_by_request() {
        assert!(is_refused(SIGNER, "system:masters"));
        assert!(!is_refused(SIGNER, "team"));
        assert!(!is_refused("example.com/own", "system:masters"));
    }
}
