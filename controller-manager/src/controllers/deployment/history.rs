//! Revisions: how a new set is made, which number the sets have, and which old ones are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::template_hash::template_hash;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ObjectMeta;

use super::wanted::{DESIRED, HASH, MAXIMUM, Wanted, bare, size};
use super::{Change, Step};
use crate::owners::{self, annotation, name_of};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers that a set had before, separated by commas.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const REVISION_HISTORY_CHARACTERS_MAX: usize = 2000;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// A name has at most this many characters.
const NAME_CHARACTERS_MAX: usize = 253;

/// The set's revision number.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn next_revision(wanted: &Wanted<'_>) -> i64 {
    wanted.old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
}

/// The Deployment's annotations that its sets have too.
fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    const OWN: [&str; 6] = [REVISION, REVISION_HISTORY, DESIRED, MAXIMUM, LAST_APPLIED, ROLLBACK_TO];
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN.contains(&name.as_str()));
    annotations
}

/// What the new set lacks: the Deployment's annotations and minReadySeconds, and the highest number of all.
pub(super) fn renew(wanted: &Wanted<'_>) -> Option<Change> {
    let new = wanted.new.as_ref()?;
    let mut annotations = copied(wanted.deployment);
    annotations.retain(|name, value| annotation(&new.metadata, name) != Some(value));
    let next = next_revision(wanted);
    if revision(new) < next {
        annotations.extend(earlier_numbers(new).map(|numbers| (REVISION_HISTORY.to_owned(), numbers)));
        annotations.insert(REVISION.to_owned(), next.to_string());
    }
    let seconds = wanted.spec.min_ready_seconds.unwrap_or(0);
    let own = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let min_ready_seconds = (own != seconds).then_some(seconds);
    let change = Change { set: new.clone(), replicas: size(new), annotations, min_ready_seconds };
    (!change.annotations.is_empty() || min_ready_seconds.is_some()).then_some(change)
}

/// The numbers that the set had before, with the one that it loses now; the oldest go when they are too many.
fn earlier_numbers(set: &ReplicaSet) -> Option<String> {
    let last = annotation(&set.metadata, REVISION)?;
    let before = annotation(&set.metadata, REVISION_HISTORY).filter(|numbers| !numbers.is_empty());
    let Some(mut before) = before else { return Some(last.to_owned()) };
    while before.len() + 1 + last.len() > REVISION_HISTORY_CHARACTERS_MAX {
        before = before.split_once(',')?.1;
    }
    Some(format!("{before},{last}"))
}

/// The set for the Deployment's template, with `replicas` pods to begin with.
pub(super) fn new_set(wanted: &Wanted<'_>, replicas: i32) -> ReplicaSet {
    let deployment = wanted.deployment;
    let mut template = wanted.spec.template.clone();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash_of(&template, collisions);
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = wanted.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut annotations = copied(deployment);
    annotations.extend(wanted.sizes());
    annotations.insert(REVISION.to_owned(), next_revision(wanted).to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name_with(name_of(&deployment.metadata), &hash)),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: wanted.spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// A name made from the template; after a collision, another.
fn hash_of(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let bare = PodTemplateSpec { metadata: Some(bare(&template.metadata)), spec: template.spec.clone() };
    template_hash(&serde_json::to_value(&bare).unwrap_or_default(), collisions)
}

/// The name of a set; a Deployment's long name is cut so that both fit.
fn name_with(deployment: &str, hash: &str) -> String {
    let room = NAME_CHARACTERS_MAX - 1 - hash.len();
    let own = deployment.get(..room).unwrap_or(deployment).trim_end_matches(['-', '.']);
    format!("{own}-{hash}")
}

/// Deletes the oldest sets without pods, beyond the limit.
pub(super) fn forget(wanted: &Wanted<'_>) -> Vec<Step> {
    let limit = wanted.spec.revision_history_limit.unwrap_or(10);
    if limit == i32::MAX {
        return Vec::new();
    }
    let staying = wanted.old.iter().filter(|set| !owners::is_deleting(&set.metadata));
    let mut old: Vec<&Arc<ReplicaSet>> = staying.collect();
    old.sort_by_key(|set| revision(set));
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let idle = |set: &&Arc<ReplicaSet>| {
        let status = set.status.clone().unwrap_or_default();
        let seen = status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0);
        size(set) == 0 && status.replicas == 0 && seen
    };
    old.into_iter().take(surplus).filter(idle).cloned().map(Step::Delete).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(annotations: serde_json::Value) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "a", "annotations": annotations}})).unwrap()
    }

    #[test]
    fn a_set_remembers_the_numbers_it_had() {
        assert_eq!(earlier_numbers(&set(json!({}))), None);
        assert_eq!(earlier_numbers(&set(json!({REVISION: "3"}))).unwrap(), "3");
        assert_eq!(earlier_numbers(&set(json!({REVISION: "7", REVISION_HISTORY: "1,3"}))).unwrap(), "1,3,7");
        let long = vec!["1234"; 400].join(",");
        let numbers = earlier_numbers(&set(json!({REVISION: "5678", REVISION_HISTORY: long}))).unwrap();
        assert_eq!((numbers.len(), numbers.ends_with("1234,5678")), (1999, true));
    }

    #[test]
    fn a_long_name_is_cut_so_that_the_hash_fits() {
        assert_eq!(name_with("web", "abc"), "web-abc");
        let long = format!("{}.x", "a".repeat(248));
        assert_eq!(name_with(&long, "abc"), format!("{}-abc", "a".repeat(248)));
        assert_eq!(name_with(&"a".repeat(253), "abc").len(), 253);
    }

    #[test]
    fn a_collision_makes_another_name() {
        let template = PodTemplateSpec::default();
        assert_ne!(hash_of(&template, None), hash_of(&template, Some(1)));
        assert_eq!(hash_of(&template, Some(1)), hash_of(&template, Some(1)));
    }
}
