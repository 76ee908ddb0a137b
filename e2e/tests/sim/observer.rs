//! Sees every revision that is committed, once and in order, over watches without faults, and holds the
//! invariants against each.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use component_base::Shutdown;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::ApiResource;
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::invariants::{self, Invariant, Surroundings};
use crate::model::{Change, Model, name, namespace};
use crate::trace::Trace;

const LOOK: Duration = Duration::from_millis(100);
/// What no invariant and no reader of a trace looks at.
const DULL: [&str; 3] = ["events", "leases", "endpointslices"];

type Seen = (usize, Result<WatchEvent<DynamicObject>, kube::Error>);

/// What the observer shares with the rest of the run.
pub(crate) struct View {
    pub(crate) model: Model,
    pub(crate) surroundings: Surroundings,
    invariants: Vec<Box<dyn Invariant>>,
}

impl View {
    pub(crate) fn new() -> Arc<Mutex<Self>> {
        let (model, surroundings) = (Model::default(), Surroundings::default());
        Arc::new(Mutex::new(Self { model, surroundings, invariants: invariants::all() }))
    }

    /// What is not yet as everything must be when nothing happens any more.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        self.invariants.iter().flat_map(|one| one.unfinished(&self.model)).collect()
    }
}

pub(crate) struct Observer {
    client: Client,
    trace: Trace,
    started: Instant,
    resources: Vec<ApiResource>,
    /// How far each resource's watch has come.
    come_to: Vec<u64>,
    watches: SelectAll<BoxStream<'static, Seen>>,
    /// Changes that wait for those before them.
    waiting: BTreeMap<u64, Vec<(String, Value, bool)>>,
    revision: u64,
    view: Arc<Mutex<View>>,
}

impl Observer {
    /// Begins before any component does anything.
    pub(crate) async fn start(
        client: Client,
        trace: Trace,
        view: Arc<Mutex<View>>,
    ) -> Result<Self, kube::Error> {
        let discovery = Discovery::new(client.clone()).run_aggregated().await?;
        let served = discovery.groups().filter(|group| group.name() != "events.k8s.io");
        let served = served.flat_map(|group| group.recommended_resources());
        let watchable = served.filter(|(_, can)| can.supports_operation(verbs::WATCH));
        let mut resources: Vec<_> = watchable.map(|(resource, _)| resource).collect();
        resources.sort_by(|a, b| (&a.plural, &a.group).cmp(&(&b.plural, &b.group)));
        let first =
            Api::<DynamicObject>::all_with(client.clone(), &crate::kubelet::resource("v1", "Pod", "pods"));
        let revision = first.list_metadata(&ListParams::default()).await?.metadata.resource_version;
        let revision: u64 = revision.and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut observer = Self {
            client,
            trace,
            started: Instant::now(),
            come_to: vec![revision; resources.len()],
            resources,
            watches: SelectAll::new(),
            waiting: BTreeMap::new(),
            revision,
            view,
        };
        for index in 0..observer.resources.len() {
            observer.watch(index).await?;
        }
        Ok(observer)
    }

    async fn watch(&mut self, index: usize) -> Result<(), kube::Error> {
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &self.resources[index]);
        let from = self.come_to[index].to_string();
        let events = api.watch(&WatchParams::default().timeout(290), &from).await?;
        let ended = futures::stream::once(async move { (index, Ok(WatchEvent::Error(ended()))) });
        self.watches.push(events.map(move |event| (index, event)).chain(ended).boxed());
        Ok(())
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        while !shutdown.is_cancelled() {
            self.look().await;
            tokio::time::sleep(LOOK).await;
        }
        self.look().await;
    }

    /// Takes in all that was committed. Every watch has it by now: a commit tells them before it answers. Watches
    /// that have ended are taken up again first, so that none is behind the others.
    async fn look(&mut self) {
        while let Some((index, event)) = self.next() {
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.take(index, object, true)
                }
                Ok(WatchEvent::Deleted(object)) => self.take(index, object, false),
                Ok(WatchEvent::Bookmark(mark)) => {
                    self.come_to[index] =
                        mark.metadata.resource_version.parse().unwrap_or(self.come_to[index]);
                }
                Ok(WatchEvent::Error(status)) if status.reason == "ended" => {
                    if let Err(error) = self.watch(index).await {
                        self.trace.problem(format!("the observer cannot watch again: {error}"));
                    }
                }
                Ok(WatchEvent::Error(status)) => {
                    self.trace.problem(format!("the observer's watch failed: {}", status.message));
                }
                Err(error) => self.trace.problem(format!("the observer's watch failed: {error}")),
            }
        }
        self.follow();
    }

    /// What is there to be read. That a stream says "not now" while it wakes who asks tells nothing: streams make way
    /// for others now and then while they have more.
    fn next(&mut self) -> Option<Seen> {
        loop {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            let next = std::pin::pin!(tokio::task::unconstrained(self.watches.next()));
            match next.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(seen) => return seen,
                Poll::Pending if woken.0.load(Ordering::Relaxed) => {}
                Poll::Pending => return None,
            }
        }
    }

    fn take(&mut self, index: usize, object: DynamicObject, is_there: bool) {
        let revision = object.metadata.resource_version.as_deref().and_then(|text| text.parse().ok());
        let revision: u64 = revision.unwrap_or(0);
        if revision <= self.come_to[index] {
            let name = object.metadata.name.unwrap_or_default();
            return self.trace.problem(format!("{name} came again or without a revision: {revision}"));
        }
        self.come_to[index] = revision;
        let value = serde_json::to_value(&object).unwrap_or_default();
        self.waiting.entry(revision).or_default().push((
            self.resources[index].plural.clone(),
            value,
            is_there,
        ));
    }

    /// Applies the changes in their order; one that is missing is a gap in a watch.
    fn follow(&mut self) {
        let view = self.view.clone();
        let mut view = view.lock();
        let at = self.started.elapsed();
        for (revision, changes) in std::mem::take(&mut self.waiting) {
            if revision != self.revision + 1 {
                self.trace
                    .problem(format!("after revision {} the watches brought {revision}", self.revision));
            }
            self.revision = revision;
            for (resource, object, is_there) in changes {
                self.hold(&mut view, revision, at, resource, object, is_there);
            }
        }
    }

    fn hold(
        &self,
        view: &mut View,
        revision: u64,
        at: Duration,
        resource: String,
        object: Value,
        is_there: bool,
    ) {
        let old = view.model.apply(&resource, &object, is_there);
        let dull = DULL.contains(&&*resource);
        if !dull {
            view.model.changed_at = at;
            let did = match (&old, is_there) {
                (None, _) => "added",
                (_, true) => "changed",
                (_, false) => "gone",
            };
            let said = invariants::summary(&resource, &object);
            let line = format!("{revision} {did} {resource} {}/{} {said}", namespace(&object), name(&object));
            self.trace.note("  =", &line);
        }
        let old = if is_there { old } else { Some(object.clone()) };
        let change = Change { resource, old, new: is_there.then_some(object), at };
        let View { model, surroundings, invariants } = view;
        for invariant in invariants {
            for problem in invariant.check(model, surroundings, &change) {
                self.trace.problem(format!("revision {revision}: {}: {problem}", invariant.name()));
            }
        }
    }
}

/// Whether somebody was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ended() -> Box<kube::core::Status> {
    Box::new(kube::core::Status { reason: "ended".to_owned(), ..Default::default() })
}
