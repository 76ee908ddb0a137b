//! The entries of a ConfigMap as files.

use std::path::PathBuf;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Volume};

use super::payload::{self, File, Wanted};
use super::{Context, VolumeError, VolumeType};

pub(super) struct ConfigMapVolume;

impl VolumeType for ConfigMapVolume {
    const NAME: &'static str = "configMap";
    const CHANGES: bool = true;

    fn claims(volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    fn mount<'a>(
        context: &'a Context<'a>,
        volume: &'a Volume,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let source = volume.config_map.clone().unwrap_or_default();
            let optional = source.optional == Some(true);
            let wanted = Wanted {
                name: &source.name,
                items: source.items.as_ref(),
                mode: source.default_mode,
                optional,
            };
            let files = files(context, &volume.name, wanted).await?;
            payload::provide(context, Self::NAME, &volume.name, &files)
        })
    }
}

pub(super) async fn files(
    context: &Context<'_>,
    volume: &str,
    wanted: Wanted<'_>,
) -> Result<Vec<File>, VolumeError> {
    payload::fetch(context, volume, "configmap", wanted, |map: ConfigMap| {
        let texts = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
        texts.chain(binary).collect()
    })
    .await
}
