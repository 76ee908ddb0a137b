//! Files on a disk whose power can be cut: what was not synced is then lost, torn or there, as a seed says.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{File, Files};

type Inode = usize;
type Tree = Vec<(PathBuf, Vec<u8>)>;

#[derive(Clone, Default)]
pub(crate) struct Simulated {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    is_off: bool,
    contents: Vec<Content>,
    names: HashMap<PathBuf, Inode>,
    durable_names: HashMap<PathBuf, Inode>,
    /// Real files of somebody else as they were when last synced.
    trees: HashMap<PathBuf, Tree>,
}

#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
}

impl Simulated {
    /// From now on nothing reaches the disk.
    pub(crate) fn cut(&self) {
        self.disk.lock().is_off = true;
    }

    /// The disk as it may be found after the cut. Nobody uses the old one any more.
    pub(crate) fn reborn(&self, rng: &mut StdRng) -> Self {
        let old = self.disk.lock();
        let mut disk = Disk { durable_names: old.durable_names.clone(), ..Disk::default() };
        // Whether an unsynced creation, removal or renaming happened is open, for each by itself.
        let paths: HashSet<_> = old.names.keys().chain(old.durable_names.keys()).cloned().collect();
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.sort();
        for path in paths {
            let now = old.names.get(&path);
            if now != old.durable_names.get(&path) && rng.random_bool(0.5) {
                match now {
                    Some(inode) => disk.durable_names.insert(path, *inode),
                    None => disk.durable_names.remove(&path),
                };
            }
        }
        disk.names = disk.durable_names.clone();
        disk.contents = old.contents.iter().map(|content| content.after_cut(rng)).collect();
        for (dir, tree) in &old.trees {
            disk.trees.insert(dir.clone(), spoil(dir, tree, rng));
        }
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    fn on<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.is_off { Err(io::Error::other("the power is off")) } else { act(&mut disk) }
    }
}

impl Content {
    fn after_cut(&self, rng: &mut StdRng) -> Self {
        let mut found = self.durable.clone();
        if self.now.starts_with(&self.durable) && rng.random_bool(0.7) {
            let tail = &self.now[self.durable.len()..];
            let kept = rng.random_range(0..=tail.len());
            found.extend_from_slice(&tail[..kept]);
            // A file may have grown without its data having arrived.
            if kept > 0 && rng.random_bool(0.4) {
                let hole = self.durable.len() + rng.random_range(0..kept);
                let end = (hole + 512).min(found.len());
                found[hole..end].fill(0);
            }
        }
        Self { durable: found.clone(), now: found }
    }
}

/// Leaves a real directory as a cut may leave it: as last synced, as it is, damaged, or gone.
fn spoil(dir: &Path, synced: &Tree, rng: &mut StdRng) -> Tree {
    match rng.random_range(0..5) {
        0 => {}
        1 => fs::remove_dir_all(dir).unwrap_or_default(),
        fate => {
            fs::remove_dir_all(dir).unwrap_or_default();
            for (path, bytes) in synced {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            if fate > 2 {
                damage(synced, rng);
            }
        }
    }
    synced.clone()
}

fn damage(tree: &Tree, rng: &mut StdRng) {
    let Some((path, bytes)) = tree.iter().max_by_key(|(_, bytes)| bytes.len()) else { return };
    let mut bytes = bytes.clone();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0).max(1);
    let at = rng.random_range(0..used);
    if rng.random_bool(0.5) {
        bytes.truncate(at);
    } else {
        let end = (at + 256).min(bytes.len());
        bytes[at..end].iter_mut().for_each(|byte| *byte = rng.random());
    }
    fs::write(path, bytes).unwrap();
}

fn copy_tree(dir: &Path, tree: &mut Tree) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { copy_tree(&path, tree)? } else { tree.push((path.clone(), fs::read(path)?)) }
    }
    Ok(())
}

struct Open {
    files: Simulated,
    inode: Inode,
}

impl File for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.files.on(|disk| {
            disk.contents[self.inode].now.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.files.on(|disk| {
            let content = &mut disk.contents[self.inode];
            if content.now.starts_with(&content.durable) {
                let synced = content.durable.len();
                content.durable.extend_from_slice(&content.now[synced..]);
            } else {
                content.durable = content.now.clone();
            }
            Ok(())
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.files.on(|disk| {
            disk.contents[self.inode].now.truncate(length as usize);
            Ok(())
        })
    }
}

impl Files for Simulated {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let inode = self.on(|disk| {
            disk.contents.push(Content::default());
            disk.names.insert(path.to_owned(), disk.contents.len() - 1);
            Ok(disk.contents.len() - 1)
        })?;
        Ok(Box::new(Open { files: self.clone(), inode }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let inode = self.on(|disk| disk.names.get(path).copied().ok_or(io::ErrorKind::NotFound.into()))?;
        Ok(Box::new(Open { files: self.clone(), inode }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.on(|disk| {
            let inode = disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(disk.contents[*inode].now.clone())
        })
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.on(|disk| {
            let names = disk.names.keys().filter(|path| path.parent() == Some(dir));
            Ok(names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.on(|disk| {
            let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            disk.names.insert(to.to_owned(), inode);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.on(|disk| disk.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.on(|disk| {
            let is_in = |path: &PathBuf| path.parent() == Some(dir);
            disk.durable_names.retain(|path, _| !is_in(path));
            let now: Vec<_> =
                disk.names.iter().filter(|(path, _)| is_in(path)).map(|(p, i)| (p.clone(), *i)).collect();
            disk.durable_names.extend(now);
            Ok(())
        })
    }

    fn sync_tree(&self, dir: &Path) -> io::Result<()> {
        self.on(|disk| {
            let mut tree = Tree::new();
            copy_tree(dir, &mut tree)?;
            disk.trees.insert(dir.to_owned(), tree);
            Ok(())
        })
    }
}
