//! Certificates judged by a bundle that somebody gave: by its authorities, or as ones of the bundle themselves.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerified;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::judged::Judged;

/// As Go does, takes a certificate that stands in the bundle itself: those who sign for themselves mostly mark
/// their certificate as an authority's, which by itself no chain may end with.
pub(super) fn verifier(pem: &[u8], provider: Arc<CryptoProvider>) -> Result<Arc<Judged>, TlsError> {
    let bundle: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let bundle = bundle.map_err(TlsError::Pem)?;
    let mut roots = RootCertStore::empty();
    for certificate in &bundle {
        roots.add(certificate.clone()).map_err(TlsError::Rustls)?;
    }
    let schemes = provider.signature_verification_algorithms;
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let chains = chains.map_err(TlsError::Verifier)?;
    Ok(Judged::by(schemes, move |shown| {
        if bundle.iter().any(|known| known == shown.certificate) {
            check_time(shown.certificate, shown.now)?;
            verify_server_name(&ParsedCertificate::try_from(shown.certificate)?, shown.name)?;
            return Ok(ServerCertVerified::assertion());
        }
        shown.verify(&chains)
    }))
}

fn check_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::aws_lc_rs;
    use rustls_pki_types::ServerName;

    use super::*;

    const IN_2030: u64 = 1_900_000_000;

    #[test]
    fn a_certificate_of_the_bundle_is_good_for_its_names_and_time_only() {
        let mut params = rcgen::CertificateParams::new(vec!["hook.example.test".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = verifier(certificate.pem().as_bytes(), provider).unwrap();
        let check = |name: &'static str, seconds: u64| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verifier.verify_server_cert(
                certificate.der(),
                &[],
                &ServerName::try_from(name).unwrap(),
                &[],
                now,
            )
        };
        assert!(check("hook.example.test", IN_2030).is_ok());
        assert!(check("other.example.test", IN_2030).is_err());
        assert!(check("hook.example.test", 2 * IN_2030).is_err());
    }
}
