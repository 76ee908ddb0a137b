//! A store that lives as long as its process. It commits in the caller, without a thread or a timer, so
//! that a cluster under a paused clock does not move while a write is under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

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
    state: Mutex<State>,
}

struct State {
    revision: Revision,
    index: Index,
    /// What was before the oldest transaction of `history`. The bytes are shared with the cache.
    base: BTreeMap<Key, Record>,
    /// The revision of `base`.
    floor: Revision,
    history: VecDeque<Committed>,
    closed: bool,
}

impl State {
    fn remember(&mut self, committed: Committed, limits: HistoryLimits) {
        let age_ms = u64::try_from(limits.age_max.as_millis()).unwrap_or(u64::MAX);
        let too_old = committed.at_ms.saturating_sub(age_ms);
        self.history.push_back(committed);
        while self.history.len() as u64 > limits.revisions_max.max(1)
            || self.history.front().is_some_and(|oldest| oldest.at_ms < too_old)
        {
            let Some(forgotten) = self.history.pop_front() else { break };
            self.floor = forgotten.revision;
            for event in forgotten.events {
                let record =
                    Record { key: event.key.clone(), revision: forgotten.revision, bytes: event.bytes };
                match event.did {
                    Did::Put => self.base.insert(event.key, record),
                    Did::Delete => self.base.remove(&event.key),
                };
            }
        }
    }
}

impl MemoryStorage {
    pub(crate) fn open(clock: Clock, limits: HistoryLimits, feed: Arc<dyn Feed>) -> Self {
        feed.load(Loaded { revision: FIRST, resumable: FIRST, ..Loaded::default() });
        let state = State {
            revision: FIRST,
            index: Index::default(),
            base: BTreeMap::new(),
            floor: FIRST,
            history: VecDeque::new(),
            closed: false,
        };
        Self { clock, feed, limits, state: Mutex::new(state) }
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let mut state = self.state.lock();
        if state.closed {
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
        let state = self.state.lock();
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
        let state = self.state.lock();
        if revision < state.floor {
            return Err(HistoryError::Compacted { oldest: state.floor });
        }
        let mut past = Past::new(resource, key);
        state.base.values().cloned().for_each(|record| past.begin_with(record));
        state.history.iter().take_while(|c| c.revision <= revision).for_each(|c| past.follow(c));
        Ok(past.records())
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        let state = self.state.lock();
        match last_before(state.history.iter(), at_ms) {
            Some(revision) => Ok(revision),
            None if state.floor == FIRST => Ok(FIRST),
            None => Err(HistoryError::Compacted { oldest: state.floor }),
        }
    }

    async fn close(&self) {
        self.state.lock().closed = true;
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
