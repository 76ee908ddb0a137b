//! The compact copy of the state from which, with the log after it, everything can be made again.

use std::io;
use std::path::{Path, PathBuf};

use super::codec::{self, Entry, Frames};
use super::files::Files;
use super::sled::StateError;
use super::{Record, Revision};

const HEADER: &[u8; 16] = b"coxswain snap 1\n";
/// Bytes collected before they are written.
const CHUNK: usize = 1 << 20;

/// The revisions of the snapshots in `dir`, oldest first.
pub(super) fn revisions(files: &dyn Files, dir: &Path) -> io::Result<Vec<Revision>> {
    let names = files.names(dir)?;
    let mut revisions: Vec<Revision> =
        names.iter().filter_map(|name| name.strip_suffix(".snap")?.parse().ok()).collect();
    revisions.sort_unstable();
    Ok(revisions)
}

/// Writes the snapshot of `revision`. Damage among the objects ends it before there is any.
pub(super) fn write(
    files: &dyn Files,
    dir: &Path,
    revision: Revision,
    objects: impl Iterator<Item = Result<Record, StateError>>,
) -> Result<(), StateError> {
    let new = dir.join("next.new");
    let mut file = files.create(&new)?;
    let mut out = HEADER.to_vec();
    let mut count = 0;
    for record in objects {
        let record = record?;
        if record.bytes.is_empty() {
            return Err(StateError::Wrong("an object is not whole"));
        }
        codec::write_object(&mut out, &record);
        count += 1;
        if out.len() >= CHUNK {
            file.write(&out)?;
            out.clear();
        }
    }
    codec::write_end(&mut out, count);
    file.write(&out)?;
    file.sync()?;
    files.rename(&new, &path(dir, revision))?;
    files.sync_dir(dir)?;
    Ok(())
}

/// Removes the snapshots after which the log, which begins at `first`, has a gap: neither the state nor any
/// past one can be made of them. The newest stays.
pub(super) fn drop_useless(files: &dyn Files, dir: &Path, first: Revision) -> io::Result<()> {
    let mut older = revisions(files, dir)?;
    older.pop();
    for useless in older.into_iter().filter(|revision| revision + 1 < first) {
        files.remove(&path(dir, useless))?;
    }
    Ok(())
}

/// The objects of a snapshot; none if it is not whole.
pub(super) fn read(files: &dyn Files, dir: &Path, revision: Revision) -> io::Result<Option<Vec<Record>>> {
    let bytes = files.read(&path(dir, revision))?;
    if !bytes.starts_with(HEADER) {
        return Ok(None);
    }
    let mut objects = Vec::new();
    for entry in Frames::new(&bytes, HEADER.len()) {
        match entry {
            Entry::Object(record) => objects.push(record),
            Entry::End(count) if count == objects.len() as u64 => return Ok(Some(objects)),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn path(dir: &Path, revision: Revision) -> PathBuf {
    dir.join(format!("{revision:020}.snap"))
}
