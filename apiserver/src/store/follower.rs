//! Brings sled behind the log to a checkpoint now and then, writes snapshots, and drops log segments that
//! nobody needs. It never makes a write wait: what it has yet to do is a map with each key's last state.

use std::path::PathBuf;
use std::sync::Arc;

use component_base::clock::Clock;
use parking_lot::{Condvar, Mutex};

use super::files::Files;
use super::log::{Archive, Keep};
use super::memory::millis;
use super::sled::{Changes, Checkpoint, State, StateError};
use super::{Committed, Did, DiskLimits, Revision, snapshot};

/// What was written to the log and not yet to the state. Bytes are shared with the cache.
pub(super) struct Pending {
    work: Mutex<Work>,
    wake: Condvar,
    checkpoint_bytes: u64,
}

struct Work {
    changes: Changes,
    revision: Revision,
    log_bytes: u64,
    has_ended: bool,
}

impl Pending {
    pub(super) fn new(changes: Changes, revision: Revision, is_urgent: bool, limits: &DiskLimits) -> Self {
        let log_bytes = if is_urgent { limits.checkpoint_bytes } else { 0 };
        let work = Work { changes, revision, log_bytes, has_ended: false };
        Self { work: Mutex::new(work), wake: Condvar::new(), checkpoint_bytes: limits.checkpoint_bytes }
    }

    /// Notes what is in the log now.
    pub(super) fn add<'a>(&self, written: impl Iterator<Item = &'a Committed>, log_bytes: u64) {
        let mut work = self.work.lock();
        for committed in written {
            work.revision = committed.revision;
            for event in &committed.events {
                let now = (event.did == Did::Put).then(|| (committed.revision, event.bytes.clone()));
                work.changes.insert(event.key.clone(), now);
            }
        }
        work.log_bytes += log_bytes;
        if work.log_bytes >= self.checkpoint_bytes {
            self.wake.notify_one();
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.work.lock().has_ended = true;
        self.wake.notify_one();
    }

    fn take(&self) -> Work {
        let mut work = self.work.lock();
        while !work.has_ended && work.log_bytes < self.checkpoint_bytes {
            self.wake.wait(&mut work);
        }
        let empty = Work { changes: Changes::new(), log_bytes: 0, ..*work };
        std::mem::replace(&mut *work, empty)
    }
}

pub(super) struct Follower {
    pub(super) dir: PathBuf,
    pub(super) files: Arc<dyn Files>,
    /// Opened, or made, when there is first something to write to it.
    pub(super) state: Option<State>,
    /// That of a state which is not open.
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) generation: u64,
    pub(super) snapshot: Revision,
    pub(super) archive: Archive,
    pub(super) pending: Arc<Pending>,
    pub(super) limits: DiskLimits,
    pub(super) clock: Clock,
}

impl Follower {
    /// Works until the committer has ended.
    pub(super) fn run(mut self) {
        loop {
            let work = self.pending.take();
            let has_ended = work.has_ended;
            if let Err(error) = self.follow(work) {
                // Nothing is lost: the log has it all, and the state is made again at the next start.
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the state does not follow the log any more"
                );
                return;
            }
            if has_ended {
                return;
            }
        }
    }

    fn follow(&mut self, work: Work) -> Result<(), StateError> {
        if work.changes.is_empty() {
            return Ok(());
        }
        let mut state = match (self.state.take(), self.checkpoint.take()) {
            (Some(state), _) => state,
            (None, Some(checkpoint)) => State::open(&self.dir, checkpoint)?,
            (None, None) => self.make()?,
        };
        state.advance(&*self.files, work.changes, work.revision)?;
        let state = self.state.insert(state);
        let segments = self.archive.closed_after(self.snapshot) as u64;
        if segments * self.limits.segment_bytes >= self.limits.snapshot_bytes {
            snapshot::write(&*self.files, &self.dir.join("snapshot"), state.revision(), state.objects())?;
            self.snapshot = state.revision();
        }
        let age_ms = u64::try_from(self.limits.history.age_max.as_millis()).unwrap_or(u64::MAX);
        let keep = Keep {
            segments_max: self.limits.segments_max,
            closed_after_ms: millis(&self.clock).saturating_sub(age_ms),
            after_revision: work.revision.saturating_sub(self.limits.history.revisions_max),
        };
        self.archive.drop_oldest(self.snapshot, keep)?;
        let first = self.archive.firsts().first().copied().unwrap_or_default();
        snapshot::drop_useless(&*self.files, &self.dir.join("snapshot"), first)?;
        Ok(())
    }

    /// A new state, and no other beside it.
    fn make(&self) -> Result<State, StateError> {
        for old in super::sled::generations(&self.dir) {
            std::fs::remove_dir_all(self.dir.join("state").join(old.to_string()))?;
        }
        State::open(&self.dir, Checkpoint { generation: self.generation, revision: 0, digest: 0 })
    }
}
