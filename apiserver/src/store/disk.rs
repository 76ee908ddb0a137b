//! The store in a directory: the log is the truth, sled is its state.
//!
//! `log/` segments, `state/N/` sled at the revision that `checkpoint` notes, `snapshot/` the copy from which
//! a damaged state is made again. Two threads: that of the [`committer`](super::committer) writes what comes
//! together, that of the [`follower`](super::follower) owns sled and never makes a write wait.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use async_trait::async_trait;
use component_base::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::codec::Entry;
use super::committer::{Committer, Queue, Request};
use super::company::Company;
use super::directory::{self, Claim};
use super::files::{Files, Machine};
use super::follower::{Follower, Pending};
use super::index::Index;
use super::log::{self, Log};
use super::memory::touches;
use super::past::{Past, last_before};
use super::sled::{self as state, Changes, Checkpoint, State, StateError};
use super::{
    CommitError, Committed, Did, DiskLimits, Durability, Feed, HistoryError, Key, Loaded, OpenError, Record,
    Revision, Storage, Transaction, snapshot,
};

/// The revision of an empty store; 0 means "any" in the API.
const FIRST: Revision = 1;
/// Transactions read back for watches that resume.
const RECENT_MAX: usize = 65_536;

pub(crate) struct DiskStorage {
    requests: Mutex<Option<SyncSender<Request>>>,
    committer: Arc<Mutex<Committer>>,
    company: Company,
    archive: log::Archive,
    files: Arc<dyn Files>,
    snapshots: PathBuf,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl DiskStorage {
    /// Takes the directory, reads it, and feeds what is there.
    pub(crate) fn open(
        dir: &Path,
        limits: DiskLimits,
        clock: Clock,
        feed: Arc<dyn Feed>,
    ) -> Result<Self, OpenError> {
        let claim = Arc::new(directory::claim(dir)?);
        Self::open_files(dir, Arc::new(Machine), Some(claim), limits, clock, feed)
    }

    /// The same over any file layer. The directory stays taken until both threads have ended.
    pub(super) fn open_files(
        dir: &Path,
        files: Arc<dyn Files>,
        claim: Option<Arc<Claim>>,
        limits: DiskLimits,
        clock: Clock,
        feed: Arc<dyn Feed>,
    ) -> Result<Self, OpenError> {
        let start = Start { dir: dir.to_owned(), files };
        let (log, recovered) = start.recover(&limits)?;
        let archive = log.archive();
        let keys = recovered.objects.iter().map(|(key, (revision, _))| (key.clone(), *revision));
        let index = Index::new(keys);
        let revision = recovered.revision;
        feed.load(recovered.loaded);
        let (snapshots, shared_files) = (dir.join("snapshot"), start.files.clone());
        let pending =
            Arc::new(Pending::new(recovered.changes, recovered.written, recovered.is_rebuilt, &limits));
        let follower = Follower {
            dir: start.dir,
            files: start.files,
            state: None,
            checkpoint: recovered.checkpoint,
            generation: recovered.generation,
            snapshot: recovered.snapshot,
            archive: archive.clone(),
            pending: pending.clone(),
            limits: limits.clone(),
            clock,
        };
        let (sender, requests) = sync_channel(limits.waiting_max);
        let committer = Arc::new(Mutex::new(Committer::new(log, index, revision, feed, pending, clock)));
        let queue = Queue { requests, committer: committer.clone(), limits };
        let threads = vec![
            spawn("store-commit", claim.clone(), move || queue.run())?,
            spawn("store-state", claim, move || follower.run())?,
        ];
        Ok(Self {
            requests: Mutex::new(Some(sender)),
            committer,
            company: Company::default(),
            archive,
            files: shared_files,
            snapshots,
            threads: Mutex::new(threads),
        })
    }

    /// Commits in the caller, unless somebody else does.
    #[expect(clippy::result_large_err, reason = "what was not committed goes on to the queue")]
    fn commit_here(&self, transaction: Transaction) -> Result<Answer, Transaction> {
        match self.committer.try_lock() {
            Some(mut committer) => Ok(committer.commit_one(transaction)),
            None => Err(transaction),
        }
    }

    fn reader(&self) -> Reader {
        let (archive, files) = (self.archive.clone(), self.files.clone());
        Reader { archive, files, snapshots: self.snapshots.clone() }
    }
}

type Answer = Result<Revision, CommitError>;

/// Runs something that reads files where it makes nobody wait.
async fn off_thread<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, HistoryError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|lost| Err(HistoryError::ReadLog(std::io::Error::other(lost))))
}

fn spawn(
    name: &str,
    claim: Option<Arc<Claim>>,
    run: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let run = move || {
        run();
        drop(claim);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(OpenError::Thread)
}

#[async_trait]
impl Storage for DiskStorage {
    async fn commit(&self, mut transaction: Transaction) -> Result<Revision, CommitError> {
        let member = self.company.join();
        if transaction.durability == Durability::Synced && member.is_alone().await {
            transaction = match self.commit_here(transaction) {
                Ok(answer) => return answer,
                Err(transaction) => transaction,
            };
        }
        let (reply, answer) = oneshot::channel();
        {
            let requests = self.requests.lock();
            let sender = requests.as_ref().ok_or(CommitError::Closed)?;
            sender.try_send(Request { transaction, reply }).map_err(|error| match error {
                TrySendError::Full(_) => CommitError::Full,
                TrySendError::Disconnected(_) => CommitError::Closed,
            })?;
        }
        answer.await.map_err(|_| CommitError::Closed)?
    }

    async fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError> {
        let (reader, key) = (self.reader(), key.cloned());
        off_thread(move || reader.history(key.as_ref(), after, max)).await
    }

    async fn past(
        &self,
        resource: &str,
        key: Option<&Key>,
        revision: Revision,
    ) -> Result<Vec<Record>, HistoryError> {
        let (reader, resource, key) = (self.reader(), resource.to_owned(), key.cloned());
        off_thread(move || reader.past(&resource, key.as_ref(), revision)).await
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        let reader = self.reader();
        off_thread(move || reader.revision_at(at_ms)).await
    }

    async fn close(&self) {
        // Without a sender the queue ends after what is waiting, and the follower after it.
        drop(self.requests.lock().take());
        let threads = std::mem::take(&mut *self.threads.lock());
        let join = move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the store panicked");
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(join).await {
            tracing::error!(%error, "cannot wait for the store's threads");
        }
    }
}

/// Reads what is on the disk beside the threads that write it.
struct Reader {
    archive: log::Archive,
    files: Arc<dyn Files>,
    snapshots: PathBuf,
}

impl Reader {
    /// The transactions of a segment; none if it was dropped meanwhile.
    fn commits(&self, first: Revision) -> Result<Vec<Committed>, HistoryError> {
        match self.archive.read(first) {
            Ok((entries, _)) => Ok(entries
                .into_iter()
                .filter_map(|entry| match entry {
                    Entry::Commit(committed) => Some(committed),
                    _ => None,
                })
                .collect()),
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(HistoryError::ReadLog(error)),
        }
    }

    fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError> {
        let mut found = VecDeque::new();
        for first in segments_after(&self.archive.firsts(), after).into_iter().rev() {
            for committed in self.commits(first)?.into_iter().rev() {
                if committed.revision > after && touches(&committed, key) {
                    found.push_front(committed);
                }
                if found.len() == max {
                    return Ok(found.into());
                }
            }
        }
        Ok(found.into())
    }

    fn past(
        &self,
        resource: &str,
        key: Option<&Key>,
        revision: Revision,
    ) -> Result<Vec<Record>, HistoryError> {
        let mut past = Past::new(resource, key);
        let base = self.base_before(revision)?;
        if base > FIRST {
            let records =
                snapshot::read(&*self.files, &self.snapshots, base).map_err(HistoryError::ReadLog)?;
            let records = records.ok_or(HistoryError::Compacted { oldest: base + 1 })?;
            records.into_iter().for_each(|record| past.begin_with(record));
        }
        for first in segments_after(&self.archive.firsts(), base) {
            if first > revision {
                break;
            }
            let commits = self.commits(first)?;
            commits
                .iter()
                .filter(|c| c.revision > base && c.revision <= revision)
                .for_each(|c| past.follow(c));
        }
        Ok(past.records())
    }

    /// The newest revision at or before `revision` from which the log has everything.
    fn base_before(&self, revision: Revision) -> Result<Revision, HistoryError> {
        let first = self.archive.firsts().first().copied().unwrap_or_default();
        let snapshots = snapshot::revisions(&*self.files, &self.snapshots).map_err(HistoryError::ReadLog)?;
        let whole = snapshots.into_iter().filter(|snapshot| snapshot + 1 >= first);
        let from_the_start = (first <= FIRST + 1).then_some(FIRST);
        let bases: Vec<_> = from_the_start.into_iter().chain(whole).collect();
        let newest = bases.iter().copied().filter(|base| *base <= revision).max();
        newest.ok_or(HistoryError::Compacted { oldest: bases.first().copied().unwrap_or(first) })
    }

    fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        let firsts = self.archive.firsts();
        for first in firsts.iter().rev() {
            if let Some(revision) = last_before(self.commits(*first)?.iter(), at_ms) {
                return Ok(revision);
            }
        }
        match firsts.first() {
            Some(first) if *first > FIRST + 1 => Err(HistoryError::Compacted { oldest: *first }),
            _ => Ok(FIRST),
        }
    }
}

/// The segments that may hold what comes after `revision`.
fn segments_after(firsts: &[Revision], revision: Revision) -> Vec<Revision> {
    let start = firsts.partition_point(|first| *first <= revision + 1).saturating_sub(1);
    firsts[start..].to_vec()
}

/// What a directory holds.
struct Recovered {
    loaded: Loaded,
    objects: state::Objects,
    revision: Revision,
    /// The highest revision in the log or the state.
    written: Revision,
    /// That of the state, if there is one.
    checkpoint: Option<Checkpoint>,
    generation: u64,
    snapshot: Revision,
    /// What the state lacks.
    changes: Changes,
    is_rebuilt: bool,
}

/// A state to start from: objects at a revision.
struct Base {
    revision: Revision,
    objects: state::Objects,
    /// That of the state which has them.
    checkpoint: Option<Checkpoint>,
}

struct Start {
    dir: PathBuf,
    files: Arc<dyn Files>,
}

impl Start {
    fn recover(&self, limits: &DiskLimits) -> Result<(Log, Recovered), OpenError> {
        let checkpoint = Checkpoint::read(&*self.files, &self.dir);
        let snapshot = self.snapshots()?.last().copied().unwrap_or(0);
        let first = checkpoint.map_or(0, |c| c.revision).max(snapshot).max(FIRST) + 1;
        let log = Log::open(self.files.clone(), self.dir.join("log"), first, limits.segment_bytes)?;
        let archive = log.archive();
        if let Some(checkpoint) = checkpoint {
            match self.open_state(checkpoint, &archive) {
                Ok((base, entries)) => {
                    return Ok((log, self.replay(base, entries, &archive, checkpoint.generation, snapshot)?));
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the state cannot be used; making it again from snapshot and log"
                    );
                }
            }
        }
        let base = self.read_snapshot(snapshot, &archive)?;
        let generation = state::generations(&self.dir).into_iter().max().unwrap_or(0) + 1;
        let entries = self.entries(&archive, base.revision)?;
        Ok((log, self.replay(base, entries, &archive, generation, snapshot)?))
    }

    fn io(&self, name: &'static str) -> impl Fn(std::io::Error) -> OpenError {
        let path = self.dir.join(name);
        move |source| OpenError::Io { path: path.clone(), source }
    }

    fn snapshots(&self) -> Result<Vec<Revision>, OpenError> {
        snapshot::revisions(&*self.files, &self.dir.join("snapshot")).map_err(self.io("snapshot"))
    }

    /// sled at its checkpoint, if it opens and is what it was, and the log's entries.
    fn open_state(
        &self,
        checkpoint: Checkpoint,
        archive: &log::Archive,
    ) -> Result<(Base, Vec<Entry>), StateError> {
        let entries = self.entries(archive, checkpoint.revision);
        let entries = entries.map_err(|_| StateError::Wrong("the log after it is damaged"))?;
        let (mut state, objects) = State::read(&self.dir, checkpoint)?;
        let mut later = BTreeMap::new();
        for event in commits_after(&entries, checkpoint.revision).flat_map(|committed| &committed.events) {
            later.entry(event.key.clone()).or_insert(event.previous);
        }
        state.verify(&objects, &later)?;
        Ok((Base { revision: checkpoint.revision, objects, checkpoint: Some(state.close()) }, entries))
    }

    /// The newest snapshot that is whole; without one, nothing, if the log goes back to the beginning.
    fn read_snapshot(&self, newest: Revision, archive: &log::Archive) -> Result<Base, OpenError> {
        let dir = self.dir.join("snapshot");
        if newest > 0 {
            let records = snapshot::read(&*self.files, &dir, newest).map_err(self.io("snapshot"))?;
            if let Some(records) = records {
                let objects = records.into_iter().map(|r| (r.key, (r.revision, r.bytes))).collect();
                return Ok(Base { revision: newest, objects, checkpoint: None });
            }
        }
        if archive.firsts().first().is_some_and(|first| *first > FIRST + 1) {
            let detail = "neither the state nor a snapshot is whole, and the log's beginning is compacted";
            return Err(OpenError::Damaged { dir: self.dir.clone(), detail: detail.to_owned() });
        }
        Ok(Base { revision: FIRST, objects: BTreeMap::new(), checkpoint: None })
    }

    /// The log's entries from `after` on, and some before, for watches that resume.
    fn entries(&self, archive: &log::Archive, after: Revision) -> Result<Vec<Entry>, OpenError> {
        let mut entries = Vec::new();
        for first in self.segments(archive, after) {
            let (more, is_whole) = archive.read(first).map_err(self.io("log"))?;
            if !is_whole {
                let detail = format!("the segment {first:020}.log cannot be read to its end");
                return Err(OpenError::Damaged { dir: self.dir.clone(), detail });
            }
            entries.extend(more);
        }
        Ok(entries)
    }

    fn segments(&self, archive: &log::Archive, after: Revision) -> Vec<Revision> {
        let firsts = archive.firsts();
        let needed = segments_after(&firsts, after).len();
        firsts[firsts.len() - needed.max(2).min(firsts.len())..].to_vec()
    }

    fn replay(
        &self,
        base: Base,
        entries: Vec<Entry>,
        archive: &log::Archive,
        generation: u64,
        snapshot: Revision,
    ) -> Result<Recovered, OpenError> {
        let Base { revision: base_revision, mut objects, checkpoint } = base;
        let resumable = self.segments(archive, base_revision).first().map_or(FIRST, |first| first - 1);
        let revision = log::revision_after(&entries, base_revision);
        let mut changes = Changes::new();
        let mut written = base_revision;
        for committed in commits_after(&entries, base_revision) {
            written = written.max(committed.revision);
            for event in &committed.events {
                let now = (event.did == Did::Put).then(|| (committed.revision, event.bytes.clone()));
                match &now {
                    Some(now) => objects.insert(event.key.clone(), now.clone()),
                    None => objects.remove(&event.key),
                };
                changes.insert(event.key.clone(), now);
            }
        }
        let is_rebuilt = checkpoint.is_none()
            && (base_revision > FIRST || Checkpoint::read(&*self.files, &self.dir).is_some());
        if checkpoint.is_none() {
            changes = objects.iter().map(|(key, now)| (key.clone(), Some(now.clone()))).collect();
        }
        let records = objects.iter().map(|(key, (revision, bytes))| Record {
            key: key.clone(),
            revision: *revision,
            bytes: bytes.clone(),
        });
        let (recent, resumable) = recent(entries, resumable.max(FIRST));
        let loaded = Loaded { revision, objects: records.collect(), recent, resumable };
        Ok(Recovered {
            loaded,
            objects,
            revision,
            written,
            checkpoint,
            generation,
            snapshot,
            changes,
            is_rebuilt,
        })
    }
}

fn commits_after(entries: &[Entry], after: Revision) -> impl Iterator<Item = &Committed> {
    entries.iter().filter_map(move |entry| match entry {
        Entry::Commit(committed) if committed.revision > after => Some(committed),
        _ => None,
    })
}

/// The newest transactions, and the revision after which none is missing among them.
fn recent(entries: Vec<Entry>, mut resumable: Revision) -> (Vec<Committed>, Revision) {
    let mut recent = VecDeque::new();
    for entry in entries {
        let Entry::Commit(committed) = entry else { continue };
        recent.push_back(committed);
        if recent.len() > RECENT_MAX {
            resumable = recent.pop_front().map_or(resumable, |dropped: Committed| dropped.revision);
        }
    }
    (recent.into(), resumable)
}
