//! A store that lives as long as its process. It commits in the caller, without a thread or a timer, so
//! that a cluster under a paused clock does not move while a write is under way.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use component_base::clock::Clock;
use parking_lot::Mutex;

use super::index::Index;
use super::{
    Change, CommitError, Committed, Did, Event, Feed, HistoryError, Key, Loaded, Revision, Storage,
    Transaction,
};

/// Transactions kept for `history`.
const HISTORY_MAX: usize = 4096;

pub(crate) struct MemoryStorage {
    clock: Clock,
    feed: Arc<dyn Feed>,
    state: Mutex<State>,
}

struct State {
    revision: Revision,
    index: Index,
    history: VecDeque<Committed>,
    closed: bool,
}

impl MemoryStorage {
    pub(crate) fn open(clock: Clock, feed: Arc<dyn Feed>) -> Self {
        // Revision 0 means "any" in the API, so an empty store is at 1.
        feed.load(Loaded { revision: 1, resumable: 1, ..Loaded::default() });
        let state = State { revision: 1, index: Index::default(), history: VecDeque::new(), closed: false };
        Self { clock, feed, state: Mutex::new(state) }
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
        if state.history.len() == HISTORY_MAX {
            state.history.pop_front();
        }
        state.history.push_back(committed.clone());
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
        let touching = state.history.iter().filter(|c| c.revision > after && touches(c, key));
        Ok(touching.take(max).cloned().collect())
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
