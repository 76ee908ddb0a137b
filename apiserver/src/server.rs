//! The listener, and the ORDER of all layers in one table, [`LAYERS`].
//!
//! The layers are one tower service. Connections call it, and so do components in the same process through
//! a [`Loopback`], which skips nothing but the socket and the proof of identity.

mod listener;
mod loopback;
mod start;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use api_types::kinds::Kind;
use api_types::status::Status;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use component_base::Shutdown;
use component_base::clock::Clock;
use component_base::random::Random;
use component_base::zpages::Zpages;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tracing::{Instrument as _, error, info, info_span, warn};

pub use loopback::Loopback;
pub(crate) use start::send;
pub use start::{Running, StartError, run, start};

use crate::audit::{Audit, Trail};
use crate::authn::configuration::Configured;
use crate::authn::service_account::{ServiceAccount, Tokens};
use crate::authn::{self, Authenticators, PeerAddress, PeerCertificates, Presented, impersonation};
use crate::authz::{self, Attributes, Authorizers, Decision, review};
use crate::backend::Backends;
use crate::cache::Objects;
use crate::config::Limits;
use crate::discovery::{self, Registry};
use crate::flow_control::{self, FlowControl};
use crate::metrics::RequestMetrics;
use crate::negotiate::{self, Accept};
use crate::request_info::{self, RequestInfo};
use crate::rest::{self, Call, Connection, Translations};
use crate::service_ip::ServiceAddresses;
use crate::view::View;
use crate::{
    UserInfo, admission, aggregation, debug_pages, health, node_metrics, openapi, subresource, transaction,
};

/// What all requests share.
pub(crate) struct Server {
    pub(crate) objects: Arc<Objects>,
    pub(crate) zpages: Zpages,
    /// Whether the configuration of encryption is read again when it changes.
    pub(crate) reloads_keys: bool,
    pub(crate) view: Arc<dyn View>,
    pub(crate) registry: Registry,
    pub(crate) services: Arc<ServiceAddresses>,
    pub(crate) authenticators: Authenticators,
    pub(crate) authorizers: Arc<Authorizers>,
    pub(crate) admission: admission::State,
    pub(crate) service_accounts: ServiceAccount,
    pub(crate) tokens: Tokens,
    pub(crate) pki: Arc<crate::Pki>,
    pub(crate) backends: Arc<Backends>,
    pub(crate) aggregator: aggregation::Aggregator,
    pub(crate) node_answers: node_metrics::Answers,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) limits: Limits,
    pub(crate) metrics: RequestMetrics,
    audit: Option<Arc<Audit>>,
    configured: Arc<Configured>,
    pub(crate) shutdown: Shutdown,
    /// `host:port` that discovery tells clients.
    pub(crate) address: String,
    pub(crate) ready: AtomicBool,
    pub(crate) flow: Arc<FlowControl>,
}

impl Server {
    /// Answers a resource that is a question and never stored.
    pub(crate) async fn answer_review(
        &self,
        kind: &Kind,
        user: &UserInfo,
        namespace: &str,
        object: Value,
    ) -> Result<Value, Status> {
        if let Some(token) = object["spec"]["token"].as_str() {
            self.configured.prepare_token(token, &self.backends).await;
        }
        let reviewers = review::Reviewers {
            authorizers: &self.authorizers,
            authenticators: &self.authenticators,
            service_accounts: &self.service_accounts,
            now: self.clock.now(),
        };
        review::answer(&reviewers, &kind.kind, user, namespace, object).await
    }
}

/// All layers, outermost first. A request passes them from top to bottom, its answer from bottom to top.
static LAYERS: &[Layer] = &[
    |server, request, next| Box::pin(measure(server, request, next)),
    |server, request, next| Box::pin(catch_panic(server, request, next)),
    |server, request, next| Box::pin(name_request(server, request, next)),
    |server, request, next| Box::pin(bound(server, request, next)),
    |server, request, next| Box::pin(authenticate(server, request, next)),
    |server, request, next| record(server, request, next),
    |server, request, next| impersonate(server, request, next),
    |server, request, next| Box::pin(take_turn(server, request, next)),
    |server, request, next| Box::pin(authorize(server, request, next)),
];

type Layer = for<'a> fn(&'a Arc<Server>, Request, Next) -> BoxFuture<'a, Response>;

/// The layers that are still to come, and after them the service itself.
#[derive(Clone, Copy)]
struct Next(&'static [Layer]);

impl Next {
    fn run(self, server: &Arc<Server>, request: Request) -> BoxFuture<'_, Response> {
        match self.0.split_first() {
            Some((layer, rest)) => layer(server, request, Next(rest)),
            None => Box::pin(serve(server, request)),
        }
    }
}

/// The layers as one service.
#[derive(Clone)]
pub(crate) struct Layers(Arc<Server>);

impl tower::Service<Request> for Layers {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move {
            let is_head = request.method() == http::Method::HEAD;
            let response = Next(LAYERS).run(&server, request).await;
            Ok(if is_head { without_body(response) } else { response })
        })
    }
}

/// An answer that only says how long its body would be.
fn without_body(mut response: Response) -> Response {
    if let Some(size) = response.body().size_hint().exact() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(size.into());
    }
    response.map(|_| Body::empty())
}

/// The name under which a request stands in logs and beside what it wrote.
#[derive(Clone, Debug)]
struct AuditId(String);

/// What a request asks for, once [`measure`] has read it.
fn info_of(request: &Request) -> Arc<RequestInfo> {
    request.extensions().get::<Arc<RequestInfo>>().cloned().unwrap_or_default()
}

async fn measure(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    let begun = tokio::time::Instant::now();
    let uri = request.uri();
    let info = request_info::parse(request.method(), uri.path(), uri.query().unwrap_or_default());
    let info = Arc::new(info);
    let long = lasts(&request, &info);
    request.extensions_mut().insert(info.clone());
    let in_flight = (!long).then(|| server.metrics.enter(&info));
    let span = info_span!("request", verb = %info.verb, path = %info.path);
    let response = next.run(server, request).instrument(span).await;
    drop(in_flight);
    let took = begun.elapsed();
    server.metrics.observe(&info, &response, took);
    if long {
        return server.metrics.follow(&info, response);
    }
    if took > server.limits.slow_request {
        let audit_id = response.headers().get("audit-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        info!(verb = %info.verb, path = %info.path, code = response.status().as_u16(), ?took, audit_id, "a slow request");
    }
    response
}

async fn catch_panic(server: &Arc<Server>, request: Request, next: Next) -> Response {
    let info = info_of(&request);
    let caught = std::panic::AssertUnwindSafe(next.run(server, request)).catch_unwind().await;
    caught.unwrap_or_else(|_| {
        error!(path = %info.path, "a request panicked");
        negotiate::answer_status(&Status::internal("the request failed; the server's log has the place"))
    })
}

async fn name_request(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get("audit-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let id = given.unwrap_or_else(|| server.random.uuid().to_string());
    let header = HeaderValue::from_str(&id).ok();
    request.extensions_mut().insert(AuditId(id));
    let mut response = next.run(server, request).await;
    if let Some(header) = header {
        response.headers_mut().insert(HeaderName::from_static("audit-id"), header);
    }
    response
}

/// A bound on a request's time. Watches and streams have bounds of their own.
async fn bound(server: &Arc<Server>, request: Request, next: Next) -> Response {
    if is_long(&request) {
        return next.run(server, request).await;
    }
    match tokio::time::timeout(server.limits.request_timeout, next.run(server, request)).await {
        Ok(response) => response,
        Err(_) => {
            negotiate::answer_status(&Status::timeout("request did not complete within the allotted timeout"))
        }
    }
}

/// Watches and streams.
fn is_long(request: &Request) -> bool {
    request.extensions().get::<Arc<RequestInfo>>().is_some_and(|info| lasts(request, info))
}

fn lasts(request: &Request, info: &RequestInfo) -> bool {
    let streams = ["log", "exec", "attach", "portforward", "proxy"];
    info.verb == "watch"
        || streams.contains(&info.subresource.as_str())
        || request.headers().contains_key(header::UPGRADE)
}

/// Finds out who asks, unless a loopback said so.
async fn authenticate(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    if request.extensions().get::<UserInfo>().is_none() {
        let certificates = request.extensions().get::<PeerCertificates>().cloned();
        let presented =
            Presented::to_server(request.headers(), certificates.as_ref()).at(request.uri().path());
        server.configured.prepare(&presented, &server.backends).await;
        match server.authenticators.authenticate(&presented) {
            Ok(user) => {
                request.extensions_mut().insert(user);
            }
            Err(refused) => {
                warn!(%refused, "authentication failed");
                let status = Status::unauthorized();
                if let Some(audit) = &server.audit {
                    audit.refused(&request, audit_id(&request), status.code());
                }
                return negotiate::answer_status(&status);
            }
        }
    }
    next.run(server, request).await
}

/// Keeps the audit trail of what the policy names.
fn record(server: &Arc<Server>, mut request: Request, next: Next) -> BoxFuture<'_, Response> {
    let Some(trail) = server.audit.as_ref().and_then(|audit| audit.begin(&request, audit_id(&request)))
    else {
        return next.run(server, request);
    };
    let is_long = is_long(&request);
    request.extensions_mut().insert(trail.clone());
    Box::pin(async move {
        match std::panic::AssertUnwindSafe(next.run(server, request)).catch_unwind().await {
            Ok(response) => trail.answers(response, is_long).await,
            Err(panic) => {
                trail.panicked();
                std::panic::resume_unwind(panic)
            }
        }
    })
}

fn audit_id(request: &Request) -> &str {
    request.extensions().get::<AuditId>().map_or("", |id| &id.0)
}

/// Lets the request run as somebody else, if it asks for it and may.
fn impersonate(server: &Arc<Server>, request: Request, next: Next) -> BoxFuture<'_, Response> {
    match impersonation::is_asked(request.headers()) {
        true => Box::pin(run_as_asked(server, request, next)),
        false => next.run(server, request),
    }
}

async fn run_as_asked(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    let user = request.extensions().get::<UserInfo>().cloned().unwrap_or_default();
    let attributes = Attributes::of(&user, &info_of(&request));
    match impersonation::apply(&attributes, request.headers(), &server.authorizers).await {
        Ok(impersonated) => {
            if let Some(trail) = request.extensions().get::<Trail>() {
                trail.impersonates(&impersonated);
            }
            request.extensions_mut().insert(impersonated.user);
            next.run(server, request).await
        }
        Err(status) => negotiate::answer_status(&status),
    }
}

/// Lets requests in by priority and fairness. They hold their seats until the answer begins.
async fn take_turn(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    let Some(user) = request.extensions().get::<UserInfo>() else {
        return next.run(server, request).await;
    };
    let info = info_of(&request);
    // Authorization judges by the same.
    let attributes = Arc::new(Attributes::of(user, &info));
    request.extensions_mut().insert(attributes.clone());
    if lasts(&request, &info) && info.verb != "watch" {
        return next.run(server, request).await;
    }
    let patience = server.limits.request_timeout / 4;
    let (mut response, labels) = match server.flow.enter(&attributes, seats(server, &info), patience).await {
        Ok(admitted) => {
            let response = next.run(server, request).await;
            (response, admitted.labels())
        }
        Err(refused) => {
            let status = Status::too_many_requests("too many requests, please try again later.", 1);
            (negotiate::answer_status(&status), refused.labels)
        }
    };
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-kubernetes-pf-flowschema-uid"), labels.schema_uid);
    headers.insert(HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid"), labels.level_uid);
    response
}

/// How many seats a request takes: a list as many as its objects are worth.
fn seats(server: &Server, info: &RequestInfo) -> u32 {
    let is_list = info.is_resource && matches!(info.verb.as_str(), "list" | "deletecollection");
    let kind = is_list.then(|| server.registry.find(&info.group, &info.version, &info.resource)).flatten();
    let Some(kind) = kind else { return 1 };
    let page = info.query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let objects = server.objects.count(&kind.storage);
    flow_control::seats_of_list(page.unwrap_or(usize::MAX).min(objects))
}

async fn authorize(server: &Arc<Server>, mut request: Request, next: Next) -> Response {
    let Some(attributes) = request.extensions_mut().remove::<Arc<Attributes>>() else {
        return negotiate::answer_status(&Status::internal(
            "a request without identity reached authorization",
        ));
    };
    // Each operation of a transaction is authorized by itself.
    if attributes.path == transaction::PATH && attributes.verb == "post" {
        return next.run(server, request).await;
    }
    let decision = server.authorizers.ask(&attributes).await;
    if let Some(trail) = request.extensions().get::<Trail>() {
        trail.decided(matches!(decision, Decision::Allow(_)), decision.reason());
    }
    match decision {
        Decision::Allow(_) => next.run(server, request).await,
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            negotiate::answer_status(&authz::forbidden(&attributes, &reason))
        }
    }
}

/// The innermost service: a resource's verb, or one of the server's own documents.
async fn serve(server: &Arc<Server>, request: Request) -> Response {
    let answer = answer(server.clone(), request).await;
    answer.unwrap_or_else(|status| {
        if status.code() >= 500 {
            warn!(code = status.code(), message = %status.message, "a request failed");
        }
        negotiate::answer_status(&status)
    })
}

/// The other API server that answers at this path, if nothing here does.
fn elsewhere(server: &Server, info: &RequestInfo) -> Option<aggregation::Remote> {
    let path = info.path.trim_end_matches('/');
    if let Some(name) = path.strip_prefix("/openapi/v3/apis/") {
        let (group, version) = name.split_once('/')?;
        return if server.registry.serves(group, version) {
            None
        } else {
            aggregation::find(server, group, version)
        };
    }
    if info.group.is_empty() || server.registry.serves(&info.group, &info.version) {
        return None;
    }
    aggregation::find(server, &info.group, &info.version)
}

async fn answer(server: Arc<Server>, mut request: Request) -> Result<Response, Status> {
    let info = info_of(&request);
    if info.path == transaction::PATH && info.verb == "post" {
        return answer_transaction(&server, &info, request).await;
    }
    let user = request.extensions_mut().remove::<UserInfo>().unwrap_or_default();
    if let Some(remote) = elsewhere(&server, &info) {
        return Ok(aggregation::pass(&server, &remote, &user, request).await);
    }
    if let Some(page) = debug_pages::find(&info) {
        return debug_pages::answer(&server, page, (request.method().clone(), request.uri().clone())).await;
    }
    if !info.is_resource {
        let asked = aggregation::asked(&server, &info.path, request.headers_mut());
        let own = answer_document(&server, &info, &request);
        return aggregation::merged(&server, &info.path, asked, own?).await;
    }
    let kind = server.registry.find(&info.group, &info.version, &info.resource);
    let Some(kind) = kind else { return no_such_path(&info.group) };
    let audit_id = request.extensions_mut().remove::<AuditId>().map(|a| a.0).unwrap_or_default();
    // A log, a proxied answer or a stream is what the node sends; only the API's own answers negotiate.
    let tables = kind.verbs.iter().any(|verb| verb == "list");
    let accept = match negotiate::accept(request.headers(), tables) {
        Ok(accept) => accept,
        Err(_) if !info.subresource.is_empty() => Accept::default(),
        Err(status) => return Err(status),
    };
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    name_host(&mut parts);
    let streams = subresource::find(&info.subresource).is_some_and(subresource::Action::streams);
    let (body, stream) = match upgrades || streams {
        true => (bytes::Bytes::new(), Some(body)),
        false => (read_body(body, server.limits.body_bytes_max).await?, None),
    };
    if let Some(trail) = parts.extensions.get::<Trail>() {
        trail.requests(&parts.headers, &body);
    }
    rest::answer(Call {
        server,
        info,
        kind,
        user,
        method: parts.method,
        headers: parts.headers,
        accept,
        body,
        audit_id,
        notes: Arc::default(),
        staging: None,
        connection: Connection {
            raw_query: parts.uri.query().map(str::to_owned),
            peer: parts.extensions.get::<PeerAddress>().map(|peer| peer.0),
            stream: parking_lot::Mutex::new(stream),
            upgrade,
        },
        translations: Translations::default(),
    })
    .await
}

/// HTTP/2 names the host in the URL; from here on it is in the header, as in HTTP/1.1.
fn name_host(parts: &mut http::request::Parts) {
    let named = parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    if let Some(host) = named {
        parts.headers.entry(header::HOST).or_insert(host);
    }
}

async fn answer_transaction(
    server: &Arc<Server>,
    info: &Arc<RequestInfo>,
    mut request: Request,
) -> Result<Response, Status> {
    let user = request.extensions_mut().remove::<UserInfo>().unwrap_or_default();
    let audit_id = request.extensions_mut().remove::<AuditId>().map(|a| a.0).unwrap_or_default();
    let (parts, body) = request.into_parts();
    let body = read_body(body, server.limits.body_bytes_max).await?;
    let asked = transaction::Request { user, headers: parts.headers, info: info.clone(), audit_id, body };
    transaction::response(&transaction::answer(server, asked).await?)
}

async fn read_body(body: Body, limit: usize) -> Result<bytes::Bytes, Status> {
    match http_body_util::Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Status::too_large(limit)),
        Err(error) => Err(Status::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// Health, version, metrics, discovery and OpenAPI.
fn answer_document(server: &Arc<Server>, info: &RequestInfo, request: &Request) -> Result<Response, Status> {
    if request.method() != http::Method::GET && request.method() != http::Method::HEAD {
        return Err(Status::method_not_allowed());
    }
    let table = server.registry.told(request.headers());
    if let Some(found) = discovery::document(&table, &info.path, request.headers(), &server.address)? {
        return found.response(request.headers());
    }
    if let Some(group) = aggregation::group_document(server, &info.path) {
        return negotiate::answer_value(StatusCode::OK, &group, &Accept::default());
    }
    let own = health::answer(server, info)
        .or_else(|| authn::discovery::answer(server, info))
        .or_else(|| openapi::answer(&table, info, request.headers()))
        .or_else(|| server.metrics.answer(info, || stored_objects(server, &table)));
    own.unwrap_or_else(|| match info.path.as_str() {
        "/" => negotiate::answer_value(StatusCode::OK, &paths(&table), &Accept::default()),
        "/flagz" => Ok(health::plain_text(StatusCode::OK, server.zpages.flagz())),
        "/statusz" => Ok(health::plain_text(StatusCode::OK, server.zpages.statusz(SERVED))),
        "/version" | "/version/" => negotiate::answer_value(StatusCode::OK, &version(), &Accept::default()),
        _ => Ok(health::plain_text(StatusCode::NOT_FOUND, "404 page not found\n".into())),
    })
}

/// How many objects of each resource are stored.
fn stored_objects(server: &Server, table: &discovery::Table) -> Vec<(String, usize)> {
    let mut counted = std::collections::BTreeMap::new();
    for row in table.rows().iter().filter(|row| !row.storage.is_empty()) {
        let name =
            if row.group.is_empty() { row.plural.clone() } else { format!("{}.{}", row.plural, row.group) };
        let count = || server.objects.list(&row.storage, None).iter().count();
        counted.entry(row.storage.clone()).or_insert_with(|| (name, count()));
    }
    counted.into_values().collect()
}

/// What is served besides the groups.
const SERVED: &[&str] = &[
    "/.well-known/openid-configuration",
    "/flagz",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/statusz",
    "/version",
];

fn paths(table: &discovery::Table) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for (group, versions) in table.groups().iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    paths.extend(SERVED.iter().map(|path| (*path).to_owned()));
    serde_json::json!({ "paths": paths })
}

/// A path of the API that is not served. Of groups that only definitions make, nothing is known.
fn no_such_path(group: &str) -> Result<Response, Status> {
    match api_types::kinds::builtin().iter().any(|row| row.group == group) {
        true => Err(Status::unknown_resource()),
        false => Ok(health::plain_text(StatusCode::NOT_FOUND, "404 page not found\n".into())),
    }
}

/// The version of Kubernetes whose API this is.
fn version() -> Value {
    serde_json::json!({
        "major": "1", "minor": "36", "gitVersion": concat!("v1.36.0+coxswain-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
    })
}
