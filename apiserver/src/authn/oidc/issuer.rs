//! One issuer of tokens: its keys, and whether a token is good.
//!
//! Keys are fetched when a token needs one that is not known, and again when they are an hour old; at most once
//! in ten seconds, so that tokens of unknown keys do not make the server ask all the time.

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

use super::claims::Claims;
use crate::UserInfo;
use crate::authn::service_account::unverified_issuer;
use crate::backend::{Backends, Security};
use crate::tls::{self, TlsError};

/// What is known of an issuer beforehand.
pub(crate) struct IssuerConfig {
    /// `https://…`, as the claim `iss` has it.
    pub(crate) url: String,
    /// Where it describes itself, if not below its URL.
    pub(crate) discovery_url: Option<String>,
    /// The authorities (PEM) of its certificate; those of the machine if there are none.
    pub(crate) authority: Vec<u8>,
    /// Tokens must be for one of these.
    pub(crate) audiences: Vec<String>,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) claims: Claims,
}

const KEYS_AGE_MAX: Duration = Duration::from_secs(3600);
const FETCH_PAUSE: Duration = Duration::from_secs(10);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
const LEEWAY_SECONDS: i64 = 10;

/// An issuer and the keys that it publishes.
pub(crate) struct Issuer {
    config: IssuerConfig,
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

impl Issuer {
    pub(crate) fn new(config: IssuerConfig, clock: Clock) -> Result<Arc<Self>, TlsError> {
        let tls = tls::webhook_client_config(&config.authority)?;
        let (keys, fetching) = (ArcSwap::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { config, tls, clock, keys, fetching }))
    }

    /// Whether the token is of this issuer and its key is not known, or the keys are old.
    pub(crate) fn wants_keys_of(&self, token: &str) -> bool {
        if !self.is_of(token) {
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
            Ok(Err(why)) => warn!(issuer = self.config.url, why, "cannot fetch the issuer's keys"),
            Err(_) => warn!(issuer = self.config.url, "the issuer's keys took too long"),
        }
    }

    async fn fetch(&self, backends: &Backends) -> Result<Vec<Jwk>, String> {
        let issuer = self.config.url.trim_end_matches('/');
        let usual = || format!("{issuer}/.well-known/openid-configuration");
        let place = self.config.discovery_url.clone().unwrap_or_else(usual);
        let found = self.get(backends, &place).await?;
        if found["issuer"] != self.config.url.as_str() {
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

    /// Whether the token says that it is of this issuer.
    pub(crate) fn is_of(&self, token: &str) -> bool {
        unverified_issuer(token).is_some_and(|issuer| issuer == self.config.url)
    }

    /// The user of a token of this issuer, or why it is not good.
    pub(crate) fn user_of(&self, token: &str) -> Result<UserInfo, String> {
        let claims = self.verify(token)?;
        let audience = &claims["aud"];
        let ours = |one: &Value| self.config.audiences.iter().any(|ours| one == ours.as_str());
        if !audience.as_array().map_or_else(|| ours(audience), |list| list.iter().any(ours)) {
            return Err(format!("oidc: expected audience in {:?} got {audience}", self.config.audiences));
        }
        let now = self.clock.now().timestamp();
        if claims["exp"].as_f64().is_none_or(|end| end <= now as f64) {
            return Err("oidc: token is expired".to_owned());
        }
        if claims["nbf"].as_f64().is_some_and(|begin| begin > (now + LEEWAY_SECONDS) as f64) {
            return Err("oidc: current time is before the nbf (not before) time".to_owned());
        }
        self.config.claims.user(&claims)
    }

    fn verify(&self, token: &str) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|e| format!("oidc: {e}"))?;
        if !self.config.algorithms.contains(&header.alg) {
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

    /// Takes these as the issuer's keys.
    #[cfg(test)]
    pub(super) fn know(&self, list: Vec<Jwk>) {
        self.keys.store(Arc::new(Keys { list, fetched: Some(Instant::now()) }));
    }
}

fn is_named(key: &Jwk, id: Option<&str>) -> bool {
    id.is_none() || key.common.key_id.as_deref() == id
}
