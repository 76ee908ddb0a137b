//! The entries of a ConfigMap as files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Volume};
use kube::Api;

use super::payload::{self, File};
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

/// Which entries of which object, for `configMap` and `secret` alone and in `projected`.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) items: Option<&'a Vec<KeyToPath>>,
    pub(super) mode: Option<i32>,
    pub(super) optional: bool,
}

pub(super) async fn files(
    context: &Context<'_>,
    volume: &str,
    wanted: Wanted<'_>,
) -> Result<Vec<File>, VolumeError> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), context.namespace());
    let found = api
        .get_opt(wanted.name)
        .await
        .map_err(|source| VolumeError::Api { volume: volume.to_owned(), source: Box::new(source) })?;
    let missing = |key: &str| {
        let error =
            VolumeError::MissingKey { volume: volume.to_owned(), kind: "configmap", key: key.to_owned() };
        (!wanted.optional).then_some(error)
    };
    let Some(map) = found else {
        if wanted.optional {
            return Ok(Vec::new());
        }
        let (namespace, name) = (context.namespace().to_owned(), wanted.name.to_owned());
        return Err(VolumeError::Missing { volume: volume.to_owned(), kind: "configmap", namespace, name });
    };
    let texts = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
    let data: BTreeMap<String, Vec<u8>> = texts.chain(binary).collect();
    payload::select(data, wanted.items, wanted.mode, missing)
}
