//! Fields of the pod itself as files.

use std::path::PathBuf;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume};

use super::payload::{self, File};
use super::{Context, VolumeError, VolumeType};
use crate::downward;

pub(super) struct DownwardApi;

impl VolumeType for DownwardApi {
    const NAME: &'static str = "downwardAPI";
    const CHANGES: bool = true;

    fn claims(volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    fn mount<'a>(
        context: &'a Context<'a>,
        volume: &'a Volume,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let source = volume.downward_api.clone().unwrap_or_default();
            let items = source.items.unwrap_or_default();
            let files = files(context, &volume.name, &items, source.default_mode)?;
            payload::provide(context, Self::NAME, &volume.name, &files)
        })
    }
}

pub(super) fn files(
    context: &Context<'_>,
    volume: &str,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
) -> Result<Vec<File>, VolumeError> {
    let mut files = Vec::new();
    for item in items {
        let (field, value) = match (&item.field_ref, &item.resource_field_ref) {
            (Some(it), _) => (&it.field_path, downward::field(context.pod, &it.field_path, context.facts)),
            (None, Some(it)) => (&it.resource, downward::resource(context.pod, "", it, context.facts)),
            (None, None) => continue,
        };
        let refused = || VolumeError::Field { volume: volume.to_owned(), field: field.clone() };
        let bytes = value.ok_or_else(refused)?.into_bytes();
        files.push(File { path: item.path.clone(), mode: payload::mode(item.mode, default_mode), bytes });
    }
    Ok(files)
}
