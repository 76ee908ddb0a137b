//! Tasks with a name and an owner: the only place that spawns.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, error_span};

use crate::Shutdown;

/// A set of named tasks that end together.
///
/// Futures are wrapped by combinators and not by async blocks: a block keeps a place for what it was given beside
/// the place where it awaits it, and each task would be twice as large with every block around it.
///
/// A task that panics is logged under its name and cancels the set, so that its owner sees it and the
/// process does not go on with a part missing.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
}

impl Tasks {
    /// A set whose tasks stop when `shutdown` is cancelled.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown }
    }

    /// The signal the tasks of this set listen to.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Runs `future` as the task `name`. The future watches `shutdown()` itself when it has something to finish.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let guarded = AssertUnwindSafe(future).catch_unwind().map(move |caught| {
            if caught.is_err() {
                error!(task = name, "task panicked; stopping its component");
                shutdown.cancel();
            }
        });
        self.spawn_raw(guarded.instrument(error_span!("task", name)));
    }

    /// Like [`Tasks::spawn`], but the future is dropped as soon as shutdown is asked for.
    pub fn spawn_until_shutdown<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(name, self.shutdown.clone().run_until_cancelled_owned(future).map(drop));
    }

    fn spawn_raw<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.tracker.spawn(future));
    }

    /// Waits until every task has ended.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
