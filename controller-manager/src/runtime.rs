//! Runs the controllers: starts caches, waits for them, then takes keys from queues and reconciles.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::acted_on::Seen;
use component_base::client::told;
use component_base::events::Recorder;
use component_base::health::Readiness;
use component_base::metrics::{Counter, Family, Gauge, Histogram, Metrics, exponential_buckets};
use component_base::supervise::Tasks;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kube::Client;
use tracing::{debug, error, info, warn};

use crate::Config;
use crate::controller::{Action, ReconcileError, Reconciler, Setup};
use crate::controllers;
use crate::informers::Informers;
use crate::key::ObjectKey;
use crate::queue::{self, Queue};
use crate::why::{self, Ledger};

/// Reconciles that are under way at a stop may take this long.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The figures that `/metrics` shows.
#[derive(Clone)]
pub(crate) struct Figures {
    reconciles: Family<Labels, Counter>,
    depth: Family<Labels, Gauge>,
    adds: Family<Labels, Counter>,
    retries: Family<Labels, Counter>,
    waits: Durations,
    works: Durations,
    dropped_events: Counter,
}

type Labels = Vec<(String, String)>;
type Durations = Family<Labels, Histogram, fn() -> Histogram>;

fn durations() -> Durations {
    Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-6, 10.0, 9)))
}

impl Figures {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counts = |name: &str, help: &str| metrics.register(name, help, Family::default());
        Self {
            reconciles: counts("controller_reconciles", "Reconciles by controller and result"),
            adds: counts("workqueue_adds", "Keys added, by controller"),
            retries: counts("workqueue_retries", "Keys that failed and come again, by controller"),
            depth: metrics.register("workqueue_depth", "Keys waiting, by controller", Family::default()),
            waits: metrics.register(
                "workqueue_queue_duration_seconds",
                "How long keys wait before they are reconciled, by controller",
                durations(),
            ),
            works: metrics.register(
                "workqueue_work_duration_seconds",
                "How long reconciles take, by controller",
                durations(),
            ),
            dropped_events: metrics.register(
                "events_dropped",
                "Events that were lost: no room, or refused",
                Counter::default(),
            ),
        }
    }

    /// What the queue of a controller counts.
    fn of_queue(&self, name: &str) -> queue::Figures {
        let labels = vec![("name".to_owned(), name.to_owned())];
        queue::Figures {
            adds: self.adds.get_or_create_owned(&labels),
            retries: self.retries.get_or_create_owned(&labels),
            waits: self.waits.get_or_create_owned(&labels),
        }
    }
}

/// Runs the enabled controllers until `shutdown`.
pub(crate) async fn run(
    config: &Config,
    client: Client,
    seen: Seen,
    figures: Figures,
    ledger: Ledger,
    ready: Readiness,
    shutdown: Shutdown,
) {
    let client = why::accounted(client);
    ready.fail("caches are being filled");
    let clock = config.clock;
    let tasks = Tasks::new(shutdown.clone());
    let dropped = figures.dropped_events.clone();
    let recorder = Recorder::counting(client.clone(), "", clock, &tasks, dropped);
    let informers = Informers::new(seen);
    let mut loops = Vec::new();
    for row in controllers::ALL.iter().filter(|row| config.controllers.includes(row.name)) {
        let queue = Queue::counted(figures.of_queue(row.name));
        let setup = Setup {
            config,
            client: client.clone(),
            clock,
            queue: queue.clone(),
            tasks: tasks.clone(),
            informers: &informers,
            recorder: recorder.clone(),
            name: row.name,
            own_kinds: RefCell::default(),
        };
        let controller = (row.start)(&setup);
        ledger.concerns(row.name, setup.own_kinds.into_inner());
        let concurrency = config.concurrency.get(row.name).copied().unwrap_or(row.concurrency).max(1);
        let (figures, ledger) = (figures.clone(), ledger.clone());
        loops.push(Loop { name: row.name, controller, queue, concurrency, figures, ledger });
    }
    for mut synced in informers.start(&client, &tasks) {
        let waited = shutdown.run_until_cancelled(synced.wait_for(|synced| *synced)).await;
        if !matches!(waited, Some(Ok(_))) {
            break;
        }
    }
    if !shutdown.is_cancelled() {
        info!(controllers = loops.len(), "caches are filled; controllers start");
        ready.pass();
    }
    for one in loops {
        tasks.spawn(one.name, one.run(shutdown.clone()));
    }
    shutdown.cancelled().await;
    ready.fail("stopping");
    tasks.join().await;
}

struct Loop {
    name: &'static str,
    controller: Arc<dyn Reconciler>,
    queue: Queue,
    concurrency: usize,
    figures: Figures,
    ledger: Ledger,
}

impl Loop {
    async fn run(self, shutdown: Shutdown) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(()) = running.next() => {}
                key = self.queue.next(), if running.len() < self.concurrency => running.push(self.reconcile(key)),
            }
            let labels = vec![("name".to_owned(), self.name.to_owned())];
            let depth = i64::try_from(self.queue.depth()).unwrap_or(i64::MAX);
            self.figures.depth.get_or_create(&labels).set(depth);
        }
        let rest = async { while running.next().await.is_some() {} };
        if tokio::time::timeout(STOP_MAX, rest).await.is_err() {
            warn!(controller = self.name, "reconciles did not end in time; dropped");
        }
    }

    async fn reconcile(&self, key: ObjectKey) {
        let begun = tokio::time::Instant::now();
        let reconcile = AssertUnwindSafe(self.controller.reconcile(&key)).catch_unwind();
        let (caught, account) = why::account(reconcile).await;
        let name = vec![("name".to_owned(), self.name.to_owned())];
        self.figures.works.get_or_create(&name).observe(begun.elapsed().as_secs_f64());
        let (result, again, failure) = match caught {
            Ok(Ok(Action::Done)) => ("success", None, None),
            Ok(Ok(Action::RequeueAfter(delay))) => ("success", Some(delay), None),
            Ok(Err(problem)) => {
                let (result, delay) = self.failed(&key, &problem);
                (result, delay, Some(told(&problem)))
            }
            Err(_) => {
                error!(controller = self.name, %key, "reconcile panicked; the key is tried again");
                ("panic", Some(self.queue.add_failed(key.clone())), Some("it panicked".to_owned()))
            }
        };
        if failure.is_none() {
            self.queue.forget(&key);
            again.into_iter().for_each(|delay| self.queue.add_after(key.clone(), delay));
        }
        self.ledger.note(self.name, &key, failure.as_deref(), account, again);
        self.queue.done(&key);
        let labels =
            vec![("controller".to_owned(), self.name.to_owned()), ("result".to_owned(), result.to_owned())];
        self.figures.reconciles.get_or_create(&labels).inc();
    }

    /// What a failure counts as, and after how long the key comes again.
    fn failed(&self, key: &ObjectKey, problem: &ReconcileError) -> (&'static str, Option<Duration>) {
        match problem {
            ReconcileError::Terminal(why) => {
                warn!(controller = self.name, %key, why, "cannot reconcile until the object changes");
                ("terminal", None)
            }
            ReconcileError::Request(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                let delay = self.queue.add_failed(key.clone());
                debug!(controller = self.name, %key, ?delay, "lost a race: {}", status.message);
                ("conflict", Some(delay))
            }
            problem => {
                let delay = self.queue.add_failed(key.clone());
                let chain = told(problem);
                warn!(controller = self.name, %key, ?delay, "reconcile failed: {chain}");
                ("error", Some(delay))
            }
        }
    }
}
