//! The truth: an append-only log of transactions in segment files.
//!
//! A segment is named after the lowest revision it may hold, so the segments' order and extent are known
//! from their names. A segment is whole on the disk before the next begins; therefore only the last may end
//! in a torn frame, which was never acknowledged and is cut off when the log opens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::codec::{self, Entry, Frames};
use super::files::{File, Files};
use super::{OpenError, Revision};

const HEADER: &[u8; 16] = b"coxswain log 1\n\0";

/// A segment that is written no more.
#[derive(Clone, Copy, Debug)]
struct Closed {
    first: Revision,
    at_ms: u64,
}

/// The segments of a log, for those who read and drop them.
#[derive(Clone)]
pub(super) struct Archive {
    files: Arc<dyn Files>,
    dir: PathBuf,
    segments: Arc<Mutex<Segments>>,
}

struct Segments {
    closed: Vec<Closed>,
    active: Revision,
}

/// The end of the log. After an error of `sync` nothing more may be appended: what is on the disk is not
/// known.
pub(super) struct Log {
    archive: Archive,
    active: Box<dyn File>,
    length: u64,
    segment_bytes: u64,
}

impl Log {
    /// Opens the log in `dir` and cuts a torn end off. A new log begins at `first`.
    pub(super) fn open(
        files: Arc<dyn Files>,
        dir: PathBuf,
        first: Revision,
        segment_bytes: u64,
    ) -> Result<Self, OpenError> {
        let at = |source| OpenError::Io { path: dir.clone(), source };
        let names = files.names(&dir).map_err(at)?;
        let mut firsts: Vec<Revision> =
            names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
        firsts.sort_unstable();
        let mut tail = None;
        while let Some(last) = firsts.pop() {
            tail =
                Self::open_tail(&*files, &path(&dir, last)).map_err(at)?.map(|(file, len)| (file, len, last));
            if tail.is_some() {
                break;
            }
        }
        let (active, length, active_first) = match tail {
            Some(tail) => tail,
            None => {
                let (file, length) = create(&*files, &dir, first).map_err(at)?;
                (file, length, first)
            }
        };
        // When it was closed is found out once it matters.
        let closed = firsts.into_iter().map(|first| Closed { first, at_ms: 0 }).collect();
        let segments = Arc::new(Mutex::new(Segments { closed, active: active_first }));
        Ok(Self { archive: Archive { files, dir, segments }, active, length, segment_bytes })
    }

    /// The last segment, cut to its whole frames; none (and removed) if not even its header is there.
    fn open_tail(files: &dyn Files, path: &Path) -> io::Result<Option<(Box<dyn File>, u64)>> {
        let bytes = files.read(path)?;
        if !bytes.starts_with(HEADER) {
            // The header is on the disk before anything follows it.
            if bytes.len() > HEADER.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not a log segment of this version"));
            }
            files.remove(path)?;
            return Ok(None);
        }
        let mut frames = Frames::new(&bytes, HEADER.len());
        frames.by_ref().for_each(drop);
        let length = frames.offset() as u64;
        let mut file = files.append(path)?;
        if length < bytes.len() as u64 {
            tracing::info!(segment = %path.display(), at = length, "cut off a torn write that was never acknowledged");
            file.truncate(length)?;
        }
        file.sync()?;
        Ok(Some((file, length)))
    }

    pub(super) fn archive(&self) -> Archive {
        self.archive.clone()
    }

    /// Writes frames at the end. On an error nothing of them stays, or the log cannot be used any more.
    pub(super) fn append(&mut self, frames: &[u8]) -> Result<(), AppendError> {
        if let Err(error) = self.active.write(frames) {
            return Err(match self.active.truncate(self.length) {
                Ok(()) => AppendError::Refused(error),
                Err(_) => AppendError::Broken(error),
            });
        }
        self.length += frames.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), AppendError> {
        self.active.sync().map_err(AppendError::Broken)
    }

    /// Whether it is time for [`Log::rotate`].
    pub(super) fn is_full(&self) -> bool {
        self.length >= self.segment_bytes
    }

    /// Goes on in a new segment, whose revisions are `first` and later.
    pub(super) fn rotate(&mut self, first: Revision, at_ms: u64) -> Result<(), AppendError> {
        self.sync()?;
        let (active, length) =
            create(&*self.archive.files, &self.archive.dir, first).map_err(AppendError::Broken)?;
        let mut segments = self.archive.segments.lock();
        let closed = Closed { first: segments.active, at_ms };
        segments.closed.push(closed);
        segments.active = first;
        self.active = active;
        self.length = length;
        Ok(())
    }
}

/// Why frames were not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// Nothing happened; the next may succeed.
    Refused(io::Error),
    /// What is on the disk is not known.
    Broken(io::Error),
}

impl Archive {
    /// The lowest revision that each segment may hold, oldest first.
    pub(super) fn firsts(&self) -> Vec<Revision> {
        let segments = self.segments.lock();
        segments.closed.iter().map(|closed| closed.first).chain([segments.active]).collect()
    }

    /// The entries of the segment that begins at `first`, and whether all of it could be read.
    pub(super) fn read(&self, first: Revision) -> io::Result<(Vec<Entry>, bool)> {
        let bytes = self.files.read(&path(&self.dir, first))?;
        if !bytes.starts_with(HEADER) {
            return Ok((Vec::new(), false));
        }
        let mut frames = Frames::new(&bytes, HEADER.len());
        let entries = frames.by_ref().collect();
        Ok((entries, frames.offset() == bytes.len()))
    }

    /// How many closed segments hold only what comes after `revision`.
    pub(super) fn closed_after(&self, revision: Revision) -> usize {
        self.segments.lock().closed.iter().filter(|closed| closed.first > revision).count()
    }

    /// Drops the oldest segments, as long as `keep` does not want them and nothing in them is after
    /// `needed_after`.
    pub(super) fn drop_oldest(&self, needed_after: Revision, keep: Keep) -> io::Result<()> {
        loop {
            self.date_oldest()?;
            let oldest = {
                let segments = self.segments.lock();
                let Some(oldest) = segments.closed.first().copied() else { return Ok(()) };
                let next = segments.closed.get(1).map_or(segments.active, |next| next.first);
                let is_surplus = segments.closed.len() > keep.segments_max
                    || oldest.at_ms < keep.closed_after_ms
                    || next <= keep.after_revision;
                if next > needed_after + 1 || !is_surplus {
                    return Ok(());
                }
                oldest
            };
            self.files.remove(&path(&self.dir, oldest.first))?;
            self.files.sync_dir(&self.dir)?;
            self.segments.lock().closed.remove(0);
        }
    }

    /// Finds out when the oldest segment was closed, if it was before this start: its last entry says so.
    fn date_oldest(&self) -> io::Result<()> {
        let oldest = self.segments.lock().closed.first().copied().filter(|oldest| oldest.at_ms == 0);
        let Some(oldest) = oldest else { return Ok(()) };
        let newest = self.read(oldest.first)?.0.iter().rev().find_map(|entry| match entry {
            Entry::Commit(committed) => Some(committed.at_ms),
            _ => None,
        });
        if let Some(closed) = self.segments.lock().closed.first_mut() {
            closed.at_ms = newest.unwrap_or(1).max(1);
        }
        Ok(())
    }
}

/// Which closed segments stay though the state could be made without them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) segments_max: usize,
    pub(super) closed_after_ms: u64,
    pub(super) after_revision: Revision,
}

fn path(dir: &Path, first: Revision) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

fn create(files: &dyn Files, dir: &Path, first: Revision) -> io::Result<(Box<dyn File>, u64)> {
    let mut file = files.create(&path(dir, first))?;
    file.write(HEADER)?;
    file.sync()?;
    files.sync_dir(dir)?;
    Ok((file, HEADER.len() as u64))
}

/// Where the revision counter stands after these entries, given where it stood before.
pub(super) fn revision_after(entries: &[Entry], before: Revision) -> Revision {
    let mut written = before;
    let mut reserved = 0;
    for entry in entries {
        match entry {
            Entry::Commit(committed) => written = written.max(committed.revision),
            Entry::Reserve(up_to) | Entry::Release(up_to) => reserved = *up_to,
            Entry::Object(_) | Entry::End(_) => {}
        }
    }
    written.max(reserved)
}

/// A frame that reserves revisions up to `up_to`.
pub(super) fn reserve_frame(up_to: Revision) -> Vec<u8> {
    let mut frame = Vec::new();
    codec::write_reserve(&mut frame, up_to);
    frame
}
