//! ControllerRevisions: the history of a template, for StatefulSets and DaemonSets and `kubectl rollout`.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_types::template_hash::template_hash;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use crate::controller::ReconcileError;
use crate::informers::Cached;
use crate::owners::{self, label, name_of};
use crate::pod_control::delete_exactly;

/// The label with a revision's hash, on revisions and on pods.
pub(crate) const HASH: &str = "controller-revision-hash";

/// Names tried for a new revision in one go.
const COLLISIONS_MAX: usize = 16;

/// An owner's revisions.
pub(crate) struct History {
    /// Oldest first, the one of the current template last.
    pub all: Vec<Arc<ControllerRevision>>,
    /// The revision of the current template.
    pub update: Arc<ControllerRevision>,
    /// How often the name of a new revision was taken.
    pub collisions: i32,
}

/// The template as a revision keeps it: a patch that `kubectl rollout undo` applies.
fn data_of(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": value}})
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash in a revision's label.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    label(&revision.metadata, HASH).unwrap_or_default()
}

/// Makes the revision of `template` the newest of the owner's, creating it when it is new.
pub(crate) async fn ensure_among<K>(
    client: &Client,
    mut all: Vec<Arc<ControllerRevision>>,
    owner: &K,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
) -> Result<History, ReconcileError>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace);
    let data = data_of(template);
    let mut collisions = collisions.unwrap_or(0);
    all.sort_by_key(|one| (one.revision, name_of(&one.metadata).to_owned()));
    let newest = all.last().map_or(0, |one| one.revision);
    let equal = all.iter().rposition(|one| one.data.as_ref().is_some_and(|one| one.0 == data));
    let update = match equal {
        Some(index) if index + 1 == all.len() => {
            return Ok(History { update: all[index].clone(), all, collisions });
        }
        Some(index) => {
            let old = all.remove(index);
            let patch = Patch::Merge(json!({"revision": newest + 1}));
            Arc::new(api.patch(name_of(&old.metadata), &PatchParams::default(), &patch).await?)
        }
        None => {
            let mut wanted = revision_for(owner, template, data, newest + 1);
            Arc::new(create(&api, name_of(owner.meta()), &mut wanted, &mut collisions).await?)
        }
    };
    all.push(update.clone());
    Ok(History { all, update, collisions })
}

/// The revisions of the same template as the current one, which a lost answer or another writer may have left.
pub(crate) fn duplicates(history: &History) -> Vec<Arc<ControllerRevision>> {
    let data = |one: &ControllerRevision| one.data.as_ref().map(|data| data.0.clone());
    let (current, name) = (data(&history.update), name_of(&history.update.metadata));
    let is_other = |one: &&Arc<ControllerRevision>| name_of(&one.metadata) != name && data(one) == current;
    history.all.iter().filter(is_other).cloned().collect()
}

/// Gives the pods of a duplicate to the current revision, and deletes it.
pub(crate) async fn merge(
    client: &Client,
    history: &History,
    duplicate: &ControllerRevision,
    pods: &[Arc<Pod>],
) -> Result<(), kube::Error> {
    let is_of_it = |pod: &&Arc<Pod>| label(&pod.metadata, HASH) == Some(hash_of(duplicate));
    let patch = Patch::Merge(json!({"metadata": {"labels": {HASH: hash_of(&history.update)}}}));
    for pod in pods.iter().filter(is_of_it) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        match api.patch(name_of(&pod.metadata), &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            patched => drop(patched?),
        }
    }
    delete_exactly(client, duplicate, DeleteParams::default()).await
}

/// A new revision, as yet without name.
fn revision_for<K>(owner: &K, template: &PodTemplateSpec, data: Value, number: i64) -> ControllerRevision
where
    K: Resource<DynamicType = ()>,
{
    ControllerRevision {
        metadata: ObjectMeta {
            namespace: owner.meta().namespace.clone(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![owners::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// Creates the revision under the first name that is free, or finds it under one that is not.
async fn create(
    api: &Api<ControllerRevision>,
    owner: &str,
    wanted: &mut ControllerRevision,
    collisions: &mut i32,
) -> Result<ControllerRevision, ReconcileError> {
    for _ in 0..COLLISIONS_MAX {
        let data = wanted.data.as_ref().map(|data| &data.0);
        let hash = template_hash(data.unwrap_or(&Value::Null), Some(*collisions).filter(|count| *count > 0));
        let name = format!("{owner}-{hash}");
        wanted.metadata.name = Some(name.clone());
        wanted.metadata.labels.get_or_insert_default().insert(HASH.to_owned(), hash);
        match api.create(&PostParams::default(), wanted).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let taken = api.get(&name).await?;
                if taken.data.as_ref().map(|one| &one.0) == wanted.data.as_ref().map(|one| &one.0) {
                    return Ok(taken);
                }
                *collisions += 1;
            }
            result => return Ok(result?),
        }
    }
    Err(ReconcileError::Again(format!("no name was free for a revision of {owner}")))
}

/// Deletes the oldest revisions that nobody uses, beyond `limit`.
pub(crate) async fn forget_old(
    client: &Client,
    history: &History,
    in_use: &BTreeSet<String>,
    limit: Option<i32>,
) -> Result<(), kube::Error> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let idle: Vec<_> = history.all.iter().filter(|one| is_idle(one, history, in_use)).collect();
    let surplus = idle.len().saturating_sub(limit);
    for revision in idle.into_iter().take(surplus) {
        delete_exactly(client, &**revision, DeleteParams::default()).await?;
    }
    Ok(())
}

fn is_idle(revision: &ControllerRevision, history: &History, in_use: &BTreeSet<String>) -> bool {
    let name = name_of(&revision.metadata);
    name != name_of(&history.update.metadata) && !in_use.contains(name) && !in_use.contains(hash_of(revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_of_the_current_template_under_another_name_are_duplicates() {
        let revision = |name: &str, image: &str| {
            let template =
                serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}}));
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            let data = Some(RawExtension(data_of(&template.unwrap())));
            Arc::new(ControllerRevision { metadata, data, revision: 1 })
        };
        let all = vec![revision("old", "v1"), revision("twin", "v2"), revision("new", "v2")];
        let history = History { update: all[2].clone(), all, collisions: 0 };
        let names: Vec<_> =
            duplicates(&history).iter().map(|one| name_of(&one.metadata).to_owned()).collect();
        assert_eq!(names, ["twin"]);
    }

    #[test]
    fn a_template_survives_the_way_through_a_revision() {
        let template: PodTemplateSpec = serde_json::from_value(
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}),
        )
        .unwrap();
        let revision =
            ControllerRevision { data: Some(RawExtension(data_of(&template))), ..Default::default() };
        assert_eq!(template_of(&revision), Some(template));
    }
}
