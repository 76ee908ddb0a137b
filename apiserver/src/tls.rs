//! TLS as the API server speaks it: to its clients, and to node agents.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::pki::{Credential, Pki};

/// Certificates that do not make a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read a certificate or key")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("cannot use the certificates for TLS")]
    Rustls(#[source] rustls::Error),
    #[error("cannot verify client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// HTTP/2 and HTTP/1.1; a client certificate is asked for and verified if shown, but not demanded.
pub(crate) fn server_config(pki: &Pki) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pki)?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Verifier)?;
    let (chain, key) = parse(pki.serving())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Rustls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// To node agents: their certificate must be of the cluster's authority, ours says who is asking.
pub(crate) fn node_client_config(pki: &Pki) -> Result<Arc<ClientConfig>, TlsError> {
    let (chain, key) = parse(pki.kubelet_client())?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Rustls)?;
    Ok(Arc::new(config))
}

fn roots(pki: &Pki) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca_pem().as_bytes()) {
        roots.add(certificate.map_err(TlsError::Pem)?).map_err(TlsError::Rustls)?;
    }
    Ok(roots)
}

type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parse(credential: &Credential) -> Result<ChainAndKey, TlsError> {
    let chain =
        CertificateDer::pem_slice_iter(credential.certificate_pem.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(credential.key_pem.as_bytes());
    Ok((chain.map_err(TlsError::Pem)?, key.map_err(TlsError::Pem)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fresh_certificates_make_both_configurations() {
        let pki =
            Pki::ensure(None, component_base::clock::Clock::system(), &["localhost".to_owned()]).unwrap();
        assert_eq!(server_config(&pki).unwrap().alpn_protocols[0], b"h2");
        node_client_config(&pki).unwrap();
    }
}
