//! A token of the pod's service account, bound to the pod, requested from the API server and renewed in time.
//!
//! Not a volume type of its own: it exists only inside `projected`.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;

use super::payload::{self, File};
use super::{Context, VolumeError};

/// A token file is used as it is until this part of its life is over, as in Kubernetes.
const RENEW_AFTER: f64 = 0.8;

pub(super) async fn file(
    context: &Context<'_>,
    volume: &str,
    wanted: &ServiceAccountTokenProjection,
    mode: Option<i32>,
) -> Result<File, VolumeError> {
    let mode = payload::mode(None, mode);
    let life =
        Duration::from_secs(wanted.expiration_seconds.and_then(|it| u64::try_from(it).ok()).unwrap_or(3600));
    if let Some(bytes) = present(context, volume, &wanted.path, life) {
        return Ok(File { path: wanted.path.clone(), mode, bytes });
    }
    let account = context.pod.spec.as_ref().and_then(|it| it.service_account_name.clone());
    let account = account.filter(|it| !it.is_empty()).unwrap_or_else(|| "default".to_owned());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().map(|it| vec![it]),
            expiration_seconds: wanted.expiration_seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: context.pod.metadata.name.clone(),
                uid: context.pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), context.namespace());
    let answer: TokenRequest = api
        .create_subresource("token", &account, &PostParams::default(), &request)
        .await
        .map_err(|source| VolumeError::Api { volume: volume.to_owned(), source: Box::new(source) })?;
    let bytes = answer.status.and_then(|it| it.token).unwrap_or_default().into_bytes();
    Ok(File { path: wanted.path.clone(), mode, bytes })
}

/// The token that was written before, if it is young enough.
fn present(context: &Context<'_>, volume: &str, path: &str, life: Duration) -> Option<Vec<u8>> {
    let file = context.dir("projected", volume).join("..data").join(path);
    let written = chrono::DateTime::<chrono::Utc>::from(std::fs::metadata(&file).ok()?.modified().ok()?);
    let age = (context.clock.now() - written).to_std().ok()?;
    (age < life.mul_f64(RENEW_AFTER)).then(|| std::fs::read(&file).ok())?
}
