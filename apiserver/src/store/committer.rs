//! The one place where revisions are made: takes all transactions that wait, checks and numbers them,
//! writes them to the log once, syncs once, then publishes and answers in revision order.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use component_base::clock::Clock;
use tokio::sync::oneshot;

use super::follower::Pending;
use super::index::Index;
use super::log::{self, AppendError, Log};
use super::memory::{committed, millis};
use super::{CommitError, Committed, DiskLimits, Durability, Feed, Key, Revision, Transaction, codec};

/// Revisions reserved at once for writes that are not synced.
const RESERVE: u64 = 1000;

/// A transaction and who waits for it.
pub(super) struct Request {
    pub(super) transaction: Transaction,
    pub(super) reply: oneshot::Sender<Answer>,
}

type Answer = Result<Revision, CommitError>;

pub(super) struct Committer {
    requests: Receiver<Request>,
    log: Log,
    index: Index,
    revision: Revision,
    /// Revisions that may be used without being written first.
    reserved: Revision,
    lazy: Lazy,
    feed: Arc<dyn Feed>,
    pending: Arc<Pending>,
    clock: Clock,
    limits: DiskLimits,
    broken: Option<Arc<io::Error>>,
}

/// Transactions that were published and are not written yet; of each key only the last.
#[derive(Default)]
struct Lazy {
    waiting: BTreeMap<Revision, Committed>,
    by_key: HashMap<Key, Revision>,
    since_ms: u64,
}

impl Lazy {
    fn push(&mut self, mut committed: Committed) {
        if self.waiting.is_empty() {
            self.since_ms = committed.at_ms;
        }
        if let [event] = committed.events.as_mut_slice() {
            // The log never sees the one that is replaced, so its chain of revisions leaves it out.
            let replaced = self.by_key.insert(event.key.clone(), committed.revision);
            let replaced = replaced.and_then(|revision| match self.waiting.get(&revision) {
                Some(one) if one.events.len() == 1 => self.waiting.remove(&revision),
                _ => None,
            });
            if let Some(replaced) = replaced.and_then(|one| one.events.into_iter().next()) {
                event.previous = replaced.previous;
            }
        } else {
            for event in &committed.events {
                self.by_key.insert(event.key.clone(), committed.revision);
            }
        }
        self.waiting.insert(committed.revision, committed);
    }

    fn take(&mut self) -> Vec<Committed> {
        self.by_key.clear();
        std::mem::take(&mut self.waiting).into_values().collect()
    }
}

impl Committer {
    #[expect(clippy::too_many_arguments, reason = "the parts of the one thread that owns them")]
    pub(super) fn new(
        requests: Receiver<Request>,
        log: Log,
        index: Index,
        revision: Revision,
        feed: Arc<dyn Feed>,
        pending: Arc<Pending>,
        clock: Clock,
        limits: DiskLimits,
    ) -> Self {
        let (reserved, lazy) = (0, Lazy::default());
        Self { requests, log, index, revision, reserved, lazy, feed, pending, clock, limits, broken: None }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next() {
            let Some(first) = first else {
                self.write_lazy();
                continue;
            };
            let mut group = vec![first];
            while group.len() < self.limits.group_max {
                let Ok(more) = self.requests.try_recv() else { break };
                group.push(more);
            }
            self.commit(group);
        }
        self.finish();
    }

    /// The next request; `Some(None)` when lazy writes have waited long enough; none at the end.
    fn next(&self) -> Option<Option<Request>> {
        if self.lazy.waiting.is_empty() {
            return self.requests.recv().ok().map(Some);
        }
        let waited = std::time::Duration::from_millis(millis(&self.clock).saturating_sub(self.lazy.since_ms));
        match self.requests.recv_timeout(self.limits.lazy_delay_max.saturating_sub(waited)) {
            Ok(request) => Some(Some(request)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn commit(&mut self, group: Vec<Request>) {
        if let Some(error) = &self.broken {
            let error = CommitError::Io(error.clone());
            return answer(group.into_iter().map(|request| (request.reply, Err(error.clone()))));
        }
        let before = self.revision;
        let at_ms = millis(&self.clock);
        let mut durability = Durability::Lazy;
        let (mut answers, mut done) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for Request { transaction, reply } in group {
            let result = self.index.check(&transaction).map(|()| {
                if !transaction.changes.is_empty() {
                    self.revision += 1;
                    if transaction.durability == Durability::Synced {
                        durability = Durability::Synced;
                    }
                    done.push(committed(transaction, self.revision, at_ms, &mut self.index));
                }
                self.revision
            });
            answers.push((reply, result));
        }
        let written = match (done.is_empty(), durability) {
            (true, _) => Ok(()),
            (false, Durability::Synced) => self.write(&done),
            (false, Durability::Lazy) => self.keep(&done),
        };
        match written {
            Ok(()) => {
                self.index.settle();
                self.feed.publish(done);
                answer(answers);
            }
            Err(error) => {
                self.index.discard();
                self.revision = before;
                let error = self.note(error);
                answer(answers.into_iter().map(|(reply, _)| (reply, Err(error.clone()))));
            }
        }
    }

    /// Writes what waits and `done`, and makes all of it durable.
    fn write(&mut self, done: &[Committed]) -> Result<(), AppendError> {
        let lazy: Vec<_> = self.lazy.waiting.values().cloned().collect();
        let first = lazy.first().or(done.first()).map_or(self.revision, |first| first.revision);
        self.make_room(first)?;
        let mut frames = Vec::with_capacity(done.len() * 2048);
        for committed in lazy.iter().chain(done) {
            codec::write_commit(&mut frames, committed);
        }
        self.log.append(&frames)?;
        self.log.sync()?;
        drop(self.lazy.take());
        self.pending.add(lazy.iter().chain(done), frames.len() as u64);
        Ok(())
    }

    /// Keeps lazy transactions for later; only their revisions have to be reserved on the disk.
    fn keep(&mut self, done: &[Committed]) -> Result<(), AppendError> {
        if self.revision > self.reserved {
            let up_to = self.revision + RESERVE;
            self.log.append(&log::reserve_frame(up_to))?;
            self.log.sync()?;
            self.reserved = up_to;
        }
        for committed in done {
            self.lazy.push(committed.clone());
        }
        Ok(())
    }

    /// Writes what waits, without a sync: the system will bring it to the disk in its own time.
    fn write_lazy(&mut self) {
        let lazy = self.lazy.take();
        let Some(first) = lazy.first() else { return };
        let first = first.revision;
        let mut frames = Vec::new();
        for committed in &lazy {
            codec::write_commit(&mut frames, committed);
        }
        let written = match &self.broken {
            Some(_) => return,
            None => self.make_room(first).and_then(|()| self.log.append(&frames)),
        };
        match written {
            Ok(()) => self.pending.add(lazy.iter(), frames.len() as u64),
            Err(error) => {
                self.note(error);
                // Later writes of these keys go on from them, so they have to reach the log first.
                lazy.into_iter().for_each(|committed| self.lazy.push(committed));
                self.lazy.since_ms = millis(&self.clock);
            }
        }
    }

    /// Begins a new segment, for revisions from `first`, if the last is full.
    fn make_room(&mut self, first: Revision) -> Result<(), AppendError> {
        if !self.log.is_full() {
            return Ok(());
        }
        self.log.rotate(first, millis(&self.clock))?;
        if self.reserved > self.revision {
            self.log.append(&log::reserve_frame(self.reserved))?;
        }
        Ok(())
    }

    fn note(&mut self, error: AppendError) -> CommitError {
        match error {
            AppendError::Refused(error) => {
                tracing::error!(%error, "a write was refused by the disk");
                CommitError::Io(Arc::new(error))
            }
            AppendError::Broken(error) => {
                tracing::error!(%error, "the log cannot be written any more; start the server again");
                let error = Arc::new(error);
                self.broken = Some(error.clone());
                CommitError::Io(error)
            }
        }
    }

    fn finish(mut self) {
        self.write_lazy();
        if self.broken.is_none() && self.reserved > 0 {
            let mut frame = Vec::new();
            codec::write_release(&mut frame, self.revision);
            if let Err(error) = self.log.append(&frame).and_then(|()| self.log.sync()) {
                self.note(error);
            }
        }
        self.pending.end();
    }
}

/// A waiter that has gone away does not need its answer.
fn answer(answers: impl IntoIterator<Item = (oneshot::Sender<Answer>, Answer)>) {
    for (reply, result) in answers {
        drop(reply.send(result));
    }
}
