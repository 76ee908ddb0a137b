//! The work queue of one controller: each key once, delayed keys, back-off for keys that failed.
//!
//! A key that is added while it is being reconciled is handed out again afterwards, never meanwhile. The
//! queue holds at most one entry per key, so it is bounded by the objects that exist.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use component_base::backoff::Backoff;
use component_base::metrics::{Counter, Histogram};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::key::ObjectKey;

/// A shared work queue. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Queue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    figures: Option<Figures>,
}

/// What a queue counts, of its controller.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub adds: Counter,
    pub retries: Counter,
    /// Seconds from when a key is ready until it is taken.
    pub waits: Histogram,
}

#[derive(Default)]
struct State {
    /// With since when.
    ready: VecDeque<(ObjectKey, Instant)>,
    queued: HashSet<ObjectKey>,
    running: HashSet<ObjectKey>,
    /// Added again while running.
    again: HashSet<ObjectKey>,
    delayed: BTreeSet<(Instant, ObjectKey)>,
    due: HashMap<ObjectKey, Instant>,
    failures: HashMap<ObjectKey, u32>,
}

impl State {
    fn add(&mut self, key: ObjectKey) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back((key, Instant::now()));
        }
    }

    fn delay(&mut self, key: ObjectKey, until: Instant) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= until => return,
            Some(later) => drop(self.delayed.remove(&(*later, key.clone()))),
            None => {}
        }
        self.due.insert(key.clone(), until);
        self.delayed.insert((until, key));
    }

    fn release_due(&mut self, now: Instant) {
        while let Some((when, _)) = self.delayed.first()
            && *when <= now
            && let Some((_, key)) = self.delayed.pop_first()
        {
            self.due.remove(&key);
            self.add(key);
        }
    }
}

impl Queue {
    /// A queue that counts.
    pub(crate) fn counted(figures: Figures) -> Self {
        Self { figures: Some(figures), ..Self::default() }
    }

    /// Asks for a reconcile of `key` as soon as possible.
    pub(crate) fn add(&self, key: ObjectKey) {
        if let Some(figures) = &self.figures {
            figures.adds.inc();
        }
        self.state.lock().add(key);
        self.changed.notify_one();
    }

    /// Asks for a reconcile of `key` after `delay`; of several delays the shortest counts.
    pub(crate) fn add_after(&self, key: ObjectKey, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.state.lock().delay(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// Asks for another try of `key`, later each time it fails in a row. Returns the delay.
    pub(crate) fn add_failed(&self, key: ObjectKey) -> Duration {
        let delay = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            Backoff::CONTROLLER.delay(*failures)
        };
        if let Some(figures) = &self.figures {
            figures.retries.inc();
        }
        self.add_after(key, delay);
        delay
    }

    /// Forgets that `key` failed.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.state.lock().failures.remove(key);
    }

    /// The next key to reconcile; the caller says [`Queue::done`] afterwards.
    pub(crate) async fn next(&self) -> ObjectKey {
        loop {
            let wake_at = {
                let mut state = self.state.lock();
                state.release_due(Instant::now());
                if let Some((key, since)) = state.ready.pop_front() {
                    if let Some(figures) = &self.figures {
                        figures.waits.observe(since.elapsed().as_secs_f64());
                    }
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    return key;
                }
                state.delayed.first().map(|(when, _)| *when)
            };
            match wake_at {
                None => self.changed.notified().await,
                Some(when) => drop(tokio::time::timeout_at(when, self.changed.notified()).await),
            }
        }
    }

    /// The reconcile of `key` ended.
    pub(crate) fn done(&self, key: &ObjectKey) {
        let mut state = self.state.lock();
        state.running.remove(key);
        if state.again.remove(key) {
            state.add(key.clone());
            self.changed.notify_one();
        }
    }

    /// Keys that wait to be reconciled now.
    pub(crate) fn depth(&self) -> usize {
        self.state.lock().ready.len()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::cluster(name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        assert!(queue.next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_running_comes_again_after_it_is_done() {
        let queue = Queue::default();
        queue.add(key("a"));
        let running = queue.next().await;
        queue.add(key("a"));
        assert!(queue.next().now_or_never().is_none());
        queue.done(&running);
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(30));
        queue.next().await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_until_forgotten() {
        let queue = Queue::default();
        let first = queue.add_failed(key("a"));
        assert!(queue.add_failed(key("a")) > first);
        queue.forget(&key("a"));
        assert_eq!(queue.add_failed(key("a")), first);
    }

    #[tokio::test(start_paused = true)]
    async fn adds_retries_and_waits_are_counted() {
        let waits = Histogram::new([1.0, 10.0].into_iter());
        let figures = Figures { adds: Counter::default(), retries: Counter::default(), waits };
        let queue = Queue::counted(figures.clone());
        queue.add(key("a"));
        queue.add_failed(key("b"));
        queue.next().await;
        assert_eq!((figures.adds.get(), figures.retries.get()), (1, 1));
    }
}
