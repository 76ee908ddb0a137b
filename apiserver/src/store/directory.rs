//! The data directory: whose it is, in which format, and who holds it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::OpenError;

/// Says that a directory is ours, and in which format.
const MARKER: &str = "COXSWAIN";
const LOCK: &str = "LOCK";
const FORMAT: u32 = 2;
/// What this version reads and goes on from; then the directory is of the newest format.
const OLDEST: u32 = 1;

/// A directory that no other process uses as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

/// Takes `dir`, which is empty, missing, or ours; anything else is refused and stays as it is.
pub(super) fn claim(dir: &Path) -> Result<Claim, OpenError> {
    let is_ours = format_of(dir)?;
    let at = |source| OpenError::UseDirectory { dir: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(at)?;
    let lock = lock(dir)?;
    if is_ours != Some(FORMAT) {
        mark(dir).map_err(at)?;
    }
    Ok(Claim { _lock: lock })
}

/// The format of a directory that is ours already. Only looks.
pub(super) fn format_of(dir: &Path) -> Result<Option<u32>, OpenError> {
    let at = |source| OpenError::UseDirectory { dir: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(error)),
    };
    let mut is_empty = true;
    for entry in entries {
        let name = entry.map_err(at)?.file_name();
        // A lock alone is left by a start that got no further.
        is_empty &= name == LOCK || name == "COXSWAIN.new";
    }
    let path = dir.join(MARKER);
    let marker = match fs::read_to_string(&path) {
        Ok(marker) => marker,
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_empty => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Foreign { dir: dir.to_owned() });
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    let found = marker.strip_prefix("coxswain store, format ").map(str::trim);
    match (found.and_then(|format| format.parse().ok()), found) {
        (Some(format), _) if (OLDEST..=FORMAT).contains(&format) => Ok(Some(format)),
        (_, found) => Err(OpenError::Format {
            dir: dir.to_owned(),
            found: found.unwrap_or("unknown").to_owned(),
            known: FORMAT,
        }),
    }
}

/// Says that `dir` is ours and in this version's format.
pub(super) fn mark(dir: &Path) -> io::Result<()> {
    let new = dir.join("COXSWAIN.new");
    let mut file = File::create(&new)?;
    writeln!(file, "coxswain store, format {FORMAT}")?;
    file.sync_all()?;
    fs::rename(&new, dir.join(MARKER))?;
    File::open(dir)?.sync_all()
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let at = |source| OpenError::Io { path: path.clone(), source };
    let mut options = fs::OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Held { dir: dir.to_owned(), holder: holder(&path) });
        }
        Err(TryLockError::Error(source)) => return Err(at(source)),
    }
    file.set_len(0).map_err(at)?;
    write!(file, "{}", std::process::id()).map_err(at)?;
    Ok(file)
}

fn holder(path: &PathBuf) -> String {
    match fs::read_to_string(path) {
        Ok(pid) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_learns_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _first = claim(dir.path()).unwrap();
        let refused = claim(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        let refused = claim(dir.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Foreign { .. }));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_newer_format_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER), "coxswain store, format 99\n").unwrap();
        let refused = claim(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("format 99"), "{refused}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(matches!(claim(&path), Err(OpenError::UseDirectory { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), "x");
    }

    #[test]
    fn a_directory_of_ours_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("new");
        drop(claim(&data).unwrap());
        claim(&data).unwrap();
    }
}
