//! The recorder of Kubernetes Events: what a component did to an object, for `kubectl describe`.
//!
//! Events with the same object, reason and message are one Event with a count. A component that repeats
//! itself about one object is throttled, as Kubernetes does (25 at once, then one in five minutes).
//! Recording never waits: when the queue is full or the server refuses, the event is dropped and counted.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::client::said;
use crate::clock::Clock;
use crate::supervise::Tasks;

/// Events that may wait to be written; more are dropped.
const QUEUE_MAX: usize = 1024;
/// Series and throttles remembered; beyond, the oldest half is forgotten.
const SERIES_MAX: usize = 4096;
/// A series ends when nothing was added for this long.
const SERIES_AGE_MAX: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// Whether something went as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Records events for one component. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Series {
    namespace: String,
    kind: String,
    name: String,
    uid: String,
    field: String,
    component: String,
    reason: String,
    message: String,
}

#[derive(Debug)]
struct Note {
    about: ObjectReference,
    component: String,
    type_: EventType,
    reason: String,
    message: String,
}

impl Recorder {
    /// A recorder whose writer is a task of `tasks`. `host` is the node's name for a node agent, else empty.
    pub fn new(client: Client, host: &str, clock: Clock, tasks: &Tasks) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            client,
            host: host.to_owned(),
            clock,
            series: HashMap::new(),
            throttles: HashMap::new(),
        };
        tasks.spawn_until_shutdown("event-writer", writer.run(notes));
        Self { queue }
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
        let note = Note {
            about,
            component: component.to_owned(),
            type_,
            reason: reason.to_owned(),
            message: message.chars().take(1024).collect(),
        };
        if self.queue.try_send(note).is_err() {
            debug!(reason, message, "event dropped: the queue of events is full or closed");
        }
    }
}

#[derive(Debug)]
struct Written {
    name: String,
    count: i32,
    last: Instant,
}

#[derive(Debug)]
struct Throttle {
    tokens: f64,
    filled: Instant,
}

impl Throttle {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_secs_f64() * REFILL_PER_SECOND;
        self.tokens = (self.tokens + gained).min(BURST);
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

struct Writer {
    client: Client,
    host: String,
    clock: Clock,
    series: HashMap<Series, Written>,
    throttles: HashMap<(String, String), Throttle>,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            if !self.allows(&note) {
                continue;
            }
            if let Err(error) = self.write(&note).await {
                warn!(error = said(&error), reason = note.reason, "cannot write an event; dropped");
            }
        }
    }

    fn allows(&mut self, note: &Note) -> bool {
        let now = Instant::now();
        if self.throttles.len() >= SERIES_MAX {
            self.throttles.retain(|_, throttle| now.duration_since(throttle.filled) < SERIES_AGE_MAX / 2);
        }
        let object = note
            .about
            .uid
            .clone()
            .unwrap_or_else(|| format!("{:?}/{:?}", note.about.namespace, note.about.name));
        let throttle = self.throttles.entry((note.component.clone(), object));
        throttle.or_insert(Throttle { tokens: BURST, filled: now }).take(now)
    }

    async fn write(&mut self, note: &Note) -> Result<(), kube::Error> {
        let key = series_of(note);
        let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let now = Instant::now();
        self.forget_old(now);
        if let Some(written) = self.series.get_mut(&key) {
            let count = written.count + 1;
            let patch = json!({"count": count, "lastTimestamp": self.clock.time(), "message": note.message});
            match api.patch(&written.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    written.count = count;
                    written.last = now;
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => drop(self.series.remove(&key)),
                Err(error) => return Err(error),
            }
        }
        let event = self.new_event(note, namespace, &key);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => drop(self.series.insert(key, Written { name, count: 1, last: now })),
            // The namespace is going or gone: nobody will read the event.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                debug!(reason = note.reason, "event refused: {}", status.message);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn forget_old(&mut self, now: Instant) {
        if self.series.len() >= SERIES_MAX {
            self.series.retain(|_, written| now.duration_since(written.last) < SERIES_AGE_MAX / 2);
        }
        if self.series.len() >= SERIES_MAX {
            self.series.clear();
        }
        self.series.retain(|_, written| now.duration_since(written.last) < SERIES_AGE_MAX);
    }

    /// What tells the beginning of a series from that of any other: its moment and what it is about.
    fn begun(&self, series: &Series) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.clock.now(), series).hash(&mut hasher);
        hasher.finish()
    }

    fn new_event(&self, note: &Note, namespace: &str, series: &Series) -> Event {
        let now = self.clock.time();
        let object = note.about.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:016x}", self.begun(series))),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: note.about.clone(),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            type_: Some(note.type_.as_str().to_owned()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
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

fn series_of(note: &Note) -> Series {
    let about = &note.about;
    Series {
        namespace: about.namespace.clone().unwrap_or_default(),
        kind: about.kind.clone().unwrap_or_default(),
        name: about.name.clone().unwrap_or_default(),
        uid: about.uid.clone().unwrap_or_default(),
        field: about.field_path.clone().unwrap_or_default(),
        component: note.component.clone(),
        reason: note.reason.clone(),
        message: note.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_about_one_object_is_throttled() {
        let mut throttle = Throttle { tokens: BURST, filled: Instant::now() };
        let passed = (0..100).filter(|_| throttle.take(Instant::now())).count();
        assert_eq!(passed, 25);
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(throttle.take(Instant::now()));
    }
}
