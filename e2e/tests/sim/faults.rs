//! The wire between a component and the API server, and all that can happen to what is sent over it.
//!
//! A fault is drawn for each request: refused, answered with an error, done without the answer coming
//! back, late. Watches are held up, cut, or told that they are too old. Who sends a request, or the server that
//! gets it, may also end at that very step.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use component_base::Shutdown;
use coxswain::UserInfo;
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
use crate::server::{ApiServer, Entrance};
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
    /// Whose processes end in the middle of a request.
    deaths: Deaths,
    server: Arc<ApiServer>,
    view: Arc<Mutex<View>>,
    started: Instant,
}

/// Whose processes end at a request of theirs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deaths {
    pub(crate) control: bool,
    pub(crate) nodes: bool,
    pub(crate) server: bool,
}

/// Who is at the other end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// A user or the observer: no fault is ever drawn, and one waits for a server that is away.
    Sure,
    Control,
    Node,
}

/// The end of one component's wire. A component that is started again gets a new one.
pub(crate) struct Link {
    net: Arc<Net>,
    actor: String,
    sort: Sort,
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
    /// The sender ends: before it is sent, or before the answer is there.
    Dies {
        after: bool,
    },
    /// The server ends: before it gets this, or before it has answered.
    ServerDies {
        after: bool,
    },
}

impl Net {
    pub(crate) fn new(
        chance: Chance,
        trace: Trace,
        view: Arc<Mutex<View>>,
        server: Arc<ApiServer>,
        deaths: Deaths,
    ) -> Arc<Self> {
        let (faulty, down) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { chance, trace, faulty, down, deaths, server, view, started: Instant::now() })
    }

    pub(crate) fn set_faulty(&self, faulty: bool) {
        self.faulty.store(faulty, Ordering::Relaxed);
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    pub(crate) fn link(self: &Arc<Self>, actor: &str, sort: Sort) -> Arc<Link> {
        let (dead, cut) = (Shutdown::new(), AtomicBool::new(false));
        Arc::new(Link { net: self.clone(), actor: actor.to_owned(), sort, dead, cut })
    }

    fn draw(&self, sort: Sort, request: &Request<Body>) -> Fault {
        if !self.faulty.load(Ordering::Relaxed) || !self.chance.happens(0.06) {
            return Fault::None;
        }
        let writes = request.method() != Method::GET;
        let may_die = match sort {
            Sort::Sure => false,
            Sort::Control => self.deaths.control,
            Sort::Node => self.deaths.nodes,
        };
        let (dies, server_dies) = (if may_die { 2 } else { 0 }, if self.deaths.server { 1 } else { 0 });
        match self.chance.weighted(&[30, 20, 30, 40, 10, dies, server_dies]) {
            0 => Fault::Refused,
            1 => Fault::Status(*self.chance.of(&[500, 503, 429, 504]).unwrap_or(&500)),
            2 if writes => Fault::Lost,
            3 => Fault::Late(self.chance.millis(100..4000)),
            4 => Fault::Hangs(self.chance.millis(1000..10_000)),
            5 => Fault::Dies { after: self.chance.happens(0.5) },
            6 => Fault::ServerDies { after: self.chance.happens(0.5) },
            _ if writes && request.method() != Method::POST => Fault::Status(409),
            _ => Fault::Refused,
        }
    }
}

impl Net {
    /// The server ends where it stands, and is back after a while.
    fn end_server(&self) {
        self.server.end(true, self.chance.millis(200..8000));
    }

    fn lose_creation(&self) {
        self.view.lock().surroundings.lost_creations.push(self.started.elapsed());
    }
}

impl Link {
    /// A client of `user` whose requests go over this wire, to whichever life of the server there is.
    pub(crate) fn client(self: &Arc<Self>, user: UserInfo) -> kube::Client {
        let (link, way) = (self.clone(), Arc::new((user, Mutex::new(None))));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (link, way) = (link.clone(), way.clone());
            async move { link.pass(&way.0, &way.1, request).await }
        });
        kube::Client::new(service, "default")
    }

    fn is_cut(&self) -> bool {
        let outside = self.sort != Sort::Sure && self.net.down.load(Ordering::Relaxed);
        outside || self.dead.is_cancelled() || self.cut.load(Ordering::Relaxed)
    }

    fn draw(&self, request: &Request<Body>, what: &str) -> Fault {
        let fault = if self.sort == Sort::Sure { Fault::None } else { self.net.draw(self.sort, request) };
        if fault != Fault::None {
            self.net.trace.note(&self.actor, &format!("{what}: {fault:?}"));
        }
        fault
    }

    /// The way to the server that is there now. Who is sure of its answers waits for one.
    async fn enter(&self, user: &UserInfo, way: &Mutex<Option<Entrance>>) -> Option<Entrance> {
        let known = way.lock().clone();
        let server = &self.net.server;
        let entrance = match self.sort {
            Sort::Sure => Some(server.wait_to_enter(user, known.as_ref()).await),
            Sort::Control | Sort::Node => server.enter(user, known.as_ref()),
        };
        way.lock().clone_from(&entrance);
        entrance
    }

    async fn pass(
        self: Arc<Self>,
        user: &UserInfo,
        way: &Mutex<Option<Entrance>>,
        request: Request<Body>,
    ) -> Result<Response<Wire>, BoxError> {
        let what = format!("{} {}", request.method(), path_of(&request));
        let fault = self.draw(&request, &what);
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
            Fault::Dies { after: false } => self.die(),
            Fault::ServerDies { after: false } => self.net.end_server(),
            Fault::None | Fault::Lost | Fault::Dies { .. } | Fault::ServerDies { .. } => {}
        }
        let entrance = if self.is_cut() { None } else { self.enter(user, way).await };
        let Some(entrance) = entrance else {
            sleep(Duration::from_millis(500)).await;
            return Err(broken(io::ErrorKind::ConnectionRefused));
        };
        let (method, watches) = (request.method().clone(), is_watch(&request));
        let response = self.answer(&entrance, request, &method).await?;
        match fault {
            Fault::Dies { .. } => self.die(),
            Fault::ServerDies { .. } => self.net.end_server(),
            _ => {}
        }
        if watches {
            return Ok(response.map(|body| self.watched(body, entrance)));
        }
        if method == Method::GET {
            sleep(self.net.chance.millis(0..3)).await;
            if self.is_cut() || self.is_lost(&entrance) {
                return Err(broken(io::ErrorKind::ConnectionReset));
            }
            return Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()));
        }
        self.written(&what, fault, response, &entrance).await
    }

    /// The server's answer, unless it is killed before.
    async fn answer(
        &self,
        entrance: &Entrance,
        request: Request<Body>,
        method: &Method,
    ) -> Result<Response<Body>, BoxError> {
        tokio::select! {
            biased;
            response = entrance.client.send(request) => Ok(response?),
            () = entrance.dead.cancelled(), if self.sort != Sort::Sure => {
                if *method == Method::POST {
                    self.net.lose_creation();
                }
                Err(broken(io::ErrorKind::ConnectionReset))
            }
        }
    }

    /// Whether an answer from there does not come any more.
    fn is_lost(&self, entrance: &Entrance) -> bool {
        self.sort != Sort::Sure && entrance.dead.is_cancelled()
    }

    fn die(&self) {
        if self.sort == Sort::Node {
            self.net.view.lock().surroundings.disturbed_at = Some(self.net.started.elapsed());
        }
        self.dead.cancel();
    }

    /// Notes what came of a write and brings the answer back, if it comes.
    async fn written(
        &self,
        what: &str,
        fault: Fault,
        response: Response<Body>,
        entrance: &Entrance,
    ) -> Result<Response<Wire>, BoxError> {
        let (parts, body) = response.into_parts();
        let bytes = body.collect_bytes().await?;
        let revision = revision_in(&bytes);
        if !path_is_dull(what) {
            self.net.trace.note(&self.actor, &format!("{what} -> {} {revision}", parts.status.as_u16()));
        }
        let way_back = match self.sort != Sort::Sure && self.net.faulty.load(Ordering::Relaxed) {
            true if self.net.chance.happens(0.03) => 50..2000,
            _ => 0..3,
        };
        sleep(self.net.chance.millis(way_back)).await;
        if fault == Fault::Lost || self.is_cut() || self.is_lost(entrance) {
            if parts.status == StatusCode::CREATED {
                self.net.lose_creation();
            }
            return Err(broken(io::ErrorKind::ConnectionReset));
        }
        Ok(Response::from_parts(parts, Full::new(bytes).map_err(|never| match never {}).boxed_unsync()))
    }

    /// The stream of a watch, which may be held up, cut short, or ended with "too old".
    fn watched(self: Arc<Self>, body: Body, entrance: Entrance) -> Wire {
        let (net, frames) = (self.net.clone(), body.into_data_stream());
        let faulty = self.sort != Sort::Sure && net.faulty.load(Ordering::Relaxed);
        let life = match faulty && net.chance.happens(0.7) {
            true => net.chance.millis(2_000..60_000),
            false => Duration::from_secs(86_400),
        };
        let watch = Watch { link: self, server: entrance.dead, ends: Instant::now() + life, ended: false };
        let frames = futures::stream::unfold((watch, frames), |(mut watch, mut frames)| async move {
            if watch.ended {
                return None;
            }
            let frame = tokio::select! {
                biased;
                () = watch.link.dead.cancelled() => None,
                () = watch.server.cancelled(), if watch.link.sort != Sort::Sure => {
                    watch.ended = true;
                    let last = Err(broken(io::ErrorKind::ConnectionReset));
                    return Some((last, (watch, frames)));
                }
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
    /// The server that sends it was killed.
    server: Shutdown,
    ends: Instant,
    ended: bool,
}

impl Watch {
    async fn deliver(&mut self, bytes: Result<Bytes, BoxError>) -> Result<Bytes, BoxError> {
        if self.link.sort == Sort::Sure {
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
