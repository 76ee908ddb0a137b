//! Service-account tokens: signed claims (JWT, ES256), bound to an account and, for pods, to a pod.
//!
//! A token is good as long as its signature, time and audience are and what it is bound to still exists with
//! the same uid; deleting the pod or the account ends it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use component_base::clock::Clock;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Authenticator, Outcome, Presented, UserInfo, authenticated};
use crate::pki::Pki;
use crate::view::View;

/// The issuer and the audience of tokens for this server.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// The issuer of tokens that are kept in Secrets.
pub(crate) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// What the token of a Secret says.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct LegacyClaims {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    sub: String,
}

/// What a token is bound to.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Signs and reads tokens.
#[derive(Clone)]
pub(crate) struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    public: Vec<u8>,
    clock: Clock,
}

impl Tokens {
    pub(crate) fn new(pki: &Pki, clock: Clock) -> Self {
        let key = pki.signing_key();
        let public = key.public_key_raw();
        Self {
            encoding: EncodingKey::from_ec_der(&key.serialize_der()),
            decoding: DecodingKey::from_ec_der(public),
            key_id: key_id(public),
            public: public.to_vec(),
            clock,
        }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let header = Header { kid: Some(self.key_id.clone()), typ: None, ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.encoding)
    }

    /// The claims of a token that we signed and whose time it is; audiences are the caller's to compare.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims, String> {
        let claims = self.decode::<Claims>(token)?;
        let now = self.clock.now().timestamp();
        if claims.exp <= now {
            return Err("service account token has expired".to_owned());
        }
        if claims.nbf > now + LEEWAY_SECONDS {
            return Err("service account token is not valid yet".to_owned());
        }
        Ok(claims)
    }

    fn verify_legacy(&self, token: &str) -> Result<LegacyClaims, String> {
        self.decode(token)
    }

    fn decode<C: serde::de::DeserializeOwned + Clone>(&self, token: &str) -> Result<C, String> {
        let mut rules = Validation::new(Algorithm::ES256);
        // The library reads the machine's clock; ours decides.
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let data = jsonwebtoken::decode::<C>(token, &self.decoding, &rules);
        data.map(|data| data.claims).map_err(|e| e.to_string())
    }

    /// The public key as a JSON Web Key set.
    pub(crate) fn key_set(&self) -> Value {
        let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        // An uncompressed point: 4, then both coordinates.
        let (x, y) = self.public.get(1..).unwrap_or_default().split_at(self.public.len() / 2);
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": text(x), "y": text(y),
        }]})
    }
}

/// How far the clocks of two API servers may differ.
const LEEWAY_SECONDS: i64 = 10;

fn key_id(public: &[u8]) -> String {
    use sha2::Digest;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(public))
}

/// Recognises our own tokens; others (opaque ones, other issuers) are left to the other rows.
pub(crate) struct ServiceAccount {
    tokens: Tokens,
    view: Arc<dyn View>,
}

impl ServiceAccount {
    pub(crate) fn new(tokens: Tokens, view: Arc<dyn View>) -> Self {
        Self { tokens, view }
    }

    /// Whether a token says that we issued it; nothing about it has been checked yet.
    pub(crate) fn is_ours(&self, token: &str) -> bool {
        let issuer = unverified_issuer(token);
        issuer.is_some_and(|issuer| issuer == ISSUER || issuer == LEGACY_ISSUER)
    }

    /// The user of a token that is good for one of `audiences`, and for which of them.
    pub(crate) fn user_of(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), String> {
        if unverified_issuer(token).is_some_and(|issuer| issuer == LEGACY_ISSUER) {
            return self.user_of_legacy(token, audiences);
        }
        let claims = self.tokens.verify(token)?;
        let good: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if good.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                claims.aud
            ));
        }
        self.check_bound(&claims.bound)?;
        Ok((user(&claims), good))
    }

    /// Tokens of Secrets have no end and no audience; they live as long as their Secret holds them.
    fn user_of_legacy(&self, token: &str, audiences: &[String]) -> Result<(UserInfo, Vec<String>), String> {
        let claims = self.tokens.verify_legacy(token)?;
        let good: Vec<String> = audiences.iter().filter(|a| *a == ISSUER).cloned().collect();
        if good.is_empty() {
            return Err(format!("token audiences [] is invalid for the target audiences {audiences:?}"));
        }
        let account = Reference { name: claims.account.clone(), uid: claims.uid.clone() };
        self.check_exists("serviceaccounts", &claims.namespace, &account)?;
        let secret = self.view.object("secrets", &claims.namespace, &claims.secret);
        let held = secret.as_deref().filter(|s| s["metadata"]["deletionTimestamp"].is_null());
        let held = held.and_then(|s| s["data"]["token"].as_str()).and_then(|data| BASE64.decode(data).ok());
        if held.is_none_or(|held| held != token.as_bytes()) {
            return Err("service account token has been invalidated".to_owned());
        }
        let bound = Bound { namespace: claims.namespace, serviceaccount: account, ..Bound::default() };
        let mut user = account_user(&claims.sub, &bound);
        user.extra.clear();
        Ok((user, good))
    }

    fn check_bound(&self, bound: &Bound) -> Result<(), String> {
        self.check_exists("serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
        if let Some(pod) = &bound.pod {
            self.check_exists("pods", &bound.namespace, pod)?;
        }
        if let Some(secret) = &bound.secret {
            self.check_exists("secrets", &bound.namespace, secret)?;
        }
        match (&bound.node, &bound.pod) {
            (Some(node), None) => self.check_exists("nodes", "", node),
            _ => Ok(()),
        }
    }

    fn check_exists(&self, resource: &str, namespace: &str, reference: &Reference) -> Result<(), String> {
        let found = self.view.object(resource, namespace, &reference.name);
        match found.as_deref().and_then(|o| o.pointer("/metadata/uid")).and_then(Value::as_str) {
            Some(uid) if uid == reference.uid => Ok(()),
            _ => Err(format!("{resource} {:?} that the token is bound to has been deleted", reference.name)),
        }
    }
}

impl Authenticator for ServiceAccount {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        let Some(token) = presented.bearer().filter(|token| self.is_ours(token)) else {
            return Outcome::Unknown;
        };
        match self.user_of(token, presented.audiences) {
            Ok((user, _audiences)) => Outcome::User(user),
            Err(why) => Outcome::Refused(why),
        }
    }
}

/// The issuer that a token names, before anything about it is checked; none if it is no JWT.
pub(crate) fn unverified_issuer(token: &str) -> Option<String> {
    let [_, claims, _] = token.split('.').collect::<Vec<_>>()[..] else { return None };
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

fn user(claims: &Claims) -> UserInfo {
    let mut user = account_user(&claims.sub, &claims.bound);
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={}", claims.jti)]);
    user
}

/// What identifies the credentials a user came with.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

fn account_user(name: &str, bound: &Bound) -> UserInfo {
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", bound.namespace)];
    let mut user = authenticated(name.to_owned(), &[groups[0].as_str(), groups[1].as_str()]);
    user.uid = bound.serviceaccount.uid.clone();
    let mut note = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            note(&format!("{kind}-name"), reference.name.clone());
            note(&format!("{kind}-uid"), reference.uid.clone());
        }
    }
    user
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::fixture::Fixture;

    fn tokens(clock: Clock) -> Tokens {
        Tokens::new(&Pki::ensure(None, clock, &[]).unwrap(), clock)
    }

    fn claims(clock: &Clock) -> Claims {
        let now = clock.now().timestamp();
        let bound = Bound {
            namespace: "ns".into(),
            serviceaccount: Reference { name: "robot".into(), uid: "u1".into() },
            pod: Some(Reference { name: "p".into(), uid: "u2".into() }),
            ..Bound::default()
        };
        Claims {
            aud: vec![ISSUER.into()],
            exp: now + 600,
            iat: now,
            iss: ISSUER.into(),
            jti: "j".into(),
            bound,
            nbf: now,
            sub: "system:serviceaccount:ns:robot".into(),
        }
    }

    fn world() -> Fixture {
        Fixture::default()
            .with("serviceaccounts", json!({"metadata": {"name": "robot", "namespace": "ns", "uid": "u1"}}))
    }

    fn pod(uid: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid}})
    }

    #[tokio::test]
    async fn a_token_lives_as_long_as_its_pod() {
        let clock = Clock::system();
        let tokens = tokens(clock);
        let token = tokens.sign(&claims(&clock)).unwrap();
        let ask = |world: Fixture| {
            ServiceAccount::new(tokens.clone(), Arc::new(world)).user_of(&token, &[ISSUER.to_owned()])
        };
        let (user, audiences) = ask(world().with("pods", pod("u2"))).unwrap();
        assert_eq!(audiences, [ISSUER]);
        assert_eq!(user.name, "system:serviceaccount:ns:robot");
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert!(ask(world().with("pods", pod("other"))).is_err());
        assert!(ask(world()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_at_its_time_by_the_clock_of_the_cluster() {
        let clock = Clock::starting_at(chrono::DateTime::UNIX_EPOCH + chrono::Duration::days(20_000));
        let tokens = tokens(clock);
        let token = tokens.sign(&claims(&clock)).unwrap();
        assert!(tokens.verify(&token).is_ok());
        tokio::time::advance(std::time::Duration::from_secs(601)).await;
        assert!(tokens.verify(&token).unwrap_err().contains("expired"));
    }

    #[tokio::test]
    async fn a_token_of_another_key_or_audience_is_refused() {
        let clock = Clock::system();
        let token = tokens(clock).sign(&claims(&clock)).unwrap();
        assert!(tokens(clock).verify(&token).is_err());
        let ours = tokens(clock);
        let token = ours.sign(&Claims { aud: vec!["vault".into()], ..claims(&clock) }).unwrap();
        let row = ServiceAccount::new(ours, Arc::new(world().with("pods", pod("u2"))));
        assert!(row.user_of(&token, &[ISSUER.to_owned()]).is_err());
        assert!(row.user_of(&token, &["vault".to_owned()]).is_ok());
    }
}
