//! Client certificates: the common name is the user, each organization a group.
//!
//! The TLS handshake has already verified the chain against the client CA and the validity period; this
//! only reads the subject of the leaf.

use sha2::Digest as _;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::service_account::CREDENTIAL_ID;
use super::{Authenticator, Outcome, Presented, UserInfo, authenticated};

pub(crate) struct ClientCertificate;

impl Authenticator for ClientCertificate {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        match presented.certificates.and_then(|certificates| certificates.user(user_of)) {
            None => Outcome::Unknown,
            Some(Some(user)) => Outcome::User(user.clone()),
            Some(None) => Outcome::Refused("the client certificate has no common name".to_owned()),
        }
    }
}

fn user_of(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    let mut user = authenticated(name, &groups);
    let fingerprint: String = sha2::Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")]);
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_name_is_the_user_and_organizations_are_groups() {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let user = user_of(certificate.der()).unwrap();
        assert_eq!(user.groups, authenticated("system:node:n1", &["system:nodes"]).groups);
        assert_eq!(user.name, "system:node:n1");
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }
}
