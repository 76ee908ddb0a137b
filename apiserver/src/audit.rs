//! The audit log: who asked for what, when, and what came of it, as `audit.k8s.io/v1` events.
//!
//! [`policy`] says how much of which request is kept, [`event`] is what is kept, [`log`] writes it to a file and
//! [`webhook`] sends it to a service. A request
//! leaves its [`Trail`] in its extensions, where later layers add what they find out. Writing never holds a
//! request up: events wait in a bounded buffer, and what does not fit is dropped, counted and told.

mod buffer;
mod event;
mod log;
mod policy;
mod webhook;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::Value;

use crate::UserInfo;
use crate::admission::AuditAnnotations;
use crate::authn::impersonation::Impersonated;
use crate::authz::Attributes;
use crate::backend::Backends;
use crate::remote::RemoteConfigError;
use crate::request_info::RequestInfo;

use buffer::Buffer;
use event::Event;
pub use log::{LogFile, OpenLogError};
pub use policy::PolicyError;
use policy::{Level, Policy, Stage, Verdict};
pub use webhook::AuditWebhook;

/// How a server keeps its audit log: `--audit-policy-file` and the flags `--audit-log-*` and `--audit-webhook-*`.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    pub policy: PathBuf,
    pub log: Option<LogFile>,
    pub webhook: Option<AuditWebhook>,
}

/// An audit log that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Log(#[from] OpenLogError),
    #[error("--audit-webhook-config-file")]
    Webhook(#[from] RemoteConfigError),
}

/// A response body longer than this is not kept.
const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// The audit log of a server.
pub(crate) struct Audit {
    policy: Policy,
    sinks: Vec<Buffer>,
    clock: Clock,
}

impl Audit {
    /// Opens the log; its writers are some of `tasks` and write what waits before they end with them.
    pub(crate) fn open(
        config: &AuditConfig,
        clock: Clock,
        backends: &Backends,
        tasks: &Tasks,
    ) -> Result<Self, AuditError> {
        let policy = Policy::read(&config.policy)?;
        let mut sinks = Vec::new();
        if let Some(file) = &config.log {
            sinks.push(log::open(file.clone(), clock, tasks)?);
        }
        if let Some(webhook) = &config.webhook {
            sinks.push(webhook::open(webhook, backends, tasks)?);
        }
        Ok(Self { policy, sinks, clock })
    }

    /// Begins the trail of a request, and logs that it came; none if the policy keeps nothing of it.
    pub(crate) fn begin(self: &Arc<Self>, request: &Request, id: &str) -> Option<Trail> {
        let info = request.extensions().get::<Arc<RequestInfo>>()?;
        let user = request.extensions().get::<UserInfo>()?;
        let verdict = self.policy.judge(&Attributes::of(user, info));
        if verdict.level == Level::None {
            return None;
        }
        let event = Event::new(verdict.level, id, request, info, user, self.clock.now());
        let trail = Trail(Arc::new(Inner { audit: self.clone(), verdict, event: Mutex::new(event) }));
        trail.log(Stage::RequestReceived);
        Some(trail)
    }

    /// Logs a request whose credentials were not accepted.
    pub(crate) fn refused(self: &Arc<Self>, request: &Request, id: &str, code: u16) {
        let Some(info) = request.extensions().get::<Arc<RequestInfo>>() else { return };
        let user = UserInfo::default();
        let verdict = self.policy.judge(&Attributes::of(&user, info));
        if verdict.level == Level::None {
            return;
        }
        let mut event = Event::new(verdict.level, id, request, info, &user, self.clock.now());
        let attempted = if request.headers().contains_key(header::AUTHORIZATION) { "bearer" } else { "x509" };
        event.set_refused(code, &format!("Authentication failed, attempted: {attempted}"));
        Trail(Arc::new(Inner { audit: self.clone(), verdict, event: Mutex::new(event) }))
            .log(Stage::ResponseStarted);
    }
}

/// What is noted about one request on its way. It travels as a request extension.
#[derive(Clone)]
pub(crate) struct Trail(Arc<Inner>);

struct Inner {
    audit: Arc<Audit>,
    verdict: Verdict,
    event: Mutex<Event>,
}

impl Trail {
    fn log(&self, stage: Stage) {
        if self.0.verdict.omits.contains(&stage) {
            return;
        }
        let now = self.0.audit.clock.now();
        let line = self.0.event.lock().line(stage, now);
        let Some((last, others)) = self.0.audit.sinks.split_last() else { return };
        others.iter().for_each(|sink| sink.write(line.clone()));
        last.write(line);
    }

    /// Notes a fact under a key of its own.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        self.0.event.lock().annotations.insert(key.to_owned(), value.to_owned());
    }

    /// Notes what the authorizer said.
    pub(crate) fn decided(&self, allowed: bool, reason: &str) {
        self.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
        self.annotate("authorization.k8s.io/reason", reason);
    }

    /// Notes as whom the request runs.
    pub(crate) fn impersonates(&self, impersonated: &Impersonated) {
        self.0.event.lock().set_impersonated(impersonated);
    }

    /// Notes the body of the request; it names the object that a create makes.
    pub(crate) fn requests(&self, headers: &HeaderMap, body: &Bytes) {
        if body.is_empty() {
            return;
        }
        let Ok(decoded) = crate::rest::decode_any(headers, body) else { return };
        let mut event = self.0.event.lock();
        event.complete_reference(&decoded);
        if self.0.verdict.level >= Level::Request {
            event.request_object = Some(self.tidied(decoded));
        }
    }

    fn tidied(&self, mut object: Value) -> Value {
        if self.0.verdict.omits_managed_fields {
            drop_managed_fields(&mut object);
        }
        object
    }

    /// Notes the answer, and logs it now or, of a stream, when it ends.
    pub(crate) async fn answers(&self, mut response: Response, is_long: bool) -> Response {
        if let Some(notes) = response.extensions_mut().remove::<AuditAnnotations>() {
            self.0.event.lock().annotations.extend(notes.0);
        }
        let code = response.status().as_u16();
        self.0.event.lock().set_code(code);
        if is_long && code < 400 {
            self.log(Stage::ResponseStarted);
            let ending = Ending(self.clone());
            return response.map(|body| Body::new(Ended { body, _ending: ending }));
        }
        let wants_body = code >= 400 || self.0.verdict.level >= Level::RequestResponse;
        let response = if wants_body { self.keep_body(response, code).await } else { response };
        self.log(Stage::ResponseComplete);
        response
    }

    async fn keep_body(&self, response: Response, code: u16) -> Response {
        let (parts, body) = response.into_parts();
        if !is_json(&parts.headers) {
            return Response::from_parts(parts, body);
        }
        let Ok(bytes) = body.collect().await.map(|collected| collected.to_bytes()) else {
            return Response::from_parts(parts, Body::empty());
        };
        if let Some(object) = decode(&parts.headers, &bytes) {
            let mut event = self.0.event.lock();
            if code >= 400 {
                event.set_failure(&object);
            }
            if self.0.verdict.level >= Level::RequestResponse {
                event.response_object = Some(self.tidied(object));
            }
        }
        Response::from_parts(parts, Body::from(bytes))
    }

    /// Logs that the request ended in a panic.
    pub(crate) fn panicked(&self) {
        self.0.event.lock().set_refused(500, "APIServer panic'd");
        self.log(Stage::Panic);
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    media.starts_with("application/json")
}

fn decode(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    use std::io::Read as _;
    if bytes.len() > RESPONSE_BYTES_MAX {
        return None;
    }
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return serde_json::from_slice(bytes).ok();
    }
    let mut plain = Vec::new();
    let limit = RESPONSE_BYTES_MAX as u64;
    flate2::read::GzDecoder::new(&bytes[..]).take(limit).read_to_end(&mut plain).ok()?;
    serde_json::from_slice(&plain).ok()
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        drop_managed_fields(item);
    }
}

/// Logs the end of a stream, however it comes.
struct Ending(Trail);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.log(Stage::ResponseComplete);
    }
}

/// A body that tells of its end.
struct Ended {
    body: Body,
    _ending: Ending,
}

impl http_body::Body for Ended {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
