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
    claim(client, owner, selector, candidates, None).await
}

/// The same; what is adopted gets `finalizer`, and what is released loses it.
pub(crate) async fn claim_all_holding<O, K>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    finalizer: &str,
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Cached + Resource<Scope = NamespaceResourceScope>,
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    claim(client, owner, selector, candidates, Some(finalizer)).await
}

async fn claim<O, K>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    finalizer: Option<&str>,
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
            Claim::Release => release(client, &*object, owners::uid_of(owner.meta()), finalizer).await?,
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(is_alive(client, owner).await?);
                }
                if may_adopt == Some(true) {
                    let owner = owners::controller_reference(owner);
                    claimed.push(Arc::new(adopt(client, &*object, owner, finalizer).await?));
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

async fn adopt<K>(
    client: &Client,
    object: &K,
    owner: OwnerReference,
    finalizer: Option<&str>,
) -> Result<K, kube::Error>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let mut meta = object.meta().clone();
    meta.owner_references.get_or_insert_default().push(owner);
    let finalizers = meta.finalizers.get_or_insert_default();
    finalizers.extend(finalizer.filter(|one| !finalizers.iter().any(|own| own == one)).map(str::to_owned));
    set_owners(client, object, &meta).await
}

async fn release<K>(
    client: &Client,
    object: &K,
    owner_uid: &str,
    finalizer: Option<&str>,
) -> Result<(), kube::Error>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let mut meta = object.meta().clone();
    meta.owner_references.get_or_insert_default().retain(|reference| reference.uid != owner_uid);
    meta.finalizers.get_or_insert_default().retain(|own| Some(own.as_str()) != finalizer);
    match set_owners(client, object, &meta).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop),
    }
}

/// Writes the owners and finalizers of `wanted`, if nobody has changed the object since it was read.
async fn set_owners<K>(client: &Client, object: &K, wanted: &ObjectMeta) -> Result<K, kube::Error>
where
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let meta = object.meta();
    let api: Api<K> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let mut patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version,
        "ownerReferences": wanted.owner_references,
    }});
    if meta.finalizers.clone().unwrap_or_default() != wanted.finalizers.clone().unwrap_or_default() {
        patch["metadata"]["finalizers"] = json!(wanted.finalizers);
    }
    api.patch(owners::name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use parking_lot::Mutex;

    use super::*;

    /// The batches in which creations begin, of which those from the place `refused` on fail.
    async fn batches(count: usize, refused: usize) -> (Vec<usize>, bool) {
        let (begun, sizes) = (Mutex::new(0), Mutex::new(Vec::new()));
        let create = |at: usize| {
            *begun.lock() += 1;
            let (begun, sizes) = (&begun, &sizes);
            async move {
                // All of a batch have begun before the first of them goes on.
                let size = std::mem::take(&mut *begun.lock());
                sizes.lock().extend((size > 0).then_some(size));
                if at < refused {
                    Ok(())
                } else {
                    Err(kube::Error::Api(Box::new(Status::failure("full", "Forbidden"))))
                }
            }
        };
        let made = slow_start(count, create).await.is_ok();
        (sizes.into_inner(), made)
    }

    #[tokio::test]
    async fn creations_begin_slowly_and_end_with_the_first_refusal() {
        assert_eq!(batches(10, 10).await, (vec![1, 2, 4, 3], true));
        assert_eq!(batches(100, 0).await, (vec![1], false), "what concerns all is tried once");
        assert_eq!(batches(100, 4).await, (vec![1, 2, 4], false));
        assert_eq!(batches(200, 200).await, (vec![1, 2, 4, 8, 16, 32, 64, 64, 9], true));
    }
}
