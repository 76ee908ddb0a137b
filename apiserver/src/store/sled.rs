//! The state of all objects, in sled, as it was at a checkpoint of the log.
//!
//! sled alone does not survive a power cut (its `flush` does not empty the disk's cache, and large values go
//! to files that it never syncs). Here it need not: a checkpoint is a flush, a sync of its files, and then a
//! note of the revision; after a crash the log is replayed from there. What sled gives back is verified
//! against a digest of the checkpoint, and a state that is not what it was is made again from the snapshot.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;

use super::files::{self, Files};
use super::{Key, Record, Revision};

/// Larger values are split, because sled keeps large leaves in files that it does not sync.
const ROW_BYTES_MAX: usize = 8 << 10;
/// Revision, length, checksum.
const HEAD: usize = 16;
/// Rows written, or read, at once.
const BATCH_MAX: usize = 512;
/// Batches that are read before somebody takes them.
const BATCHES_MAX: usize = 4;

/// What sled says of a row.
type Row = sled::Result<(sled::IVec, sled::IVec)>;

/// What is to be written: the last state of each key that changed.
pub(super) type Changes = std::collections::HashMap<Key, Option<(Revision, Bytes)>>;

/// What a checkpoint says about the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Names the directory.
    pub(super) generation: u64,
    pub(super) revision: Revision,
    /// Of every key and its revision; see [`digest`].
    pub(super) digest: u64,
}

/// sled's directory, and the checkpoint it was last brought to.
pub(super) struct State {
    db: sled::Db,
    dir: PathBuf,
    checkpoint: Checkpoint,
}

/// Why the state cannot be used. It can be made again.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("sled failed")]
    Sled(#[from] sled::Error),
    #[error("a file of the state failed")]
    File(#[from] io::Error),
    #[error("the state is not what it was at its checkpoint: {0}")]
    Wrong(&'static str),
}

/// What one key adds to the digest; all keys are combined by XOR, so a change takes the old one out and
/// puts the new one in.
pub(super) fn digest(key: &Key, revision: Revision) -> u64 {
    let parts =
        [key.resource.as_bytes(), key.namespace.as_bytes(), key.name.as_bytes(), &revision.to_le_bytes()];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain([&0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^ (hash >> 29)
}

impl Checkpoint {
    /// The checkpoint noted in `dir`; none if there is none or it makes no sense.
    pub(super) fn read(files: &dyn Files, dir: &Path) -> Option<Self> {
        let text = String::from_utf8(files.read(&dir.join("checkpoint")).ok()?).ok()?;
        let mut numbers = text.strip_prefix("coxswain checkpoint 1\n")?.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self { generation: next()?, revision: next()?, digest: next()? })
    }

    fn write(&self, files: &dyn Files, dir: &Path) -> io::Result<()> {
        let text = format!("coxswain checkpoint 1\n{} {} {}\n", self.generation, self.revision, self.digest);
        files::replace(files, &dir.join("checkpoint"), text.as_bytes())
    }
}

/// The generations of state directories below `dir`.
pub(super) fn generations(dir: &Path) -> Vec<u64> {
    let entries = fs::read_dir(dir.join("state")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// All that a state holds.
pub(super) type Objects = BTreeMap<Key, (Revision, Bytes)>;

impl State {
    /// Opens the state of `checkpoint` below `dir`, or a new one.
    pub(super) fn open(dir: &Path, checkpoint: Checkpoint) -> Result<Self, StateError> {
        let path = dir.join("state").join(checkpoint.generation.to_string());
        remove_unfinished(&path)?;
        let config = sled::Config::new().path(&path).segment_size(16 << 20).cache_capacity(16 << 20);
        let db = config.flush_every_ms(Some(1000)).open()?;
        Ok(Self { db, dir: dir.to_owned(), checkpoint })
    }

    pub(super) fn revision(&self) -> Revision {
        self.checkpoint.revision
    }

    /// Closes it, and with it the pages that sled keeps in memory, however many were read; `open` goes on from what
    /// this gives.
    pub(super) fn close(self) -> Checkpoint {
        self.checkpoint
    }

    /// All objects, in the keys' order. One that is not whole is given without bytes.
    pub(super) fn objects(&self) -> impl Iterator<Item = Result<Record, StateError>> {
        records(self.db.iter())
    }

    /// Opens the state of `checkpoint` below `dir` and reads all of it.
    ///
    /// sled reads on a thread of its own. What it allocates is gone with the thread; between the objects, of which
    /// the most are of the same size, it would leave holes that nobody fills.
    pub(super) fn read(dir: &Path, checkpoint: Checkpoint) -> Result<(Self, Objects), StateError> {
        let (sender, batches) = sync_channel::<Vec<Row>>(BATCHES_MAX);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let state = Self::open(dir, checkpoint)?;
                let mut rows = state.db.iter();
                loop {
                    let batch: Vec<_> = rows.by_ref().take(BATCH_MAX).collect();
                    if batch.is_empty() || sender.send(batch).is_err() {
                        return Ok(state);
                    }
                }
            });
            let objects = records(batches.into_iter().flatten())
                .map(|record| record.map(|r| (r.key, (r.revision, r.bytes))))
                .collect::<Result<_, StateError>>();
            // sled answers some damage with a panic.
            let state = reading.join().unwrap_or(Err(StateError::Wrong("sled panicked")))?;
            Ok((state, objects?))
        })
    }

    /// Whether these objects are those of the checkpoint, when the keys in `later` were then what it says
    /// there, and may have changed since.
    pub(super) fn verify(
        &mut self,
        objects: &Objects,
        later: &BTreeMap<Key, Option<Revision>>,
    ) -> Result<(), StateError> {
        let (mut actual, mut then) = (0, 0);
        for (key, (revision, bytes)) in objects {
            let part = digest(key, *revision);
            actual ^= part;
            if !later.contains_key(key) {
                then ^= part;
                if bytes.is_empty() {
                    return Err(StateError::Wrong("an object is not whole"));
                }
            }
        }
        let touched = later.iter().filter_map(|(key, revision)| Some(digest(key, (*revision)?)));
        if touched.fold(then, |sum, part| sum ^ part) != self.checkpoint.digest {
            return Err(StateError::Wrong("objects are missing or of another revision"));
        }
        // The next checkpoint goes on from what is there, half of a later change included.
        self.checkpoint.digest = actual;
        Ok(())
    }

    /// Brings the state to `revision` by `changes` and makes that durable.
    pub(super) fn advance(
        &mut self,
        files: &dyn Files,
        changes: Changes,
        revision: Revision,
    ) -> Result<(), StateError> {
        let mut next = Checkpoint { revision, ..self.checkpoint };
        let mut batch = sled::Batch::default();
        for (count, (key, now)) in changes.into_iter().enumerate() {
            if let Some(head) = self.db.get(row(&key, 0))? {
                next.digest ^= digest(&key, head_revision(&head).unwrap_or(0));
            }
            if let Some((revision, _)) = &now {
                next.digest ^= digest(&key, *revision);
            }
            self.put(&mut batch, &key, now)?;
            if count % BATCH_MAX == BATCH_MAX - 1 {
                self.db.apply_batch(std::mem::take(&mut batch))?;
            }
        }
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        files.sync_tree(&self.dir.join("state").join(next.generation.to_string()))?;
        next.write(files, &self.dir)?;
        self.checkpoint = next;
        Ok(())
    }

    fn put(
        &self,
        batch: &mut sled::Batch,
        key: &Key,
        now: Option<(Revision, Bytes)>,
    ) -> Result<(), StateError> {
        let mut rows: u16 = 0;
        if let Some((revision, bytes)) = now {
            for chunk in split(revision, &bytes) {
                batch.insert(row(key, rows), chunk);
                rows =
                    rows.checked_add(1).ok_or(StateError::Wrong("an object is larger than sled can hold"))?;
            }
        }
        for stale in self.db.range(row(key, rows)..=row(key, u16::MAX)).keys() {
            batch.remove(stale?);
        }
        Ok(())
    }
}

/// The objects whose rows these are.
fn records(rows: impl Iterator<Item = Row>) -> impl Iterator<Item = Result<Record, StateError>> {
    let mut rows = rows.peekable();
    std::iter::from_fn(move || {
        loop {
            let (row, head) = match rows.next()? {
                Ok(first) => first,
                Err(error) => return Some(Err(error.into())),
            };
            let Some((key, 0)) = parse_row(&row) else { continue };
            let mut value = head.get(HEAD..).unwrap_or_default().to_vec();
            let prefix = &row[..row.len() - 2];
            while let Some(Ok((_, more))) =
                rows.next_if(|next| matches!(next, Ok((row, _)) if row[..row.len().max(2) - 2] == *prefix))
            {
                value.extend_from_slice(&more);
            }
            return Some(whole(key, &head, value));
        }
    })
}

/// sled does not open when a snapshot of its own was left half written.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn row(key: &Key, index: u16) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.resource.len() + key.namespace.len() + key.name.len() + 5);
    for part in [&key.resource, &key.namespace, &key.name] {
        row.extend_from_slice(part.as_bytes());
        row.push(0);
    }
    row.extend_from_slice(&index.to_be_bytes());
    row
}

fn parse_row(row: &[u8]) -> Option<(Key, u16)> {
    let (names, index) = row.split_at_checked(row.len().checked_sub(2)?)?;
    let names = std::str::from_utf8(names).ok()?.strip_suffix('\0')?;
    let mut parts = names.split('\0');
    let key = Key::new(parts.next()?, parts.next()?, parts.next()?);
    Some((key, u16::from_be_bytes(index.try_into().ok()?)))
}

/// A value's rows: the first begins with revision, length and checksum.
fn split(revision: Revision, bytes: &Bytes) -> Vec<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD + bytes.len().min(ROW_BYTES_MAX));
    head.extend_from_slice(&revision.to_le_bytes());
    head.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    head.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    let mut chunks = bytes.chunks(ROW_BYTES_MAX);
    head.extend_from_slice(chunks.next().unwrap_or_default());
    std::iter::once(head).chain(chunks.map(<[u8]>::to_vec)).collect()
}

fn head_revision(head: &[u8]) -> Option<Revision> {
    Some(Revision::from_le_bytes(head.get(..8)?.try_into().ok()?))
}

fn whole(key: Key, head: &[u8], value: Vec<u8>) -> Result<Record, StateError> {
    let revision = head_revision(head).ok_or(StateError::Wrong("a row is cut"))?;
    let length = (value.len() as u64).to_le_bytes();
    let sum = crc32fast::hash(&value).to_le_bytes();
    match head.get(8..HEAD) {
        Some(expected) if expected[..4] == length[..4] && expected[4..] == sum => {
            Ok(Record { key, revision, bytes: value.into() })
        }
        // Half of a change after the checkpoint, which the log makes whole, or damage: the digest tells.
        _ => Ok(Record { key, revision, bytes: Bytes::new() }),
    }
}
