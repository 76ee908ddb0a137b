//! A watch: newline-separated JSON events. Whole objects are sent as the bytes that are stored.

use std::sync::Arc;
use std::time::Duration;

use api_types::status::{FieldError, Status};
use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use prometheus_client::metrics::counter::Counter;
use serde_json::json;

use super::selection::Selection;
use super::{Answer, Call, Verb, convert, list};
use crate::cache::{Expired, Stored, Ticket, WatchEvent, WatchSpec};
use crate::negotiate::{self, Form};
use crate::request_info::Query;
use crate::server::Server;
use crate::store::Revision;
use crate::websocket;

pub(super) struct Watch;

impl Verb for Watch {
    const NAME: &'static str = "watch";

    async fn answer(mut call: Call) -> Answer {
        let socket = websocket::is_asked(&call.headers).then(|| call.connection.upgrade.take()).flatten();
        let headers = call.headers.clone();
        let selection = Selection::parse(&call.kind, &call.info.query)?;
        let begin = Begin::parse(&call)?;
        let ends = call.server.clone();
        let limit = timeout(&call)?;
        let shutdown = call.server.shutdown.clone();
        let table = call.accept.form == Form::Table;
        // Lines that are there at the same time are sent together, but each is a message of its own.
        let lines_max = if socket.is_some() { 1 } else { LINES_MAX };
        let (events, reminded) = open(Arc::new(call), &selection, begin, lines_max)?;
        // The in-flight guard of the server is for short requests; a watch only holds the server itself.
        let until = async move {
            tokio::select! {
                biased;
                () = reach_end(limit, &ends, reminded) => {}
                () = shutdown.cancelled() => {}
            }
            drop(ends);
        };
        let events = events.take_until(Box::pin(until));
        if let Some(connection) = socket {
            return Ok(websocket::answer(&headers, connection, websocket::Framing::Text, events).await);
        }
        let body = Body::from_stream(events.map(Ok::<_, std::convert::Infallible>));
        let mut response = http::Response::new(body);
        *response.status_mut() = StatusCode::OK;
        let media = if table { "application/json;as=Table;g=meta.k8s.io;v=v1" } else { "application/json" };
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }
}

/// How a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// All there is as `ADDED`, then what comes; `mark` sends the bookmark that separates them.
    State {
        mark: bool,
    },
    /// What comes after now.
    Now,
    After(Revision),
}

impl Begin {
    fn parse(call: &Call) -> Result<Self, Status> {
        let query = &call.info.query;
        let errors = check_options(query);
        if !errors.is_empty() {
            return Err(Status::invalid_kind("meta.k8s.io", "ListOptions", "", errors));
        }
        let revision = list::revision_of(query)?;
        list::number(query, "limit")?;
        let initial = query.get("sendInitialEvents");
        let current = call.server.objects.revision();
        // Kubernetes lets such a watch wait. Here the client learns that the server was restored from an older
        // state, and lists again.
        if let Some(wanted) = revision.filter(|r| *r > current) {
            return Err(list::too_new(wanted, current));
        }
        let bookmarks = query.is_true("allowWatchBookmarks");
        Ok(match (initial, revision) {
            (Some(asked), _) if asked != "false" && asked != "0" => Self::State { mark: bookmarks },
            (Some(_), None | Some(0)) => Self::Now,
            (None, None | Some(0)) => Self::State { mark: false },
            (_, Some(revision)) => Self::After(revision),
        })
    }
}

/// What Kubernetes says about parameters of a watch that do not go together.
fn check_options(query: &Query) -> Vec<FieldError> {
    let forbidden = |why: &str| FieldError::forbidden("resourceVersionMatch", why);
    let (initial, matching) = (query.has("sendInitialEvents"), query.get("resourceVersionMatch"));
    let mut errors = Vec::new();
    if initial && matching != Some("NotOlderThan") {
        errors.push(forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    let Some(matching) = matching else { return errors };
    if !initial {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(forbidden(why));
    }
    if !matches!(matching, "Exact" | "NotOlderThan") {
        let known = &["Exact", "NotOlderThan", ""];
        errors.push(FieldError::not_supported("resourceVersionMatch", matching, known));
    }
    if query.get("continue").is_some() {
        errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
    }
    errors
}

/// `timeoutSeconds`, or the server's own limit spread by chance so that watches do not all end together.
fn timeout(call: &Call) -> Result<Duration, Status> {
    let asked = call.info.query.get("timeoutSeconds").map(str::parse::<u64>).transpose();
    match asked.map_err(|e| Status::bad_request(format!("timeoutSeconds: {e}")))? {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => {
            let base = call.server.limits.watch_timeout;
            Ok(base + base.mul_f64(call.server.random.fraction()))
        }
    }
}

/// The last bookmark is this long before the end of a watch, so that its client goes on from there.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// Waits for the end of a watch, whose watcher is reminded of where it is shortly before.
async fn reach_end(limit: Duration, server: &Server, reminded: Option<Ticket>) {
    if let (Some(first), Some(ticket)) = (limit.checked_sub(LAST_BOOKMARK), reminded) {
        tokio::time::sleep(first).await;
        server.objects.remind(&ticket);
        return tokio::time::sleep(LAST_BOOKMARK).await;
    }
    tokio::time::sleep(limit).await;
}

/// The events as they are sent, at most `lines_max` together, and the watcher if it wants bookmarks.
fn open(
    call: Arc<Call>,
    selection: &Selection,
    begin: Begin,
    lines_max: usize,
) -> Result<(stream::BoxStream<'static, Bytes>, Option<Ticket>), Status> {
    let name = (!call.info.name.is_empty()).then(|| call.info.name.clone());
    let namespace = Some(call.namespace().to_owned()).filter(|n| !n.is_empty());
    let mut spec = WatchSpec {
        resource: call.kind.storage.clone(),
        namespace: namespace.or_else(|| selection.namespace().map(str::to_owned)),
        name: name.or_else(|| selection.name().map(str::to_owned)),
        node: selection.node().map(str::to_owned),
        matches: selection.filter(),
        from: 0,
    };
    let mut initial = Vec::new();
    let mut mark = None;
    spec.from = match begin {
        Begin::After(revision) => revision,
        Begin::Now => call.server.objects.revision(),
        Begin::State { mark: marked } => {
            let snapshot = call.server.objects.list(&spec.resource, spec.namespace.as_deref());
            let wanted = |s: &&Arc<Stored>| {
                spec.name.as_deref().is_none_or(|n| n == &*s.key.name) && selection.matches(s)
            };
            initial = snapshot.iter().filter(wanted).cloned().collect();
            mark = marked.then_some(snapshot.revision);
            snapshot.revision
        }
    };
    let bookmarks = call.info.query.is_true("allowWatchBookmarks");
    let sent = call.server.metrics.watch_events(&call.kind.group, &call.kind.version, &call.kind.kind);
    let is_plain = call.accept.form == Form::Whole
        && call.info.retired.is_none()
        && convert::is_storing(&call.server.registry, &call.kind);
    let writer = Writer { call: call.clone(), is_plain, first: true, bookmarks, sent };
    let live = match call.server.objects.watch(spec) {
        Ok(live) => live,
        // A client that is too late learns it from the stream, as from kube-apiserver.
        Err(expired) => return Ok((stream::iter([expired_event(expired)]).boxed(), None)),
    };
    let ticket = bookmarks.then(|| live.ticket());
    let initial = stream::iter(initial).map(WatchEvent::Added).map(Step::Event);
    let marks = stream::iter(mark).map(Step::Mark);
    let steps = initial.chain(marks).chain(live.map(Step::Event));
    Ok((write(steps, writer, lines_max).boxed(), ticket))
}

enum Step {
    Event(WatchEvent),
    /// The end of the initial state.
    Mark(Revision),
}

/// Encodes steps, as many together as are there, leaving out those that the client did not ask for.
fn write<S>(steps: S, writer: Writer, lines_max: usize) -> impl Stream<Item = Bytes> + Send
where
    S: Stream<Item = Step> + Send + 'static,
{
    let steps = Box::pin(steps.ready_chunks(lines_max));
    stream::unfold((steps, writer), |(mut steps, mut writer)| async move {
        loop {
            let ready = steps.next().await?;
            let mut out = BytesMut::with_capacity(ready.iter().map(Step::size).sum());
            for step in ready {
                writer.encode(&mut out, step).await;
            }
            if !out.is_empty() {
                return Some((out.freeze(), (steps, writer)));
            }
        }
    })
}

impl Step {
    /// About how long its line is.
    fn size(&self) -> usize {
        const AROUND: usize = 40;
        match self {
            Self::Event(
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object),
            ) => object.bytes.len() + AROUND,
            _ => 0,
        }
    }
}

struct Writer {
    call: Arc<Call>,
    /// Objects are sent as they are stored.
    is_plain: bool,
    /// A Table names its columns in the first event only.
    first: bool,
    bookmarks: bool,
    sent: Counter,
}

impl Writer {
    async fn encode(&mut self, out: &mut BytesMut, step: Step) {
        match step {
            Step::Event(WatchEvent::Added(object)) => self.object(out, "ADDED", &object).await,
            Step::Event(WatchEvent::Modified(object)) => self.object(out, "MODIFIED", &object).await,
            Step::Event(WatchEvent::Deleted(object)) => self.object(out, "DELETED", &object).await,
            Step::Event(WatchEvent::Bookmark(revision)) if self.bookmarks => {
                put_line(out, "BOOKMARK", &self.bookmark(revision, false));
            }
            Step::Event(WatchEvent::Bookmark(_)) => {}
            Step::Event(WatchEvent::Overflow) => put_error(
                out,
                &Status::expired(
                    "the watch fell too far behind and was ended; list again and watch from there",
                ),
            ),
            Step::Mark(revision) => put_line(out, "BOOKMARK", &self.bookmark(revision, true)),
        }
    }

    async fn object(&mut self, out: &mut BytesMut, event: &str, stored: &Stored) {
        let call = &self.call;
        if self.is_plain && convert::is_written_today(&call.kind, stored) {
            self.sent.inc();
            return put_line(out, event, &stored.bytes);
        }
        let bytes = match call.bytes_of(stored).await {
            Ok(bytes) => bytes,
            Err(status) => return put_error(out, &status),
        };
        let bytes = call.named_bytes(bytes);
        self.sent.inc();
        let first = std::mem::replace(&mut self.first, false);
        let now = call.server.clock.now();
        let object = negotiate::watch_object(&call.kind, &bytes, &call.accept, call.include(), now, first);
        put_line(out, event, &object);
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({ "kind": self.call.kind.kind, "apiVersion": self.call.named_kind().api_version(), "metadata": metadata });
        let object = match self.call.accept.form {
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": null, "rows": [],
                "metadata": { "resourceVersion": revision.to_string() },
            }),
            Form::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
            }
            Form::Whole => object,
        };
        negotiate::encode(&object)
    }
}

/// Lines that are there at the same time are written together, as many as this.
const LINES_MAX: usize = 16;

fn put_line(out: &mut BytesMut, event: &str, object: &[u8]) {
    for part in [b"{\"type\":\"", event.as_bytes(), b"\",\"object\":", object, b"}\n"] {
        out.put_slice(part);
    }
}

fn put_error(out: &mut BytesMut, status: &Status) {
    put_line(out, "ERROR", &negotiate::encode(&status.to_value()));
}

fn expired_event(expired: Expired) -> Bytes {
    let mut out = BytesMut::new();
    put_error(&mut out, &Status::expired(expired.to_string()));
    out.freeze()
}
