//! Who is asking: an ordered table of authenticators, the first that knows the credentials decides.
//!
//! An authenticator either does not recognise what was presented (the next is asked), names the user, or
//! refuses, which ends the request with 401. Anonymous is the last row. Impersonation is a second step and
//! needs the authorizer, so it lives in its own file and is called after this.

pub(crate) mod anonymous;
pub(crate) mod bootstrap_token;
pub(crate) mod client_certificate;
pub(crate) mod configuration;
pub(crate) mod discovery;
pub(crate) mod impersonation;
pub(crate) mod oidc;
pub(crate) mod service_account;
pub(crate) mod token_file;

use std::sync::{Arc, LazyLock, OnceLock};

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

/// Group of everyone who presented valid credentials.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Group of the anonymous user.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

pub(crate) use crate::UserInfo;

/// A user who proved who it is: in these groups and in `system:authenticated`.
pub(crate) fn authenticated(name: impl Into<String>, groups: &[&str]) -> UserInfo {
    let mut user = UserInfo::new(name, groups);
    if !is_in(&user, AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// Whether the user is in `group`.
pub(crate) fn is_in(user: &UserInfo, group: &str) -> bool {
    user.groups.iter().any(|g| g == group)
}

/// The verified certificates of a TLS connection, leaf first; set by the listener as a request extension.
#[derive(Clone, Debug)]
pub(crate) struct PeerCertificates(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    certificates: Vec<CertificateDer<'static>>,
    /// Whom the leaf names. A connection has many requests, and all have the same certificate.
    user: OnceLock<Option<UserInfo>>,
}

impl PeerCertificates {
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self(Arc::new(Peer { certificates, user: OnceLock::new() }))
    }

    /// Whom the leaf names, as `read` finds out; none if there is no leaf.
    pub(crate) fn user(&self, read: fn(&[u8]) -> Option<UserInfo>) -> Option<&Option<UserInfo>> {
        let leaf = self.0.certificates.first()?;
        Some(self.0.user.get_or_init(|| read(leaf)))
    }
}

/// Where a connection comes from; set by the listener as a request extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) std::net::SocketAddr);

/// What a request presents.
pub(crate) struct Presented<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) certificates: Option<&'a PeerCertificates>,
    /// For whom the credentials have to be meant.
    pub(crate) audiences: &'a [String],
    /// The path that is asked for.
    pub(crate) path: &'a str,
}

/// For whom the credentials of ordinary requests are meant: this server.
pub(crate) static SERVER_AUDIENCES: LazyLock<Vec<String>> =
    LazyLock::new(|| vec![service_account::ISSUER.to_owned()]);

impl<'a> Presented<'a> {
    /// The credentials of a request to this server.
    pub(crate) fn to_server(headers: &'a HeaderMap, certificates: Option<&'a PeerCertificates>) -> Self {
        Self { headers, certificates, audiences: &SERVER_AUDIENCES, path: "" }
    }

    /// The same of a request for this path.
    pub(crate) fn at(self, path: &'a str) -> Self {
        Self { path, ..self }
    }

    /// Whether credentials that say nothing of an audience will do.
    pub(crate) fn are_for_server(&self) -> bool {
        self.audiences.iter().any(|audience| SERVER_AUDIENCES.contains(audience))
    }
    /// The bearer token, if there is one.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let value = self.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }
}

/// An authenticator's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not credentials of this sort; ask the next.
    Unknown,
    User(UserInfo),
    /// Credentials of this sort, and they are not valid.
    Refused(String),
}

/// One way to prove who one is.
///
/// Implementations are called for every request, so they must not block and must not do I/O.
pub(crate) trait Authenticator: Send + Sync {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome;
}

/// Authentication failed; the answer is 401. The text is for the log, not for the client.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unauthenticated(pub(crate) String);

/// The authenticators of this server, in order.
pub(crate) struct Authenticators(Vec<Box<dyn Authenticator>>);

impl Authenticators {
    pub(crate) fn new(rows: Vec<Box<dyn Authenticator>>) -> Self {
        Self(rows)
    }

    /// The user of a request.
    ///
    /// A token that no authenticator accepts is an error even when anonymous requests are allowed: a client
    /// with a stale token must hear of it.
    pub(crate) fn authenticate(&self, presented: &Presented<'_>) -> Result<UserInfo, Unauthenticated> {
        let mut refusal = None;
        for row in &self.0 {
            match row.authenticate(presented) {
                Outcome::Unknown => {}
                Outcome::User(user) => return Ok(user),
                Outcome::Refused(why) => refusal = refusal.or(Some(why)),
            }
        }
        Err(Unauthenticated(refusal.unwrap_or_else(|| "no credentials that this server knows".to_owned())))
    }

    /// Whose token `token` is, and for which of `audiences` it is good; or why it is none, as a TokenReview
    /// says it.
    pub(crate) fn review(
        &self,
        accounts: &service_account::ServiceAccount,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), String> {
        let bad = || "invalid bearer token".to_owned();
        if accounts.is_ours(token) {
            return accounts.user_of(token, audiences).map_err(|why| format!("[{}, {why}]", bad()));
        }
        let mut headers = HeaderMap::new();
        let value = http::HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad())?;
        headers.insert(http::header::AUTHORIZATION, value);
        let presented = Presented { headers: &headers, certificates: None, audiences, path: "" };
        let user = self.authenticate(&presented).map_err(|_| bad())?;
        let good = audiences.iter().filter(|a| SERVER_AUDIENCES.contains(a)).cloned().collect();
        Ok((user, good))
    }
}

#[cfg(test)]
mod tests {
    use super::anonymous::Allowed;
    use super::*;

    fn bearer(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn anonymous(usual: Allowed) -> anonymous::Anonymous {
        anonymous::Anonymous { configured: Arc::default(), usual }
    }

    #[test]
    fn anonymous_requests_are_served_where_they_may() {
        let row = anonymous(Allowed::At(vec!["/livez".to_owned()]));
        let ask = |path| row.authenticate(&Presented::to_server(&HeaderMap::new(), None).at(path));
        assert!(matches!(ask("/livez"), Outcome::User(_)));
        assert_eq!(ask("/livez/ping"), Outcome::Unknown);
    }

    fn chain() -> Authenticators {
        Authenticators::new(vec![
            Box::new(token_file::TokenFile::parse("secret,alice,u1,\"dev,ops\"").unwrap()),
            Box::new(anonymous(Allowed::Everywhere)),
        ])
    }

    #[test]
    fn the_first_that_knows_the_credentials_decides() {
        let user = chain().authenticate(&Presented::to_server(&bearer("Bearer secret"), None)).unwrap();
        assert_eq!(user.name, "alice");
        assert!(is_in(&user, AUTHENTICATED) && is_in(&user, "ops"));
    }

    #[test]
    fn a_wrong_token_is_refused_and_not_anonymous() {
        assert!(chain().authenticate(&Presented::to_server(&bearer("Bearer stale"), None)).is_err());
    }

    #[test]
    fn a_request_without_credentials_is_anonymous() {
        let user = chain().authenticate(&Presented::to_server(&HeaderMap::new(), None)).unwrap();
        assert_eq!(user.name, "system:anonymous");
        assert!(is_in(&user, UNAUTHENTICATED));
    }
}
