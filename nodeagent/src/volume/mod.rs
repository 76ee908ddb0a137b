//! Volumes of a pod: a type is a file and a row of [`TYPES`].
//!
//! A type turns its source into a path on the node, which containers mount. Types whose content comes from
//! the API write it with `payload`, which switches to new content in one step; they are mounted again and again, so that
//! changes reach running containers. Of persistent volumes those are there that are folders of the node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use component_base::clock::Clock;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::downward::Facts;

mod config_map;
mod downward_api;
mod empty_dir;
mod host_path;
mod payload;
mod persistent_volume_claim;
mod projected;
mod secret;
mod service_account_token;

/// Why a volume is not there; the pod waits and an event says `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {kind} {namespace:?}/{name:?} not found")]
    Missing { volume: String, kind: &'static str, namespace: String, name: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : references non-existent {kind} key: {key}")]
    MissingKey { volume: String, kind: &'static str, key: String },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : hostPath type check failed: {path} is not a {wanted}"
    )]
    HostPath { volume: String, path: String, wanted: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : unsupported field {field:?}")]
    Field { volume: String, field: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : error processing PVC {claim}: {why}")]
    Claim { volume: String, claim: String, why: String },
    #[error("volume {volume:?} is of a type that this node does not support")]
    Unsupported { volume: String },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : path {path:?} must be relative and without \"..\""
    )]
    Path { volume: String, path: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {doing}: {source}")]
    Write {
        volume: String,
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Api {
        volume: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// What a volume type may use.
pub(crate) struct Context<'a> {
    pub(crate) client: &'a kube::Client,
    pub(crate) clock: Clock,
    pub(crate) pod: &'a Pod,
    pub(crate) facts: &'a Facts,
    /// The pod's folder; volumes are below it.
    pub(crate) pod_dir: &'a Path,
    /// False in simulation: look whether everything is there, and write nothing.
    pub(crate) disk: bool,
}

impl Context<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn dir(&self, type_name: &str, volume: &str) -> PathBuf {
        self.pod_dir.join("volumes").join(type_name).join(volume)
    }

    fn fs_group(&self) -> Option<i64> {
        self.pod.spec.as_ref()?.security_context.as_ref()?.fs_group
    }
}

/// A type of volume. `mount` is idempotent, and is called again to bring in changes.
pub(crate) trait VolumeType {
    /// The field of `spec.volumes[]`.
    const NAME: &'static str;
    /// Whether content may change under a running pod.
    const CHANGES: bool;

    fn claims(volume: &Volume) -> bool;
    fn mount<'a>(context: &'a Context<'a>, volume: &'a Volume)
    -> BoxFuture<'a, Result<PathBuf, VolumeError>>;
}

type Mount = for<'a> fn(&'a Context<'a>, &'a Volume) -> BoxFuture<'a, Result<PathBuf, VolumeError>>;

struct Row {
    name: &'static str,
    changes: bool,
    claims: fn(&Volume) -> bool,
    mount: Mount,
}

const fn def<T: VolumeType>() -> Row {
    Row { name: T::NAME, changes: T::CHANGES, claims: T::claims, mount: T::mount }
}

static TYPES: &[Row] = &[
    def::<empty_dir::EmptyDir>(),
    def::<host_path::HostPath>(),
    def::<config_map::ConfigMapVolume>(),
    def::<secret::SecretVolume>(),
    def::<downward_api::DownwardApi>(),
    def::<projected::Projected>(),
    def::<persistent_volume_claim::Claim>(),
];

fn row_of(volume: &Volume) -> Option<&'static Row> {
    TYPES.iter().find(|row| (row.claims)(volume))
}

/// The host path of every volume of the pod, by the volume's name.
pub(crate) async fn mount_all(context: &Context<'_>) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let mut paths = BTreeMap::new();
    for volume in context.pod.spec.iter().flat_map(|it| it.volumes.iter().flatten()) {
        let row = row_of(volume).ok_or_else(|| VolumeError::Unsupported { volume: volume.name.clone() })?;
        tracing::trace!(volume = volume.name, volume_type = row.name, "mounting");
        paths.insert(volume.name.clone(), (row.mount)(context, volume).await?);
    }
    Ok(paths)
}

/// True if some volume's content may change, so that it is worth mounting again.
pub(crate) fn may_change(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|it| it.volumes.iter().flatten());
    volumes.any(|volume| row_of(volume).is_some_and(|row| row.changes))
}

/// Unmounts and removes everything below a pod's folder.
pub(crate) fn remove_all(pod_dir: &Path) -> std::io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(pod_dir)).collect();
    below.reverse();
    for point in below {
        nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
