//! Which volume a claim can have. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::owners::{annotation, is_deleting, name_of, selects};

/// Where claims and volumes named their class before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class that a claim asks for, empty for none.
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let field = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, OLD_CLASS).or(field).unwrap_or_default()
}

/// Whether the claim leaves the class to the cluster.
pub(super) fn leaves_class_open(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
    !named && annotation(&claim.metadata, OLD_CLASS).is_none()
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, OLD_CLASS).or(field).unwrap_or_default()
}

/// Whether the volume is this claim's, or kept for it.
pub(super) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let same_uid = reference
        .uid
        .as_deref()
        .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref());
    same_uid && reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace
}

/// Why the claim cannot have the volume that it asks for, if it cannot.
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if capacity(volume) < requested(claim) {
        return Some("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim) {
        return Some("storageClassName does not match");
    }
    if !same_mode(volume, claim) {
        return Some("incompatible volumeMode");
    }
    if !modes_of_claim(claim).is_subset(&modes_of_volume(volume)) {
        return Some("incompatible accessMode");
    }
    if !same_attributes(volume, claim) {
        return Some("VolumeAttributesClassName does not match");
    }
    None
}

/// The volume that fits the claim best: one kept for it, else the smallest with the fewest other access modes.
/// With `only_kept` volumes that nobody keeps for it are left to the scheduler.
pub(super) fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    only_kept: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let usable = |volume: &&Arc<PersistentVolume>| {
        !is_deleting(&volume.metadata)
            && same_mode(volume, claim)
            && same_attributes(volume, claim)
            && requested(claim) <= capacity(volume)
    };
    if let Some(kept) = volumes.iter().filter(usable).find(|volume| is_bound_to(volume, claim)) {
        return Some(kept);
    }
    if only_kept {
        return None;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let free = volumes.iter().filter(usable).filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let taken = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
        phase == Some("Available")
            && !taken
            && mismatch(volume, claim).is_none()
            && selector.is_none_or(|selector| selects(selector, volume.metadata.labels.as_ref()))
    });
    free.min_by_key(|volume| {
        (modes_of_volume(volume).len(), capacity(volume), name_of(&volume.metadata).to_owned())
    })
}

pub(super) fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    Quantity::parse_or_zero(capacity.map_or("", |amount| amount.0.as_str()))
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let amount = resources.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    Quantity::parse_or_zero(amount.map_or("", |amount| amount.0.as_str()))
}

/// A mode that is not written is that of a file system.
fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    of_volume.unwrap_or("Filesystem") == of_claim.unwrap_or("Filesystem")
}

fn same_attributes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() == of_claim.unwrap_or_default()
}

fn modes_of_volume(volume: &PersistentVolume) -> BTreeSet<&String> {
    volume.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).collect()
}

fn modes_of_claim(claim: &PersistentVolumeClaim) -> BTreeSet<&String> {
    claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut all =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"}, "spec": all}))
            .unwrap()
    }

    fn volume(name: &str, size: &str, spec: Value) -> Arc<PersistentVolume> {
        let mut all = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": name, "labels": {"disk": name}});
        let object = json!({"metadata": metadata, "spec": all, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn check(claim_spec: Value, volumes: &[Arc<PersistentVolume>], expected: Option<&str>) {
        let claim = claim(claim_spec);
        let found = find(&claim, volumes, false).map(|volume| name_of(&volume.metadata));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_smallest_that_is_large_enough_is_taken() {
        let volumes = ["1Gi", "50Gi", "10Gi"].map(|size| volume(size, size, json!({})));
        check(json!({}), &volumes, Some("10Gi"));
        check(json!({"resources": {"requests": {"storage": "100Gi"}}}), &volumes, None);
    }

    #[test]
    fn a_volume_with_just_the_modes_goes_before_one_with_more() {
        let both = json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
        let volumes = [volume("both", "5Gi", both), volume("one", "9Gi", json!({}))];
        check(json!({}), &volumes, Some("one"));
        check(json!({"accessModes": ["ReadOnlyMany"]}), &volumes, Some("both"));
        check(json!({"accessModes": ["ReadWriteMany"]}), &volumes, None);
    }

    #[test]
    fn class_mode_and_labels_must_match() {
        let volumes = [
            volume("plain", "9Gi", json!({})),
            volume("fast", "9Gi", json!({"storageClassName": "fast"})),
            volume("block", "9Gi", json!({"volumeMode": "Block"})),
        ];
        check(json!({"storageClassName": "fast"}), &volumes, Some("fast"));
        check(json!({"storageClassName": "slow"}), &volumes, None);
        check(json!({"storageClassName": ""}), &volumes, Some("plain"));
        check(json!({"volumeMode": "Block"}), &volumes, Some("block"));
        check(json!({"selector": {"matchLabels": {"disk": "other"}}}), &volumes, None);
        check(json!({"selector": {"matchLabels": {"disk": "plain"}}}), &volumes, Some("plain"));
    }

    #[test]
    fn a_volume_kept_for_the_claim_goes_before_all_others() {
        let kept = json!({"claimRef": {"namespace": "ns", "name": "c"}, "storageClassName": "other"});
        let volumes = [volume("free", "5Gi", json!({})), volume("kept", "90Gi", kept)];
        check(json!({}), &volumes, Some("kept"));
        assert_eq!(find(&claim(json!({})), &volumes[..1], true), None);
        assert!(find(&claim(json!({})), &volumes, true).is_some());
    }

    #[test]
    fn a_volume_that_is_another_claims_is_not_taken() {
        let others = json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "before"}});
        check(json!({}), &[volume("others", "5Gi", others)], None);
    }

    #[test]
    fn each_mismatch_has_its_words() {
        let small = volume("v", "1Gi", json!({}));
        assert_eq!(mismatch(&small, &claim(json!({}))), Some("requested PV is too small"));
        let other = volume("v", "9Gi", json!({"storageClassName": "x"}));
        assert_eq!(mismatch(&other, &claim(json!({}))), Some("storageClassName does not match"));
        let fits = volume("v", "9Gi", json!({}));
        assert_eq!(mismatch(&fits, &claim(json!({"volumeMode": "Block"}))), Some("incompatible volumeMode"));
        let modes = json!({"accessModes": ["ReadOnlyMany"]});
        assert_eq!(mismatch(&fits, &claim(modes)), Some("incompatible accessMode"));
    }
}
