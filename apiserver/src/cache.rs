//! The watch cache: every read is served from here.
//!
//! A storage publishes what it committed; the cache makes it the next [`snapshot::World`] (one pointer
//! swap, so a list is one revision and takes no lock), appends it to its resource's [`ring`], and tells the
//! [`watch`]ers. An object's bytes are made once per revision and shared by all who read them.
//! [`Objects`] is storage and cache as one: what the rest of the server sees.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::encryption::Encryption;
use crate::store::{
    Backend, CommitError, Committed, Did, DiskStorage, EtcdStorage, Event as StoreEvent, Feed, HistoryError,
    Key, Loaded, MemoryStorage, OpenError, OpeningFeed, Revision, SealedStorage, Seals, Storage, Transaction,
};

mod ring;
mod snapshot;
mod stored;
mod watch;

use ring::{Event, Previous, Ring, RingLimits};
pub(crate) use snapshot::Snapshot;
use snapshot::{Resource, World};
pub(crate) use stored::{FieldPaths, Sought, Stored};
use watch::{Registry, Watchers};
pub(crate) use watch::{Ticket, WatchEvent, WatchSpec, WatchStream};

/// Bounds of the cache.
#[derive(Clone, Debug)]
pub(crate) struct CacheLimits {
    /// Events a watcher may be behind before its watch ends.
    pub(crate) watch_events_max: usize,
    /// Events kept per resource to resume from, however old.
    pub(crate) ring_events_min: usize,
    pub(crate) ring_events_max: usize,
    pub(crate) ring_bytes_max: usize,
    /// Events above the minimum are kept this long.
    pub(crate) ring_age_max: Duration,
    /// Past lists that stay for their continue tokens, whatever is written meanwhile.
    pub(crate) pinned_max: usize,
    pub(crate) bookmark_interval: Duration,
    /// How long a commit to a shared storage may take to come back as an event.
    pub(crate) visible_wait_max: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            watch_events_max: 4096,
            ring_events_min: 1024,
            ring_events_max: 65_536,
            ring_bytes_max: 16 << 20,
            ring_age_max: Duration::from_secs(300),
            pinned_max: 64,
            bookmark_interval: Duration::from_secs(60),
            visible_wait_max: Duration::from_secs(30),
        }
    }
}

/// The revision asked for is no longer kept (410 Gone); `oldest` still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub(crate) struct Expired {
    pub(crate) requested: Revision,
    pub(crate) oldest: Revision,
}

/// Storage and cache as one.
pub(crate) struct Objects {
    storage: Arc<dyn Storage>,
    cache: Arc<Cache>,
    seals: Arc<Seals>,
    /// Whether the last write did not come through to where objects are kept.
    failing: AtomicBool,
    decoded: Decoded,
}

/// Objects that were read as values not long ago. Every write into a namespace asks for that namespace, and every
/// pod for its account: the same few objects, which seldom change.
#[derive(Default)]
struct Decoded(Mutex<HashMap<Key, (Revision, Arc<Value>)>>);

impl Decoded {
    const MAX: usize = 64;

    fn of(&self, stored: &Stored) -> Arc<Value> {
        if let Some((revision, value)) = self.0.lock().get(&stored.key)
            && *revision == stored.revision
        {
            return value.clone();
        }
        let value = Arc::new(stored.value());
        let mut kept = self.0.lock();
        if kept.len() >= Self::MAX {
            kept.clear();
        }
        kept.insert(stored.key.clone(), (stored.revision, value.clone()));
        value
    }
}

impl Objects {
    /// Opens `backend` and reads all of it. Background work runs in `tasks` and ends with it; call
    /// [`Objects::close`] after the last write.
    #[cfg(test)]
    pub(crate) async fn open(backend: Backend, clock: Clock, tasks: &Tasks) -> Result<Arc<Self>, OpenError> {
        Self::open_sealed(backend, None, clock, tasks).await
    }

    /// As `open`, with what is stored encrypted as the configuration says. A state that its keys do not
    /// read is refused.
    pub(crate) async fn open_sealed(
        backend: Backend,
        encryption: Option<Encryption>,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_all(backend, CacheLimits::default(), encryption, clock, tasks).await
    }

    #[cfg(test)]
    pub(crate) async fn open_with(
        backend: Backend,
        limits: CacheLimits,
        encryption: Encryption,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_all(backend, limits, Some(encryption), clock, tasks).await
    }

    async fn open_all(
        backend: Backend,
        limits: CacheLimits,
        encryption: Option<Encryption>,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let cache = Arc::new(Cache::new(limits));
        let plain = encryption.is_none();
        let seals = Seals::new(encryption.unwrap_or_default());
        let feed = Arc::new(OpeningFeed { inner: cache.clone(), seals: seals.clone() });
        let storage: Arc<dyn Storage> = match backend {
            Backend::Memory { history, kept } => {
                Arc::new(MemoryStorage::open(clock, history, kept.unwrap_or_default(), feed))
            }
            Backend::Disk { dir, limits } => Arc::new(DiskStorage::open(&dir, limits, clock, feed)?),
            Backend::Etcd { endpoints, prefix } => {
                Arc::new(EtcdStorage::open(endpoints, prefix, clock, feed, tasks).await?)
            }
        };
        if let Err(unreadable) = seals.check() {
            storage.close().await;
            return Err(unreadable);
        }
        let storage = match plain {
            true => storage,
            false => Arc::new(SealedStorage { inner: storage, seals: seals.clone() }),
        };
        tasks.spawn_until_shutdown("watch bookmarks", Cache::bookmarks(cache.clone()));
        Ok(Arc::new(Self {
            storage,
            cache,
            seals,
            failing: AtomicBool::new(false),
            decoded: Decoded::default(),
        }))
    }

    /// Whether a write that changes nothing would still store the object with another key.
    pub(crate) fn is_stale(&self, key: &Key) -> bool {
        self.seals.is_stale(key)
    }

    /// Encrypts by other rules from now on.
    pub(crate) fn replace_encryption(&self, encryption: Encryption) {
        let world = self.cache.world.load();
        let kept = world.resources.values().flat_map(|objects| objects.values());
        self.seals.replace(encryption, kept.map(|stored| stored.key.clone()));
    }

    /// What is wrong with each key management service.
    pub(crate) fn key_services(&self) -> Vec<Option<String>> {
        self.seals.services()
    }

    /// Makes `transaction` happen, or says why not. When it returns, the result is as durable as asked for
    /// and every read sees it.
    pub(crate) async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let committed = self.storage.commit(transaction).await;
        match &committed {
            Ok(_) => self.failing.store(false, Ordering::Relaxed),
            Err(CommitError::Io(_) | CommitError::Etcd(_)) => self.failing.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        let revision = committed?;
        if self.revision() < revision && !self.wait_for(revision).await {
            return Err(CommitError::Closed);
        }
        Ok(revision)
    }

    /// Whether writes do not reach the disk, or etcd, for now.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The latest revision that reads show.
    pub(crate) fn revision(&self) -> Revision {
        self.cache.world.load().revision
    }

    /// Waits until reads show `revision`, within the cache's limit; false if they do not.
    pub(crate) async fn wait_for(&self, revision: Revision) -> bool {
        let mut published = self.cache.published.subscribe();
        let seen = published.wait_for(|now| *now >= revision);
        matches!(tokio::time::timeout(self.cache.limits.visible_wait_max, seen).await, Ok(Ok(_)))
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        let world = self.cache.world.load();
        let name = (key.namespace.clone(), key.name.clone());
        world.resources.get(&*key.resource)?.get(&name).cloned()
    }

    /// As `get`, decoded.
    pub(crate) fn value(&self, key: &Key) -> Option<Arc<Value>> {
        self.get(key).map(|stored| self.decoded.of(&stored))
    }

    /// The objects of `resource` now, in one namespace or all.
    pub(crate) fn list(&self, resource: &str, namespace: Option<&str>) -> Snapshot {
        let world = self.cache.world.load();
        Snapshot {
            revision: world.revision,
            namespace: namespace.map(Arc::from),
            objects: world.resource(resource),
        }
    }

    /// How many objects of `resource` there are, in all namespaces.
    pub(crate) fn count(&self, resource: &str) -> usize {
        self.cache.world.load().resources.get(resource).map_or(0, |objects| objects.len())
    }

    /// The objects of `resource` as they were at exactly `revision`, which stays available for the next
    /// page. A revision that is yet to come gives what there is now; wait for it first.
    pub(crate) fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        revision: Revision,
    ) -> Result<Snapshot, Expired> {
        let objects = self.cache.at(resource, revision)?;
        Ok(Snapshot { revision, namespace: namespace.map(Arc::from), objects })
    }

    /// As [`Objects::list_at`], and from the storage where the cache has forgotten it.
    pub(crate) async fn list_past(
        &self,
        resource: &str,
        namespace: Option<&str>,
        revision: Revision,
    ) -> Result<Snapshot, HistoryError> {
        if let Ok(snapshot) = self.list_at(resource, namespace, revision) {
            return Ok(snapshot);
        }
        let records = self.storage.past(resource, None, revision).await?;
        let objects = self.cache.resource_of(records);
        self.cache.pin(resource, revision, objects.clone());
        Ok(Snapshot { revision, namespace: namespace.map(Arc::from), objects })
    }

    /// An object as the cache would keep it.
    pub(crate) fn stored(&self, key: Key, revision: Revision, bytes: bytes::Bytes) -> Arc<Stored> {
        self.cache.stored(key, revision, bytes)
    }

    /// The newest revision at or before a time.
    pub(crate) async fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        self.storage.revision_at(at_ms).await
    }

    /// Keeps a list for its continue token, so that a slow reader is not overtaken by writes.
    pub(crate) fn pin(&self, resource: &str, snapshot: &Snapshot) {
        self.cache.pin(resource, snapshot.revision, snapshot.objects.clone());
    }

    /// The events after `spec.from`, then those to come.
    pub(crate) fn watch(&self, spec: WatchSpec) -> Result<WatchStream, Expired> {
        self.cache.watch(spec)
    }

    /// Has a watcher told up to where it has seen everything.
    pub(crate) fn remind(&self, ticket: &Ticket) {
        let mut hub = self.cache.hub.lock();
        let revision = self.cache.world.load().revision;
        hub.watchers.remind(ticket, revision);
    }

    /// Says which fields of `resource` selectors may name, for resources that are not built in.
    pub(crate) fn index_fields(&self, resource: &str, paths: Vec<String>) {
        self.cache.index_fields(resource, FieldPaths::new(paths));
    }

    /// What happened to `key` (or anything) after a revision, with the causes.
    pub(crate) async fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError> {
        self.storage.history(key, after, max).await
    }

    /// Ends all watches and closes the storage.
    pub(crate) async fn close(&self) {
        self.storage.close().await;
        self.cache.hub.lock().watchers.end();
    }
}

/// The state and its watchers; what storages feed.
pub(crate) struct Cache {
    limits: CacheLimits,
    world: ArcSwap<World>,
    hub: Arc<Mutex<Hub>>,
    fields: RwLock<HashMap<String, FieldPaths>>,
    pinned: Mutex<VecDeque<Pinned>>,
    published: tokio::sync::watch::Sender<Revision>,
}

struct Pinned {
    resource: String,
    revision: Revision,
    objects: Resource,
}

/// What changes together when something is published.
struct Hub {
    watchers: Watchers,
    rings: HashMap<Arc<str>, Ring>,
    /// Where the ring of a resource without events begins.
    floor: Revision,
}

impl Registry for Mutex<Hub> {
    fn watchers(&self, change: &mut dyn FnMut(&mut Watchers)) {
        change(&mut self.lock().watchers);
    }
}

impl Cache {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        let hub = Hub { watchers: Watchers::default(), rings: HashMap::new(), floor: 0 };
        Self {
            limits,
            world: ArcSwap::default(),
            hub: Arc::new(Mutex::new(hub)),
            fields: RwLock::new(builtin_fields()),
            pinned: Mutex::default(),
            published: tokio::sync::watch::Sender::new(0),
        }
    }

    async fn bookmarks(cache: Arc<Self>) {
        loop {
            tokio::time::sleep(cache.limits.bookmark_interval).await;
            let mut hub = cache.hub.lock();
            let revision = cache.world.load().revision;
            hub.watchers.bookmark(revision);
        }
    }

    fn ring_limits(&self) -> RingLimits {
        RingLimits {
            events_min: self.limits.ring_events_min,
            events_max: self.limits.ring_events_max,
            bytes_max: self.limits.ring_bytes_max,
            age_ms_max: u64::try_from(self.limits.ring_age_max.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn stored(&self, key: Key, revision: Revision, bytes: bytes::Bytes) -> Arc<Stored> {
        let paths = self.fields.read().get(&*key.resource).cloned().unwrap_or_default();
        Arc::new(Stored::new(key, revision, bytes, paths))
    }

    fn resource_of(&self, records: Vec<crate::store::Record>) -> Resource {
        let stored = records.into_iter().map(|r| self.stored(r.key, r.revision, r.bytes));
        stored.map(|s| ((s.key.namespace.clone(), s.key.name.clone()), s)).collect()
    }

    fn watch(&self, spec: WatchSpec) -> Result<WatchStream, Expired> {
        let mut hub = self.hub.lock();
        let mut backlog = VecDeque::new();
        match hub.rings.get(&*spec.resource) {
            None if spec.from < hub.floor => {
                return Err(Expired { requested: spec.from, oldest: hub.floor });
            }
            None => {}
            Some(ring) => {
                let events =
                    ring.after(spec.from).map_err(|oldest| Expired { requested: spec.from, oldest })?;
                backlog.extend(events.filter_map(|event| spec.translate(event)));
            }
        }
        let max = self.limits.watch_events_max;
        Ok(WatchStream::register(&mut hub.watchers, self.hub.clone(), spec, backlog, max))
    }

    fn at(&self, resource: &str, revision: Revision) -> Result<Resource, Expired> {
        let is_it = |pinned: &&Pinned| pinned.revision == revision && pinned.resource == resource;
        if let Some(pinned) = self.pinned.lock().iter().find(is_it) {
            return Ok(pinned.objects.clone());
        }
        let hub = self.hub.lock();
        // Under the lock the newest event of the ring is the newest in the world.
        let current = self.world.load().resource(resource);
        let past = match hub.rings.get(resource) {
            Some(ring) => ring.rewind(current, revision),
            None if revision < hub.floor => Err(hub.floor),
            None => Ok(current),
        };
        drop(hub);
        let past = past.map_err(|oldest| Expired { requested: revision, oldest })?;
        self.pin(resource, revision, past.clone());
        Ok(past)
    }

    fn pin(&self, resource: &str, revision: Revision, objects: Resource) {
        let mut pinned = self.pinned.lock();
        if pinned.iter().any(|known| known.revision == revision && known.resource == resource) {
            return;
        }
        if pinned.len() == self.limits.pinned_max {
            pinned.pop_front();
        }
        pinned.push_back(Pinned { resource: resource.to_owned(), revision, objects });
    }

    fn index_fields(&self, resource: &str, paths: FieldPaths) {
        let _hub = self.hub.lock();
        self.fields.write().insert(resource.to_owned(), paths.clone());
        let mut world = World::clone(&self.world.load());
        let Some(objects) = world.resources.get_mut(resource) else { return };
        *objects = objects
            .iter()
            .map(|(name, stored)| (name.clone(), Arc::new(stored.with_paths(paths.clone()))))
            .collect();
        self.world.store(Arc::new(world));
    }

    /// Changes `world` by one committed event and says what was there before.
    fn apply(&self, world: &mut World, event: StoreEvent, revision: Revision, at_ms: u64) -> Event {
        let object = self.stored(event.key, revision, event.bytes);
        object.mark();
        let previous = match event.did {
            Did::Put => world.put(object.clone()),
            Did::Delete => {
                let name = (object.key.namespace.clone(), object.key.name.clone());
                world.remove(&object.key.resource, &name)
            }
        };
        Event { did: event.did, object, previous: previous.map_or(Previous::Nothing, Previous::Was), at_ms }
    }

    /// The rings that a storage's newest transactions make; `world` is the state after them.
    fn rings(&self, world: &World, recent: Vec<Committed>, floor: Revision) -> HashMap<Arc<str>, Ring> {
        let mut rings = HashMap::<Arc<str>, Ring>::new();
        let mut last = HashMap::<Key, Arc<Stored>>::new();
        for committed in recent {
            for event in committed.events {
                let name = (event.key.namespace.clone(), event.key.name.clone());
                let current = world.resources.get(&event.key.resource).and_then(|all| all.get(&name));
                let object = match current.filter(|stored| stored.revision == committed.revision) {
                    Some(current) => current.clone(),
                    None => self.stored(event.key.clone(), committed.revision, event.bytes),
                };
                let before = match event.did {
                    Did::Put => last.insert(event.key, object.clone()),
                    Did::Delete => last.remove(&event.key),
                };
                let previous = match (before, event.previous) {
                    (Some(stored), _) => Previous::Was(stored),
                    (None, Some(_)) => Previous::Unknown,
                    (None, None) => Previous::Nothing,
                };
                let ring = rings.entry(object.key.resource.clone()).or_insert_with(|| Ring::new(floor));
                let event = Event { did: event.did, object, previous, at_ms: committed.at_ms };
                ring.push(Arc::new(event), self.ring_limits());
            }
        }
        rings
    }
}

impl Feed for Cache {
    fn load(&self, loaded: Loaded) {
        let mut world = World { revision: loaded.revision, ..World::default() };
        for record in loaded.objects {
            world.put(self.stored(record.key, record.revision, record.bytes));
        }
        let rings = self.rings(&world, loaded.recent, loaded.resumable);
        let mut hub = self.hub.lock();
        hub.watchers.overflow();
        hub.rings = rings;
        hub.floor = loaded.resumable;
        self.world.store(Arc::new(world));
        self.published.send_replace(loaded.revision);
    }

    fn publish(&self, committed: Vec<Committed>) {
        let Some(revision) = committed.last().map(|newest| newest.revision) else { return };
        let mut hub = self.hub.lock();
        let mut world = World::clone(&self.world.load());
        let mut events = Vec::with_capacity(committed.len());
        for one in committed {
            for event in one.events {
                events.push(Arc::new(self.apply(&mut world, event, one.revision, one.at_ms)));
            }
        }
        world.revision = revision;
        self.world.store(Arc::new(world));
        let (floor, limits) = (hub.floor, self.ring_limits());
        for event in &events {
            let resource = event.object.key.resource.clone();
            hub.rings.entry(resource).or_insert_with(|| Ring::new(floor)).push(event.clone(), limits);
        }
        hub.watchers.tell(&events);
        self.published.send_replace(revision);
    }

    fn advance(&self, revision: Revision) {
        let _hub = self.hub.lock();
        let mut world = World::clone(&self.world.load());
        if world.revision < revision {
            world.revision = revision;
            self.world.store(Arc::new(world));
            self.published.send_replace(revision);
        }
    }
}

/// What field selectors may name, from the kinds table.
fn builtin_fields() -> HashMap<String, FieldPaths> {
    let mut fields = HashMap::<String, Vec<String>>::new();
    for kind in api_types::kinds::builtin() {
        let paths = fields.entry(kind.storage.clone()).or_default();
        for path in &kind.selectable_fields {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
    }
    fields.into_iter().map(|(resource, paths)| (resource, FieldPaths::new(paths))).collect()
}
