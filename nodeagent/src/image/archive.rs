//! Reads image archives: docker-save files (`manifest.json`) and OCI layouts (`index.json`), also compressed.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{ImageError, StoredImage, describe, parse, unpack};

/// Of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciIndex {
    manifests: Vec<OciDescriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciDescriptor {
    digest: String,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    platform: Option<OciPlatform>,
}

#[derive(Debug, Deserialize)]
struct OciPlatform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct OciManifest {
    config: OciDescriptor,
    layers: Vec<OciDescriptor>,
}

/// Size and time of change of an archive; `None` for what is none.
pub(super) fn stamp(path: &Path) -> Option<(u64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let name = path.file_name()?.to_str()?;
    let is_archive = [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| name.ends_with(end));
    let metadata = std::fs::metadata(path).ok().filter(|there| is_archive && there.is_file())?;
    Some((metadata.len(), metadata.mtime_nsec().wrapping_add(metadata.mtime() * 1_000_000_000)))
}

/// Unpacks the images of an archive into the store at `root`.
pub(super) fn load(path: &Path, root: &Path) -> Result<Vec<StoredImage>, ImageError> {
    let folder = unpack::temporary(root, "archive");
    std::fs::create_dir_all(&folder).map_err(ImageError::io("making a folder for the archive"))?;
    let archive = Archive { path: path.to_owned(), folder };
    let images = archive.extract().and_then(|()| archive.images(root));
    drop(std::fs::remove_dir_all(&archive.folder));
    images
}

struct Archive {
    path: PathBuf,
    folder: PathBuf,
}

impl Archive {
    fn unreadable(&self, reason: impl std::fmt::Display) -> ImageError {
        ImageError::ReadArchive { path: self.path.clone(), reason: reason.to_string() }
    }

    fn extract(&self) -> Result<(), ImageError> {
        let file = File::open(&self.path).map_err(|error| self.unreadable(error))?;
        let plain = unpack::decompress(file).map_err(|error| self.unreadable(error))?;
        let mut archive = tar::Archive::new(plain);
        for entry in archive.entries().map_err(|error| self.unreadable(error))? {
            let mut entry = entry.map_err(|error| self.unreadable(error))?;
            let name = entry.path().map_err(|error| self.unreadable(error))?.into_owned();
            if entry.header().entry_type().is_file() {
                let to = self.inside(&name)?;
                let made = to.parent().map_or(Ok(()), std::fs::create_dir_all);
                made.and_then(|()| std::io::copy(&mut entry, &mut File::create(&to)?))
                    .map_err(|error| self.unreadable(error))?;
            } else if entry.header().entry_type().is_symlink() {
                // Old docker versions link equal layers.
                self.copy_link(&name, &entry)?;
            }
        }
        Ok(())
    }

    fn copy_link<R: std::io::Read>(&self, name: &Path, entry: &tar::Entry<'_, R>) -> Result<(), ImageError> {
        let target = entry.link_name().map_err(|error| self.unreadable(error))?.unwrap_or_default();
        let mut at: Vec<_> = name.parent().into_iter().flat_map(Path::components).collect();
        for part in target.components() {
            match part {
                Component::ParentDir => drop(at.pop()),
                part => at.push(part),
            }
        }
        let from = self.inside(&at.iter().collect::<PathBuf>())?;
        let to = self.inside(name)?;
        let made = to.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::hard_link(from, to)).map_err(|error| self.unreadable(error))
    }

    fn images(&self, root: &Path) -> Result<Vec<StoredImage>, ImageError> {
        if let Some(images) = self.read::<Vec<DockerImage>>("manifest.json")? {
            return images.iter().map(|image| self.docker_image(image, root)).collect();
        }
        let Some(index) = self.read::<OciIndex>("index.json")? else {
            return Err(self.unreadable("it has neither manifest.json nor index.json"));
        };
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            images.push(self.oci_image(descriptor, &descriptor.annotations, root)?);
        }
        Ok(images)
    }

    fn docker_image(&self, image: &DockerImage, root: &Path) -> Result<StoredImage, ImageError> {
        let tags = image.repo_tags.clone().unwrap_or_default();
        let layers: Vec<_> = image.layers.iter().map(PathBuf::from).collect();
        self.image(Path::new(&image.config), &layers, &tags, root)
    }

    fn oci_image(
        &self,
        descriptor: &OciDescriptor,
        annotations: &std::collections::BTreeMap<String, String>,
        root: &Path,
    ) -> Result<StoredImage, ImageError> {
        let blob = self.checked_blob(&descriptor.digest)?;
        if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
            let index: OciIndex = serde_json::from_slice(&blob).map_err(|error| self.unreadable(error))?;
            let own = index.manifests.iter().find(|manifest| is_own_platform(manifest));
            let own = own.ok_or_else(|| self.unreadable("it has no image for this platform"))?;
            return self.oci_image(own, annotations, root);
        }
        let manifest: OciManifest = serde_json::from_slice(&blob).map_err(|error| self.unreadable(error))?;
        self.checked_blob(&manifest.config.digest)?;
        let layers: Vec<_> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        // The second may be a bare tag, which is no name.
        let name =
            names.iter().find_map(|name| annotations.get(*name).filter(|name| name.contains(['/', ':'])));
        let tags: Vec<_> = name.cloned().into_iter().collect();
        self.image(&blob_path(&manifest.config.digest), &layers, &tags, root)
    }

    fn image(
        &self,
        config: &Path,
        layers: &[PathBuf],
        tags: &[String],
        root: &Path,
    ) -> Result<StoredImage, ImageError> {
        let config = std::fs::read(self.inside(config)?).map_err(|error| self.unreadable(error))?;
        let (mut image, diff_ids) = describe(&config).map_err(|error| self.unreadable(error))?;
        if diff_ids.len() != layers.len() {
            return Err(self.unreadable("manifest and configuration name different numbers of layers"));
        }
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            let blob = self.inside(layer)?;
            image.size_bytes += std::fs::metadata(&blob).map_err(|error| self.unreadable(error))?.len();
            unpack::unpack_file(&blob, diff_id, root)?;
        }
        for tag in tags {
            image.tags.insert(parse(tag)?.whole());
        }
        Ok(image)
    }

    fn checked_blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let blob = std::fs::read(self.inside(&blob_path(digest))?)
            .map_err(|error| self.unreadable(format!("{digest}: {error}")))?;
        let found = unpack::digest(&blob);
        if found == digest {
            return Ok(blob);
        }
        Err(ImageError::CheckDigest { what: "a blob".into(), expected: digest.to_owned(), found })
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ImageError> {
        match std::fs::read(self.folder.join(name)) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| self.unreadable(format!("{name}: {error}"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn inside(&self, name: &Path) -> Result<PathBuf, ImageError> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if name.components().all(plain) {
            return Ok(self.folder.join(name));
        }
        Err(self.unreadable(format!("the name {} leaves it", name.display())))
    }
}

fn blob_path(digest: &str) -> PathBuf {
    let (algorithm, hash) = digest.split_once(':').unwrap_or(("sha256", digest));
    Path::new("blobs").join(algorithm).join(hash)
}

fn is_own_platform(descriptor: &OciDescriptor) -> bool {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    descriptor.platform.as_ref().is_none_or(|there| there.os == "linux" && there.architecture == own)
}
