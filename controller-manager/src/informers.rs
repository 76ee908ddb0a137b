//! One watch and one cache per kind for the whole process; controllers read the cache and subscribe to changes.
//!
//! An informer keeps what it saw last, indexed by namespace, by controlling owner and (pods) by node. When a
//! watch cannot go on, the kind is listed again and what vanished meanwhile is told as deleted, so
//! subscribers never miss that an object is gone.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use component_base::acted_on::{self, Seen};
use component_base::client::{told, trim};
use component_base::supervise::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::key::ObjectKey;
use crate::metadata::MetadataWatches;

/// A kind that can be cached.
pub(crate) trait Cached:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}
impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Cached for K {}

type Subscriber<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;

/// What happened to one object; at least one side is there.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a, K> {
    pub old: Option<&'a Arc<K>>,
    pub new: Option<&'a Arc<K>>,
}

/// The cache of one kind.
pub(crate) struct Informer<K> {
    contents: RwLock<Contents<K>>,
    subscribers: RwLock<Vec<Subscriber<K>>>,
    synced: watch::Sender<bool>,
    seen: Seen,
}

struct Contents<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    by_owner: HashMap<String, BTreeSet<ObjectKey>>,
    by_node: HashMap<String, BTreeSet<ObjectKey>>,
    /// What nobody controls, by namespace.
    orphans: HashMap<String, BTreeSet<ObjectKey>>,
    /// The highest resourceVersion seen.
    revision: u64,
    lists_started: u64,
    lists_done: u64,
    /// Keys of the list that is under way.
    listed: BTreeSet<ObjectKey>,
    /// The highest resourceVersion of the list that is under way: what is older may be yet to come.
    listed_revision: u64,
}

/// A point in an informer's history; see [`Informer::has_seen`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    revision: u64,
    lists: u64,
}

impl<K: Cached> Informer<K> {
    fn new(seen: Seen) -> Self {
        let contents = Contents {
            objects: BTreeMap::new(),
            by_owner: HashMap::new(),
            by_node: HashMap::new(),
            orphans: HashMap::new(),
            revision: 0,
            lists_started: 0,
            lists_done: 0,
            listed: BTreeSet::new(),
            listed_revision: 0,
        };
        Self {
            contents: RwLock::new(contents),
            subscribers: RwLock::default(),
            synced: watch::Sender::new(false),
            seen,
        }
    }

    /// A cache to which these things happened.
    #[cfg(test)]
    pub(crate) fn after(events: impl IntoIterator<Item = watcher::Event<K>>) -> Self {
        let informer = Self::new(Seen::default());
        informer.play(events);
        informer
    }

    /// These things happen.
    #[cfg(test)]
    pub(crate) fn play(&self, events: impl IntoIterator<Item = watcher::Event<K>>) {
        events.into_iter().for_each(|event| self.apply(event));
    }

    /// The object as last seen.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.contents.read().objects.get(key).cloned()
    }

    /// All objects.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.contents.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let contents = self.contents.read();
        let from = contents.objects.range(ObjectKey::new(namespace, "")..);
        from.take_while(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    /// The objects whose controlling owner has this uid.
    pub(crate) fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let contents = self.contents.read();
        contents.find(contents.by_owner.get(uid))
    }

    /// What an owner with this uid has or might take: what it controls, and what nobody controls in the namespace.
    pub(crate) fn claimable(&self, uid: &str, namespace: &str) -> Vec<Arc<K>> {
        let contents = self.contents.read();
        let mut all = contents.find(contents.by_owner.get(uid));
        all.extend(contents.find(contents.orphans.get(namespace)));
        all
    }

    /// The pods bound to a node.
    pub(crate) fn on_node(&self, node: &str) -> Vec<Arc<K>> {
        let contents = self.contents.read();
        contents.find(contents.by_node.get(node))
    }

    /// The point at which the write that answered with `resource_version` is visible here.
    pub(crate) fn mark(&self, resource_version: Option<&str>) -> Mark {
        let lists = self.contents.read().lists_started;
        Mark { revision: resource_version.and_then(|text| text.parse().ok()).unwrap_or(0), lists }
    }

    /// Whether this cache includes the write that `mark` was made for: its event was seen, or a whole list
    /// that began after it.
    pub(crate) fn has_seen(&self, mark: Mark) -> bool {
        let contents = self.contents.read();
        contents.revision >= mark.revision || contents.lists_done > mark.lists
    }

    /// Calls `subscriber` at each change, after the cache has it. It must only note what to do.
    pub(crate) fn subscribe(&self, subscriber: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        self.subscribers.write().push(Box::new(subscriber));
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for subscriber in self.subscribers.read().iter() {
            subscriber(Change { old, new });
        }
    }

    fn apply(&self, event: watcher::Event<K>) {
        match event {
            watcher::Event::Init => {
                let mut contents = self.contents.write();
                contents.lists_started += 1;
                contents.listed.clear();
                contents.listed_revision = 0;
            }
            watcher::Event::InitApply(object) => self.put(object, true),
            watcher::Event::Apply(object) => self.put(object, false),
            watcher::Event::Delete(object) => self.remove(&object),
            watcher::Event::InitDone => self.finish_list(),
        }
    }

    fn put(&self, object: K, listed: bool) {
        let (key, object) = (ObjectKey::of(&object), Arc::new(object));
        let old = {
            let mut contents = self.contents.write();
            if listed {
                contents.listed.insert(key.clone());
                contents.listed_revision = contents.listed_revision.max(revision_of(&*object));
            } else {
                contents.note_revision(revision_of(&*object));
            }
            contents.insert(key, object.clone())
        };
        let same =
            old.as_ref().is_some_and(|old| old.meta().resource_version == object.meta().resource_version);
        if !same {
            self.tell(old.as_ref(), Some(&object));
        }
    }

    fn remove(&self, object: &K) {
        let old = {
            let mut contents = self.contents.write();
            contents.note_revision(revision_of(object));
            contents.take(&ObjectKey::of(object))
        };
        if let Some(old) = old {
            self.tell(Some(&old), None);
        }
    }

    fn finish_list(&self) {
        let gone: Vec<Arc<K>> = {
            let mut contents = self.contents.write();
            let listed = std::mem::take(&mut contents.listed);
            let gone: Vec<_> = contents.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
            contents.lists_done = contents.lists_started;
            let revision = contents.listed_revision;
            contents.note_revision(revision);
            gone.iter().filter_map(|key| contents.take(key)).collect()
        };
        for object in &gone {
            self.tell(Some(object), None);
        }
        self.synced.send_replace(true);
    }
}

impl<K: Cached> Contents<K> {
    fn find(&self, keys: Option<&BTreeSet<ObjectKey>>) -> Vec<Arc<K>> {
        keys.into_iter().flatten().filter_map(|key| self.objects.get(key).cloned()).collect()
    }

    fn note_revision(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.take(&key);
        match owner_of(&*object) {
            Some(owner) => self.by_owner.entry(owner).or_default().insert(key.clone()),
            None => self.orphans.entry(key.namespace.clone()).or_default().insert(key.clone()),
        };
        if let Some(node) = node_of(&*object) {
            self.by_node.entry(node).or_default().insert(key.clone());
        }
        self.objects.insert(key, object);
        old
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        match owner_of(&*old) {
            Some(owner) => unindex(&mut self.by_owner, Some(owner), key),
            None => unindex(&mut self.orphans, Some(key.namespace.clone()), key),
        }
        unindex(&mut self.by_node, node_of(&*old), key);
        Some(old)
    }
}

fn unindex(index: &mut HashMap<String, BTreeSet<ObjectKey>>, value: Option<String>, key: &ObjectKey) {
    let Some(value) = value else { return };
    if let Some(keys) = index.get_mut(&value) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(&value);
        }
    }
}

fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn owner_of<K: Resource>(object: &K) -> Option<String> {
    crate::owners::controller_of(object.meta()).map(|owner| owner.uid.clone())
}

fn node_of<K: 'static>(object: &K) -> Option<String> {
    let pod = (object as &dyn Any).downcast_ref::<Pod>()?;
    pod.spec.as_ref()?.node_name.clone()
}

type Start = Box<dyn FnOnce(Client, &Tasks) -> watch::Receiver<bool> + Send>;

/// The informers of this process; each kind starts once, however many controllers use it.
pub(crate) struct Informers {
    seen: Seen,
    known: Mutex<HashMap<(TypeId, Scope), Arc<dyn Any + Send + Sync>>>,
    to_start: Mutex<Vec<Start>>,
    /// Of every kind, when some controller wants them.
    metadata: OnceLock<Arc<MetadataWatches>>,
}

/// The part of a kind that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// A field selector.
    pub fields: Option<&'static str>,
}

impl Informers {
    /// None yet; what they come to see is noted in `seen`.
    pub(crate) fn new(seen: Seen) -> Self {
        Self { seen, known: Mutex::default(), to_start: Mutex::default(), metadata: OnceLock::new() }
    }

    /// The watches of the metadata of every kind.
    pub(crate) fn metadata(&self) -> Arc<MetadataWatches> {
        self.metadata.get_or_init(|| Arc::new(MetadataWatches::new(self.seen.clone()))).clone()
    }

    /// The informer of `K` restricted to `scope`.
    pub(crate) fn get<K: Cached>(&self, scope: Scope) -> Arc<Informer<K>> {
        let mut known = self.known.lock();
        let entry = known.entry((TypeId::of::<K>(), scope.clone())).or_insert_with(|| {
            let informer = Arc::new(Informer::<K>::new(self.seen.clone()));
            let started = informer.clone();
            self.to_start.lock().push(Box::new(move |client, tasks| started.start(client, scope, tasks)));
            informer
        });
        entry.clone().downcast().expect("an entry is stored under the type it holds")
    }

    /// Starts every informer asked for so far.
    pub(crate) fn start(&self, client: &Client, tasks: &Tasks) -> Vec<watch::Receiver<bool>> {
        if let Some(metadata) = self.metadata.get() {
            metadata.start(client.clone(), tasks);
        }
        let starts = std::mem::take(&mut *self.to_start.lock());
        starts.into_iter().map(|start| start(client.clone(), tasks)).collect()
    }
}

impl<K: Cached> Informer<K> {
    fn start(self: Arc<Self>, client: Client, scope: Scope, tasks: &Tasks) -> watch::Receiver<bool> {
        let synced = self.synced.subscribe();
        tasks.spawn_until_shutdown("informer", async move {
            loop {
                self.watch_until_unknown(client.clone(), &scope).await;
            }
        });
        synced
    }

    /// Watches until the server says that it has not got as far as this cache: it was restored from an older
    /// state, and everything must be listed again.
    async fn watch_until_unknown(&self, client: Client, scope: &Scope) {
        let config = match scope.fields {
            Some(fields) => watcher::Config::default().fields(fields),
            None => watcher::Config::default(),
        };
        let trimmed = watcher(Api::<K>::all(client), config).modify(trim).default_backoff();
        let mut events = std::pin::pin!(trimmed);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let revision = acted_on::revision_of(&event);
                    self.apply(event);
                    self.seen.note(revision);
                }
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    debug!(kind = %K::kind(&()), "watch is too old; listing again");
                }
                Err(error) => {
                    warn!(kind = %K::kind(&()), error = told(&error), "watch failed; trying again");
                    if is_from_the_future(&error) {
                        self.forget_revision();
                        return;
                    }
                }
            }
        }
    }

    fn forget_revision(&self) {
        self.contents.write().revision = 0;
        self.seen.forget();
    }
}

/// Whether the server refused a watch because its own state is older than the revision asked for.
pub(crate) fn is_from_the_future(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        _ => return false,
    };
    status.message.contains("Too large resource version")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use kube::api::ObjectMeta;
    use watcher::Event;

    use super::*;

    fn pod(name: &str, revision: &str, node: Option<&str>) -> Pod {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            resource_version: Some(revision.into()),
            ..ObjectMeta::default()
        };
        let spec =
            k8s_openapi::api::core::v1::PodSpec { node_name: node.map(Into::into), ..Default::default() };
        Pod { metadata, spec: Some(spec), status: None }
    }

    fn told(informer: &Informer<Pod>) -> Arc<Mutex<Vec<String>>> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        informer.subscribe(move |change| {
            let verb = match (change.old, change.new) {
                (None, _) => "added",
                (Some(_), Some(_)) => "changed",
                (Some(_), None) => "deleted",
            };
            let object = change.new.or(change.old).expect("one side is there");
            log.lock().push(format!("{verb} {}", object.metadata.name.as_deref().unwrap_or_default()));
        });
        told
    }

    #[test]
    fn what_vanished_between_two_lists_is_told_as_deleted() {
        let informer = Informer::<Pod>::new(Seen::default());
        let told = told(&informer);
        for event in [
            Event::Init,
            Event::InitApply(pod("a", "1", None)),
            Event::InitApply(pod("b", "2", None)),
            Event::InitDone,
        ] {
            informer.apply(event);
        }
        for event in [Event::Init, Event::InitApply(pod("b", "2", None)), Event::InitDone] {
            informer.apply(event);
        }
        assert_eq!(*told.lock(), ["added a", "added b", "deleted a"]);
    }

    #[test]
    fn node_index_follows_the_binding() {
        let informer = Informer::<Pod>::new(Seen::default());
        informer.apply(Event::Apply(pod("a", "1", None)));
        assert!(informer.on_node("n1").is_empty());
        informer.apply(Event::Apply(pod("a", "2", Some("n1"))));
        assert_eq!(informer.on_node("n1").len(), 1);
        informer.apply(Event::Delete(pod("a", "3", Some("n1"))));
        assert!(informer.on_node("n1").is_empty());
    }

    #[test]
    fn what_an_owner_may_claim_follows_the_owner_references() {
        let informer = Informer::<Pod>::new(Seen::default());
        let owned = |name: &str, revision: &str, owner: &str| {
            let mut pod = pod(name, revision, None);
            pod.metadata.owner_references = Some(vec![OwnerReference {
                uid: owner.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            }]);
            pod
        };
        let claimable = |uid: &str| -> Vec<String> {
            let all = informer.claimable(uid, "ns");
            all.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
        };
        informer.apply(Event::Apply(owned("ours", "1", "us")));
        informer.apply(Event::Apply(owned("theirs", "2", "them")));
        informer.apply(Event::Apply(pod("orphan", "3", None)));
        assert_eq!(claimable("us"), ["ours", "orphan"]);
        informer.apply(Event::Apply(owned("orphan", "4", "them")));
        informer.apply(Event::Apply(pod("ours", "5", None)));
        assert_eq!(
            (claimable("us"), claimable("them")),
            (vec!["ours".into()], vec!["orphan".into(), "theirs".into(), "ours".into()])
        );
    }

    #[test]
    fn a_write_is_seen_with_its_event_or_with_a_later_list() {
        let informer = Informer::<Pod>::new(Seen::default());
        let mark = informer.mark(Some("7"));
        informer.apply(Event::Apply(pod("a", "6", None)));
        assert!(!informer.has_seen(mark));
        informer.apply(Event::Init);
        assert!(!informer.has_seen(mark));
        informer.apply(Event::InitDone);
        assert!(informer.has_seen(mark));
        let mark = informer.mark(Some("9"));
        informer.apply(Event::Apply(pod("a", "9", None)));
        assert!(informer.has_seen(mark));
    }
    #[test]
    fn half_a_list_shows_nothing_that_is_older_than_what_it_has_shown() {
        let informer = Informer::<Pod>::new(Seen::default());
        for event in [Event::Init, Event::InitApply(pod("a", "1", None)), Event::InitDone, Event::Init] {
            informer.apply(event);
        }
        let mark = informer.mark(Some("7"));
        informer.apply(Event::InitApply(pod("a", "8", None)));
        assert!(!informer.has_seen(mark), "the pod of revision 7 comes later in the list");
        informer.apply(Event::InitApply(pod("b", "7", None)));
        informer.apply(Event::InitDone);
        assert!(informer.has_seen(mark));
    }
}
