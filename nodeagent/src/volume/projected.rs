//! Several sources in one folder: config maps, secrets, the downward API and service account tokens.

use std::path::PathBuf;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Volume, VolumeProjection};

use super::payload::{self, File, Wanted};
use super::{Context, VolumeError, VolumeType, config_map, downward_api, secret, service_account_token};

pub(super) struct Projected;

impl VolumeType for Projected {
    const NAME: &'static str = "projected";
    const CHANGES: bool = true;

    fn claims(volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    fn mount<'a>(
        context: &'a Context<'a>,
        volume: &'a Volume,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let source = volume.projected.clone().unwrap_or_default();
            let mut all = Vec::new();
            // In simulation nobody reads the token that nearly every pod has; thousands need not be made.
            for projection in source.sources.iter().flatten().filter(|_| context.disk) {
                all.extend(files(context, &volume.name, projection, source.default_mode).await?);
            }
            payload::provide(context, Self::NAME, &volume.name, &all)
        })
    }
}

async fn files(
    context: &Context<'_>,
    volume: &str,
    projection: &VolumeProjection,
    mode: Option<i32>,
) -> Result<Vec<File>, VolumeError> {
    let mut files = Vec::new();
    if let Some(it) = &projection.config_map {
        let optional = it.optional == Some(true);
        let wanted = Wanted { name: &it.name, items: it.items.as_ref(), mode, optional };
        files.extend(config_map::files(context, volume, wanted).await?);
    }
    if let Some(it) = &projection.secret {
        let optional = it.optional == Some(true);
        let wanted = Wanted { name: &it.name, items: it.items.as_ref(), mode, optional };
        files.extend(secret::files(context, volume, wanted).await?);
    }
    if let Some(it) = &projection.downward_api {
        let items = it.items.clone().unwrap_or_default();
        files.extend(downward_api::files(context, volume, &items, mode)?);
    }
    if let Some(it) = &projection.service_account_token {
        files.push(service_account_token::file(context, volume, it, mode).await?);
    }
    Ok(files)
}
