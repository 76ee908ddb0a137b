//! The store: keys, bytes, revisions and preconditions; it knows no kinds.
//!
//! One revision counter serves the whole cluster, and one committed transaction is one revision, which is
//! the `resourceVersion` of every object it changed. A [`Storage`] makes transactions durable and hands
//! them, in revision order, to a [`Feed`] (the cache), which is the only reader. Three storages:
//! `memory` (tests, clusters that live as long as their process), `disk` (an append-only log that is the
//! truth, with sled following behind), and `etcd` (several API servers). `conformance` holds them to one
//! contract. Reading is deliberately not here: all reads are served by the cache.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

mod body;
mod codec;
mod committer;
mod company;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
mod directory;
mod disk;
mod etcd;
mod files;
mod follower;
mod fork;
mod index;
mod log;
mod memory;
mod past;
mod sealed;
mod sled;
mod snapshot;

pub(crate) use body::Body;
pub(crate) use disk::DiskStorage;
pub(crate) use etcd::EtcdStorage;
pub use fork::{ForkError, Forked, fork};
pub use memory::KeptMemory;
pub(crate) use memory::MemoryStorage;
pub(crate) use sealed::{OpeningFeed, SealedStorage, Seals};

/// The number of a committed transaction, cluster-wide and growing; a `resourceVersion`.
pub(crate) type Revision = u64;

/// Where an object is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The kind's storage: `pods`, `apps/deployments`.
    pub(crate) resource: Arc<str>,
    /// Empty for an object that is in no namespace.
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{}/{}", self.resource, self.name),
            namespace => write!(f, "{}/{namespace}/{}", self.resource, self.name),
        }
    }
}

/// What must hold for a transaction to happen at all.
#[derive(Clone, Debug)]
pub(crate) enum Precondition {
    Absent(Key),
    Revision(Key, Revision),
}

impl Precondition {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Revision(key, _) => key,
        }
    }

    /// Whether it holds for a key that is at `current`.
    pub(crate) fn holds(&self, current: Option<Revision>) -> bool {
        match self {
            Self::Absent(_) => current.is_none(),
            Self::Revision(_, wanted) => current == Some(*wanted),
        }
    }
}

/// One change of a transaction. Deleting a key that is not there is a conflict.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put {
        key: Key,
        body: Body,
    },
    /// `last` is the final state, published with the deletion's revision. (etcd publishes the state
    /// before the deletion instead, as kube-apiserver does.)
    Delete {
        key: Key,
        last: Body,
    },
}

impl Change {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// When a transaction is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// When it survives a power cut.
    Synced,
    /// At once; it reaches the disk within seconds, together with others. For lease renewals and node
    /// heartbeats: losing one is as if it had come late. Its revision is never used again either way.
    Lazy,
}

/// Who made a change, through what, and what it was a reaction to; kept beside the change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) user: String,
    /// The audit id.
    pub(crate) request: String,
    /// Method and path of the request.
    pub(crate) call: String,
    /// The field manager.
    pub(crate) manager: String,
    /// The revision of the world that the writer had seen.
    pub(crate) acted_on: Option<Revision>,
    /// What admission made of each change in turn, as JSON; empty where it left the object as it was. Shorter
    /// than the changes when the rest was left alone.
    pub(crate) admitted: Vec<String>,
}

/// Changes that happen together at one revision, or not at all. Its changes are of different keys.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) preconditions: Vec<Precondition>,
    pub(crate) changes: Vec<Change>,
    pub(crate) durability: Durability,
    pub(crate) cause: Cause,
}

/// Why a transaction did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("{key} is at revision {current:?}, which is not what the writer expected")]
    Conflict { key: Key, current: Option<Revision> },
    #[error("too many writes are waiting for the disk")]
    Full,
    #[error("the write did not reach the disk")]
    Io(#[source] Arc<std::io::Error>),
    #[error("the etcd cluster did not take the write: {0}")]
    Etcd(String),
    #[error("a transaction changes {0} twice")]
    Repeated(Key),
    #[error("the store is closed")]
    Closed,
}

/// Where objects are kept.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In this process, for as long as `kept` or the server lives.
    Memory { history: HistoryLimits, kept: Option<KeptMemory> },
    /// In a directory of this machine, which belongs to the store alone.
    Disk { dir: PathBuf, limits: DiskLimits },
    /// In an etcd cluster that several API servers may share: `http://127.0.0.1:2379`, and the prefix of
    /// all keys, `/registry`.
    Etcd { endpoints: Vec<String>, prefix: String },
}

impl Backend {
    /// In this process, with the default limits.
    pub fn memory() -> Self {
        Self::Memory { history: HistoryLimits::in_memory(), kept: None }
    }

    /// In this process, and outliving the server: one that is started with a clone of this finds what the one
    /// before it wrote, which from then on writes nothing more.
    pub fn kept_in(memory: KeptMemory) -> Self {
        Self::Memory { history: HistoryLimits::in_memory(), kept: Some(memory) }
    }

    /// A directory with the default limits.
    pub fn disk(dir: impl Into<PathBuf>) -> Self {
        Self::Disk { dir: dir.into(), limits: DiskLimits::default() }
    }

    /// An etcd cluster with Kubernetes' key prefix.
    pub fn etcd(endpoints: Vec<String>) -> Self {
        Self::Etcd { endpoints, prefix: "/registry".to_owned() }
    }
}

/// Transactions that a store in memory remembers unless told otherwise.
const MEMORY_REVISIONS_MAX: u64 = 4096;

/// How much of the past is kept: what both bounds allow.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Transactions.
    pub revisions_max: u64,
    /// Older transactions are dropped.
    pub age_max: std::time::Duration,
}

impl HistoryLimits {
    /// What a store in memory keeps unless told otherwise.
    pub fn in_memory() -> Self {
        Self { revisions_max: MEMORY_REVISIONS_MAX, ..Self::default() }
    }
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { revisions_max: 1_000_000, age_max: std::time::Duration::from_secs(7 * 86_400) }
    }
}

/// Bounds of the disk store.
#[derive(Clone, Debug)]
pub struct DiskLimits {
    /// Transactions that may wait for the disk; more are refused.
    pub waiting_max: usize,
    /// Transactions that become durable together.
    pub group_max: usize,
    /// A log segment is closed when it is this large.
    pub segment_bytes: u64,
    /// Log written since the last checkpoint of the state that starts the next one.
    pub checkpoint_bytes: u64,
    /// Log written since the last snapshot that starts the next one.
    pub snapshot_bytes: u64,
    /// Closed segments kept for history and for watches that resume.
    pub segments_max: usize,
    /// Closed segments with nothing in them but what is beyond this are dropped.
    pub history: HistoryLimits,
    /// How long a lazy write may stay in memory.
    pub lazy_delay_max: std::time::Duration,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            waiting_max: 8192,
            group_max: 1024,
            segment_bytes: 16 << 20,
            checkpoint_bytes: 32 << 20,
            snapshot_bytes: 128 << 20,
            segments_max: 32,
            history: HistoryLimits::default(),
            lazy_delay_max: std::time::Duration::from_secs(10),
        }
    }
}

/// An object as a storage hands it over when it opens.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    pub(crate) bytes: Bytes,
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    Put,
    Delete,
}

/// One change as it was committed. `bytes` is the complete JSON, `resourceVersion` included; of a
/// deletion, the last state with the deletion's revision.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) key: Key,
    pub(crate) did: Did,
    pub(crate) previous: Option<Revision>,
    pub(crate) bytes: Bytes,
}

/// One committed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) revision: Revision,
    pub(crate) at_ms: u64,
    pub(crate) cause: Cause,
    pub(crate) events: Vec<Event>,
}

/// The state that a storage opens with.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) revision: Revision,
    pub(crate) objects: Vec<Record>,
    /// The newest transactions, oldest first, without a gap from `resumable` to `revision`.
    pub(crate) recent: Vec<Committed>,
    /// Every transaction after this revision is in `recent`.
    pub(crate) resumable: Revision,
}

/// Takes what a storage committed. Called from one place at a time, in revision order; must not block.
pub(crate) trait Feed: Send + Sync {
    /// The whole state, at open and when a storage has lost its place: replaces all.
    fn load(&self, loaded: Loaded);
    /// Transactions that are durable (or lazy), in revision order.
    fn publish(&self, committed: Vec<Committed>);
    /// Nothing more will come up to `revision`.
    fn advance(&self, revision: Revision);
}

/// Makes transactions durable.
///
/// `commit` answers when the transaction is as durable as it asked for and was published to the feed
/// (etcd: is about to be). Transactions are published in revision order, each once. After an error of
/// the disk that leaves doubt about what is on it, every later commit fails: the process has to start
/// again and read what is really there.
#[async_trait]
pub(crate) trait Storage: Send + Sync {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError>;

    /// Of the transactions after `after` that are still kept and touch `key` (or any) the newest `max`,
    /// oldest first. With their causes. Lazy ones may be missing, as the log has only the last of each batch.
    async fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError>;

    /// The objects of `resource` (or the one of `key`) as they were at `revision`, in the order of their keys.
    async fn past(
        &self,
        _resource: &str,
        _key: Option<&Key>,
        _revision: Revision,
    ) -> Result<Vec<Record>, HistoryError> {
        Err(HistoryError::NotKept)
    }

    /// The newest revision at or before a time.
    async fn revision_at(&self, _at_ms: u64) -> Result<Revision, HistoryError> {
        Err(HistoryError::NotKept)
    }

    /// Writes what is waiting and lets go of files; later commits fail with [`CommitError::Closed`].
    async fn close(&self);
}

/// Why the past could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error("cannot read the log")]
    ReadLog(#[source] std::io::Error),
    #[error("this cluster's store keeps no history; a store on disk or in memory does")]
    NotKept,
    #[error("the past before revision {oldest} is no longer kept")]
    Compacted { oldest: Revision },
    #[error("that past is no longer kept: etcd was compacted since")]
    Forgotten,
    #[error("cannot read the past from etcd: {0}")]
    Etcd(String),
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} cannot be used as a data directory; check its owner and permissions", .dir.display())]
    UseDirectory {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{} holds files that are not a Coxswain store (no COXSWAIN marker file); nothing was changed. \
         Name an empty directory, or move these files away", .dir.display()
    )]
    Foreign { dir: PathBuf },
    #[error(
        "{} was written in store format {found}, and this version reads format {known}; nothing was \
         changed. Use the version that wrote it, or name another directory", .dir.display()
    )]
    Format { dir: PathBuf, found: String, known: u32 },
    #[error(
        "{} is in use by {holder}; stop that server, or name another directory", .dir.display()
    )]
    Held { dir: PathBuf, holder: String },
    #[error(
        "the log in {} is damaged before its end ({detail}); nothing was changed. Restore the directory \
         from a copy, or start with an empty one", .dir.display()
    )]
    Damaged { dir: PathBuf, detail: String },
    #[error("cannot read or write {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start the store's thread")]
    Thread(#[source] std::io::Error),
    #[error(
        "{0}; nothing was changed. Start with the EncryptionConfiguration that has its key \
         (--encryption-provider-config)"
    )]
    Decrypt(String),
    #[error("cannot reach etcd at {endpoints}: {detail}")]
    Etcd { endpoints: String, detail: String },
}
