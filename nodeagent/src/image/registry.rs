//! Pulls an image from a registry.

use std::path::Path;

use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth as Secret;

use super::{ImageError, StoredImage, describe, unpack};
use crate::runtime::RegistryAuth;

/// Fetches the image for this machine's platform into the store at `root`.
pub(super) async fn pull(
    reference: &Reference,
    auth: Option<&RegistryAuth>,
    root: &Path,
) -> Result<StoredImage, ImageError> {
    component_base::client::install_crypto_provider();
    let client =
        Client::new(ClientConfig { protocol: protocol(reference.registry()), ..ClientConfig::default() });
    let secret =
        auth.map_or(Secret::Anonymous, |auth| Secret::Basic(auth.username.clone(), auth.password.clone()));
    let refused =
        |error: OciDistributionError| ImageError::Pull { image: reference.whole(), answer: answer(&error) };
    let (manifest, digest, config) =
        client.pull_manifest_and_config(reference, &secret).await.map_err(refused)?;
    let unreadable = |reason: String| ImageError::Pull { image: reference.whole(), answer: reason };
    let (mut image, diff_ids) = describe(config.as_bytes())
        .map_err(|error| unreadable(format!("its configuration cannot be read: {error}")))?;
    if image.id != manifest.config.digest {
        let what = "the image's configuration".to_owned();
        return Err(ImageError::CheckDigest { what, expected: manifest.config.digest, found: image.id });
    }
    if diff_ids.len() != manifest.layers.len() {
        let (layers, ids) = (manifest.layers.len(), diff_ids.len());
        return Err(unreadable(format!("its manifest has {layers} layers, its configuration {ids}")));
    }
    for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        if !unpack::is_present(root, diff_id) {
            fetch_layer(&client, reference, layer, diff_id, root).await?;
        }
        image.size_bytes += u64::try_from(layer.size).unwrap_or(0);
    }
    if reference.tag().is_some() {
        image.tags.insert(reference.whole());
    }
    image.digests.insert(format!("{}/{}@{digest}", reference.registry(), reference.repository()));
    Ok(image)
}

async fn fetch_layer(
    client: &Client,
    reference: &Reference,
    layer: &OciDescriptor,
    diff_id: &str,
    root: &Path,
) -> Result<(), ImageError> {
    let path = unpack::temporary(root, "blob");
    let file = tokio::fs::File::create(&path).await.map_err(ImageError::io("storing a layer"))?;
    let pulled = client.pull_blob(reference, layer, file).await;
    let unpacked = match pulled {
        Ok(_) => {
            let (root, diff_id, blob) = (root.to_owned(), diff_id.to_owned(), path.clone());
            tokio::task::spawn_blocking(move || unpack::unpack_file(&blob, &diff_id, &root))
                .await
                .map_err(|error| ImageError::io("unpacking a layer")(std::io::Error::other(error)))?
        }
        Err(error) => Err(ImageError::Pull { image: reference.whole(), answer: answer(&error) }),
    };
    drop(std::fs::remove_file(path));
    unpacked
}

/// Registries of this machine speak HTTP, as docker and containerd have it.
fn protocol(registry: &str) -> ClientProtocol {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    match host {
        "localhost" | "[::1]" => ClientProtocol::Http,
        host if host.starts_with("127.") => ClientProtocol::Http,
        _ => ClientProtocol::Https,
    }
}

/// What the registry said, or why it could not be asked, with all causes.
fn answer(error: &OciDistributionError) -> String {
    match error {
        OciDistributionError::RegistryError { envelope, url } => {
            let said = envelope.errors.iter().map(|error| format!("{:?}: {}", error.code, error.message));
            format!("{} ({url})", said.collect::<Vec<_>>().join("; "))
        }
        OciDistributionError::ServerError { code, url, message } => format!("{code} {message} ({url})"),
        other => {
            let mut text = other.to_string();
            let mut next = std::error::Error::source(other);
            while let Some(cause) = next {
                text = format!("{text}: {cause}");
                next = cause.source();
            }
            text
        }
    }
}
