//! The entries of a Secret as files.

use std::path::PathBuf;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Secret, Volume};

use super::payload::{self, File, Wanted};
use super::{Context, VolumeError, VolumeType};

pub(super) struct SecretVolume;

impl VolumeType for SecretVolume {
    const NAME: &'static str = "secret";
    const CHANGES: bool = true;

    fn claims(volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    fn mount<'a>(
        context: &'a Context<'a>,
        volume: &'a Volume,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let source = volume.secret.clone().unwrap_or_default();
            let optional = source.optional == Some(true);
            let name = source.secret_name.unwrap_or_default();
            let wanted =
                Wanted { name: &name, items: source.items.as_ref(), mode: source.default_mode, optional };
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
    payload::fetch(context, volume, "secret", wanted, |secret: Secret| {
        secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
    })
    .await
}
