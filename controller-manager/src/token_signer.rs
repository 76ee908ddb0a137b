//! Signs the tokens that are kept in Secrets, with the key that the API server checks them by.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::json;

/// A key that cannot sign.
#[derive(Debug, thiserror::Error)]
#[error("--service-account-private-key-file: no private key of the curve P-256: {0}")]
pub struct SignerError(String);

/// The private key of service-account tokens.
pub struct TokenSigner {
    key: EncodingKey,
    id: String,
}

impl TokenSigner {
    /// From the key, PEM.
    pub fn new(pem: &str) -> Result<Self, SignerError> {
        use base64::Engine as _;
        use sha2::Digest as _;
        let pair = KeyPair::from_pem(pem).map_err(|e| SignerError(e.to_string()))?;
        if !pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(SignerError("another algorithm".to_owned()));
        }
        let id = sha2::Sha256::digest(pair.der_bytes());
        Ok(Self {
            key: EncodingKey::from_ec_der(&pair.serialize_der()),
            id: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(id),
        })
    }

    /// The token of an account, kept in a Secret.
    pub(crate) fn sign(&self, namespace: &str, secret: &str, account: &str, uid: &str) -> Option<String> {
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": account,
            "kubernetes.io/serviceaccount/service-account.uid": uid,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
        });
        let header = Header { kid: Some(self.id.clone()), typ: None, ..Header::new(Algorithm::ES256) };
        match jsonwebtoken::encode(&header, &claims, &self.key) {
            Ok(token) => Some(token),
            Err(error) => {
                tracing::error!(%error, "a token cannot be signed");
                None
            }
        }
    }
}
