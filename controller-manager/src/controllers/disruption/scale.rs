//! How many pods the owners of some pods want: of the workloads in the caches, and of any other kind
//! through its scale.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::int_or_percent::NotAPercentage;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::DynamicObject;
use kube::core::GroupVersionKind;
use kube::discovery::pinned_kind;
use kube::{Api, Client, Resource, ResourceExt};

use crate::informers::{Cached, Informer};
use crate::key::ObjectKey;
use crate::owners::{controller_of, name_of};

/// Where sizes are looked up.
pub(super) struct Scales {
    pub client: Client,
    pub controllers: Arc<Informer<ReplicationController>>,
    pub deployments: Arc<Informer<Deployment>>,
    pub sets: Arc<Informer<ReplicaSet>>,
    pub stateful: Arc<Informer<StatefulSet>>,
}

/// What the owners of some pods want together.
pub(super) struct Scale {
    pub pods: i32,
    /// Pods that nobody owns; they are not in `pods`.
    pub unmanaged: usize,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScaleError {
    #[error("{0} does not implement the scale subresource")]
    NotScalable(String),
    #[error("found no controllers for pod {0:?}")]
    NoController(String),
    #[error(transparent)]
    Request(#[from] kube::Error),
    #[error(transparent)]
    Percentage(#[from] NotAPercentage),
}

/// Who decides on the number of pods, and the number.
struct Size {
    uid: String,
    replicas: i32,
}

/// A ReplicaSet, as far as its size goes.
enum SetSize {
    Own(Size),
    /// A Deployment's, which decides.
    Deployment(OwnerReference),
}

impl Scales {
    /// What the owners of `pods` want together, each owner once.
    pub(super) async fn of(&self, pods: &[Arc<Pod>]) -> Result<Scale, ScaleError> {
        let (mut sizes, mut asked) = (BTreeMap::new(), BTreeMap::new());
        let mut unmanaged = 0;
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged += 1;
                continue;
            };
            if asked.insert(owner.uid.clone(), ()).is_some() {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let size = self.size_of(owner, namespace).await?;
            let size = size.ok_or_else(|| ScaleError::NoController(name_of(&pod.metadata).to_owned()))?;
            sizes.insert(size.uid, size.replicas);
        }
        let pods = sizes.into_values().fold(0i32, i32::saturating_add);
        Ok(Scale { pods, unmanaged })
    }

    async fn size_of(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<Size>, ScaleError> {
        if let Some(found) = find(&self.controllers, owner, namespace) {
            return Ok(Some(size(&*found, found.spec.as_ref().and_then(|spec| spec.replicas))));
        }
        if let Some(found) = find(&self.stateful, owner, namespace) {
            return Ok(Some(size(&*found, found.spec.as_ref().and_then(|spec| spec.replicas))));
        }
        match find(&self.sets, owner, namespace).map(|set| size_of_set(&set)) {
            Some(SetSize::Own(size)) => Ok(Some(size)),
            Some(SetSize::Deployment(owner)) => {
                let found = find(&self.deployments, &owner, namespace);
                Ok(found.map(|one| size(&*one, one.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            None => self.size_by_scale(owner, namespace).await,
        }
    }

    async fn size_by_scale(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<Size>, ScaleError> {
        let (group, version) = owner.api_version.rsplit_once('/').unwrap_or(("", &owner.api_version));
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let (resource, can) = pinned_kind(&self.client, &kind).await?;
        // Discovery tells subresources as "widgets/scale" or "scale", by the form it was asked in.
        let scalable = can.subresources.iter().any(|(sub, _)| sub.plural.rsplit('/').next() == Some("scale"));
        if !scalable {
            let group = if group.is_empty() { String::new() } else { format!(".{group}") };
            return Err(ScaleError::NotScalable(format!("{}{group}", resource.plural)));
        }
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) if scale.metadata.uid.as_ref() == Some(&owner.uid) => {
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                Ok(Some(Size { uid: owner.uid.clone(), replicas }))
            }
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The owner in the cache, if it is of that kind and the very one.
fn find<K: Cached>(cache: &Informer<K>, owner: &OwnerReference, namespace: &str) -> Option<Arc<K>> {
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    if owner.kind != K::kind(&()) || group != K::group(&()) {
        return None;
    }
    cache
        .get(&ObjectKey::new(namespace, &owner.name))
        .filter(|one| one.meta().uid.as_ref() == Some(&owner.uid))
}

fn size<K: Resource>(object: &K, replicas: Option<i32>) -> Size {
    Size { uid: object.uid().unwrap_or_default(), replicas: replicas.unwrap_or(1) }
}

fn size_of_set(set: &ReplicaSet) -> SetSize {
    match controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
        Some(owner) => SetSize::Deployment(owner.clone()),
        None => SetSize::Own(size(set, set.spec.as_ref().and_then(|spec| spec.replicas))),
    }
}
