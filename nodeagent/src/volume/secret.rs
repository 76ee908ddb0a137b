//! The entries of a Secret as files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Secret, Volume};
use kube::Api;

use super::config_map::Wanted;
use super::payload::{self, File};
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
    let api: Api<Secret> = Api::namespaced(context.client.clone(), context.namespace());
    let found = api
        .get_opt(wanted.name)
        .await
        .map_err(|source| VolumeError::Api { volume: volume.to_owned(), source: Box::new(source) })?;
    let missing = |key: &str| {
        let error =
            VolumeError::MissingKey { volume: volume.to_owned(), kind: "secret", key: key.to_owned() };
        (!wanted.optional).then_some(error)
    };
    let Some(secret) = found else {
        if wanted.optional {
            return Ok(Vec::new());
        }
        let (namespace, name) = (context.namespace().to_owned(), wanted.name.to_owned());
        return Err(VolumeError::Missing { volume: volume.to_owned(), kind: "secret", namespace, name });
    };
    let data: BTreeMap<String, Vec<u8>> =
        secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect();
    payload::select(data, wanted.items, wanted.mode, missing)
}
