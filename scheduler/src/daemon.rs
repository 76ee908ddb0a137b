//! The loop around the brain: takes changes in, lets it decide, and carries out what it decided.
//!
//! One task decides; bindings and reports are written by others, many at a time, and come back as results. The
//! loop never waits for a write.

use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::acted_on::Seen;
use component_base::client::told;
use component_base::events::Recorder;
use component_base::health::Readiness;
use component_base::metrics::{Counter, Family, Gauge, Metrics};
use component_base::supervise::Tasks;
use kube::Client;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::brain::{Brain, Change, Effect, Report, Settings, Tally};
use crate::decisions::Decisions;
use crate::feed;
use crate::framework::BindError;
use crate::pod::PodInfo;
use crate::profile::Profiles;
use crate::writes::{self, Writer};
use crate::{Bounds, Config};

/// Decisions in a row before changes are taken in and other tasks get the thread.
const STEPS_PER_TURN: usize = 32;
/// How often pods that wait without being helped are looked at.
const SWEEP: Duration = Duration::from_secs(30);

/// What came of a write.
enum Done {
    Bound(Arc<PodInfo>, Arc<str>, Result<(), BindError>),
    ReportFailed(Arc<str>),
}

/// The gauges and counters of `/metrics`, under Kubernetes' names.
#[derive(Clone)]
pub(crate) struct Figures {
    attempts: Family<[(&'static str, &'static str); 1], Counter>,
    pending: Family<[(&'static str, &'static str); 1], Gauge>,
    dropped_events: Counter,
}

impl Figures {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let attempts = "Attempts to schedule pods, by result";
        let pending = "Pods that wait, by queue";
        Self {
            attempts: metrics.register("scheduler_schedule_attempts", attempts, Family::default()),
            pending: metrics.register("scheduler_pending_pods", pending, Family::default()),
            dropped_events: metrics.register(
                "events_dropped",
                "Events that were lost: no room, or refused",
                Counter::default(),
            ),
        }
    }

    fn show(&self, brain: &Brain, shown: &mut Tally) {
        let lengths = brain.lengths();
        let queues = [
            ("active", lengths.active),
            ("backoff", lengths.backing_off),
            ("unschedulable", lengths.unschedulable),
            ("gated", lengths.gated),
        ];
        for (name, length) in queues {
            self.pending.get_or_create(&[("queue", name)]).set(i64::try_from(length).unwrap_or(i64::MAX));
        }
        let tally = brain.tally();
        let results = [
            ("scheduled", tally.scheduled - shown.scheduled),
            ("unschedulable", tally.unschedulable - shown.unschedulable),
            ("error", tally.error - shown.error),
        ];
        for (name, more) in results {
            self.attempts.get_or_create(&[("result", name)]).inc_by(more);
        }
        *shown = tally;
    }
}

/// What the loop needs beside the brain.
struct Surroundings {
    writer: Writer,
    tasks: Tasks,
    bind_slots: Arc<Semaphore>,
    /// For pods with volumes that may have to be made first.
    volume_slots: Arc<Semaphore>,
    report_slots: Arc<Semaphore>,
    done: mpsc::Sender<Done>,
}

/// All parts that outlive one term of leadership.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) seen: Seen,
    pub(crate) decisions: Decisions,
    pub(crate) figures: Figures,
    pub(crate) ready: Readiness,
}

/// Schedules until `shutdown`; then lets the writes under way end.
pub(crate) async fn run(config: &Config, profiles: Profiles, parts: Parts, shutdown: Shutdown) {
    parts.ready.fail("the cluster is not listed yet");
    let tasks = Tasks::new(shutdown.clone());
    let bounds = config.bounds;
    let (changes, inbox) = mpsc::channel(bounds.changes_max);
    let (done, results) = mpsc::channel(bounds.binds_max + bounds.volume_binds_max + bounds.reports_max);
    let settings =
        Settings { waits: config.waits(), sample_percent: config.sample_percent, seed: config.seed };
    let brain = Brain::new(profiles, settings, parts.decisions, config.clock);
    let dropped = parts.figures.dropped_events.clone();
    let recorder = Recorder::counting(parts.client.clone(), "", config.clock, &tasks, dropped);
    let writer = Writer { client: parts.client.clone(), recorder, clock: config.clock };
    let surroundings = Surroundings::new(writer, &bounds, done, &tasks);
    feed::start(&parts.client, &parts.seen, &changes, &tasks);
    drop(changes);
    let turns = Turns { brain, surroundings, inbox, results, figures: parts.figures, ready: parts.ready };
    turns.run(shutdown).await;
    tasks.shutdown().cancel();
    tasks.join().await;
}

impl Surroundings {
    fn new(writer: Writer, bounds: &Bounds, done: mpsc::Sender<Done>, tasks: &Tasks) -> Self {
        Self {
            writer,
            tasks: tasks.clone(),
            bind_slots: Arc::new(Semaphore::new(bounds.binds_max)),
            volume_slots: Arc::new(Semaphore::new(bounds.volume_binds_max)),
            report_slots: Arc::new(Semaphore::new(bounds.reports_max)),
            done,
        }
    }

    fn can_bind(&self) -> bool {
        self.bind_slots.available_permits() > 0
    }

    fn carry_out(&self, effect: Effect, brain: &mut Brain, now: Instant) {
        match effect {
            Effect::Bind { pod, node } => self.bind(pod, node, brain, now),
            Effect::Report(report) => self.report(report, brain),
        }
    }

    fn bind(&self, pod: Arc<PodInfo>, node: Arc<str>, brain: &mut Brain, now: Instant) {
        let slots = if pod.claims.is_empty() { &self.bind_slots } else { &self.volume_slots };
        let (Ok(slot), Some(points)) = (slots.clone().try_acquire_owned(), brain.points(&pod)) else {
            // The loop asks for a slot before each decision, so this is the end of the profile's life, or too many
            // pods wait for volumes: this one is tried again after its back-off.
            drop(brain.bind_failed(&pod, &node, None, now));
            return;
        };
        let (writer, done) = (self.writer.clone(), self.done.clone());
        self.tasks.spawn("bind", async move {
            let result = writer.bind(&points, &pod, &node).await;
            drop(slot);
            // The loop has ended only when the process stops.
            drop(done.send(Done::Bound(pod, node, result)).await);
        });
    }

    fn report(&self, report: Report, brain: &mut Brain) {
        // When too much is being reported, the pod's next attempt reports again.
        let Ok(slot) = self.report_slots.clone().try_acquire_owned() else {
            brain.report_failed(&report.pod.uid);
            return;
        };
        let (writer, done) = (self.writer.clone(), self.done.clone());
        self.tasks.spawn("report", async move {
            let result = writer.report(&report).await;
            drop(slot);
            if let Err(error) = result {
                warn!(pod = report.pod.key(), error = told(&error), "cannot report; the next attempt will");
                drop(done.send(Done::ReportFailed(report.pod.uid.clone())).await);
            }
        });
    }
}

struct Turns {
    brain: Brain,
    surroundings: Surroundings,
    inbox: mpsc::Receiver<Change>,
    results: mpsc::Receiver<Done>,
    figures: Figures,
    ready: Readiness,
}

impl Turns {
    async fn run(mut self, shutdown: Shutdown) {
        let mut shown = Tally::default();
        let mut sweep = Instant::now() + SWEEP;
        let mut synced = false;
        while !shutdown.is_cancelled() {
            if !self.has_work() && shutdown.run_until_cancelled(self.wait(sweep)).await.is_none() {
                return;
            }
            let now = Instant::now();
            if now >= sweep {
                sweep = now + SWEEP;
            }
            self.take_in(now);
            self.brain.advance(now);
            if self.brain.is_synced() && !synced {
                synced = true;
                self.ready.pass();
                info!(waiting = self.brain.lengths().active, "everything was listed; scheduling");
            }
            self.decide(now);
            self.figures.show(&self.brain, &mut shown);
            tokio::task::yield_now().await;
        }
    }

    fn has_work(&self) -> bool {
        self.brain.has_work() && self.surroundings.can_bind()
    }

    /// Waits for a change, a result, or a time that is due, and takes that one in.
    async fn wait(&mut self, sweep: Instant) {
        let due = self.brain.next_due().map_or(sweep, |due| due.min(sweep));
        tokio::select! {
            biased;
            Some(done) = self.results.recv() => self.note(done, Instant::now()),
            Some(change) = self.inbox.recv() => self.brain.apply(change, Instant::now()),
            () = tokio::time::sleep_until(due) => {}
        }
    }

    /// Takes in all that is there.
    fn take_in(&mut self, now: Instant) {
        while let Ok(done) = self.results.try_recv() {
            self.note(done, now);
        }
        loop {
            match self.inbox.try_recv() {
                Ok(change) => self.brain.apply(change, now),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn note(&mut self, done: Done, now: Instant) {
        match done {
            Done::Bound(_, _, Ok(())) => self.brain.bound(),
            Done::Bound(pod, node, Err(error)) => {
                let message = writes::explain(&pod, &node, &error);
                if let Some(effect) = self.brain.bind_failed(&pod, &node, message, now) {
                    self.surroundings.carry_out(effect, &mut self.brain, now);
                }
            }
            Done::ReportFailed(uid) => self.brain.report_failed(&uid),
        }
    }

    fn decide(&mut self, now: Instant) {
        for _ in 0..STEPS_PER_TURN {
            if !self.has_work() {
                return;
            }
            if let Some(effect) = self.brain.step(now) {
                self.surroundings.carry_out(effect, &mut self.brain, now);
            }
        }
    }
}
