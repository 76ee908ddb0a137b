//! OpenID Connect: ID tokens of one outside issuer, verified with the keys that it publishes.
//!
//! Keys are fetched when a token needs one that is not known, and again when they are an hour old; at most once
//! in ten seconds, so that tokens of unknown keys do not make the server ask all the time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use component_base::clock::Clock;
use http_body_util::BodyExt as _;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use tokio::time::Instant;
use tracing::warn;

use super::service_account::{CREDENTIAL_ID, unverified_issuer};
use super::{Authenticator, Outcome, Presented, UserInfo, authenticated};
use crate::backend::{Backends, Security};
use crate::tls::{self, TlsError};

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
    #[error("--oidc-ca-file: its certificates cannot be used")]
    Ca(#[from] TlsError),
}

const KEYS_AGE_MAX: Duration = Duration::from_secs(3600);
const FETCH_PAUSE: Duration = Duration::from_secs(10);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
const LEEWAY_SECONDS: i64 = 10;

/// The authenticator of one issuer.
pub(crate) struct Oidc {
    config: OidcConfig,
    algorithms: Vec<Algorithm>,
    tls: Arc<rustls::ClientConfig>,
    clock: Clock,
    keys: ArcSwap<Keys>,
    /// One fetch at a time; when the last one began.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Keys {
    list: Vec<Jwk>,
    fetched: Option<Instant>,
}

impl Oidc {
    pub(crate) fn new(config: OidcConfig, clock: Clock) -> Result<Arc<Self>, OidcError> {
        let is_https = config.issuer_url.starts_with("https://") && !config.issuer_url.contains(['?', '#']);
        if !is_https {
            return Err(OidcError::IssuerUrl(config.issuer_url));
        }
        if config.client_id.is_empty() {
            return Err(OidcError::ClientId);
        }
        let parse = |name: &String| match name.as_str() {
            "HS256" | "HS384" | "HS512" => Err(OidcError::Algorithm(name.clone())),
            other => other.parse().map_err(|_| OidcError::Algorithm(name.clone())),
        };
        let algorithms = config.signing_algorithms.iter().map(parse).collect::<Result<_, _>>()?;
        let bundle = match &config.ca_file {
            None => Vec::new(),
            Some(path) => {
                std::fs::read(path).map_err(|source| OidcError::ReadCa { path: path.clone(), source })?
            }
        };
        let tls = tls::webhook_client_config(&bundle)?;
        let (keys, fetching) = (ArcSwap::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { config, algorithms, tls, clock, keys, fetching }))
    }

    /// Whether the request's token is of this issuer and its key is not known, or the keys are old.
    pub(crate) fn wants_keys(&self, presented: &Presented<'_>) -> bool {
        presented.bearer().is_some_and(|token| self.wants_keys_of(token))
    }

    /// As `wants_keys`, of a token by itself.
    pub(crate) fn wants_keys_of(&self, token: &str) -> bool {
        if !self.is_ours(token) {
            return false;
        }
        let keys = self.keys.load();
        let is_old = keys.fetched.is_none_or(|at| at.elapsed() > KEYS_AGE_MAX);
        let header = jsonwebtoken::decode_header(token);
        is_old || header.is_ok_and(|header| !keys.list.iter().any(|key| is_named(key, header.kid.as_deref())))
    }

    /// Fetches the issuer's keys, unless that was tried a moment ago.
    pub(crate) async fn fetch_keys(&self, backends: &Backends) {
        let mut last = self.fetching.lock().await;
        if last.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
            return;
        }
        *last = Some(Instant::now());
        match tokio::time::timeout(FETCH_TIMEOUT, self.fetch(backends)).await {
            Ok(Ok(list)) => self.keys.store(Arc::new(Keys { list, fetched: Some(Instant::now()) })),
            Ok(Err(why)) => warn!(issuer = self.config.issuer_url, why, "cannot fetch the issuer's keys"),
            Err(_) => warn!(issuer = self.config.issuer_url, "the issuer's keys took too long"),
        }
    }

    async fn fetch(&self, backends: &Backends) -> Result<Vec<Jwk>, String> {
        let issuer = self.config.issuer_url.trim_end_matches('/');
        let found = self.get(backends, &format!("{issuer}/.well-known/openid-configuration")).await?;
        if found["issuer"] != self.config.issuer_url.as_str() {
            return Err(format!("its configuration names the issuer {}", found["issuer"]));
        }
        let keys = found["jwks_uri"].as_str().ok_or("its configuration has no jwks_uri")?;
        let set = self.get(backends, keys).await?;
        let list = set["keys"].as_array().ok_or("its key set has no keys")?;
        // Keys of sorts that are not known here are for others.
        Ok(list.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).collect())
    }

    async fn get(&self, backends: &Backends, url: &str) -> Result<Value, String> {
        let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is not a URL"))?;
        let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(format!("{url:?} is not a URL of https"));
        };
        let host = host.trim_matches(['[', ']']);
        let security = Security::Verified(self.tls.clone(), host.to_owned());
        let backend = backends.dial(host, uri.port_u16().unwrap_or(443), security).await;
        let backend = backend.map_err(|e| e.to_string())?;
        let request = http::Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(http::header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
            .header(http::header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|e| e.to_string())?;
        let response = backend.exchange(request, None).await.map_err(|e| e.to_string())?;
        if !response.status().is_success() {
            return Err(format!("{url} answered {}", response.status()));
        }
        let body = http_body_util::Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        serde_json::from_slice(&body).map_err(|e| format!("{url}: {e}"))
    }

    fn is_ours(&self, token: &str) -> bool {
        unverified_issuer(token).is_some_and(|issuer| issuer == self.config.issuer_url)
    }

    fn user_of(&self, token: &str) -> Result<UserInfo, String> {
        let claims = self.verify(token)?;
        let audience = &claims["aud"];
        let meant = match audience.as_array() {
            Some(list) => list.iter().any(|one| *one == self.config.client_id.as_str()),
            None => *audience == self.config.client_id.as_str(),
        };
        if !meant {
            return Err(format!("oidc: expected audience {:?} got {audience}", self.config.client_id));
        }
        let now = self.clock.now().timestamp();
        if claims["exp"].as_f64().is_none_or(|end| end <= now as f64) {
            return Err("oidc: token is expired".to_owned());
        }
        if claims["nbf"].as_f64().is_some_and(|begin| begin > (now + LEEWAY_SECONDS) as f64) {
            return Err("oidc: current time is before the nbf (not before) time".to_owned());
        }
        for (name, value) in &self.config.required_claims {
            if claims[name] != value.as_str() {
                return Err(format!("oidc: required claim {name} value does not match"));
            }
        }
        self.mapped(&claims)
    }

    fn verify(&self, token: &str) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|e| format!("oidc: {e}"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(format!("oidc: id token signed with unsupported algorithm {:?}", header.alg));
        }
        let mut rules = Validation::new(header.alg);
        // Time and audience are checked by the clock and the words of the cluster.
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let keys = self.keys.load();
        let fitting = keys.list.iter().filter(|key| is_named(key, header.kid.as_deref()));
        let verified = fitting
            .filter_map(|key| DecodingKey::from_jwk(key).ok())
            .find_map(|key| jsonwebtoken::decode::<Value>(token, &key, &rules).ok().map(|data| data.claims));
        verified
            .ok_or_else(|| "oidc: failed to verify signature: failed to verify id token signature".to_owned())
    }

    fn mapped(&self, claims: &Value) -> Result<UserInfo, String> {
        let config = &self.config;
        let name = claims[&config.username_claim].as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("oidc: claim {:?} not present", config.username_claim))?;
        if config.username_claim == "email" && claims.get("email_verified").is_some_and(|v| *v != true) {
            return Err("oidc: email not verified".to_owned());
        }
        let prefix = match config.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if config.username_claim == "email" => String::new(),
            None => format!("{}#", config.issuer_url),
        };
        let groups = config.groups_claim.as_ref().map_or(&Value::Null, |claim| &claims[claim]);
        let groups: Vec<String> = match groups {
            Value::String(one) => vec![format!("{}{one}", config.groups_prefix)],
            Value::Array(list) => {
                let names = list.iter().filter_map(Value::as_str);
                names.map(|group| format!("{}{group}", config.groups_prefix)).collect()
            }
            _ => Vec::new(),
        };
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let mut user = authenticated(format!("{prefix}{name}"), &groups);
        if let Some(id) = claims["jti"].as_str() {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        Ok(user)
    }
}

fn is_named(key: &Jwk, id: Option<&str>) -> bool {
    id.is_none() || key.common.key_id.as_deref() == id
}

impl Authenticator for Arc<Oidc> {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        let token = presented.bearer().filter(|token| presented.are_for_server() && self.is_ours(token));
        match token.map(|token| self.user_of(token)) {
            None => Outcome::Unknown,
            Some(Ok(user)) => Outcome::User(user),
            Some(Err(why)) => Outcome::Refused(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;

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
    fn issuer(config: OidcConfig) -> (Arc<Oidc>, impl Fn(Value) -> String) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let point = rcgen::PublicKeyData::der_bytes(&pair).to_vec();
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "x": text(&point[1..33]), "y": text(&point[33..])});
        let oidc = Oidc::new(config, Clock::system()).unwrap();
        let list = vec![serde_json::from_value(key).unwrap()];
        oidc.keys.store(Arc::new(Keys { list, fetched: Some(Instant::now()) }));
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
        assert!(!oidc.is_ours(&sign(json!({"iss": "https://else.example"}))));
    }

    #[tokio::test]
    async fn a_configuration_that_cannot_work_is_refused() {
        let refused = |config: OidcConfig| Oidc::new(config, Clock::system()).err().unwrap().to_string();
        assert!(
            refused(OidcConfig { issuer_url: "http://x".into(), ..config() }).contains("--oidc-issuer-url")
        );
        assert!(refused(OidcConfig { client_id: String::new(), ..config() }).contains("--oidc-client-id"));
        assert!(
            refused(OidcConfig { signing_algorithms: vec!["HS256".into()], ..config() }).contains("HS256")
        );
    }
}
