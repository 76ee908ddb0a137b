//! A verifier of servers' certificates whose judgement is a function. That the server has the certificate's key
//! is always checked.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// What a server shows, and to whom it is shown.
pub(super) struct Shown<'a> {
    pub(super) certificate: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    /// The name that was dialled.
    pub(super) name: &'a ServerName<'a>,
    ocsp_response: &'a [u8],
    pub(super) now: UnixTime,
}

impl Shown<'_> {
    /// What the verifier of a chain says of it.
    pub(super) fn verify(&self, chains: &WebPkiServerVerifier) -> Result<ServerCertVerified, Error> {
        let Shown { certificate, intermediates, name, ocsp_response, now } = *self;
        chains.verify_server_cert(certificate, intermediates, name, ocsp_response, now)
    }
}

type Judge = dyn Fn(&Shown<'_>) -> Result<ServerCertVerified, Error> + Send + Sync;

pub(super) struct Judged {
    schemes: WebPkiSupportedAlgorithms,
    judge: Box<Judge>,
}

impl Judged {
    pub(super) fn by(
        schemes: WebPkiSupportedAlgorithms,
        judge: impl Fn(&Shown<'_>) -> Result<ServerCertVerified, Error> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { schemes, judge: Box::new(judge) })
    }

    /// Takes any certificate.
    pub(super) fn any(schemes: WebPkiSupportedAlgorithms) -> Arc<Self> {
        Self::by(schemes, |_| Ok(ServerCertVerified::assertion()))
    }
}

impl fmt::Debug for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judged").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Judged {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        (self.judge)(&Shown { certificate, intermediates, name, ocsp_response, now })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.supported_schemes()
    }
}
