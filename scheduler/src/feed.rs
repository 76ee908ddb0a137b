//! Watches of what decisions depend on (pods, nodes, namespaces, what volumes come from, disruption budgets), as a
//! stream of changes.
//!
//! Objects are compiled to what decisions need here, in the watching tasks, so that the one task that decides
//! only stores them. When that task is behind, the watches wait.

use std::collections::HashSet;
use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::warn;

use component_base::acted_on::{self, Seen};
use component_base::client::told;
use component_base::supervise::Tasks;

use crate::brain::{Change, Watched};
use crate::budgets::BudgetFacts;
use crate::node::NodeFacts;
use crate::pod::PodInfo;
use crate::volumes::{ClaimFacts, ClassFacts, VolumeFacts};

/// How a kind becomes changes.
struct Translation<K> {
    watched: Watched,
    /// What the list's end names an object by.
    key: fn(&K) -> String,
    applied: fn(K) -> Change,
    gone: fn(&K) -> Change,
}

/// Starts the watches; their changes go to `changes`.
pub(crate) fn start(client: &Client, seen: &Seen, changes: &mpsc::Sender<Change>, tasks: &Tasks) {
    // Finished pods use nothing. The server tells of a pod that finishes as of a deleted one.
    let unfinished = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = Translation::<Pod> {
        watched: Watched::Pods,
        key: |pod| pod.uid().unwrap_or_default(),
        applied: |pod| Change::Pod(Box::new(PodInfo::from_pod(pod))),
        gone: |pod| Change::PodGone(pod.uid().unwrap_or_default().into()),
    };
    let nodes = Translation::<Node> {
        watched: Watched::Nodes,
        key: ResourceExt::name_any,
        applied: |node| Change::Node(Box::new(NodeFacts::from_node(node))),
        gone: |node| Change::NodeGone(node.name_any()),
    };
    let namespaces = Translation::<Namespace> {
        watched: Watched::Namespaces,
        key: ResourceExt::name_any,
        applied: |namespace| {
            Change::Namespace(namespace.name_any(), namespace.metadata.labels.unwrap_or_default())
        },
        gone: |namespace| Change::NamespaceGone(namespace.name_any()),
    };
    let claims = Translation::<PersistentVolumeClaim> {
        watched: Watched::Claims,
        key: |claim| format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any()),
        applied: |claim| Change::Claim(Box::new(ClaimFacts::from_claim(claim))),
        gone: |claim| Change::ClaimGone((claim.namespace().unwrap_or_default(), claim.name_any())),
    };
    let volumes = Translation::<PersistentVolume> {
        watched: Watched::Volumes,
        key: ResourceExt::name_any,
        applied: |volume| Change::Volume(Box::new(VolumeFacts::from_volume(volume))),
        gone: |volume| Change::VolumeGone(volume.name_any()),
    };
    let classes = Translation::<StorageClass> {
        watched: Watched::StorageClasses,
        key: ResourceExt::name_any,
        applied: |class| Change::StorageClass(Box::new(ClassFacts::from_class(class))),
        gone: |class| Change::StorageClassGone(class.name_any()),
    };
    let budgets = Translation::<PodDisruptionBudget> {
        watched: Watched::Budgets,
        key: |budget| format!("{}/{}", budget.namespace().unwrap_or_default(), budget.name_any()),
        applied: |budget| Change::Budget(Box::new(BudgetFacts::from_budget(budget))),
        gone: |budget| Change::BudgetGone((budget.namespace().unwrap_or_default(), budget.name_any())),
    };
    let everything = watcher::Config::default();
    tasks.spawn_until_shutdown(
        "watch-pods",
        follow(Api::all(client.clone()), unfinished, pods, changes.clone(), seen.clone()),
    );
    tasks.spawn_until_shutdown(
        "watch-nodes",
        follow(Api::all(client.clone()), everything.clone(), nodes, changes.clone(), seen.clone()),
    );
    tasks.spawn_until_shutdown(
        "watch-namespaces",
        follow(Api::all(client.clone()), everything.clone(), namespaces, changes.clone(), seen.clone()),
    );
    tasks.spawn_until_shutdown(
        "watch-claims",
        follow(Api::all(client.clone()), everything.clone(), claims, changes.clone(), seen.clone()),
    );
    tasks.spawn_until_shutdown(
        "watch-volumes",
        follow(Api::all(client.clone()), everything.clone(), volumes, changes.clone(), seen.clone()),
    );
    tasks.spawn_until_shutdown(
        "watch-storage-classes",
        follow(Api::all(client.clone()), everything.clone(), classes, changes.clone(), seen.clone()),
    );
    tasks.spawn_until_shutdown(
        "watch-disruption-budgets",
        follow(Api::all(client.clone()), everything, budgets, changes.clone(), seen.clone()),
    );
}

async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    translation: Translation<K>,
    changes: mpsc::Sender<Change>,
    seen: Seen,
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        let revision = event.as_ref().ok().and_then(acted_on::revision_of);
        let change = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert((translation.key)(&object));
                (translation.applied)(object)
            }
            Ok(watcher::Event::InitDone) => Change::Listed(translation.watched, std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(object)) => (translation.applied)(object),
            Ok(watcher::Event::Delete(object)) => (translation.gone)(&object),
            Err(error) => {
                warn!(kind = ?translation.watched, error = told(&error), "watch failed; trying again");
                continue;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
        seen.note(revision);
    }
}
