//! What a CertificateSigningRequest asks for, and which signer may give it: the rules of Kubernetes' own signers.

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// What the rules look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) hosts: usize,
    /// Mail addresses and URIs.
    pub(crate) others: usize,
}

/// The request's bytes, DER.
pub(crate) fn der_of(csr: &CertificateSigningRequest) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(&csr.spec.request.0).ok()?;
    (pem.label == "CERTIFICATE REQUEST").then_some(pem.contents)
}

/// What the request says of who wants the certificate.
pub(crate) fn subject_of(der: &[u8]) -> Option<Subject> {
    let (_, request) = X509CertificationRequest::from_der(der).ok()?;
    let name = &request.certification_request_info.subject;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    let mut subject = Subject {
        common_name: name.iter_common_name().next().and_then(text).unwrap_or_default(),
        organizations: name.iter_organization().filter_map(text).collect(),
        ..Subject::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) | GeneralName::IPAddress(_) => subject.hosts += 1,
                _ => subject.others += 1,
            }
        }
    }
    Some(subject)
}

/// Nothing, or why the signer does not sign this.
pub(crate) fn check(signer: &str, subject: &Subject, usages: &[String]) -> Result<(), String> {
    match signer {
        KUBELET_CLIENT => check_kubelet_client(subject, usages),
        KUBELET_SERVING => check_kubelet_serving(subject, usages),
        CLIENT => check_client(usages),
        LEGACY => Ok(()),
        other => Err(format!("unknown signer {other}")),
    }
}

fn check_node_name(subject: &Subject) -> Result<(), String> {
    if subject.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    if !subject.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".to_owned());
    }
    Ok(())
}

fn check_kubelet_client(subject: &Subject, usages: &[String]) -> Result<(), String> {
    check_node_name(subject)?;
    if subject.hosts + subject.others > 0 {
        return Err("DNS and IP subjectAltNames, emails and URIs are not allowed".to_owned());
    }
    check_exact(usages, "client auth")
}

fn check_kubelet_serving(subject: &Subject, usages: &[String]) -> Result<(), String> {
    check_node_name(subject)?;
    if subject.hosts == 0 {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    if subject.others > 0 {
        return Err("email addresses and URIs are not allowed".to_owned());
    }
    check_exact(usages, "server auth")
}

/// Signatures and the one purpose; key encipherment may be there.
fn check_exact(usages: &[String], purpose: &str) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", purpose];
    let needed = ["digital signature", purpose];
    let has = |wanted: &&str| usages.iter().any(|usage| usage == wanted);
    match needed.iter().all(has) && usages.iter().all(|usage| allowed.contains(&usage.as_str())) {
        true => Ok(()),
        false => Err(format!("usages did not match {allowed:?}")),
    }
}

fn check_client(usages: &[String]) -> Result<(), String> {
    for usage in usages {
        if !["digital signature", "key encipherment", "client auth"].contains(&usage.as_str()) {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

/// Whether a condition of this type is there.
pub(crate) fn has_condition(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == kind)
}

/// The certificate that was issued, PEM.
pub(crate) fn certificate(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    let issued = |status: &'_ CertificateSigningRequestStatus| status.certificate.is_some();
    let status = csr.status.as_ref().filter(|status| issued(status))?;
    status.certificate.as_ref().map(|bytes| bytes.0.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(hosts: usize) -> Subject {
        Subject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            hosts,
            others: 0,
        }
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn each_signer_signs_what_it_is_for() {
        let (client, server) = (["digital signature", "client auth"], ["digital signature", "server auth"]);
        let jane = Subject { common_name: "jane".to_owned(), ..Subject::default() };
        let cases = [
            (KUBELET_CLIENT, node(0), &client[..], true),
            (KUBELET_CLIENT, node(1), &client[..], false),
            (KUBELET_CLIENT, jane.clone(), &client[..], false),
            (KUBELET_CLIENT, node(0), &server[..], false),
            (KUBELET_SERVING, node(1), &server[..], true),
            (KUBELET_SERVING, node(0), &server[..], false),
            (CLIENT, jane.clone(), &client[..], true),
            (CLIENT, jane.clone(), &server[..], false),
            (CLIENT, jane.clone(), &["digital signature"][..], false),
            (LEGACY, jane.clone(), &server[..], true),
            ("example.com/other", jane, &client[..], false),
        ];
        for (signer, subject, list, good) in cases {
            assert_eq!(check(signer, &subject, &usages(list)).is_ok(), good, "{signer} {subject:?} {list:?}");
        }
    }
}
