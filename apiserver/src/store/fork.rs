//! A second store from the state of a first, which may be in use meanwhile.
//!
//! Closed log segments and snapshots are never written again, so both directories can share them as hard
//! links. The end of the log is copied: what is half written there is cut off when the copy opens, and was
//! never acknowledged. sled's state stays behind; it is made again from snapshot and log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::directory;
use super::{OpenError, Revision};

/// Segments at the end of the log that the first store may still write.
const TAIL: usize = 2;
/// How often the first store may compact its log while it is being copied.
const ATTEMPTS_MAX: usize = 8;

/// What a fork has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forked {
    /// Files that both directories share.
    pub linked: usize,
    /// Files of its own, and their size together.
    pub copied: usize,
    pub copied_bytes: u64,
}

/// Why there is no fork.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    #[error("{} holds no Coxswain store to fork", .0.display())]
    NothingThere(PathBuf),
    #[error("{} is not empty; name a directory that is not there yet", .0.display())]
    NotEmpty(PathBuf),
    #[error(transparent)]
    Look(#[from] OpenError),
    #[error("cannot copy or link {}", .path.display())]
    Copy {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} was compacted again and again while it was copied; try once more", .0.display())]
    Moving(PathBuf),
}

/// Makes `into`, which must be missing or empty, a store with the state that `from` has on its disk now.
pub fn fork(from: &Path, into: &Path) -> Result<Forked, ForkError> {
    if directory::format_of(from)?.is_none() {
        return Err(ForkError::NothingThere(from.to_owned()));
    }
    if fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(ForkError::NotEmpty(into.to_owned()));
    }
    for _ in 0..ATTEMPTS_MAX {
        if let Some(forked) = attempt(from, into)? {
            directory::mark(into).map_err(at(into))?;
            return Ok(forked);
        }
        fs::remove_dir_all(into).map_err(at(into))?;
    }
    Err(ForkError::Moving(from.to_owned()))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ForkError {
    let path = path.to_owned();
    move |source| ForkError::Copy { path, source }
}

/// One try; none if the first store dropped files meanwhile.
fn attempt(from: &Path, into: &Path) -> Result<Option<Forked>, ForkError> {
    let mut forked = Forked::default();
    // Snapshots first: a segment is dropped only when a later snapshot is there.
    let snapshots = numbered(&from.join("snapshot"), ".snap")?;
    let segments = numbered(&from.join("log"), ".log")?;
    for (folder, suffix, numbers, own) in
        [("snapshot", ".snap", &snapshots, 0), ("log", ".log", &segments, TAIL)]
    {
        fs::create_dir_all(into.join(folder)).map_err(at(into))?;
        let shared = numbers.len().saturating_sub(own);
        for (index, number) in numbers.iter().enumerate() {
            let name = format!("{number:020}{suffix}");
            let (old, new) = (from.join(folder).join(&name), into.join(folder).join(&name));
            match take(&old, &new, index < shared, &mut forked) {
                Ok(()) => {}
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(ForkError::Copy { path: old, source }),
            }
        }
        sync_dir(&into.join(folder)).map_err(at(into))?;
    }
    Ok(is_whole(&snapshots, &segments).then_some(forked))
}

/// Whether the state can be made: the log goes back to the beginning, or to a snapshot.
fn is_whole(snapshots: &[Revision], segments: &[Revision]) -> bool {
    let Some(first) = segments.first().copied() else { return snapshots.is_empty() };
    first <= 2 || snapshots.last().is_some_and(|newest| newest + 1 >= first)
}

fn take(old: &Path, new: &Path, is_shared: bool, forked: &mut Forked) -> io::Result<()> {
    if is_shared {
        match fs::hard_link(old, new) {
            Ok(()) => {
                forked.linked += 1;
                return Ok(());
            }
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Err(gone),
            // Another file system, or one without links.
            Err(_) => {}
        }
    }
    forked.copied_bytes += fs::copy(old, new)?;
    forked.copied += 1;
    fs::File::open(new)?.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// The revisions that the files of a folder are named after, in order.
fn numbered(dir: &Path, suffix: &str) -> Result<Vec<Revision>, ForkError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ForkError::Copy { path: dir.to_owned(), source }),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(at(dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(suffix)?.parse::<Revision>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use component_base::Shutdown;
    use component_base::clock::Clock;
    use component_base::supervise::Tasks;

    use super::super::conformance::{put, small_limits};
    use super::super::{Backend, Key};
    use super::*;
    use crate::cache::Objects;

    async fn open(dir: &Path, tasks: &Tasks) -> Arc<Objects> {
        let backend = Backend::Disk { dir: dir.to_owned(), limits: small_limits() };
        Objects::open(backend, Clock::system(), tasks).await.unwrap()
    }

    fn key(index: usize) -> Key {
        Key::new("pods", "ns", &format!("p{index:04}"))
    }

    async fn fill(objects: &Objects, from: usize, to: usize) {
        for index in from..to {
            objects.commit(put(&key(index % 200), &"x".repeat(500))).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_fork_of_a_store_in_use_goes_on_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let first = open(&a, &tasks).await;
        fill(&first, 0, 300).await;
        let at = first.revision();
        let forked = fork(&a, &b).unwrap();
        assert!(forked.linked > 0 && forked.copied > 0, "{forked:?}");
        // Both compact and drop segments after this.
        fill(&first, 300, 600).await;
        let second = open(&b, &tasks).await;
        assert_eq!(second.revision(), at);
        assert_eq!(second.list("pods", None).iter().count(), 200);
        let only = Key::new("pods", "ns", "only-in-b");
        second.commit(put(&only, "1")).await.unwrap();
        fill(&second, 0, 300).await;
        assert!(first.get(&only).is_none());
        second.close().await;
        first.close().await;
        let again = open(&a, &tasks).await;
        assert!(again.get(&only).is_none());
        assert_eq!(again.list("pods", None).iter().count(), 200);
        again.close().await;
        let again = open(&b, &tasks).await;
        assert!(again.get(&only).is_some());
        again.close().await;
    }

    #[tokio::test]
    async fn a_fork_wants_a_store_and_an_empty_place() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        assert!(matches!(fork(&a, &b), Err(ForkError::NothingThere(_))));
        let tasks = Tasks::new(Shutdown::new());
        open(&a, &tasks).await.close().await;
        fs::create_dir(&b).unwrap();
        fs::write(b.join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(fork(&a, &b), Err(ForkError::NotEmpty(_))));
        assert_eq!(fs::read_dir(&b).unwrap().count(), 1);
    }
}
