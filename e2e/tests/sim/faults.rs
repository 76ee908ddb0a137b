//! The wire between a component and the API server, and all that can happen to what is sent over it.
//!
//! A fault is drawn for each request: refused, answered with an error, done without the answer coming
//! back, late. Watches are held up, cut, or told that they are too old.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use component_base::Shutdown;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tower::BoxError;

use crate::chance::Chance;
use crate::observer::View;
use crate::trace::Trace;

type Wire = UnsyncBoxBody<Bytes, BoxError>;

/// The network of one run.
pub(crate) struct Net {
    chance: Chance,
    trace: Trace,
    /// Whether faults are drawn.
    faulty: AtomicBool,
    /// The server is out of everybody's reach.
    down: AtomicBool,
    view: Arc<Mutex<View>>,
    started: Instant,
}

/// The end of one component's wire. A component that is started again gets a new one.
pub(crate) struct Link {
    net: Arc<Net>,
    actor: String,
    /// No fault is ever drawn here: for the user and the observer.
    sure: bool,
    /// The process is gone: nothing that it still sends arrives.
    pub(crate) dead: Shutdown,
    /// Nothing arrives for now.
    pub(crate) cut: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Refused,
    Status(u16),
    /// Done, and the answer does not come back.
    Lost,
    /// Sent only after this long.
    Late(Duration),
    /// Never sent, and the sender learns it only after this long.
    Hangs(Duration),
}

impl Net {
    pub(crate) fn new(chance: Chance, trace: Trace, view: Arc<Mutex<View>>) -> Arc<Self> {
        let (faulty, down) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { chance, trace, faulty, down, view, started: Instant::now() })
    }

    pub(crate) fn set_faulty(&self, faulty: bool) {
        self.faulty.store(faulty, Ordering::Relaxed);
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    pub(crate) fn link(self: &Arc<Self>, actor: &str, sure: bool) -> Arc<Link> {
        let (dead, cut) = (Shutdown::new(), AtomicBool::new(false));
        Arc::new(Link { net: self.clone(), actor: actor.to_owned(), sure, dead, cut })
    }

    fn draw(&self, request: &Request<Body>) -> Fault {
        if !self.faulty.load(Ordering::Relaxed) || !self.chance.happens(0.06) {
            return Fault::None;
        }
        let writes = request.method() != Method::GET;
        match self.chance.weighted(&[3, 2, 3, 4, 1]) {
            0 => Fault::Refused,
            1 => Fault::Status(*self.chance.of(&[500, 503, 429, 504]).unwrap_or(&500)),
            2 if writes => Fault::Lost,
            3 => Fault::Late(self.chance.millis(100..4000)),
            4 => Fault::Hangs(self.chance.millis(1000..10_000)),
            _ if writes && request.method() != Method::POST => Fault::Status(409),
            _ => Fault::Refused,
        }
    }
}

impl Link {
    /// A client whose requests go over this wire.
    pub(crate) fn client(self: &Arc<Self>, base: kube::Client) -> kube::Client {
        let link = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (link, base) = (link.clone(), base.clone());
            async move { link.pass(base, request).await }
        });
        kube::Client::new(service, "default")
    }

    fn is_cut(&self) -> bool {
        let outside = !self.sure && self.net.down.load(Ordering::Relaxed);
        outside || self.dead.is_cancelled() || self.cut.load(Ordering::Relaxed)
    }

    async fn pass(
        self: Arc<Self>,
        base: kube::Client,
        request: Request<Body>,
    ) -> Result<Response<Wire>, BoxError> {
        let fault = if self.sure { Fault::None } else { self.net.draw(&request) };
        let what = format!("{} {}", request.method(), path_of(&request));
        if fault != Fault::None {
            self.net.trace.note(&self.actor, &format!("{what}: {fault:?}"));
        }
        // Never at once: a loop that tries without a pause would stop the paused clock for ever.
        sleep(self.net.chance.millis(1..4)).await;
        match fault {
            Fault::Late(delay) => sleep(delay).await,
            Fault::Hangs(delay) => {
                sleep(delay).await;
                return Err(broken(io::ErrorKind::TimedOut));
            }
            Fault::Refused => return Err(broken(io::ErrorKind::ConnectionRefused)),
            Fault::Status(code) => return Ok(refusal(code)),
            Fault::None | Fault::Lost => {}
        }
        if self.is_cut() {
            sleep(Duration::from_millis(500)).await;
            return Err(broken(io::ErrorKind::ConnectionRefused));
        }
        let (reads, watches) = (request.method() == Method::GET, is_watch(&request));
        let response = base.send(request).await?;
        if watches {
            return Ok(response.map(|body| self.watched(body)));
        }
        if reads {
            sleep(self.net.chance.millis(0..3)).await;
            return Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()));
        }
        self.written(&what, fault, response).await
    }

    /// Notes what came of a write and brings the answer back, if it comes.
    async fn written(
        &self,
        what: &str,
        fault: Fault,
        response: Response<Body>,
    ) -> Result<Response<Wire>, BoxError> {
        let (parts, body) = response.into_parts();
        let bytes = body.collect_bytes().await?;
        let revision = revision_in(&bytes);
        if !path_is_dull(what) {
            self.net.trace.note(&self.actor, &format!("{what} -> {} {revision}", parts.status.as_u16()));
        }
        let way_back = match !self.sure && self.net.faulty.load(Ordering::Relaxed) {
            true if self.net.chance.happens(0.03) => 50..2000,
            _ => 0..3,
        };
        sleep(self.net.chance.millis(way_back)).await;
        if fault == Fault::Lost || self.is_cut() {
            if parts.status == StatusCode::CREATED {
                let at = self.net.started.elapsed();
                self.net.view.lock().surroundings.lost_creations.push(at);
            }
            return Err(broken(io::ErrorKind::ConnectionReset));
        }
        Ok(Response::from_parts(parts, Full::new(bytes).map_err(|never| match never {}).boxed_unsync()))
    }

    /// The stream of a watch, which may be held up, cut short, or ended with "too old".
    fn watched(self: Arc<Self>, body: Body) -> Wire {
        let (net, frames) = (self.net.clone(), body.into_data_stream());
        let faulty = !self.sure && net.faulty.load(Ordering::Relaxed);
        let life = match faulty && net.chance.happens(0.7) {
            true => net.chance.millis(2_000..60_000),
            false => Duration::from_secs(86_400),
        };
        let watch = Watch { link: self, ends: Instant::now() + life, ended: false };
        let frames = futures::stream::unfold((watch, frames), |(mut watch, mut frames)| async move {
            if watch.ended {
                return None;
            }
            let frame = tokio::select! {
                biased;
                () = watch.link.dead.cancelled() => None,
                frame = frames.next() => frame,
                () = tokio::time::sleep_until(watch.ends) => return watch.end().map(|last| (last, (watch, frames))),
            };
            let bytes = frame?.map_err(BoxError::from);
            let delivered = watch.deliver(bytes).await;
            Some((delivered, (watch, frames)))
        });
        StreamBody::new(frames.map(|frame| frame.map(Frame::data))).boxed_unsync()
    }
}

struct Watch {
    link: Arc<Link>,
    ends: Instant,
    ended: bool,
}

impl Watch {
    async fn deliver(&mut self, bytes: Result<Bytes, BoxError>) -> Result<Bytes, BoxError> {
        if self.link.sure {
            return bytes;
        }
        let net = &self.link.net;
        if net.faulty.load(Ordering::Relaxed) {
            let held = if net.chance.happens(0.02) { 200..4000 } else { 0..4 };
            sleep(net.chance.millis(held)).await;
        }
        let was_cut = self.link.is_cut();
        while self.link.is_cut() && !self.link.dead.is_cancelled() {
            sleep(Duration::from_millis(500)).await;
        }
        if was_cut {
            self.ended = true;
            return Err(broken(io::ErrorKind::ConnectionReset));
        }
        bytes
    }

    /// The last that is read of a watch whose time is over.
    fn end(&mut self) -> Option<Result<Bytes, BoxError>> {
        self.ended = true;
        let net = &self.link.net;
        match net.chance.weighted(&[2, 2, 1]) {
            0 => None,
            1 => Some(Err(broken(io::ErrorKind::ConnectionReset))),
            _ => {
                net.trace.note(&self.link.actor, "a watch is too old");
                let event =
                    json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")});
                Some(Ok(Bytes::from(format!("{event}\n"))))
            }
        }
    }
}

fn broken(kind: io::ErrorKind) -> BoxError {
    Box::new(io::Error::from(kind))
}

fn status(code: u16, reason: &str, message: &str) -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code})
}

fn refusal(code: u16) -> Response<Wire> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let bytes = Bytes::from(status(code, reason, "a fault of the simulation").to_string());
    let mut response = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn is_watch(request: &Request<Body>) -> bool {
    request.uri().query().is_some_and(|query| query.contains("watch=true"))
}

fn path_of(request: &Request<Body>) -> String {
    let path = request.uri().path();
    let watch = if is_watch(request) { " (watch)" } else { "" };
    format!("{}{watch}", path.trim_start_matches("/apis/").trim_start_matches("/api/v1/"))
}

/// Heartbeats and events are too many to read.
fn path_is_dull(what: &str) -> bool {
    what.contains("/leases/") || what.contains("/events")
}

fn revision_in(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let found = text.split_once("\"resourceVersion\":\"").and_then(|(_, rest)| rest.split_once('"'));
    found.map_or_else(String::new, |(revision, _)| format!("at {revision}"))
}
