//! One watch of the metadata of each kind that the server has, custom ones among them, Events excepted: for the
//! controllers that work on every kind. Kinds are discovered again when a CustomResourceDefinition changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use component_base::Shutdown;
use component_base::acted_on::{self, Seen};
use component_base::backoff::Backoff;
use component_base::client::{said, told};
use component_base::supervise::Tasks;
use futures::StreamExt;
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, SetOnce, watch};
use tracing::{debug, warn};

use crate::informers::is_from_the_future;
use crate::owners::uid_of;
use crate::resources::{ServedResource, served};

pub(crate) type Metadata = PartialObjectMeta<DynamicObject>;

/// Who is told what the watches see. It must only note what to do.
pub(crate) trait Listener: Send + Sync {
    /// The object is there, as it is now.
    fn put(&self, resource: &ServedResource, object: &Metadata);

    /// The object is gone.
    fn remove(&self, resource: &ServedResource, object: &Metadata);

    /// Of this kind there are the objects with these uids and no others.
    fn listed(&self, resource: &ServedResource, uids: &BTreeSet<String>);

    /// All kinds of now were listed, after their table has changed.
    fn kinds_changed(&self) {}

    /// The server was restored from an older state: what was seen to go may be there again.
    fn restored(&self) {}
}

/// The watches, and the kinds they are of.
pub(crate) struct MetadataWatches {
    resources: Mutex<BTreeMap<String, ServedResource>>,
    listeners: RwLock<Vec<Arc<dyn Listener>>>,
    /// Set when every kind was listed once. Wakes those who wait in the order in which they came.
    synced: SetOnce<()>,
    definitions_changed: Notify,
    seen: Seen,
}

impl MetadataWatches {
    pub(crate) fn new(seen: Seen) -> Self {
        Self {
            resources: Mutex::default(),
            listeners: RwLock::default(),
            synced: SetOnce::new(),
            definitions_changed: Notify::new(),
            seen,
        }
    }

    /// Tells `listener` all that is seen from the start on.
    pub(crate) fn subscribe(&self, listener: Arc<dyn Listener>) {
        self.listeners.write().push(listener);
    }

    /// The kind with this id, if it is watched.
    pub(crate) fn resource(&self, id: &str) -> Option<ServedResource> {
        self.resources.lock().get(id).cloned()
    }

    /// The kinds that are watched and chosen.
    pub(crate) fn resources(&self, is_chosen: impl Fn(&ServedResource) -> bool) -> Vec<ServedResource> {
        self.resources.lock().values().filter(|resource| is_chosen(resource)).cloned().collect()
    }

    /// Waits until every kind was listed once.
    pub(crate) async fn wait_until_synced(&self) {
        self.synced.wait().await;
    }

    /// Watches until the tasks' shutdown.
    pub(crate) fn start(self: &Arc<Self>, client: Client, tasks: &Tasks) {
        let watching = self.clone().watch_all(client, tasks.clone());
        tasks.spawn_until_shutdown("metadata-discovery", watching);
    }

    /// Keeps one watch per kind, and asks for the kinds again when a definition changes.
    async fn watch_all(self: Arc<Self>, client: Client, tasks: Tasks) {
        let mut watched: BTreeMap<String, Shutdown> = BTreeMap::new();
        let mut failures = 0;
        loop {
            match served(&client).await {
                Ok(resources) => {
                    failures = 0;
                    let first = self.start_watches(&client, &tasks, &mut watched, resources);
                    for mut synced in first {
                        // A watch that ended never listed anything.
                        drop(synced.wait_for(|synced| *synced).await);
                    }
                    if !self.synced.initialized() && self.synced.set(()).is_err() {
                        debug!("the kinds were listed already");
                    }
                    self.tell(|listener| listener.kinds_changed());
                }
                Err(error) => {
                    failures += 1;
                    warn!(error = said(&error), "cannot discover what kinds there are; trying again");
                    tokio::time::sleep(Backoff::CONNECTION.delay(failures)).await;
                    continue;
                }
            }
            self.definitions_changed.notified().await;
        }
    }

    fn start_watches(
        self: &Arc<Self>,
        client: &Client,
        tasks: &Tasks,
        watched: &mut BTreeMap<String, Shutdown>,
        resources: Vec<ServedResource>,
    ) -> Vec<watch::Receiver<bool>> {
        let watchable = resources.into_iter().filter(|resource| resource.can_watch && !resource.is_events());
        let now: BTreeMap<String, ServedResource> =
            watchable.map(|resource| (resource.id(), resource)).collect();
        let before = std::mem::replace(&mut *self.resources.lock(), now.clone());
        watched.retain(|id, stop| {
            let stays = now.contains_key(id);
            if let Some(gone) = before.get(id).filter(|_| !stays) {
                stop.cancel();
                self.tell(|listener| listener.listed(gone, &BTreeSet::new()));
            }
            stays
        });
        let mut first = Vec::new();
        for (id, resource) in now {
            if watched.contains_key(&id) {
                continue;
            }
            let stop = tasks.shutdown().child_token();
            watched.insert(id, stop.clone());
            let (done, synced) = watch::channel(false);
            first.push(synced);
            let (client, watches) = (client.clone(), self.clone());
            let watching = async move {
                loop {
                    watches.watch_until_unknown(client.clone(), &resource, &done).await;
                }
            };
            tasks.spawn("metadata-watch", async move {
                stop.run_until_cancelled(watching).await;
            });
        }
        first
    }

    /// Watches one kind until the server says that it has not got as far as this watch; then everything must be
    /// listed again.
    async fn watch_until_unknown(
        &self,
        client: Client,
        resource: &ServedResource,
        done: &watch::Sender<bool>,
    ) {
        let is_definitions = resource.api.plural == "customresourcedefinitions";
        let api: Api<Metadata> = Api::all_with(client, &resource.api);
        let events = watcher(api, watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            let revision = event.as_ref().ok().and_then(acted_on::revision_of);
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.insert(uid_of(&object.metadata).to_owned());
                    self.tell(|listener| listener.put(resource, &object));
                }
                Ok(watcher::Event::InitDone) => {
                    self.tell(|listener| listener.listed(resource, &listed));
                    done.send_replace(true);
                }
                Ok(watcher::Event::Apply(object)) => self.tell(|listener| listener.put(resource, &object)),
                Ok(watcher::Event::Delete(object)) => {
                    self.tell(|listener| listener.remove(resource, &object));
                }
                Err(error) => {
                    warn!(resource = resource.id(), error = told(&error), "watch failed; trying again");
                    // A kind that cannot be listed must not keep all the others waiting.
                    done.send_replace(true);
                    if is_from_the_future(&error) {
                        self.tell(|listener| listener.restored());
                        return;
                    }
                    continue;
                }
            }
            self.seen.note(revision);
            if is_definitions && *done.borrow() {
                self.definitions_changed.notify_one();
            }
        }
    }

    fn tell(&self, what: impl Fn(&dyn Listener)) {
        self.listeners.read().iter().for_each(|listener| what(&**listener));
    }
}
