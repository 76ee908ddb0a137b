//! TLS as the API server speaks it: to its clients, and to node agents.

mod bundle;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::pki::{Credential, Pki};
use bundle::BundleVerifier;

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
    let chain_only = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(pki)?), provider.clone())
        .build()
        .map_err(TlsError::Verifier)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NodeVerifier(chain_only)))
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
        false => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BundleVerifier::new(bundle, provider)?)),
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
        .with_custom_certificate_verifier(Arc::new(AnyServer(schemes)))
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
    let verifier: Arc<dyn ServerCertVerifier> = match authority {
        None => Arc::new(AnyServer(schemes)),
        Some(pem) => Arc::new(BundleVerifier::new(pem, provider.clone())?),
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
        (true, _) => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(schemes))),
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

/// Accepts any certificate, if the server has its key.
#[derive(Debug)]
struct AnyServer(rustls::crypto::WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Accepts a node agent's certificate if the cluster's authority issued it, to whatever address it answers:
/// nodes come and go with addresses that nobody knew when the certificate was made. A certificate without
/// the name that was dialled must therefore be a node's own.
#[derive(Debug)]
struct NodeVerifier(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if is_of_node(end_entity) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
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
        let roots = Arc::new(roots(&pki).unwrap());
        let verifier =
            NodeVerifier(WebPkiServerVerifier::builder_with_provider(roots, provider).build().unwrap());
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
