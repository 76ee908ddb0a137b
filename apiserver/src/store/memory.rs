//! A store that lives as long as its process. It commits in the caller, without a thread or a timer, so
//! that a cluster under a paused clock does not move while a write is under way.
//!
//! What it holds may be kept apart from it: a server that is opened over it again finds all of it, as on a disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use component_base::clock::Clock;
use parking_lot::Mutex;

use super::index::Index;
use super::past::{Past, last_before};
use super::{
    Change, CommitError, Committed, Did, Event, Feed, HistoryError, HistoryLimits, Key, Loaded, Record,
    Revision, Storage, Transaction,
};

/// Revision 0 means "any" in the API, so an empty store is at 1.
const FIRST: Revision = 1;

pub(crate) struct MemoryStorage {
    clock: Clock,
    feed: Arc<dyn Feed>,
    limits: HistoryLimits,
    kept: KeptMemory,
    /// Which opening of the memory this is. A later one has taken it over.
    opening: u64,
    closed: AtomicBool,
}

/// What a store in memory holds. Clones share it; it belongs to the server that opened it last.
#[derive(Clone, Default)]
pub struct KeptMemory(Arc<Mutex<State>>);

impl KeptMemory {
    /// Another memory that holds the same now.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }
}

impl std::fmt::Debug for KeptMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptMemory").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct State {
    openings: u64,
    revision: Revision,
    index: Index,
    /// What was before the oldest transaction of `history`. The bytes are shared with the cache.
    base: BTreeMap<Key, Record>,
    /// The revision of `base`.
    floor: Revision,
    history: VecDeque<Committed>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            openings: 0,
            revision: FIRST,
            index: Index::default(),
            base: BTreeMap::new(),
            floor: FIRST,
            history: VecDeque::new(),
        }
    }
}

impl State {
    fn loaded(&self) -> Loaded {
        let mut objects = self.base.clone();
        for committed in &self.history {
            committed.events.iter().cloned().for_each(|event| put(&mut objects, committed.revision, event));
        }
        Loaded {
            revision: self.revision,
            objects: objects.into_values().collect(),
            recent: self.history.iter().cloned().collect(),
            resumable: self.floor,
        }
    }

    fn remember(&mut self, committed: Committed, limits: HistoryLimits) {
        let age_ms = u64::try_from(limits.age_max.as_millis()).unwrap_or(u64::MAX);
        let too_old = committed.at_ms.saturating_sub(age_ms);
        self.history.push_back(committed);
        while self.history.len() as u64 > limits.revisions_max.max(1)
            || self.history.front().is_some_and(|oldest| oldest.at_ms < too_old)
        {
            let Some(forgotten) = self.history.pop_front() else { break };
            self.floor = forgotten.revision;
            forgotten.events.into_iter().for_each(|event| put(&mut self.base, forgotten.revision, event));
        }
    }
}

fn put(objects: &mut BTreeMap<Key, Record>, revision: Revision, event: Event) {
    let Event { key, did, bytes, .. } = event;
    match did {
        Did::Put => objects.insert(key.clone(), Record { key, revision, bytes }),
        Did::Delete => objects.remove(&key),
    };
}

impl MemoryStorage {
    /// Takes `kept` over: whoever had it open commits nothing more.
    pub(crate) fn open(clock: Clock, limits: HistoryLimits, kept: KeptMemory, feed: Arc<dyn Feed>) -> Self {
        let opening = {
            let mut state = kept.0.lock();
            state.openings += 1;
            feed.load(state.loaded());
            state.openings
        };
        Self { clock, feed, limits, kept, opening, closed: AtomicBool::new(false) }
    }

    fn is_open(&self, state: &State) -> bool {
        self.opening == state.openings && !self.closed.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let mut state = self.kept.0.lock();
        if !self.is_open(&state) {
            return Err(CommitError::Closed);
        }
        state.index.check(&transaction)?;
        if transaction.changes.is_empty() {
            return Ok(state.revision);
        }
        state.revision += 1;
        let revision = state.revision;
        let committed = committed(transaction, revision, millis(&self.clock), &mut state.index);
        state.index.settle();
        state.remember(committed.clone(), self.limits);
        self.feed.publish(vec![committed]);
        Ok(revision)
    }

    async fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError> {
        let state = self.kept.0.lock();
        let touching = state.history.iter().rev().filter(|c| c.revision > after && touches(c, key));
        let mut newest: Vec<_> = touching.take(max).cloned().collect();
        newest.reverse();
        Ok(newest)
    }

    async fn past(
        &self,
        resource: &str,
        key: Option<&Key>,
        revision: Revision,
    ) -> Result<Vec<Record>, HistoryError> {
        let state = self.kept.0.lock();
        if revision < state.floor {
            return Err(HistoryError::Compacted { oldest: state.floor });
        }
        let mut past = Past::new(resource, key);
        state.base.values().cloned().for_each(|record| past.begin_with(record));
        state.history.iter().take_while(|c| c.revision <= revision).for_each(|c| past.follow(c));
        Ok(past.records())
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        let state = self.kept.0.lock();
        match last_before(state.history.iter(), at_ms) {
            Some(revision) => Ok(revision),
            None if state.floor == FIRST => Ok(FIRST),
            None => Err(HistoryError::Compacted { oldest: state.floor }),
        }
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// Whether `committed` changed `key`, or `key` is any.
pub(crate) fn touches(committed: &Committed, key: Option<&Key>) -> bool {
    key.is_none_or(|key| committed.events.iter().any(|event| event.key == *key))
}

pub(crate) fn millis(clock: &Clock) -> u64 {
    u64::try_from(clock.now().timestamp_millis()).unwrap_or(0)
}

/// Stages a checked transaction at `revision` and makes what the feed gets.
pub(crate) fn committed(
    transaction: Transaction,
    revision: Revision,
    at_ms: u64,
    index: &mut Index,
) -> Committed {
    let previous: Vec<_> = transaction.changes.iter().map(|change| index.current(change.key())).collect();
    index.stage(&transaction, revision);
    let events = transaction.changes.into_iter().zip(previous);
    let events = events.map(|(change, previous)| match change {
        Change::Put { key, body } => Event { key, did: Did::Put, previous, bytes: body.at(revision) },
        Change::Delete { key, last } => Event { key, did: Did::Delete, previous, bytes: last.at(revision) },
    });
    Committed { revision, at_ms, cause: transaction.cause, events: events.collect() }
}
