//! What a controller is, and what it gets: caches, a queue, a client, a clock, a recorder.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::clock::Clock;
use component_base::events::{EventType, Recorder};
use component_base::supervise::Tasks;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource};

use crate::Config;
use crate::informers::{Cached, Informer, Informers, Scope};
use crate::key::ObjectKey;
use crate::queue::Queue;

/// One control loop.
///
/// A controller is level-driven: `reconcile` gets a name, reads the caches again, decides with a pure
/// `plan`, and does the steps. It must be right after missing any number of changes and after being killed
/// between any two steps. The runtime guarantees that one key is never reconciled twice at the same time,
/// that a failed key comes again with a growing delay, and that a panic ends only that one reconcile.
#[async_trait]
pub(crate) trait Controller: Send + Sync + Sized + 'static {
    /// The name as in Kubernetes' `--controllers`.
    const NAME: &'static str;
    /// Keys reconciled at the same time when the configuration does not say.
    const CONCURRENCY: usize = 5;

    /// Subscribes to what concerns this controller and keeps the caches it reads.
    fn watches(setup: &Setup<'_>) -> Self;

    /// Brings the object `key` nearer to what is wanted.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError>;
}

/// What the runtime does after a successful reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing until something changes.
    Done,
    /// Reconcile again after this long, whatever happens.
    RequeueAfter(Duration),
}

impl Action {
    /// Requeue after the delay if there is one.
    pub(crate) fn after(delay: Option<Duration>) -> Self {
        delay.map_or(Self::Done, Self::RequeueAfter)
    }
}

/// Why a reconcile did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The API server refused or was not reached; the key is tried again.
    #[error("a request failed")]
    Request(#[from] kube::Error),
    /// Something else that another try may mend.
    #[error("{0}")]
    Again(String),
    /// The object cannot be reconciled until somebody changes it.
    #[error("{0}")]
    Terminal(String),
}

/// What a controller is made from.
pub(crate) struct Setup<'a> {
    pub config: &'a Config,
    pub client: Client,
    pub clock: Clock,
    pub queue: Queue,
    pub tasks: Tasks,
    pub(crate) informers: &'a Informers,
    pub(crate) recorder: Recorder,
    pub(crate) name: &'static str,
    /// Whose names are queued as they are.
    pub(crate) own_kinds: RefCell<Vec<String>>,
}

impl Setup<'_> {
    /// The cache of `K`, without subscribing.
    pub(crate) fn read<K: Cached>(&self) -> Arc<Informer<K>> {
        self.informers.get(Scope::default())
    }

    /// The cache of the `K` that a field selector selects.
    pub(crate) fn read_where<K: Cached>(&self, fields: &'static str) -> Arc<Informer<K>> {
        self.informers.get(Scope { fields: Some(fields) })
    }

    /// The cache of `K`; each changed object is queued itself.
    pub(crate) fn watch_own<K: Cached>(&self) -> Arc<Informer<K>> {
        self.own_kinds.borrow_mut().push(K::kind(&()).into_owned());
        self.watch(|object| vec![ObjectKey::of(object)])
    }

    /// The same, but an object whose generation has not changed is queued only after `delay`: so a status that a
    /// controller writes does not bring the next one before there is something to add to it.
    pub(crate) fn watch_own_gathering<K: Cached>(&self, delay: Duration) -> Arc<Informer<K>> {
        self.own_kinds.borrow_mut().push(K::kind(&()).into_owned());
        let (informer, queue) = (self.read::<K>(), self.queue.clone());
        informer.subscribe(move |change| {
            let generation = |side: Option<&Arc<K>>| side.map(|object| object.meta().generation);
            let same = generation(change.old) == generation(change.new);
            let delay = if same { delay } else { Duration::ZERO };
            let object = change.new.or(change.old);
            object.into_iter().for_each(|object| queue.add_after(ObjectKey::of(&**object), delay));
        });
        informer
    }

    /// The cache of `K`; of each changed object, before and after, the keys that `map` makes are queued.
    pub(crate) fn watch<K: Cached>(
        &self,
        map: impl Fn(&K) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) -> Arc<Informer<K>> {
        let informer = self.read::<K>();
        self.subscribe(&informer, map);
        informer
    }

    /// Queues the keys that `map` makes of each changed object of `informer`, before and after.
    pub(crate) fn subscribe<K: Cached>(
        &self,
        informer: &Informer<K>,
        map: impl Fn(&K) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) {
        self.subscribe_gathering(informer, Duration::ZERO, map);
    }

    /// The same, but a key is queued only after `delay`, so that changes that come together are one reconcile.
    pub(crate) fn subscribe_gathering<K: Cached>(
        &self,
        informer: &Informer<K>,
        delay: Duration,
        map: impl Fn(&K) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) {
        let queue = self.queue.clone();
        informer.subscribe(move |change| {
            let mut keys: Vec<ObjectKey> = change.old.map(|old| map(old)).unwrap_or_default();
            keys.extend(change.new.map(|new| map(new)).unwrap_or_default());
            keys.sort();
            keys.dedup();
            keys.into_iter().for_each(|key| queue.add_after(key, delay));
        });
    }

    /// Records events under this controller's name.
    pub(crate) fn events(&self) -> Events {
        Events { recorder: self.recorder.clone(), component: self.name }
    }
}

/// The recorder of one controller.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
    component: &'static str,
}

impl Events {
    /// Something went as it should.
    pub(crate) fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: &str) {
        self.recorder.record(self.component, about.object_ref(&()), EventType::Normal, reason, message);
    }

    /// Something did not, about an object of whatever kind.
    pub(crate) fn warning_about(&self, about: ObjectReference, reason: &str, message: &str) {
        self.recorder.record(self.component, about, EventType::Warning, reason, message);
    }

    /// Something did not.
    pub(crate) fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: &str) {
        self.recorder.record(self.component, about.object_ref(&()), EventType::Warning, reason, message);
    }
}

/// A controller's row in the table: its name and how to start it, the type forgotten.
pub(crate) struct Definition {
    pub name: &'static str,
    pub concurrency: usize,
    pub start: fn(&Setup<'_>) -> Arc<dyn Reconciler>,
}

/// The row of `T`.
pub(crate) const fn def<T: Controller>() -> Definition {
    Definition { name: T::NAME, concurrency: T::CONCURRENCY, start: |setup| Arc::new(T::watches(setup)) }
}

/// A started controller, its type forgotten.
#[async_trait]
pub(crate) trait Reconciler: Send + Sync {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError>;
}

#[async_trait]
impl<T: Controller> Reconciler for T {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        Controller::reconcile(self, key).await
    }
}
