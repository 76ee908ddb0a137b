//! Creating, deleting, adopting and releasing objects for an owner, with the events that tell of it.

use std::future::Future;
use std::sync::Arc;

use component_base::client::said;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::json;

use crate::controller::Events;
use crate::informers::Cached;
use crate::owners::{self, Claim};

/// Writes pods on behalf of a controller.
#[derive(Clone)]
pub(crate) struct PodControl {
    client: Client,
    events: Events,
}

impl PodControl {
    pub(crate) fn new(client: Client, events: Events) -> Self {
        Self { client, events }
    }

    /// Creates `pod` for `owner` in its namespace.
    pub(crate) async fn create<K: Resource<DynamicType = ()>>(
        &self,
        owner: &K,
        pod: &Pod,
    ) -> Result<Pod, kube::Error> {
        let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                let name = owners::name_of(&created.metadata);
                self.events.normal(owner, "SuccessfulCreate", &format!("Created pod: {name}"));
                Ok(created)
            }
            Err(error) => {
                if !is_namespace_going(&error) {
                    self.events.warning(owner, "FailedCreate", &format!("Error creating: {}", said(&error)));
                }
                Err(error)
            }
        }
    }

    /// Deletes exactly this pod for `owner`; that it is gone already is no error.
    pub(crate) async fn delete<K: Resource<DynamicType = ()>>(
        &self,
        owner: &K,
        pod: &Pod,
    ) -> Result<(), kube::Error> {
        let name = owners::name_of(&pod.metadata);
        match delete_exactly(&self.client, pod, DeleteParams::default()).await {
            Ok(()) => {
                self.events.normal(owner, "SuccessfulDelete", &format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.events.warning(owner, "FailedDelete", &format!("Error deleting: {}", said(&error)));
                Err(error)
            }
        }
    }
}

/// Whether a creation was refused because its namespace is being deleted.
pub(crate) fn is_namespace_going(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Deletes this very object (its uid); that it is gone, or another has its name, is no error.
pub(crate) async fn delete_exactly<K>(
    client: &Client,
    object: &K,
    params: DeleteParams,
) -> Result<(), kube::Error>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let meta = object.meta();
    let api: Api<K> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let preconditions = Preconditions { uid: meta.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..params };
    match api.delete(owners::name_of(meta), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A pod from a template, owned by `owner`, its name made from `prefix` by the server.
pub(crate) fn pod_of(
    template: &PodTemplateSpec,
    owner: OwnerReference,
    namespace: &str,
    prefix: &str,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Runs `count` creations in batches of 1, 2, 4, … so that a refusal that concerns all costs one try.
pub(crate) async fn slow_start<F, W>(count: usize, create: F) -> Result<(), kube::Error>
where
    F: Fn(usize) -> W,
    W: Future<Output = Result<(), kube::Error>>,
{
    let (mut done, mut batch) = (0, 1);
    while done < count {
        let size = batch.min(count - done);
        let results = join_all((done..done + size).map(&create)).await;
        results.into_iter().collect::<Result<Vec<()>, _>>()?;
        done += size;
        batch = (batch * 2).min(64);
    }
    Ok(())
}

/// Takes what belongs to `owner` out of `candidates`, adopting and releasing on the way.
///
/// `still_there` asks the server once whether the owner is the one the cache shows, before anything is adopted.
pub(crate) async fn claim_all<O, K>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Cached + Resource<Scope = NamespaceResourceScope>,
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let mut claimed = Vec::new();
    let mut may_adopt = None;
    for object in candidates {
        match owners::claim(owner.meta(), selector, object.meta()) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Release => release(client, &*object, owners::uid_of(owner.meta())).await?,
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(is_alive(client, owner).await?);
                }
                if may_adopt == Some(true) {
                    claimed
                        .push(Arc::new(adopt(client, &*object, owners::controller_reference(owner)).await?));
                }
            }
        }
    }
    Ok(claimed)
}

async fn is_alive<O>(client: &Client, owner: &O) -> Result<bool, kube::Error>
where
    O: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let meta = owner.meta();
    let api: Api<O> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let live = api.get_metadata_opt(owners::name_of(meta)).await?;
    Ok(live.is_some_and(|live| live.metadata.uid == meta.uid && live.metadata.deletion_timestamp.is_none()))
}

async fn adopt<K>(client: &Client, object: &K, owner: OwnerReference) -> Result<K, kube::Error>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.push(owner);
    set_owners(client, object, &references).await
}

async fn release<K>(client: &Client, object: &K, owner_uid: &str) -> Result<(), kube::Error>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != owner_uid);
    match set_owners(client, object, &references).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop),
    }
}

async fn set_owners<K>(client: &Client, object: &K, references: &[OwnerReference]) -> Result<K, kube::Error>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let meta = object.meta();
    let api: Api<K> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references,
    }});
    api.patch(owners::name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await
}
