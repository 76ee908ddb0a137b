//! The one place where revisions are made: takes all transactions that wait, checks and numbers them,
//! writes them to the log once, syncs once, then publishes and answers in revision order.
//!
//! Those that come together wait in a [`Queue`], whose thread commits them as a group. One that comes alone may
//! be committed by who brings it, under the same lock: handing it to a thread and back costs more than the rest.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use component_base::clock::Clock;
use parking_lot::Mutex;
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

/// Transactions that wait for the thread that commits them.
pub(super) struct Queue {
    pub(super) requests: Receiver<Request>,
    pub(super) committer: Arc<Mutex<Committer>>,
    pub(super) limits: DiskLimits,
}

impl Queue {
    /// Works until nobody can ask any more.
    pub(super) fn run(self) {
        while let Some(first) = self.next() {
            let mut committer = self.committer.lock();
            let Some(first) = first else {
                committer.write_lazy();
                continue;
            };
            // Who came while somebody else committed goes with the first.
            let (mut transactions, mut replies) = (vec![first.transaction], vec![first.reply]);
            while transactions.len() < self.limits.group_max {
                let Ok(more) = self.requests.try_recv() else { break };
                transactions.push(more.transaction);
                replies.push(more.reply);
            }
            let answers = committer.commit(transactions);
            drop(committer);
            for (reply, answer) in replies.into_iter().zip(answers) {
                // A waiter that has gone away does not need its answer.
                drop(reply.send(answer));
            }
        }
        self.committer.lock().finish();
    }

    /// The next request; `Some(None)` when lazy writes have waited long enough; none at the end.
    fn next(&self) -> Option<Option<Request>> {
        let Some(waited) = self.committer.lock().lazy_for() else {
            return self.requests.recv().ok().map(Some);
        };
        match self.requests.recv_timeout(self.limits.lazy_delay_max.saturating_sub(waited)) {
            Ok(request) => Some(Some(request)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}

/// What it takes to commit; whoever holds it is the only one that does.
pub(super) struct Committer {
    log: Log,
    index: Index,
    revision: Revision,
    /// Revisions that may be used without being written first.
    reserved: Revision,
    lazy: Lazy,
    feed: Arc<dyn Feed>,
    pending: Arc<Pending>,
    clock: Clock,
    stage: Stage,
    broken: Option<Arc<io::Error>>,
}

/// What a committer is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    /// Found by the next that wants to commit, it says that the one before panicked half-way.
    Committing,
    Ended,
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
    pub(super) fn new(
        log: Log,
        index: Index,
        revision: Revision,
        feed: Arc<dyn Feed>,
        pending: Arc<Pending>,
        clock: Clock,
    ) -> Self {
        let (reserved, lazy, stage) = (0, Lazy::default(), Stage::Ready);
        Self { log, index, revision, reserved, lazy, feed, pending, clock, stage, broken: None }
    }

    /// Commits one transaction that goes with no other.
    pub(super) fn commit_one(&mut self, transaction: Transaction) -> Answer {
        self.commit(vec![transaction]).pop().unwrap_or(Err(CommitError::Closed))
    }

    /// Commits all that may happen, together; the answers are in the order of the transactions.
    fn commit(&mut self, group: Vec<Transaction>) -> Vec<Answer> {
        let all = |error: CommitError| group.iter().map(|_| Err(error.clone())).collect();
        match (self.stage, &self.broken) {
            (Stage::Ended, _) => return all(CommitError::Closed),
            (_, Some(error)) => return all(CommitError::Io(error.clone())),
            (Stage::Committing, None) => {
                let error = io::Error::other("a commit was left half-way; start the server again");
                return all(self.note(AppendError::Broken(error)));
            }
            (Stage::Ready, None) => self.stage = Stage::Committing,
        }
        let answers = self.commit_group(group);
        self.stage = Stage::Ready;
        answers
    }

    fn commit_group(&mut self, group: Vec<Transaction>) -> Vec<Answer> {
        let before = self.revision;
        let at_ms = millis(&self.clock);
        let mut durability = Durability::Lazy;
        let (mut answers, mut done) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for transaction in group {
            answers.push(self.index.check(&transaction).map(|()| {
                if !transaction.changes.is_empty() {
                    self.revision += 1;
                    if transaction.durability == Durability::Synced {
                        durability = Durability::Synced;
                    }
                    done.push(committed(transaction, self.revision, at_ms, &mut self.index));
                }
                self.revision
            }));
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
                answers
            }
            Err(error) => {
                self.index.discard();
                self.revision = before;
                let error = self.note(error);
                answers.into_iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    /// How long the first lazy write has waited, if there is any.
    fn lazy_for(&self) -> Option<Duration> {
        let since_ms = (!self.lazy.waiting.is_empty()).then_some(self.lazy.since_ms)?;
        Some(Duration::from_millis(millis(&self.clock).saturating_sub(since_ms)))
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

    /// Brings all to the disk; nothing is committed any more.
    fn finish(&mut self) {
        self.stage = Stage::Ended;
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
