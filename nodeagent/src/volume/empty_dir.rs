//! A folder that lives as long as the pod; with medium `Memory` a tmpfs.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Volume};

use super::{Context, VolumeError, VolumeType};
use crate::pod::qos::value;

pub(super) struct EmptyDir;

impl VolumeType for EmptyDir {
    const NAME: &'static str = "emptyDir";
    const CHANGES: bool = false;

    fn claims(volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    fn mount<'a>(
        context: &'a Context<'a>,
        volume: &'a Volume,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let dir = context.dir(Self::NAME, &volume.name);
            let source = volume.empty_dir.clone().unwrap_or_default();
            if context.disk {
                make(&dir, &source, context.fs_group()).map_err(|source| VolumeError::Write {
                    volume: volume.name.clone(),
                    doing: "making its folder",
                    source,
                })?;
            }
            Ok(dir)
        })
    }
}

fn make(dir: &Path, source: &EmptyDirVolumeSource, group: Option<i64>) -> std::io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    if source.medium.as_deref() == Some("Memory") {
        let size = source.size_limit.as_ref().map(|limit| format!("size={}", value(limit) as u64));
        let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV;
        nix::mount::mount(Some("tmpfs"), dir, Some("tmpfs"), flags, size.as_deref())?;
    }
    let group = group.and_then(|it| u32::try_from(it).ok());
    chown(dir, None, group)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    std::fs::set_permissions(dir, PermissionsExt::from_mode(mode))
}
