//! TLS as the API server speaks it: to its clients, and to node agents.

mod bundle;
mod judged;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerified;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::pki::{Credential, Pki};
use judged::Judged;

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
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = node_verifier(roots(pki)?, provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Rustls)?;
    Ok(Arc::new(config))
}

/// To a webhook: its certificate must be of the authorities in `bundle` (PEM), or when there are none, of those
/// that this machine trusts. The server does not say who it is: whoever is asked may be anybody's.
pub(crate) fn webhook_client_config(bundle: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?;
    let builder = match bundle.is_empty() {
        true => {
            builder.with_root_certificates(parse_roots(&std::fs::read(system_bundle()).unwrap_or_default())?)
        }
        false => builder.dangerous().with_custom_certificate_verifier(bundle::verifier(bundle, provider)?),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where Linux distributions keep the authorities that they trust, unless the variable of OpenSSL says.
fn system_bundle() -> std::path::PathBuf {
    const PLACES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
    let named = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let usual = || PLACES.iter().map(std::path::PathBuf::from).find(|p| p.exists());
    named.or_else(usual).unwrap_or_else(|| PLACES[0].into())
}

/// To whoever answers: for what is proxied to by address, whose certificate nobody can check.
pub(crate) fn unverified_client_config() -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(Judged::any(schemes))
        .with_no_client_auth();
    Ok(config)
}

/// To an extension API server, with the certificate that lets this server say who asks. Its own must be by
/// `authority` (PEM); `None` trusts any.
pub(crate) fn extension_client_config(
    authority: Option<&[u8]>,
    client: &Credential,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms;
    let (chain, key) = parse(client)?;
    let verifier = match authority {
        None => Judged::any(schemes),
        Some(pem) => bundle::verifier(pem, provider.clone())?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(Arc::new(builder.with_client_auth_cert(chain, key).map_err(TlsError::Rustls)?))
}

/// To a service outside: its certificate must be of the authorities in `bundle` (PEM; without any, of those that
/// this machine trusts), or may be `any`; the certificate and key (PEM) say who asks.
pub(crate) fn outside_client_config(
    bundle: &[u8],
    identity: Option<&(Vec<u8>, Vec<u8>)>,
    any: bool,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?;
    let builder = match (any, bundle.is_empty()) {
        (true, _) => builder.dangerous().with_custom_certificate_verifier(Judged::any(schemes)),
        (false, true) => {
            builder.with_root_certificates(parse_roots(&std::fs::read(system_bundle()).unwrap_or_default())?)
        }
        (false, false) => builder.with_root_certificates(parse_roots(bundle)?),
    };
    let Some((certificate, key)) = identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let chain =
        CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Pem)?;
    Ok(Arc::new(builder.with_client_auth_cert(chain, key).map_err(TlsError::Rustls)?))
}

/// Accepts a node agent's certificate if the cluster's authority issued it, to whatever address it answers:
/// nodes come and go with addresses that nobody knew when the certificate was made. A certificate without
/// the name that was dialled must therefore be a node's own.
fn node_verifier(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Arc<Judged>, TlsError> {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    let schemes = provider.signature_verification_algorithms;
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let chains = chains.map_err(TlsError::Verifier)?;
    Ok(Judged::by(schemes, move |shown| match shown.verify(&chains) {
        Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
            if is_of_node(shown.certificate) =>
        {
            Ok(ServerCertVerified::assertion())
        }
        other => other,
    }))
}

fn is_of_node(certificate: &CertificateDer<'_>) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let names = certificate.subject().iter_common_name();
    names.filter_map(|name| name.as_str().ok()).any(|name| name.starts_with("system:node:"))
}

fn roots(pki: &Pki) -> Result<RootCertStore, TlsError> {
    parse_roots(pki.ca_pem().as_bytes())
}

fn parse_roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
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
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    #[tokio::test]
    async fn fresh_certificates_make_both_configurations() {
        let pki =
            Pki::ensure(None, component_base::clock::Clock::system(), &["localhost".to_owned()]).unwrap();
        assert_eq!(server_config(&pki).unwrap().alpn_protocols[0], b"h2");
        node_client_config(&pki).unwrap();
    }

    #[tokio::test]
    async fn a_nodes_own_certificate_is_good_at_any_address_and_nobody_elses_is() {
        component_base::client::install_crypto_provider();
        let pki =
            Pki::ensure(None, component_base::clock::Clock::system(), &["localhost".to_owned()]).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = node_verifier(roots(&pki).unwrap(), provider).unwrap();
        let is_good = |credential: &Credential| {
            let (chain, _) = parse(credential).unwrap();
            let name = ServerName::try_from("10.1.2.3").unwrap();
            verifier.verify_server_cert(&chain[0], &[], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(is_good(&pki.issue_client("system:node:n1", &["system:nodes"]).unwrap()));
        assert!(!is_good(pki.serving()));
        let other = Pki::ensure(None, component_base::clock::Clock::system(), &[]).unwrap();
        assert!(!is_good(&other.issue_client("system:node:n1", &["system:nodes"]).unwrap()));
    }
}
