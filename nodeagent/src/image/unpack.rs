//! A layer's archive becomes a folder that overlayfs can stack.
//!
//! Removals are written as overlayfs reads them: `.wh.x` is a character device 0:0 named `x`, and
//! `.wh..wh..opq` is `trusted.overlay.opaque=y` on its folder. An entry that would land outside of the
//! folder, by its own name or through a link, fails the whole layer.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::ImageError;

/// Most links that the folders of one name may lead through.
const LINKS_MAX: usize = 40;

/// `sha256:` and the digest of `bytes`.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Half a digest: unique, and short enough for a mount option to name a hundred layers.
pub(super) fn folder_name(diff_id: &str) -> String {
    let safe = diff_id.rsplit(':').next().unwrap_or_default().chars().filter(char::is_ascii_hexdigit);
    safe.take(32).collect()
}

pub(super) fn is_present(root: &Path, diff_id: &str) -> bool {
    root.join("layers").join(folder_name(diff_id)).is_dir()
}

/// A path that nothing else uses.
pub(super) fn temporary(root: &Path, kind: &str) -> PathBuf {
    root.join("tmp").join(format!("{kind}-{}", uuid::Uuid::new_v4()))
}

/// Empties a folder.
pub(super) fn clear(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes the layer `diff_id` of the file `blob`, which may be compressed. Blocks.
pub(super) fn unpack_file(blob: &Path, diff_id: &str, root: &Path) -> Result<(), ImageError> {
    if is_present(root, diff_id) {
        return Ok(());
    }
    let file = File::open(blob).map_err(ImageError::io("opening a layer"))?;
    let plain = decompress(file).map_err(ImageError::io("opening a layer"))?;
    let folder = temporary(root, "layer");
    let unpacked = unpack_stream(plain, diff_id, &folder);
    if let Err(error) = unpacked {
        drop(std::fs::remove_dir_all(&folder));
        return Err(error);
    }
    match std::fs::rename(&folder, root.join("layers").join(folder_name(diff_id))) {
        // Somebody else unpacked the same layer meanwhile.
        Err(_) if is_present(root, diff_id) => {
            std::fs::remove_dir_all(&folder).map_err(ImageError::io("removing a second copy"))
        }
        done => done.map_err(ImageError::io("keeping a layer")),
    }
}

/// Reads gzip, zstd or plain bytes, told apart by how they begin.
pub(super) fn decompress(mut file: File) -> std::io::Result<Box<dyn Read>> {
    use std::io::Seek;
    let mut start = Vec::new();
    (&mut file).take(4).read_to_end(&mut start)?;
    file.rewind()?;
    let buffered = BufReader::with_capacity(128 * 1024, file);
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(buffered)?),
        _ => Box::new(buffered),
    })
}

fn unpack_stream(plain: impl Read, diff_id: &str, folder: &Path) -> Result<(), ImageError> {
    let failed = |reason: String| ImageError::Unpack { layer: diff_id.to_owned(), reason };
    let mut hashing = Hashing { inner: plain, hash: Sha256::new() };
    std::fs::create_dir_all(folder).map_err(ImageError::io("making a layer's folder"))?;
    let mut archive = tar::Archive::new(&mut hashing);
    let mut folder_times = Vec::new();
    for entry in archive.entries().map_err(|error| failed(error.to_string()))? {
        let mut entry = entry.map_err(|error| failed(error.to_string()))?;
        let name = entry.path().map_err(|error| failed(error.to_string()))?.into_owned();
        unpack_entry(&mut entry, &name, folder, &mut folder_times)
            .map_err(|error| failed(format!("{}: {error}", name.display())))?;
    }
    // Last, because each entry changes the time of its folder.
    for (path, time) in folder_times.into_iter().rev() {
        set_time(&path, time).map_err(|error| failed(error.to_string()))?;
    }
    std::io::copy(&mut hashing, &mut std::io::sink()).map_err(|error| failed(error.to_string()))?;
    let found = hex(&hashing.hash.finalize());
    if found == diff_id {
        return Ok(());
    }
    Err(ImageError::CheckDigest { what: "a layer".into(), expected: diff_id.to_owned(), found })
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

fn unpack_entry<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    name: &Path,
    root: &Path,
    folder_times: &mut Vec<(PathBuf, u64)>,
) -> std::io::Result<()> {
    if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
        return Ok(());
    }
    let Some((parent, file_name)) = place(root, name)? else {
        // The root itself: its owner and mode count, too.
        return set_metadata(entry, root, folder_times);
    };
    std::fs::create_dir_all(&parent)?;
    let file_text = file_name.to_string_lossy().into_owned();
    if file_text == ".wh..wh..opq" {
        return xattr::set(&parent, "trusted.overlay.opaque", b"y");
    }
    let path = parent.join(&file_name);
    if let Some(removed) = file_text.strip_prefix(".wh.") {
        return match removed {
            "" | "." | ".." => Err(escapes("a removal names no file")),
            removed => make_whiteout(&parent.join(removed)),
        };
    }
    write_entry(entry, &path, root)?;
    set_metadata(entry, &path, folder_times)
}

fn write_entry<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path, root: &Path) -> std::io::Result<()> {
    let kind = entry.header().entry_type();
    let is_folder = std::fs::symlink_metadata(path).is_ok_and(|there| there.is_dir());
    match (kind, is_folder) {
        (EntryType::Directory, true) => return Ok(()),
        (_, true) => std::fs::remove_dir_all(path)?,
        (_, false) => remove_if_there(path)?,
    }
    match kind {
        EntryType::Directory => std::fs::create_dir(path),
        EntryType::Symlink => symlink(link_target(entry)?, path),
        EntryType::Link => {
            let target = link_target(entry)?;
            let (parent, name) = place(root, &target)?.ok_or_else(|| escapes("a link to the root"))?;
            std::fs::hard_link(parent.join(name), path)
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => make_node(entry, path, kind),
        _ => {
            let mut file = File::create_new(path)?;
            std::io::copy(entry, &mut file).map(drop)
        }
    }
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> std::io::Result<PathBuf> {
    let target = entry.link_name()?.ok_or_else(|| std::io::Error::other("a link without a target"))?;
    Ok(target.into_owned())
}

fn make_node<R: Read>(entry: &tar::Entry<'_, R>, path: &Path, kind: EntryType) -> std::io::Result<()> {
    let header = entry.header();
    let device =
        makedev(header.device_major()?.unwrap_or(0).into(), header.device_minor()?.unwrap_or(0).into());
    let flag = match kind {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    Ok(mknod(path, flag, Mode::from_bits_truncate(0o600), device)?)
}

/// Says that the file below is gone, as overlayfs reads it.
pub(crate) fn make_whiteout(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => std::fs::remove_dir_all(path)?,
        _ => remove_if_there(path)?,
    }
    Ok(mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?)
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn set_metadata<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    path: &Path,
    folder_times: &mut Vec<(PathBuf, u64)>,
) -> std::io::Result<()> {
    let kind = entry.header().entry_type();
    if kind == EntryType::Link {
        return Ok(());
    }
    // Fields that some writers leave empty are zero, as everywhere.
    let (uid, gid) = (entry.header().uid().unwrap_or(0), entry.header().gid().unwrap_or(0));
    let (uid, gid) = (u32::try_from(uid).unwrap_or(0), u32::try_from(gid).unwrap_or(0));
    if kind == EntryType::Symlink {
        return lchown(path, Some(uid), Some(gid));
    }
    chown(path, Some(uid), Some(gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(entry.header().mode()? & 0o7777))?;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let Ok(key) = extension.key() else { continue };
        // The overlay's own attributes are ours to set, never an image's.
        let wanted = key.strip_prefix("SCHILY.xattr.").filter(|name| !name.starts_with("trusted."));
        if let Some(name) = wanted {
            xattr::set(path, name, extension.value_bytes())?;
        }
    }
    let time = entry.header().mtime().unwrap_or(0);
    match kind {
        EntryType::Directory => folder_times.push((path.to_owned(), time)),
        _ => set_time(path, time)?,
    }
    Ok(())
}

fn set_time(path: &Path, seconds: u64) -> std::io::Result<()> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let time = TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0);
    let done = utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink);
    match done {
        // A folder that a later entry replaced or removed.
        Err(nix::errno::Errno::ENOENT) => Ok(()),
        done => Ok(done?),
    }
}

fn escapes(how: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{how}; the layer is refused"))
}

/// The folder under `root` and the last part of `name`, links among the folders followed inside `root`.
/// `None` is the root itself; a name that leaves the root is an error.
fn place(root: &Path, name: &Path) -> std::io::Result<Option<(PathBuf, std::ffi::OsString)>> {
    let mut parts: Vec<std::ffi::OsString> = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(escapes("the name leaves the root")),
        }
    }
    let Some(last) = parts.pop() else { return Ok(None) };
    let mut here: Vec<std::ffi::OsString> = Vec::new();
    let mut waiting: Vec<std::ffi::OsString> = parts.into_iter().rev().collect();
    let mut links = 0;
    while let Some(part) = waiting.pop() {
        let path = here.iter().fold(root.to_owned(), |path, part| path.join(part)).join(&part);
        let Ok(target) = std::fs::read_link(&path) else {
            here.push(part);
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(escapes("its folders are links in a circle"));
        }
        if target.is_absolute() {
            here.clear();
        }
        let mut inner = Vec::new();
        for component in target.components() {
            match component {
                Component::Normal(part) => inner.push(part.to_owned()),
                Component::ParentDir if inner.pop().is_some() => {}
                Component::ParentDir if here.pop().is_some() => {}
                Component::ParentDir => return Err(escapes("it lies behind a link that leaves the root")),
                _ => {}
            }
        }
        waiting.extend(inner.into_iter().rev());
    }
    Ok(Some((here.iter().fold(root.to_owned(), |path, part| path.join(part)), last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    struct Layer(tar::Builder<Vec<u8>>);

    impl Layer {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn add(mut self, kind: EntryType, name: &str, content: &str) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            let own = nix::unistd::geteuid().as_raw();
            header.set_uid(own.into());
            header.set_gid(nix::unistd::getegid().as_raw().into());
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            let data = match kind {
                EntryType::Regular => content.as_bytes(),
                _ => &[],
            };
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            self.0.append(&header, data).unwrap();
            self
        }

        fn unpack(self) -> (tempfile::TempDir, Result<PathBuf, ImageError>) {
            let bytes = self.0.into_inner().unwrap();
            let folder = tempfile::tempdir().unwrap();
            for name in ["layers", "tmp"] {
                std::fs::create_dir(folder.path().join(name)).unwrap();
            }
            let blob = folder.path().join("blob");
            std::fs::write(&blob, &bytes).unwrap();
            let diff_id = digest(&bytes);
            let done = unpack_file(&blob, &diff_id, folder.path())
                .map(|()| folder.path().join("layers").join(folder_name(&diff_id)));
            (folder, done)
        }
    }

    #[test]
    fn files_folders_and_links_arrive() {
        let layer = Layer::new()
            .add(EntryType::Directory, "bin/", "")
            .add(EntryType::Regular, "bin/sh", "shell")
            .add(EntryType::Link, "bin/ash", "bin/sh")
            .add(EntryType::Symlink, "sbin", "bin")
            .add(EntryType::Regular, "sbin/init", "through a link inside");
        let (_folder, done) = layer.unpack();
        let root = done.unwrap();
        assert_eq!(std::fs::read_to_string(root.join("bin/ash")).unwrap(), "shell");
        assert_eq!(std::fs::metadata(root.join("bin/sh")).unwrap().nlink(), 2);
        assert_eq!(std::fs::read_to_string(root.join("bin/init")).unwrap(), "through a link inside");
    }

    #[test]
    fn names_and_links_that_leave_the_root_are_refused() {
        let cases = [
            Layer::new().add(EntryType::Regular, "../evil", "x"),
            Layer::new().add(EntryType::Regular, "a/../../evil", "x"),
            Layer::new().add(EntryType::Symlink, "out", "../../..").add(EntryType::Regular, "out/evil", "x"),
            Layer::new().add(EntryType::Link, "evil", "../../../etc/passwd"),
            Layer::new().add(EntryType::Symlink, "a", "b").add(EntryType::Symlink, "b", "a").add(
                EntryType::Regular,
                "a/evil",
                "x",
            ),
        ];
        for (number, layer) in cases.into_iter().enumerate() {
            let (folder, done) = layer.unpack();
            let error = done.expect_err(&format!("case {number}"));
            assert!(error.to_string().contains("the layer is refused"), "case {number}: {error}");
            assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0, "case {number}");
        }
    }

    #[test]
    fn an_absolute_link_is_meant_inside_the_image() {
        let layer =
            Layer::new().add(EntryType::Symlink, "out", "/etc").add(EntryType::Regular, "out/mine", "x");
        let (_folder, done) = layer.unpack();
        assert!(done.unwrap().join("etc/mine").is_file());
        assert!(!Path::new("/etc/mine").exists());
    }

    #[test]
    fn removals_become_what_overlayfs_reads() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: making device nodes needs root");
            return;
        }
        let layer = Layer::new().add(EntryType::Regular, "etc/.wh.motd", "").add(
            EntryType::Regular,
            "var/.wh..wh..opq",
            "",
        );
        let (_folder, done) = layer.unpack();
        let root = done.unwrap();
        let motd = std::fs::symlink_metadata(root.join("etc/motd")).unwrap();
        assert!(motd.file_type().is_char_device() && motd.rdev() == 0);
        assert_eq!(xattr::get(root.join("var"), "trusted.overlay.opaque").unwrap().unwrap(), b"y");
    }

    #[test]
    fn a_wrong_digest_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["layers", "tmp"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let blob = folder.path().join("blob");
        std::fs::write(&blob, tar::Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
        let error = unpack_file(&blob, "sha256:0000", folder.path()).unwrap_err();
        assert!(matches!(error, ImageError::CheckDigest { .. }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path().join("layers")).unwrap().count(), 0);
    }
}
