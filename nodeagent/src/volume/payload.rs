//! Files whose content comes from the API, switched to a new content in one step.
//!
//! As in Kubernetes: the files are in a folder of their own, the link `..data` points to it, and the names
//! that users see are links through `..data`. A reader sees all old or all new files.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::KeyToPath;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::{Context, VolumeError};

/// One file below the volume's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).and_then(|it| u32::try_from(it).ok()).unwrap_or(0o644)
}

/// Which entries of which object, for `configMap` and `secret` alone and in `projected`.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) items: Option<&'a Vec<KeyToPath>>,
    pub(super) mode: Option<i32>,
    pub(super) optional: bool,
}

/// Reads the wanted object of `kind` and makes files of its `entries`; an optional one that is not there has none.
pub(super) async fn fetch<K>(
    context: &Context<'_>,
    volume: &str,
    kind: &'static str,
    wanted: Wanted<'_>,
    entries: impl FnOnce(K) -> BTreeMap<String, Vec<u8>>,
) -> Result<Vec<File>, VolumeError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), context.namespace());
    let found = api
        .get_opt(wanted.name)
        .await
        .map_err(|source| VolumeError::Api { volume: volume.to_owned(), source: Box::new(source) })?;
    let missing = |key: &str| {
        let error = VolumeError::MissingKey { volume: volume.to_owned(), kind, key: key.to_owned() };
        (!wanted.optional).then_some(error)
    };
    match found {
        Some(object) => select(entries(object), wanted.items, wanted.mode, missing),
        None if wanted.optional => Ok(Vec::new()),
        None => {
            let (namespace, name) = (context.namespace().to_owned(), wanted.name.to_owned());
            Err(VolumeError::Missing { volume: volume.to_owned(), kind, namespace, name })
        }
    }
}

/// Chooses keys by `items`; without items every key is a file.
fn select(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: Option<i32>,
    missing: impl Fn(&str) -> Option<VolumeError>,
) -> Result<Vec<File>, VolumeError> {
    let Some(items) = items.filter(|it| !it.is_empty()) else {
        let all = data.into_iter();
        return Ok(all.map(|(path, bytes)| File { path, mode: mode(None, default_mode), bytes }).collect());
    };
    let mut files = Vec::new();
    for item in items {
        match (data.get(&item.key), missing(&item.key)) {
            (Some(bytes), _) => files.push(File {
                path: item.path.clone(),
                mode: mode(item.mode, default_mode),
                bytes: bytes.clone(),
            }),
            (None, Some(error)) => return Err(error),
            (None, None) => {}
        }
    }
    Ok(files)
}

/// Makes `files` the content of the volume and returns its folder.
pub(super) fn provide(
    context: &Context<'_>,
    type_name: &str,
    volume: &str,
    files: &[File],
) -> Result<PathBuf, VolumeError> {
    let dir = context.dir(type_name, volume);
    for file in files {
        if !is_inside(&file.path) {
            return Err(VolumeError::Path { volume: volume.to_owned(), path: file.path.clone() });
        }
    }
    if context.disk {
        let stamp = context.clock.now().format("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
        let write =
            |source| VolumeError::Write { volume: volume.to_owned(), doing: "writing its files", source };
        write_all(&dir, files, &stamp, context.fs_group()).map_err(write)?;
    }
    Ok(dir)
}

fn is_inside(path: &str) -> bool {
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    !parts.is_empty()
        && !path.starts_with("..")
        && parts.iter().all(|part| matches!(part, Component::Normal(_)))
}

fn write_all(dir: &Path, files: &[File], stamp: &str, group: Option<i64>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let data = dir.join("..data");
    let old = std::fs::read_link(&data).ok();
    if old.as_ref().is_some_and(|old| is_current(&dir.join(old), files)) {
        return Ok(());
    }
    let fresh = dir.join(stamp);
    for file in files {
        write_file(&fresh, file, group)?;
    }
    std::fs::create_dir_all(&fresh)?;
    let next = dir.join("..data_tmp");
    remove_if_there(&next)?;
    symlink(stamp, &next)?;
    std::fs::rename(&next, &data)?;
    link_names(dir, files)?;
    match old {
        Some(old) => std::fs::remove_dir_all(dir.join(old)),
        None => Ok(()),
    }
}

fn write_file(root: &Path, file: &File, group: Option<i64>) -> std::io::Result<()> {
    let path = root.join(&file.path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&path, &file.bytes)?;
    let group = group.and_then(|it| u32::try_from(it).ok());
    let mode = if group.is_some() { file.mode | 0o040 } else { file.mode };
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
    match group {
        Some(group) => chown(&path, None, Some(group)),
        None => Ok(()),
    }
}

fn is_current(dir: &Path, files: &[File]) -> bool {
    count(dir) == files.len()
        && files.iter().all(|it| std::fs::read(dir.join(&it.path)).is_ok_and(|bytes| bytes == it.bytes))
}

fn count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|it| if it.path().is_dir() { count(&it.path()) } else { 1 }).sum()
}

/// Links the first part of each path through `..data`, and removes links that lead nowhere now.
fn link_names(dir: &Path, files: &[File]) -> std::io::Result<()> {
    let names: BTreeSet<&str> = files.iter().filter_map(|it| it.path.split('/').next()).collect();
    for name in &names {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !names.contains(name.as_str()) {
            remove_if_there(&dir.join(name))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), mode: 0o644, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn an_update_switches_all_files_and_forgets_the_old() {
        let root = std::env::temp_dir().join(format!("payload-{}", uuid::Uuid::new_v4()));
        write_all(&root, &[file("a", "1"), file("sub/b", "2")], "..one", None).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("sub/b")).unwrap(), "2");
        write_all(&root, &[file("a", "3")], "..two", None).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "3");
        assert!(!root.join("sub").exists() && !root.join("..one").exists());
        write_all(&root, &[file("a", "3")], "..three", None).unwrap();
        assert_eq!(std::fs::read_link(root.join("..data")).unwrap(), Path::new("..two"));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn paths_stay_inside_the_volume() {
        for path in ["", "/etc/passwd", "../x", "a/../../x", "..data"] {
            assert!(!is_inside(path), "{path:?}");
        }
        assert!(is_inside("a/b.txt"));
    }
}
