//! A path of the node itself, after the check that its `type` asks for.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Volume;

use super::{Context, VolumeError, VolumeType};

pub(super) struct HostPath;

impl VolumeType for HostPath {
    const NAME: &'static str = "hostPath";
    const CHANGES: bool = false;

    fn claims(volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    fn mount<'a>(
        context: &'a Context<'a>,
        volume: &'a Volume,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let source = volume.host_path.clone().unwrap_or_default();
            let path = PathBuf::from(&source.path);
            let wanted = source.type_.unwrap_or_default();
            if !context.disk {
                return Ok(path);
            }
            make(&path, &wanted).map_err(|source| VolumeError::Write {
                volume: volume.name.clone(),
                doing: "making its path",
                source,
            })?;
            if is(&path, &wanted) {
                return Ok(path);
            }
            Err(VolumeError::HostPath { volume: volume.name.clone(), path: source.path, wanted })
        })
    }
}

fn make(path: &Path, wanted: &str) -> std::io::Result<()> {
    match wanted {
        // Without a type nothing is checked; a missing path becomes a folder, as container runtimes do.
        "DirectoryOrCreate" => std::fs::create_dir_all(path),
        "" if !path.exists() => std::fs::create_dir_all(path),
        "FileOrCreate" if !path.exists() => std::fs::write(path, b""),
        _ => Ok(()),
    }
}

fn is(path: &Path, wanted: &str) -> bool {
    let Ok(found) = std::fs::metadata(path) else { return false };
    match wanted {
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.file_type().is_socket(),
        "CharDevice" => found.file_type().is_char_device(),
        "BlockDevice" => found.file_type().is_block_device(),
        _ => true,
    }
}
