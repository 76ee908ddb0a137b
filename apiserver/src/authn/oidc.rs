//! Tokens of outside issuers (OpenID Connect), verified with the keys that the issuers publish.
//!
//! [`issuer`] has the keys of one issuer and verifies its tokens, [`claims`] makes a user of what they say. Which
//! issuers there are is told by the flags `--oidc-*` or by a file (`configuration`).

pub(crate) mod claims;
pub(crate) mod issuer;

use std::path::PathBuf;
use std::sync::Arc;

use component_base::clock::Clock;

use super::configuration::Configured;
use super::{Authenticator, Outcome, Presented};
use crate::tls::TlsError;
use claims::{Claims, Mapping, Rule};
use issuer::{Issuer, IssuerConfig};

/// `--oidc-*`.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// `https://…`, as the claim `iss` has it.
    pub issuer_url: String,
    /// Tokens must be for this audience.
    pub client_id: String,
    pub username_claim: String,
    /// Before each user name; `-` is none. Without it the issuer's URL and `#`, unless the claim is `email`.
    pub username_prefix: Option<String>,
    pub groups_claim: Option<String>,
    pub groups_prefix: String,
    /// Claims that must be there with this value.
    pub required_claims: Vec<(String, String)>,
    pub signing_algorithms: Vec<String>,
    /// The authorities (PEM) of the issuer's certificate; those of the machine without it.
    pub ca_file: Option<PathBuf>,
}

/// An issuer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("--oidc-issuer-url: {0:?} is not a URL of https without query and fragment")]
    IssuerUrl(String),
    #[error("--oidc-client-id is needed with --oidc-issuer-url")]
    ClientId,
    #[error("--oidc-signing-algs: {0:?} is not supported")]
    Algorithm(String),
    #[error("--oidc-ca-file: cannot read {}", .path.display())]
    ReadCa {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the certificates of the issuer's authority cannot be used")]
    Ca(#[from] TlsError),
}

impl OidcConfig {
    /// The issuer that the flags describe.
    pub(crate) fn issuer(&self, clock: Clock) -> Result<Arc<Issuer>, OidcError> {
        let is_https = self.issuer_url.starts_with("https://") && !self.issuer_url.contains(['?', '#']);
        if !is_https {
            return Err(OidcError::IssuerUrl(self.issuer_url.clone()));
        }
        if self.client_id.is_empty() {
            return Err(OidcError::ClientId);
        }
        let parse = |name: &String| match name.as_str() {
            "HS256" | "HS384" | "HS512" => Err(OidcError::Algorithm(name.clone())),
            other => other.parse().map_err(|_| OidcError::Algorithm(name.clone())),
        };
        let algorithms = self.signing_algorithms.iter().map(parse).collect::<Result<_, _>>()?;
        let authority = match &self.ca_file {
            None => Vec::new(),
            Some(path) => {
                std::fs::read(path).map_err(|source| OidcError::ReadCa { path: path.clone(), source })?
            }
        };
        let config = IssuerConfig {
            url: self.issuer_url.clone(),
            discovery_url: None,
            authority,
            audiences: vec![self.client_id.clone()],
            algorithms,
            claims: self.claims(),
        };
        Ok(Issuer::new(config, clock)?)
    }

    fn claims(&self) -> Claims {
        let prefix = match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if self.username_claim == "email" => String::new(),
            None => format!("{}#", self.issuer_url),
        };
        let required = self.required_claims.iter().cloned();
        let groups = self.groups_claim.clone();
        Claims {
            rules: required.map(|(claim, value)| Rule::Equal { claim, value }).collect(),
            username: Mapping::Claim { claim: self.username_claim.clone(), prefix },
            groups: groups.map(|claim| Mapping::Claim { claim, prefix: self.groups_prefix.clone() }),
            uid: None,
            extra: Vec::new(),
            user_rules: Vec::new(),
        }
    }
}

/// The authenticator of all issuers that are configured.
pub(crate) struct Issuers(pub(crate) Arc<Configured>);

impl Authenticator for Issuers {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        let Some(token) = presented.bearer().filter(|_| presented.are_for_server()) else {
            return Outcome::Unknown;
        };
        let settings = self.0.settings();
        match settings.issuers.iter().find(|issuer| issuer.is_of(token)).map(|issuer| issuer.user_of(token)) {
            None => Outcome::Unknown,
            Some(Ok(user)) => Outcome::User(user),
            Some(Err(why)) => Outcome::Refused(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::{Value, json};

    use super::super::service_account::CREDENTIAL_ID;
    use super::*;
    use jsonwebtoken::Algorithm;

    const ISSUER: &str = "https://issuer.example";

    fn config() -> OidcConfig {
        OidcConfig {
            issuer_url: ISSUER.into(),
            client_id: "cluster".into(),
            username_claim: "sub".into(),
            username_prefix: None,
            groups_claim: Some("groups".into()),
            groups_prefix: "oidc:".into(),
            required_claims: Vec::new(),
            signing_algorithms: vec!["ES256".into()],
            ca_file: None,
        }
    }

    /// An issuer with one key, and tokens that it signs.
    fn issuer(config: OidcConfig) -> (Arc<Issuer>, impl Fn(Value) -> String) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let point = rcgen::PublicKeyData::der_bytes(&pair).to_vec();
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "x": text(&point[1..33]), "y": text(&point[33..])});
        let oidc = config.issuer(Clock::system()).unwrap();
        oidc.know(vec![serde_json::from_value(key).unwrap()]);
        let encoding = jsonwebtoken::EncodingKey::from_ec_der(&pair.serialize_der());
        let sign = move |change: Value| {
            let end = Clock::system().now().timestamp() + 600;
            let mut claims =
                json!({"iss": ISSUER, "aud": "cluster", "sub": "jane", "exp": end, "groups": ["dev"]});
            claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let header =
                jsonwebtoken::Header { kid: Some("k".into()), ..jsonwebtoken::Header::new(Algorithm::ES256) };
            jsonwebtoken::encode(&header, &claims, &encoding).unwrap()
        };
        (oidc, sign)
    }

    #[tokio::test]
    async fn claims_become_a_user_with_prefixes() {
        let (oidc, sign) = issuer(config());
        let user = oidc.user_of(&sign(json!({"jti": "7"}))).unwrap();
        assert_eq!(user.name, "https://issuer.example#jane");
        assert_eq!(user.groups, ["oidc:dev", super::super::AUTHENTICATED]);
        assert_eq!(user.extra[CREDENTIAL_ID], ["JTI=7"]);
        let plain = OidcConfig { username_prefix: Some("-".into()), ..config() };
        let (oidc, sign) = issuer(plain);
        assert_eq!(oidc.user_of(&sign(json!({"groups": "ops"}))).unwrap().groups[0], "oidc:ops");
        assert_eq!(oidc.user_of(&sign(json!({}))).unwrap().name, "jane");
    }

    #[tokio::test]
    async fn what_is_for_others_old_or_unsigned_is_refused() {
        let (oidc, sign) =
            issuer(OidcConfig { required_claims: vec![("org".into(), "a".into())], ..config() });
        assert!(oidc.user_of(&sign(json!({"org": "a"}))).is_ok());
        for change in [
            json!({"org": "b"}),
            json!({"org": "a", "aud": ["x"]}),
            json!({"org": "a", "exp": 1}),
            json!({"org": "a", "sub": ""}),
        ] {
            assert!(oidc.user_of(&sign(change.clone())).is_err(), "{change}");
        }
        let (_, other) = issuer(config());
        assert!(oidc.user_of(&other(json!({"org": "a"}))).is_err());
        assert!(!oidc.is_of(&sign(json!({"iss": "https://else.example"}))));
    }

    #[tokio::test]
    async fn a_configuration_that_cannot_work_is_refused() {
        let refused = |config: OidcConfig| config.issuer(Clock::system()).err().unwrap().to_string();
        assert!(
            refused(OidcConfig { issuer_url: "http://x".into(), ..config() }).contains("--oidc-issuer-url")
        );
        assert!(refused(OidcConfig { client_id: String::new(), ..config() }).contains("--oidc-client-id"));
        assert!(
            refused(OidcConfig { signing_algorithms: vec!["HS256".into()], ..config() }).contains("HS256")
        );
    }
}
