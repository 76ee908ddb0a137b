//! Which pod a name means, and how the pod of an ordinal is made.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};

use super::claims;
use crate::owners::{self, label, name_of};
use crate::pod_control::pod_of;
use crate::revisions::HASH;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in the pod's name, if the name is one of the set's.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    name_of(&pod.metadata).strip_prefix(name_of(&set.metadata))?.strip_prefix('-')?.parse().ok()
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name_of(&set.metadata))
}

/// The name of the revision that the pod was made from.
pub(super) fn revision_of(pod: &Pod) -> Option<&str> {
    label(&pod.metadata, HASH)
}

/// The labels that tell of the ordinal.
pub(super) fn labels(set: &StatefulSet, ordinal: i32) -> [(String, String); 2] {
    [(POD_NAME.to_owned(), pod_name(set, ordinal)), (POD_INDEX.to_owned(), ordinal.to_string())]
}

/// Whether the pod says who it is.
pub(super) fn is_labeled(set: &StatefulSet, ordinal: i32, pod: &Pod) -> bool {
    label(&pod.metadata, POD_NAME) == Some(&pod_name(set, ordinal))
}

/// The pod of `ordinal` from a template of the revision of this name.
pub(super) fn pod_for(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let (own, namespace) = (name_of(&set.metadata), set.metadata.namespace.as_deref().unwrap_or_default());
    let mut pod = pod_of(template, owners::controller_reference(set), namespace, own);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name(set, ordinal));
    let all = pod.metadata.labels.get_or_insert_default();
    all.extend(labels(set, ordinal));
    all.insert(HASH.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name(set, ordinal));
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let mut volumes: Vec<Volume> =
        claims::names(set, ordinal).map(|(volume, claim)| mount(volume, claim)).collect();
    let rest = spec.volumes.take().unwrap_or_default();
    let kept: Vec<_> =
        rest.into_iter().filter(|one| volumes.iter().all(|own| own.name != one.name)).collect();
    volumes.extend(kept);
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    pod
}

fn mount(volume: &str, claim: String) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: None };
    Volume { name: volume.to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
}
