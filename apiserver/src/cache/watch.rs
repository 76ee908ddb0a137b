//! Who watches what, and how an event reaches only those who want it.
//!
//! A watcher is filed under the narrowest thing it names, so an event looks into at most five buckets.
//! Filters run here, before the watcher's buffer, so that the buffer holds only what is wanted; when it is
//! full all the same, the watch ends with [`WatchEvent::Overflow`] and the client lists again.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc;

use super::ring::{Event, Previous};
use super::stored::Stored;
use crate::store::{Did, Revision};

/// The field that finds a pod's node.
const NODE_FIELD: &str = "spec.nodeName";

/// What a watch wants.
#[derive(Clone)]
pub(crate) struct WatchSpec {
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    /// `metadata.name=`
    pub(crate) name: Option<String>,
    /// `spec.nodeName=`
    pub(crate) node: Option<String>,
    /// All else that selectors ask for.
    pub(crate) matches: Arc<dyn Fn(&Stored) -> bool + Send + Sync>,
    /// Events after this revision.
    pub(crate) from: Revision,
}

impl WatchSpec {
    /// Everything of a resource after `from`.
    #[cfg(test)]
    pub(crate) fn all(resource: &str, from: Revision) -> Self {
        let resource = resource.to_owned();
        Self { resource, namespace: None, name: None, node: None, matches: Arc::new(|_| true), from }
    }

    fn bucket(&self) -> Bucket {
        match (&self.name, &self.node, &self.namespace) {
            (Some(name), _, _) => Bucket::Name(name.as_str().into()),
            (None, Some(node), _) => Bucket::Node(node.as_str().into()),
            (None, None, Some(namespace)) => Bucket::Namespace(namespace.as_str().into()),
            (None, None, None) => Bucket::All,
        }
    }

    fn wants(&self, stored: &Stored) -> bool {
        let is =
            |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
        is(&self.namespace, &stored.key.namespace)
            && is(&self.name, &stored.key.name)
            && self.node.as_deref().is_none_or(|node| stored.field(NODE_FIELD) == Some(node))
            && (self.matches)(stored)
    }

    /// What this watcher sees of an event: an object that begins to match was added, one that no longer
    /// does was deleted.
    pub(super) fn translate(&self, event: &Event) -> Option<WatchEvent> {
        let object = &event.object;
        let now = event.did == Did::Put && self.wants(object);
        let before = match &event.previous {
            Previous::Nothing => false,
            Previous::Was(previous) => self.wants(previous),
            // Taken to have matched: a client forgives a change or deletion of what it did not know.
            Previous::Unknown => event.did == Did::Put || self.wants(object),
        };
        match (before, now) {
            (false, false) => None,
            (false, true) => Some(WatchEvent::Added(object.clone())),
            (true, true) => Some(WatchEvent::Modified(object.clone())),
            // An object that no longer matches is sent as it was when it did, at the new revision.
            (true, false) => Some(WatchEvent::Deleted(match (event.did, &event.previous) {
                (Did::Put, Previous::Was(previous)) => Arc::new(previous.at(object.revision)),
                _ => object.clone(),
            })),
        }
    }
}

/// What a watcher is told.
#[derive(Clone, Debug)]
pub(crate) enum WatchEvent {
    Added(Arc<Stored>),
    Modified(Arc<Stored>),
    /// Carries the revision of the change that made it go.
    Deleted(Arc<Stored>),
    /// All events up to here were delivered.
    Bookmark(Revision),
    /// The watcher did not keep up; nothing follows.
    Overflow,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bucket {
    All,
    Namespace(Arc<str>),
    Name(Arc<str>),
    Node(Arc<str>),
}

type WatcherId = u64;

struct Watcher {
    spec: WatchSpec,
    events: mpsc::Sender<WatchEvent>,
    overflowed: Arc<AtomicBool>,
    /// The revision of the last bookmark.
    told: Revision,
}

impl Watcher {
    /// Gives it `event`; false if it is gone or cannot take it.
    fn offer(&self, event: WatchEvent) -> bool {
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.overflowed.store(true, Ordering::Release);
                false
            }
        }
    }
}

/// The watchers of one resource.
#[derive(Default)]
struct Audience {
    buckets: BTreeMap<Bucket, BTreeMap<WatcherId, Watcher>>,
    /// Buckets of a node; while there are none, no event has to be asked for its node.
    by_node: usize,
}

/// All watchers.
#[derive(Default)]
pub(super) struct Watchers {
    next: WatcherId,
    audiences: BTreeMap<String, Audience>,
}

impl Watchers {
    /// Gives events to those who want them, and lets go of those who cannot take them. Each watcher gets all of
    /// its events before the next one gets any: it wakes once for them, and writes them together.
    pub(super) fn tell(&mut self, events: &[Arc<Event>]) {
        let mut wanted = BTreeMap::<(&str, Bucket), Vec<&Event>>::new();
        for event in events {
            let resource = &*event.object.key.resource;
            let Some(audience) = self.audiences.get(resource) else { continue };
            for bucket in audience.interested(event) {
                wanted.entry((resource, bucket)).or_default().push(event);
            }
        }
        for ((resource, bucket), events) in wanted {
            let audience = self.audiences.get_mut(resource);
            let Some(watchers) = audience.and_then(|all| all.buckets.get_mut(&bucket)) else { continue };
            let take = |watcher: &Watcher, event: &Event| {
                watcher.spec.translate(event).is_none_or(|seen| watcher.offer(seen))
            };
            watchers.retain(|_, watcher| events.iter().all(|event| take(watcher, event)));
        }
    }

    /// Tells everyone that nothing is missing up to `revision`.
    pub(super) fn bookmark(&mut self, revision: Revision) {
        for watcher in
            self.audiences.values_mut().flat_map(|a| a.buckets.values_mut()).flat_map(BTreeMap::values_mut)
        {
            // One that has no room has events to read, which tell it as much.
            if watcher.told < revision && watcher.events.try_send(WatchEvent::Bookmark(revision)).is_ok() {
                watcher.told = revision;
            }
        }
    }

    /// Tells one watcher, whether it knows it already or not, that nothing is missing up to `revision`.
    pub(super) fn remind(&mut self, ticket: &Ticket, revision: Revision) {
        let buckets = self.audiences.get_mut(&ticket.resource).map(|audience| &mut audience.buckets);
        let watchers = buckets.and_then(|buckets| buckets.get_mut(&ticket.bucket));
        let Some(watcher) = watchers.and_then(|watchers| watchers.get_mut(&ticket.id)) else { return };
        // One that has no room has events to read, which tell it as much.
        if watcher.events.try_send(WatchEvent::Bookmark(revision)).is_ok() {
            watcher.told = revision;
        }
    }

    /// Ends every watch with `Overflow`: the state was replaced and what lies between is not known.
    pub(super) fn overflow(&mut self) {
        for audience in self.audiences.values_mut() {
            for watcher in audience.buckets.values().flat_map(BTreeMap::values) {
                watcher.overflowed.store(true, Ordering::Release);
            }
            *audience = Audience::default();
        }
    }

    pub(super) fn end(&mut self) {
        self.audiences.clear();
    }

    fn add(&mut self, watcher: Watcher) -> WatcherId {
        self.next += 1;
        let audience = self.audiences.entry(watcher.spec.resource.clone()).or_default();
        let bucket = watcher.spec.bucket();
        if matches!(bucket, Bucket::Node(_)) && !audience.buckets.contains_key(&bucket) {
            audience.by_node += 1;
        }
        audience.buckets.entry(bucket).or_default().insert(self.next, watcher);
        self.next
    }

    fn remove(&mut self, resource: &str, bucket: &Bucket, id: WatcherId) {
        let Some(audience) = self.audiences.get_mut(resource) else { return };
        let Some(watchers) = audience.buckets.get_mut(bucket) else { return };
        watchers.remove(&id);
        if watchers.is_empty() {
            audience.buckets.remove(bucket);
            audience.by_node -= usize::from(matches!(bucket, Bucket::Node(_)));
        }
    }
}

impl Audience {
    fn interested(&self, event: &Event) -> Vec<Bucket> {
        let object = &event.object;
        let mut buckets = vec![
            Bucket::All,
            Bucket::Namespace(object.key.namespace.clone()),
            Bucket::Name(object.key.name.clone()),
        ];
        if self.by_node == 0 {
            return buckets;
        }
        let node = |stored: &Stored| stored.field(NODE_FIELD).map(Arc::<str>::from);
        let now = node(object);
        let before = match &event.previous {
            Previous::Was(previous) => node(previous),
            Previous::Nothing | Previous::Unknown => None,
        };
        buckets.extend(before.filter(|before| Some(before) != now.as_ref()).map(Bucket::Node));
        buckets.extend(now.map(Bucket::Node));
        buckets
    }
}

/// The place where the watchers are kept; a stream takes itself off when it is dropped.
pub(super) trait Registry: Send + Sync {
    fn watchers(&self, change: &mut dyn FnMut(&mut Watchers));
}

/// Names one watcher among all.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    resource: String,
    bucket: Bucket,
    id: WatcherId,
}

/// The events of one watch, in order, each once.
pub(crate) struct WatchStream {
    backlog: VecDeque<WatchEvent>,
    events: mpsc::Receiver<WatchEvent>,
    overflowed: Arc<AtomicBool>,
    ended: bool,
    /// There was nothing to read when it was last asked for.
    waits: bool,
    registry: Arc<dyn Registry>,
    ticket: Ticket,
}

impl WatchStream {
    /// Registers a watcher that first gets `backlog`. The caller holds the lock under which events are told.
    pub(super) fn register(
        watchers: &mut Watchers,
        registry: Arc<dyn Registry>,
        spec: WatchSpec,
        backlog: VecDeque<WatchEvent>,
        buffer_max: usize,
    ) -> Self {
        let (sender, events) = mpsc::channel(buffer_max);
        let overflowed = Arc::new(AtomicBool::new(false));
        let (resource, bucket, told) = (spec.resource.clone(), spec.bucket(), spec.from);
        let watcher = Watcher { spec, events: sender, overflowed: overflowed.clone(), told };
        let id = watchers.add(watcher);
        let ticket = Ticket { resource, bucket, id };
        Self { backlog, events, overflowed, ended: false, waits: false, registry, ticket }
    }

    /// By which the watcher can be reminded of where it is.
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }
}

impl Stream for WatchStream {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        if let Some(event) = self.backlog.pop_front() {
            return Poll::Ready(Some(event));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        // Who has just been woken lets the others go first: where many watch the same, more events come
        // meanwhile, and are written together.
        if self.waits && !self.events.is_empty() {
            self.waits = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Poll::Ready(next) = self.events.poll_recv(cx) else {
            self.waits = true;
            return Poll::Pending;
        };
        self.waits = false;
        if next.is_none() {
            self.ended = true;
            if self.overflowed.load(Ordering::Acquire) {
                return Poll::Ready(Some(WatchEvent::Overflow));
            }
        }
        Poll::Ready(next)
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let (registry, Ticket { resource, bucket, id }) = (self.registry.clone(), &self.ticket);
        registry.watchers(&mut |watchers| watchers.remove(resource, bucket, *id));
    }
}
