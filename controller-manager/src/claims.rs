//! Which claims a pod uses.

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::owners::name_of;

/// The names of the claims that the pod mounts, those made for it among them.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim = |volume: &Volume| match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None if volume.ephemeral.is_some() => Some(ephemeral_claim(pod, &volume.name)),
        None => None,
    };
    volumes.filter_map(claim).collect()
}

/// The name of the claim that is made for a volume of the pod.
pub(crate) fn ephemeral_claim(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", name_of(&pod.metadata))
}
