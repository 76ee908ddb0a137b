//! Groups that other API servers serve: a request for one is passed on, with the name of who asks.
//!
//! An `APIService` with a service says who serves a group version. Groups of this server come first: a
//! request reaches another server only if nothing here answers to its path. One task keeps the rows of all
//! served group versions ([`registration`]), asks the other servers how they are ([`availability`]) and keeps
//! what they serve, which the discovery documents of this server show too ([`merge`]).

mod availability;
mod definitions;
mod merge;
mod priorities;
mod registration;

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::Value;

pub(crate) use availability::keep;
pub(crate) use merge::{asked, group_document, merged};

use crate::UserInfo;
use crate::backend::{self, DialError, Security};
use crate::cache::Stored;
use crate::health::plain_text;
use crate::pki::{Credential, Pki, PkiError};
use crate::server::Server;
use crate::store::Key;
use crate::tls::{self, TlsError};

/// Where APIServices are stored.
const STORAGE: &str = "apiregistration.k8s.io/apiservices";
/// The name in the certificate that this server shows to others; they take who asks from it alone.
const FRONT_PROXY: &str = "front-proxy-client";
/// TLS configurations kept, one for each authority; beyond that they are made anew.
const CONFIGS_MAX: usize = 64;

/// What is known of other API servers.
pub(crate) struct Aggregator {
    front_proxy: Credential,
    configs: Mutex<HashMap<String, Arc<rustls::ClientConfig>>>,
    /// What they serve, by the name of the APIService.
    served: Mutex<HashMap<String, Served>>,
}

/// What an extension API server serves, as it said last.
#[derive(Clone, Default)]
struct Served {
    /// The `APIResourceList` of the group version.
    resources: Value,
    /// The entry of the group version in `/openapi/v3`.
    openapi: Value,
    /// Paths of the group version in `/openapi/v2`, and the definitions there.
    openapi_2: Value,
}

/// Why the server behind an APIService cannot be asked: the condition's reason and message.
struct Unreachable {
    reason: &'static str,
    message: String,
}

/// An APIService that another server stands behind.
pub(crate) struct Remote {
    object: Value,
}

impl Aggregator {
    pub(crate) fn new(pki: &Pki) -> Result<Self, PkiError> {
        let front_proxy = pki.issue_client(FRONT_PROXY, &[])?;
        Ok(Self { front_proxy, configs: Mutex::default(), served: Mutex::default() })
    }

    /// TLS to a server whose certificate `authority` (PEM in base64) signed; empty trusts nobody, `None` anybody.
    fn config(&self, authority: Option<&str>) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        let key = authority.map_or_else(|| "any".to_owned(), |text| format!("by {text}"));
        if let Some(kept) = self.configs.lock().get(&key) {
            return Ok(kept.clone());
        }
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
        let made = tls::extension_client_config(authority.map(decode).as_deref(), &self.front_proxy)?;
        let mut configs = self.configs.lock();
        if configs.len() >= CONFIGS_MAX {
            configs.clear();
        }
        configs.insert(key, made.clone());
        Ok(made)
    }
}

/// The other server that serves a group version, if one is registered.
pub(crate) fn find(server: &Server, group: &str, version: &str) -> Option<Remote> {
    if group.is_empty() || version.is_empty() {
        return None;
    }
    let stored = server.objects.get(&Key::new(STORAGE, "", &format!("{version}.{group}")))?;
    Remote::of(&stored)
}

/// All APIServices that another server stands behind.
fn remotes(server: &Server) -> Vec<Remote> {
    server.objects.list(STORAGE, None).iter().filter_map(Remote::of).collect()
}

impl Remote {
    fn of(stored: &Arc<Stored>) -> Option<Self> {
        let object = stored.value().clone();
        object["spec"]["service"].is_object().then_some(Self { object })
    }

    fn text(&self, field: &str) -> &str {
        self.object["spec"][field].as_str().unwrap_or_default()
    }

    fn name(&self) -> String {
        format!("{}.{}", self.text("version"), self.text("group"))
    }

    fn is_available(&self) -> bool {
        let mut conditions = self.object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "Available" && c["status"] == "True")
    }

    /// Where the service leads.
    fn address(&self, server: &Server) -> Result<(String, u16), Unreachable> {
        let service = &self.object["spec"]["service"];
        let text = |field: &str| service[field].as_str().unwrap_or_default();
        let (name, namespace) = (text("name"), text("namespace"));
        let wanted = service["port"].as_u64().unwrap_or(443);
        let unreachable = |reason, what: String| Unreachable { reason, message: what };
        let stored = server.objects.get(&Key::new("services", namespace, name)).ok_or_else(|| {
            unreachable("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"))
        })?;
        let object = stored.value();
        if object["spec"]["type"] == "ExternalName" {
            let host = object["spec"]["externalName"].as_str().unwrap_or_default().to_owned();
            return Ok((host, u16::try_from(wanted).unwrap_or(443)));
        }
        let mut ports = object["spec"]["ports"].as_array().into_iter().flatten();
        let port = ports.find(|p| p["port"] == wanted).ok_or_else(|| {
            let what = format!("service/{name} in {namespace:?} is not listening on port {wanted}");
            unreachable("ServicePortError", what)
        })?;
        let port_name = port["name"].as_str().unwrap_or_default();
        let found = backend::endpoints(&server.objects, namespace, name, port_name).into_iter().next();
        found.ok_or_else(|| {
            let what = format!(
                "endpoints for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            );
            unreachable("MissingEndpoints", what)
        })
    }

    fn security(&self, server: &Server) -> Result<Security, TlsError> {
        let service = &self.object["spec"]["service"];
        let text = |field: &str| service[field].as_str().unwrap_or_default();
        let authority = match self.object["spec"]["insecureSkipTLSVerify"] == true {
            true => None,
            false => Some(self.text("caBundle")),
        };
        let name = format!("{}.{}.svc", text("name"), text("namespace"));
        Ok(Security::Verified(server.aggregator.config(authority)?, name))
    }

    /// Asks the server behind it.
    async fn ask(
        &self,
        server: &Server,
        mut request: http::Request<Body>,
        upgrade: Option<hyper::upgrade::OnUpgrade>,
    ) -> Result<Response, String> {
        let (host, port) = self.address(server).map_err(|u| u.message)?;
        if let Ok(value) = HeaderValue::from_str(&format!("{host}:{port}")) {
            request.headers_mut().insert(header::HOST, value);
        }
        let security = self.security(server).map_err(|error| error.to_string())?;
        let failed = |error: DialError| format!("error trying to reach service: {error}");
        let backend = server.backends.dial(&host, port, security).await.map_err(failed)?;
        backend.exchange(request, upgrade).await.map_err(failed)
    }
}

/// Passes a request on to the server behind an APIService and its answer back.
pub(crate) async fn pass(
    server: &Server,
    remote: &Remote,
    user: &UserInfo,
    mut request: Request,
) -> Response {
    if server.backends.is_loop(request.headers()) {
        return plain_text(StatusCode::LOOP_DETECTED, "the request comes from this server itself\n".into());
    }
    if !remote.is_available() {
        return plain_text(StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n".into());
    }
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut passed = http::Request::new(if upgrades { Body::empty() } else { body });
    *passed.method_mut() = parts.method;
    let target = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    match target.parse() {
        Ok(uri) => *passed.uri_mut() = uri,
        Err(error) => return plain_text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
    let mut headers = parts.headers;
    backend::drop_hop_by_hop(&mut headers, upgrades);
    backend::drop_credentials(&mut headers);
    name_user(&mut headers, user);
    server.backends.mark(&mut headers);
    *passed.headers_mut() = headers;
    match remote.ask(server, passed, upgrade).await {
        Ok(mut response) => {
            let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            backend::drop_hop_by_hop(response.headers_mut(), upgraded);
            response
        }
        Err(why) => plain_text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Says who asks; what the client itself said of that goes.
fn name_user(headers: &mut HeaderMap, user: &UserInfo) {
    let given: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in given {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        for value in values {
            add(&format!("x-remote-extra-{}", escape(key)), value);
        }
    }
}

/// A key as part of a header's name: what may not stand there is written `%2F`.
fn escape(key: &str) -> String {
    let mut out = String::new();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_said_by_this_server_alone() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("somebody-else"));
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        let mut user = UserInfo::new("ada", &["one", "two"]);
        user.extra.insert("example.org/key".into(), vec!["value".into()]);
        name_user(&mut headers, &user);
        assert_eq!(headers["x-remote-user"], "ada");
        let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["one", "two"]);
        assert_eq!(headers["x-remote-extra-example.org%2fkey"], "value");
    }
}
