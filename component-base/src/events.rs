//! The recorder of Kubernetes Events: what a component did to an object, for `kubectl describe`.
//!
//! Recording never waits. An event goes into one of a few lanes, by its object: each lane has a bounded queue,
//! a correlator and a writer of its own, so that events about one object are written in their order and those
//! about others meanwhile. What finds its lane full, and what the server refuses, is dropped and counted.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::correlator::{Correlator, Telling, Verdict};
use crate::client::said;
use crate::clock::{Clock, time_of};
use crate::metrics::Counter;
use crate::supervise::Tasks;

mod correlator;

/// Events that are written at the same time at most.
const LANES: usize = 8;
/// Events that may wait in a lane; more are dropped.
const LANE_EVENTS_MAX: usize = 1024;
/// An event that does not reach the server is tried so often, as in Kubernetes.
const TRIES_MAX: usize = 12;
const RETRY_AFTER: Duration = Duration::from_secs(10);
const MESSAGE_CHARS_MAX: usize = 1024;

/// Whether something went as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records events for one process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    lanes: Vec<mpsc::Sender<Note>>,
    clock: Clock,
    dropped: Counter,
}

#[derive(Clone, Debug)]
struct Note {
    about: ObjectReference,
    component: String,
    type_: EventType,
    reason: String,
    message: String,
    at: DateTime<Utc>,
}

impl Recorder {
    /// A recorder whose writers are tasks of `tasks`. `host` is the node's name for a node agent, else empty.
    pub fn new(client: Client, host: &str, clock: Clock, tasks: &Tasks) -> Self {
        Self::counting(client, host, clock, tasks, Counter::default())
    }

    /// The same; events that are lost are counted in `dropped`.
    pub fn counting(client: Client, host: &str, clock: Clock, tasks: &Tasks, dropped: Counter) -> Self {
        let lane = |_| {
            let (queue, notes) = mpsc::channel(LANE_EVENTS_MAX);
            let writer = Writer {
                client: client.clone(),
                host: host.to_owned(),
                correlator: Correlator::default(),
                dropped: dropped.clone(),
            };
            tasks.spawn_until_shutdown("event-writer", writer.run(notes));
            queue
        };
        Self { lanes: (0..LANES).map(lane).collect(), clock, dropped: dropped.clone() }
    }

    /// Notes that `component` did something for `reason` about the object that `about` refers to.
    pub fn record(
        &self,
        component: &str,
        about: ObjectReference,
        type_: EventType,
        reason: &str,
        message: &str,
    ) {
        let lane = lane_of(&about);
        let note = Note {
            about,
            component: component.to_owned(),
            type_,
            reason: reason.to_owned(),
            message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
            at: self.clock.now(),
        };
        if self.lanes[lane].try_send(note).is_err() {
            self.dropped.inc();
            debug!(reason, message, "event dropped: its queue is full or closed");
        }
    }
}

fn lane_of(about: &ObjectReference) -> usize {
    let mut hasher = DefaultHasher::new();
    (&about.kind, &about.namespace, &about.name).hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0)
}

/// Writes the events of one lane, one after the other.
struct Writer {
    client: Client,
    host: String,
    correlator: Correlator,
    dropped: Counter,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            let verdict = self.correlator.judge(&note, note.at);
            // In a box, so that a writer with nothing to write holds no place for a request.
            if let Err(error) = Box::pin(self.write(&note, &verdict)).await {
                self.dropped.inc();
                let reason = &note.reason;
                // In a namespace that is going nobody will read it.
                match error {
                    kube::Error::Api(status) if matches!(status.code, 403 | 404) => {
                        debug!(reason, "event refused: {}", status.message);
                    }
                    error => warn!(error = said(&error), reason, "cannot write an event; dropped"),
                }
            }
        }
    }

    /// Writes, again and again while the server is not reached; what it refuses stays refused.
    async fn write(&self, note: &Note, verdict: &Verdict) -> Result<(), kube::Error> {
        let mut tries = 0;
        loop {
            let written = match verdict {
                Verdict::Silence => return Ok(()),
                Verdict::Create(new) => self.create(note, new).await,
                Verdict::CountUp(more) => self.count_up(note, more).await,
            };
            tries += 1;
            match written {
                Err(kube::Error::Api(status)) => return Err(kube::Error::Api(status)),
                Err(error) if tries >= TRIES_MAX => return Err(error),
                Err(error) => {
                    debug!(error = said(&error), reason = note.reason, "event not written; tried again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn create(&self, note: &Note, new: &Telling) -> Result<(), kube::Error> {
        let event = self.event(note, new);
        match self.api(note).create(&PostParams::default(), &event).await {
            // An earlier try came through after all.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            written => written.map(drop),
        }
    }

    async fn count_up(&self, note: &Note, more: &Telling) -> Result<(), kube::Error> {
        let last = time_of(note.at);
        let patch = json!({"count": more.count, "lastTimestamp": last, "message": more.message});
        match self.api(note).patch(&more.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            // Events expire; this one begins again, with its count.
            Err(kube::Error::Api(status)) if status.code == 404 => self.create(note, more).await,
            written => written.map(drop),
        }
    }

    fn api(&self, note: &Note) -> Api<Event> {
        Api::namespaced(self.client.clone(), namespace_of(note))
    }

    fn event(&self, note: &Note, telling: &Telling) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(telling.name.clone()),
                namespace: Some(namespace_of(note).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(telling.message.clone()),
            type_: Some(note.type_.as_str().to_owned()),
            count: Some(telling.count),
            first_timestamp: Some(time_of(telling.first)),
            last_timestamp: Some(time_of(note.at)),
            source: Some(EventSource {
                component: Some(note.component.clone()),
                host: (!self.host.is_empty()).then(|| self.host.clone()),
            }),
            reporting_component: Some(note.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        }
    }
}

/// Events about what has no namespace are in `default`.
fn namespace_of(note: &Note) -> &str {
    note.about.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, Response};
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::Value;
    use tokio::sync::Notify;

    use super::*;
    use crate::Shutdown;

    /// A server that notes what is written and answers when it is let to.
    #[derive(Clone, Default)]
    struct Server {
        written: Arc<Mutex<Vec<String>>>,
        came: Arc<Notify>,
        answers: Option<Arc<tokio::sync::Semaphore>>,
        absent: bool,
    }

    impl Server {
        fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
            });
            Client::new(service, "default")
        }

        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            let method = request.method().clone();
            let bytes = request.into_body().collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&bytes).unwrap();
            let told = format!("{method} {} {}", body["count"], body["message"].as_str().unwrap());
            self.written.lock().push(told);
            self.came.notify_one();
            if let Some(answers) = &self.answers {
                answers.acquire().await.unwrap().forget();
            }
            if self.absent && method == "PATCH" {
                let status = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"});
                let body = Body::from(serde_json::to_vec(&status).unwrap());
                return Response::builder().status(404).body(body).unwrap();
            }
            let event = json!({"metadata": {}, "involvedObject": {}});
            Response::new(Body::from(serde_json::to_vec(&event).unwrap()))
        }

        async fn until_written(&self, count: usize) -> Vec<String> {
            let enough = async {
                while self.written.lock().len() < count {
                    self.came.notified().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), enough).await.expect("events are written");
            self.written.lock().clone()
        }
    }

    fn recorder(server: &Server) -> (Recorder, Counter) {
        let dropped = Counter::default();
        let tasks = Tasks::new(Shutdown::new());
        let clock = Clock::starting_at(DateTime::UNIX_EPOCH);
        (Recorder::counting(server.client(), "", clock, &tasks, dropped.clone()), dropped)
    }

    fn say(recorder: &Recorder, object: &str, message: &str) {
        let about = ObjectReference { name: Some(object.to_owned()), ..ObjectReference::default() };
        recorder.record("c", about, EventType::Normal, "R", message);
    }

    #[tokio::test(start_paused = true)]
    async fn events_about_an_object_are_written_in_their_order_and_counted() {
        let server = Server::default();
        let (recorder, _) = recorder(&server);
        ["a", "b", "a"].iter().for_each(|message| say(&recorder, "o", message));
        assert_eq!(server.until_written(3).await, ["POST 1 a", "POST 1 b", "PATCH 2 a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_has_expired_begins_again_with_its_count() {
        let server = Server { absent: true, ..Server::default() };
        let (recorder, _) = recorder(&server);
        ["a", "a"].iter().for_each(|message| say(&recorder, "o", message));
        assert_eq!(server.until_written(3).await, ["POST 1 a", "PATCH 2 a", "POST 2 a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn several_are_written_at_once_and_what_has_no_room_is_dropped_and_counted() {
        let answers = Arc::new(tokio::sync::Semaphore::new(0));
        let server = Server { answers: Some(answers), ..Server::default() };
        let (recorder, dropped) = recorder(&server);
        (0..200).for_each(|n| say(&recorder, &format!("o{n}"), "m"));
        server.until_written(LANES).await;
        assert_eq!(server.written.lock().len(), LANES, "one of each lane is under way");
        (0..20_000).for_each(|n| say(&recorder, &format!("p{n}"), "m"));
        let kept = 200 + 20_000 - usize::try_from(dropped.get()).unwrap();
        assert_eq!(kept, LANES * (LANE_EVENTS_MAX + 1));
    }
}
