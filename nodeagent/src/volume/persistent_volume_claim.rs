//! A claim's volume, the claim named by the pod or made for it: a folder of this node.

use std::path::PathBuf;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Volume,
};
use kube::Api;

use super::host_path::HostPath;
use super::{Context, VolumeError, VolumeType};

pub(super) struct Claim;

impl VolumeType for Claim {
    const NAME: &'static str = "persistentVolumeClaim";
    const CHANGES: bool = false;

    fn claims(volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    fn mount<'a>(
        context: &'a Context<'a>,
        volume: &'a Volume,
    ) -> BoxFuture<'a, Result<PathBuf, VolumeError>> {
        Box::pin(async move {
            let name = claim_name(context, volume);
            let bound = bound_volume(context, volume, &name).await?;
            let source = folder(bound.spec.unwrap_or_default())
                .ok_or_else(|| VolumeError::Unsupported { volume: volume.name.clone() })?;
            let folder = Volume { name: volume.name.clone(), host_path: Some(source), ..Volume::default() };
            HostPath::mount(context, &folder).await
        })
    }
}

fn claim_name(context: &Context<'_>, volume: &Volume) -> String {
    let pod = context.pod.metadata.name.as_deref().unwrap_or_default();
    let made = || format!("{pod}-{}", volume.name);
    volume.persistent_volume_claim.as_ref().map_or_else(made, |source| source.claim_name.clone())
}

/// The volume that the claim and the volume agree on.
async fn bound_volume(
    context: &Context<'_>,
    volume: &Volume,
    name: &str,
) -> Result<PersistentVolume, VolumeError> {
    let namespace = context.namespace();
    let api_error = |source| VolumeError::Api { volume: volume.name.clone(), source: Box::new(source) };
    let problem = |why: String| VolumeError::Claim {
        volume: volume.name.clone(),
        claim: format!("{namespace}/{name}"),
        why,
    };
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let found = claims.get_opt(name).await.map_err(api_error)?;
    let claim = found.ok_or_else(|| problem(format!("persistentvolumeclaim {name:?} not found")))?;
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(problem("PVC is being deleted".to_owned()));
    }
    let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    if !is_bound || wanted.is_empty() {
        return Err(problem("PVC is not bound".to_owned()));
    }
    let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
    let found = volumes.get_opt(&wanted).await.map_err(api_error)?;
    let bound = found.ok_or_else(|| problem(format!("persistentvolume {wanted:?} not found")))?;
    let reference = bound.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.and_then(|reference| reference.uid.as_ref()) != claim.metadata.uid.as_ref() {
        return Err(problem(format!("PV {wanted:?} is bound to another claim")));
    }
    Ok(bound)
}

/// The folder that the volume is, if it is one.
fn folder(spec: PersistentVolumeSpec) -> Option<HostPathVolumeSource> {
    let local = |path| HostPathVolumeSource { path, type_: Some("Directory".to_owned()) };
    spec.host_path.or_else(|| spec.local.map(|source| local(source.path)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_that_are_folders_of_the_node_are_known() {
        let of = |spec| folder(serde_json::from_value(spec).unwrap()).map(|source| source.path);
        assert_eq!(of(json!({"hostPath": {"path": "/a"}})).as_deref(), Some("/a"));
        assert_eq!(of(json!({"local": {"path": "/b"}})).as_deref(), Some("/b"));
        assert_eq!(of(json!({"nfs": {"server": "s", "path": "/c"}})), None);
    }
}
