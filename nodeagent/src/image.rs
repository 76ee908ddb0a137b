//! Images on this node: pulled from a registry or loaded from archives, one folder for each layer.
//!
//! `registry` pulls, `archive` reads OCI layouts and docker-save files, `unpack` turns a layer into a folder
//! that overlayfs stacks, `user` reads the image's `/etc/passwd`. The index (`images.json`) is small and
//! written atomically; a layer's folder appears only when it is whole and its digest is right. The reserved
//! image [`NODE_ROOTFS`] has no layers: it is the node's own root filesystem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oci_client::Reference;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::runtime::{Image, RegistryAuth, RuntimeError};

mod archive;
mod registry;
mod unpack;
pub(crate) mod user;

pub(crate) use unpack::make_whiteout;

/// The node's own root filesystem, read-only underneath and private on top.
pub const NODE_ROOTFS: &str = "node.local/rootfs";

/// Why an image could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("invalid image reference {image:?}: {reason}")]
    ParseReference { image: String, reason: String },
    #[error("failed to pull image {image:?}: {answer}")]
    Pull { image: String, answer: String },
    #[error("{path} is no image archive: {reason}")]
    ReadArchive { path: PathBuf, reason: String },
    #[error("layer {layer} cannot be unpacked: {reason}")]
    Unpack { layer: String, reason: String },
    #[error("{what} has digest {found}, not {expected}")]
    CheckDigest { what: String, expected: String, found: String },
    #[error("{doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
}

impl ImageError {
    fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

impl From<ImageError> for RuntimeError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::ParseReference { image, reason } => Self::InvalidImageName { image, reason },
            ImageError::Pull { image, answer } => Self::PullImage { image, answer },
            ImageError::Io { doing, source } => Self::Io { doing, source },
            other => Self::Failed { doing: "taking in an image".into(), message: other.to_string() },
        }
    }
}

/// What an image says about how it wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) user: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) stop_signal: String,
}

fn null_is_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An image of the index.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredImage {
    /// Digest of its configuration.
    pub(crate) id: String,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) digests: BTreeSet<String>,
    pub(crate) size_bytes: u64,
    pub(crate) config: ImageConfig,
    /// Names of the layers' folders, lowest first.
    pub(crate) layers: Vec<String>,
}

impl StoredImage {
    fn summary(&self) -> Image {
        Image {
            id: self.id.clone(),
            tags: self.tags.iter().cloned().collect(),
            digests: self.digests.iter().cloned().collect(),
            size_bytes: self.size_bytes,
            user: self.config.user.clone(),
        }
    }
}

/// The document an image's `id` is the digest of.
#[derive(Debug, Deserialize)]
struct ConfigDocument {
    #[serde(default, deserialize_with = "null_is_default")]
    config: ImageConfig,
    rootfs: RootfsDocument,
}

#[derive(Debug, Deserialize)]
struct RootfsDocument {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, StoredImage>,
    /// Archives of the folder that were read: name to size and time of change.
    archives: BTreeMap<String, (u64, i64)>,
}

/// The images of one node.
pub struct ImageStore {
    root: PathBuf,
    /// Folder whose archives are loaded when an image is looked for.
    archives: PathBuf,
    node_rootfs: bool,
    index: Mutex<Index>,
}

impl ImageStore {
    /// Opens or makes the store in `root`; archives in the folder `archives` count as present images.
    pub fn open(root: &Path, archives: &Path, node_rootfs: bool) -> Result<Self, ImageError> {
        for folder in [root.join("layers"), root.join("tmp")] {
            std::fs::create_dir_all(folder).map_err(ImageError::io("making the image store"))?;
        }
        unpack::clear(&root.join("tmp")).map_err(ImageError::io("clearing half-unpacked layers"))?;
        let index = match std::fs::read(root.join("images.json")) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Index::default(),
            Err(error) => return Err(ImageError::io("reading the image index")(error)),
        };
        let store = Self {
            root: root.to_owned(),
            archives: archives.to_owned(),
            node_rootfs,
            index: Mutex::new(index),
        };
        store.scan();
        Ok(store)
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Loads what was newly put into the archives' folder. A bad archive is a warning, not a failure.
    pub fn scan(&self) {
        let Ok(entries) = std::fs::read_dir(&self.archives) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(stamp) = archive::stamp(&path) else { continue };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if self.index.lock().archives.get(&name) == Some(&stamp) {
                continue;
            }
            match self.load(&path) {
                Ok(images) => tracing::info!(archive = name, ?images, "loaded an image archive"),
                Err(error) => tracing::warn!(archive = name, "{error}"),
            }
            self.index.lock().archives.insert(name, stamp);
        }
    }

    /// Takes in all images of an archive and returns their names. Blocks.
    pub fn load(&self, path: &Path) -> Result<Vec<String>, ImageError> {
        let images = archive::load(path, &self.root)?;
        let names = images.iter().flat_map(|image| image.tags.iter().cloned()).collect();
        for image in images {
            self.add(image)?;
        }
        Ok(names)
    }

    /// Fetches an image; layers that are here already are not fetched again.
    pub(crate) async fn pull(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<Image, ImageError> {
        let reference = parse(image)?;
        if self.is_node_rootfs(&reference) {
            return Ok(node_rootfs().summary());
        }
        match registry::pull(&reference, auth, &self.root).await {
            Ok(stored) => self.add(stored),
            // What an operator put here by hand counts where its registry cannot be asked or does not know it.
            Err(error) => match self.find_by_name(&reference.whole()).filter(|it| it.digests.is_empty()) {
                Some(loaded) => {
                    tracing::warn!(image, "taking the image loaded from an archive: {error}");
                    Ok(loaded.summary())
                }
                None => Err(error),
            },
        }
    }

    /// The image by its id, name or digest.
    pub(crate) fn find(&self, image: &str) -> Result<Option<StoredImage>, ImageError> {
        if let Some(found) = self.index.lock().images.get(image) {
            return Ok(Some(found.clone()));
        }
        if image == NODE_ROOTFS && self.node_rootfs {
            return Ok(Some(node_rootfs()));
        }
        if image.starts_with("sha256:") {
            return Ok(None);
        }
        let reference = parse(image)?;
        if self.is_node_rootfs(&reference) {
            return Ok(Some(node_rootfs()));
        }
        let name = reference.whole();
        if let Some(found) = self.find_by_name(&name) {
            return Ok(Some(found));
        }
        self.scan();
        Ok(self.find_by_name(&name))
    }

    pub(crate) fn status(&self, image: &str) -> Result<Option<Image>, ImageError> {
        Ok(self.find(image)?.map(|found| found.summary()))
    }

    pub(crate) fn list(&self) -> Vec<Image> {
        let index = self.index.lock();
        let own = self.node_rootfs.then(|| node_rootfs().summary());
        index.images.values().map(StoredImage::summary).chain(own).collect()
    }

    /// Forgets an image and removes the layers that no other image has.
    pub(crate) fn remove(&self, image: &str) -> Result<(), ImageError> {
        let Some(found) = self.find(image)? else { return Ok(()) };
        let mut index = self.index.lock();
        index.images.remove(&found.id);
        self.save(&index)?;
        let kept: BTreeSet<_> = index.images.values().flat_map(|image| &image.layers).collect();
        for layer in found.layers.iter().filter(|layer| !kept.contains(layer)) {
            let folder = self.layers_dir().join(layer);
            std::fs::remove_dir_all(folder).map_err(ImageError::io("removing a layer"))?;
        }
        Ok(())
    }

    fn is_node_rootfs(&self, reference: &Reference) -> bool {
        self.node_rootfs && format!("{}/{}", reference.registry(), reference.repository()) == NODE_ROOTFS
    }

    fn find_by_name(&self, name: &str) -> Option<StoredImage> {
        let index = self.index.lock();
        let has = |image: &&StoredImage| image.tags.contains(name) || image.digests.contains(name);
        index.images.values().find(has).cloned()
    }

    fn add(&self, mut image: StoredImage) -> Result<Image, ImageError> {
        let mut index = self.index.lock();
        if let Some(known) = index.images.remove(&image.id) {
            image.tags.extend(known.tags);
            image.digests.extend(known.digests);
        }
        // A name belongs to the image that had it last.
        for other in index.images.values_mut() {
            other.tags.retain(|tag| !image.tags.contains(tag));
        }
        let summary = image.summary();
        index.images.insert(image.id.clone(), image);
        self.save(&index)?;
        Ok(summary)
    }

    fn save(&self, index: &Index) -> Result<(), ImageError> {
        crate::shim::write_json_atomically(&self.root.join("images.json"), index)
            .map_err(ImageError::io("writing the image index"))
    }
}

fn node_rootfs() -> StoredImage {
    StoredImage {
        id: NODE_ROOTFS.to_owned(),
        tags: BTreeSet::from([format!("{NODE_ROOTFS}:latest")]),
        config: ImageConfig {
            cmd: vec!["/bin/sh".to_owned()],
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            ..ImageConfig::default()
        },
        ..StoredImage::default()
    }
}

/// `busybox` is `docker.io/library/busybox:latest`, as everywhere.
fn parse(image: &str) -> Result<Reference, ImageError> {
    image.parse().map_err(|reason: oci_client::ParseError| ImageError::ParseReference {
        image: image.to_owned(),
        reason: reason.to_string(),
    })
}

/// The stored image that a configuration document describes, without names and sizes.
fn describe(config: &[u8]) -> Result<(StoredImage, Vec<String>), serde_json::Error> {
    let document: ConfigDocument = serde_json::from_slice(config)?;
    let diff_ids = document.rootfs.diff_ids;
    let layers = diff_ids.iter().map(|diff_id| unpack::folder_name(diff_id)).collect();
    let image =
        StoredImage { id: unpack::digest(config), config: document.config, layers, ..StoredImage::default() };
    Ok((image, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let whole = |image: &str| parse(image).unwrap().whole();
        assert_eq!(whole("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(whole("localhost/busybox:1"), "localhost/busybox:1");
        assert_eq!(whole("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000/a/b:c");
        assert!(parse("Not A Name").is_err());
    }

    #[test]
    fn the_nodes_own_filesystem_is_an_image_only_where_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let closed = ImageStore::open(folder.path(), &folder.path().join("images"), false).unwrap();
        assert!(closed.find(NODE_ROOTFS).unwrap().is_none());
        let open = ImageStore::open(folder.path(), &folder.path().join("images"), true).unwrap();
        assert_eq!(open.find("node.local/rootfs:latest").unwrap().unwrap().id, NODE_ROOTFS);
    }

    #[test]
    fn a_null_in_a_configuration_is_an_absent_field() {
        let (image, diff_ids) = describe(
            br#"{"config":{"Cmd":["/bin/sh"],"Entrypoint":null},"rootfs":{"diff_ids":["sha256:ab"]}}"#,
        )
        .unwrap();
        assert_eq!(image.config.cmd, ["/bin/sh"]);
        assert_eq!(diff_ids, ["sha256:ab"]);
    }
}
