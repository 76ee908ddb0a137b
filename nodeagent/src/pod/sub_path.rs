//! The part of a volume that a container mounts by `subPath`: made where it is not there yet, and refused where
//! it leads out of the volume, since a pod's containers may put links into their own volumes.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use crate::runtime::Mount;

/// Why a container cannot have a part of a volume. Says nothing about the node's file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubPathError {
    #[error("failed to create subPath directory for volumeMount {mount:?} of container {container:?}")]
    Create { mount: String, container: String },
    #[error("failed to prepare subPath for volumeMount {mount:?} of container {container:?}")]
    Prepare { mount: String, container: String },
}

/// Makes what `mounts`, those of the container's `volumeMounts` in their order, want of parts of volumes, and
/// names the real folder or file of each. `volume_of` is the folder of the volume with that name.
pub(crate) fn prepare<'a>(
    mounts: &mut [Mount],
    spec: &Container,
    volume_of: impl Fn(&str) -> Option<&'a PathBuf>,
) -> Result<(), SubPathError> {
    for (mount, wanted) in mounts.iter_mut().zip(spec.volume_mounts.iter().flatten()) {
        let Some(volume) = volume_of(&wanted.name) else { continue };
        let sub_path = match mount.host_path.strip_prefix(volume) {
            Ok(part) if !part.as_os_str().is_empty() => part.to_owned(),
            _ => continue,
        };
        let (mount_name, container) = (wanted.name.clone(), spec.name.clone());
        if let Err(error) = ensure(volume, &sub_path) {
            tracing::warn!(%error, volume = %volume.display(), "making a part of a volume");
            return Err(SubPathError::Create { mount: mount_name, container });
        }
        mount.host_path =
            real(volume, &sub_path).ok_or(SubPathError::Prepare { mount: mount_name, container })?;
    }
    Ok(())
}

/// Makes the folders of `sub_path` that are not there, with the rights that the volume's own folder has.
fn ensure(volume: &Path, sub_path: &Path) -> std::io::Result<()> {
    let rights = std::fs::metadata(volume)?.permissions().mode() & 0o7777;
    let mut path = volume.canonicalize()?;
    let root = path.clone();
    for part in sub_path.components() {
        let Component::Normal(name) = part else { continue };
        path.push(name);
        match path.canonicalize() {
            Ok(there) if there.starts_with(&root) => path = there,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::create_dir(&path)?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(rights))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where `sub_path` really is, if that is inside of the volume.
fn real(volume: &Path, sub_path: &Path) -> Option<PathBuf> {
    let root = volume.canonicalize().ok()?;
    let path = volume.join(sub_path).canonicalize().ok()?;
    path.starts_with(&root).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Propagation;

    fn prepared(volume: &Path, sub_path: &str) -> Result<PathBuf, SubPathError> {
        let spec: Container = serde_json::from_value(serde_json::json!({"name": "main",
            "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": sub_path}]}))
        .unwrap();
        let mut mounts = [Mount {
            host_path: volume.join(sub_path),
            container_path: "/data".into(),
            read_only: false,
            propagation: Propagation::Private,
        }];
        let volume = volume.to_owned();
        prepare(&mut mounts, &spec, |_| Some(&volume))?;
        Ok(mounts[0].host_path.clone())
    }

    #[test]
    fn a_folder_that_is_not_there_is_made_with_the_volumes_rights() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2775)).unwrap();
        let path = prepared(dir.path(), "a/b").unwrap();
        assert_eq!(path, dir.path().canonicalize().unwrap().join("a/b"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o2775);
    }

    #[test]
    fn a_file_of_the_volume_is_mounted_as_it_is_also_through_a_link_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("..data")).unwrap();
        std::fs::write(dir.path().join("..data/key"), "value").unwrap();
        std::os::unix::fs::symlink("..data/key", dir.path().join("key")).unwrap();
        assert_eq!(std::fs::read_to_string(prepared(dir.path(), "key").unwrap()).unwrap(), "value");
    }

    #[test]
    fn a_link_that_leads_out_of_the_volume_is_refused_and_nothing_is_made_there() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        let error = prepared(dir.path(), "out/new").unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to prepare subPath for volumeMount \"data\" of container \"main\""
        );
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn a_folder_below_a_file_cannot_be_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = prepared(dir.path(), "file/below").unwrap_err();
        assert!(error.to_string().starts_with("failed to create subPath directory"), "{error}");
    }
}
