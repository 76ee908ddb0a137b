//! The claims of a set's pods: how they are named and made, and who owns them by the retention policy.
//!
//! A claim that is to go with the set is owned by the set; one that is to go with a pod that was scaled
//! away is owned by that pod. The garbage collector does the rest. A claim that somebody else controls, or
//! that an earlier set or pod of the same name owns, is left as it is.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::api::ObjectMeta;

use crate::owners::{controller_reference, name_of, uid_of};

/// Whether claims go with the set, and with pods that are scaled away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    with_set: bool,
    with_pod: bool,
}

impl Policy {
    fn of(set: &StatefulSet) -> Self {
        let spec = set.spec.as_ref();
        let policy = spec.and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |field: Option<&String>| field.is_some_and(|text| text == "Delete");
        Self {
            with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
            with_pod: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        }
    }
}

fn templates(set: &StatefulSet) -> impl Iterator<Item = &PersistentVolumeClaim> {
    set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten())
}

/// The volumes of the pod of `ordinal` that claims are made for, with the claims' names.
pub(super) fn names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = (&str, String)> {
    templates(set).map(move |template| {
        let volume = name_of(&template.metadata);
        (volume, format!("{volume}-{}-{ordinal}", name_of(&set.metadata)))
    })
}

/// The claims of the pod of `ordinal`, as they are made.
pub(super) fn made_for(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = PersistentVolumeClaim> {
    let selected = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let owners = Policy::of(set).with_set.then(|| vec![controller_reference(set)]);
    templates(set).zip(names(set, ordinal)).map(move |(template, (_, name))| {
        let meta = &template.metadata;
        let mut labels = meta.labels.clone().unwrap_or_default();
        labels.extend(selected.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: set.metadata.namespace.clone(),
                labels: (!labels.is_empty()).then_some(labels),
                annotations: meta.annotations.clone(),
                finalizers: meta.finalizers.clone(),
                owner_references: owners.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    })
}

/// The pod that the claim of this name is made for.
pub(super) fn pod_of<'a>(set: &StatefulSet, claim: &'a str) -> &'a str {
    let starts =
        |template: &PersistentVolumeClaim| claim.strip_prefix(name_of(&template.metadata))?.strip_prefix('-');
    templates(set)
        .find_map(|template| starts(template).filter(|pod| pod.starts_with(name_of(&set.metadata))))
        .unwrap_or(claim)
}

/// Whether the claim goes with an earlier pod of this name; the new pod has to wait for that.
pub(super) fn is_stale(set: &StatefulSet, pod_name: &str, claim: &PersistentVolumeClaim) -> bool {
    Policy::of(set).with_pod && references(claim).iter().any(|one| means::<Pod>(one, pod_name))
}

fn references(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

fn means<K: Resource<DynamicType = ()>>(reference: &OwnerReference, name: &str) -> bool {
    reference.kind == K::kind(&()) && reference.api_version == K::api_version(&()) && reference.name == name
}

/// The owners that the claim should have and has not. `scaled_away`: the pod's ordinal is out of the set's range.
pub(super) fn owners_due(
    set: &StatefulSet,
    pod: &Pod,
    scaled_away: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let now = references(claim);
    let of_set = |one: &OwnerReference| means::<StatefulSet>(one, name_of(&set.metadata));
    let of_pod = |one: &OwnerReference| means::<Pod>(one, name_of(&pod.metadata));
    let is_stale = |one: &OwnerReference| {
        (of_set(one) && one.uid != uid_of(&set.metadata)) || (of_pod(one) && one.uid != uid_of(&pod.metadata))
    };
    if now.iter().any(is_stale) {
        return None;
    }
    let policy = Policy::of(set);
    let retained = !policy.with_set && !policy.with_pod;
    let mut wanted: Vec<_> = now.iter().filter(|one| !of_set(one) && !of_pod(one)).cloned().collect();
    let foreign = !retained && wanted.iter().any(|one| one.controller == Some(true));
    match (policy.with_pod && scaled_away, policy.with_set) {
        _ if foreign => {}
        (true, _) => wanted.push(controller_reference(pod)),
        (false, true) => wanted.push(controller_reference(set)),
        (false, false) => {}
    }
    (wanted != now).then_some(wanted)
}

/// A claim and the owners that it is to have.
pub(super) type Owned = (Arc<PersistentVolumeClaim>, Vec<OwnerReference>);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(when_deleted: &str, when_scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "set"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}, "template": {},
                     "persistentVolumeClaimRetentionPolicy": {"whenDeleted": when_deleted, "whenScaled": when_scaled},
                     "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"tier": "disk"}}}]},
        }))
        .unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "db-1", "uid": "pod"}})).unwrap()
    }

    fn owner(kind: &str, uid: &str) -> Value {
        let (api, name) = if kind == "Pod" { ("v1", "db-1") } else { ("apps/v1", "db") };
        json!({"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true})
    }

    fn claim(owners: &[Value]) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-db-1", "ownerReferences": owners}})).unwrap()
    }

    fn check(set: &StatefulSet, scaled_away: bool, before: &[Value], after: Option<&[&str]>) {
        let due = owners_due(set, &pod(), scaled_away, &claim(before));
        let told = due.map(|owners| owners.into_iter().map(|one| one.uid).collect::<Vec<_>>());
        assert_eq!(told, after.map(|uids| uids.iter().map(ToString::to_string).collect()));
    }

    #[test]
    fn a_claim_is_named_and_labeled_for_its_pod() {
        let made: Vec<_> = made_for(&set("Delete", "Retain"), 1).collect();
        let expected = json!({"name": "data-db-1", "namespace": "ns", "labels": {"app": "db", "tier": "disk"},
                              "ownerReferences": [owner("StatefulSet", "set")]});
        assert_eq!(serde_json::to_value(&made[0].metadata).unwrap(), expected);
        assert_eq!(made_for(&set("Retain", "Delete"), 1).next().unwrap().metadata.owner_references, None);
    }

    #[test]
    fn a_retained_claim_has_no_owner() {
        check(&set("Retain", "Retain"), false, &[], None);
        check(&set("Retain", "Retain"), true, &[owner("StatefulSet", "set")], Some(&[]));
    }

    #[test]
    fn a_claim_that_goes_with_the_set_is_the_sets() {
        check(&set("Delete", "Retain"), false, &[], Some(&["set"]));
        check(&set("Delete", "Retain"), true, &[owner("StatefulSet", "set")], None);
    }

    #[test]
    fn a_claim_that_goes_when_scaled_away_is_then_the_pods() {
        check(&set("Retain", "Delete"), false, &[], None);
        check(&set("Retain", "Delete"), true, &[], Some(&["pod"]));
        check(&set("Delete", "Delete"), true, &[owner("StatefulSet", "set")], Some(&["pod"]));
        check(&set("Delete", "Delete"), false, &[owner("Pod", "pod")], Some(&["set"]));
    }

    #[test]
    fn a_claim_that_others_control_is_left_to_them() {
        let other =
            json!({"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "other", "controller": true});
        check(&set("Delete", "Delete"), true, std::slice::from_ref(&other), None);
        check(&set("Delete", "Delete"), true, &[other, owner("StatefulSet", "set")], Some(&["other"]));
    }

    #[test]
    fn a_claim_of_an_earlier_set_or_pod_is_not_touched() {
        check(&set("Delete", "Retain"), false, &[owner("StatefulSet", "earlier")], None);
        check(&set("Delete", "Delete"), true, &[owner("Pod", "earlier")], None);
        assert!(is_stale(&set("Retain", "Delete"), "db-1", &claim(&[owner("Pod", "earlier")])));
        assert!(!is_stale(&set("Retain", "Retain"), "db-1", &claim(&[owner("Pod", "earlier")])));
    }
}
