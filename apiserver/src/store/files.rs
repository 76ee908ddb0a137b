//! The files of the disk store, behind a trait, so that a test can cut the power.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

#[cfg(test)]
pub(super) mod simulated;

/// A file that is written at its end.
pub(super) trait File: Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Everything written is on the disk when this returns.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `length`; later writes go on from there.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// Files and directories. What was created, renamed or removed is certain only after `sync_dir` of its
/// directory, what was written only after `sync` of its file.
pub(super) trait Files: Send + Sync {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a file that is there, to go on at its end.
    fn append(&self, path: &Path) -> io::Result<Box<dyn File>>;
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The names in `dir`; makes it if it is not there.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes certain all that somebody else wrote into real files below `dir`.
    fn sync_tree(&self, dir: &Path) -> io::Result<()>;
}

/// Replaces the file at `path` by `bytes`, so that after a crash it is the old one or the new one.
pub(super) fn replace(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = files.create(&new)?;
    file.write(bytes)?;
    file.sync()?;
    files.rename(&new, path)?;
    files.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The machine's own files.
pub(super) struct Machine;

impl File for fs::File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

impl Files for Machine {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        // Append, so that writes after `truncate` go to the new end.
        let mut options = fs::OpenOptions::new();
        let file = options.append(true).create(true).open(path)?;
        file.set_len(0)?;
        Ok(Box::new(file))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::OpenOptions::new().append(true).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::create_dir_all(dir)?;
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn sync_tree(&self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.sync_tree(&entry.path())?;
            } else {
                fs::File::open(entry.path())?.sync_all()?;
            }
        }
        self.sync_dir(dir)
    }
}
