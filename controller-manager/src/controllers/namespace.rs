//! `namespace-controller`: empties a namespace that is being deleted, then lets it go.
//!
//! # Watches
//! Namespaces, and pods of namespaces that are being deleted.
//!
//! # Writes
//! Deletes every object in the namespace, of whatever kind the server has; the namespace's status and, at
//! the end, its finalizer through `/finalize`.
//!
//! # Guarantees
//! The namespace goes only when discovery succeeded and every list of its contents was empty. Its pods go
//! before anything else, so that what they use outlives them. What holds it up is said in its conditions.
//!
//! # Differs from Kubernetes
//! Contents are asked for again each second and whenever a pod of it goes, instead of an estimated time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::conditions;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::client::said;
use component_base::clock::{Clock, time_of};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceSpec, NamespaceStatus, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{is_deleting, name_of};
use crate::resources::{ServedResource, served, stale};

const FINALIZER: &str = "kubernetes";
/// The names of the objects left are counted, at most this many of a kind.
const COUNTED_MAX: u32 = 500;

pub(crate) struct NamespaceController {
    client: Client,
    clock: Clock,
    namespaces: Arc<Informer<Namespace>>,
}

/// What is left in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Objects by resource (`pods.`, `deployments.apps`).
    objects: BTreeMap<String, usize>,
    /// Objects by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Refused requests.
    problems: Vec<String>,
    /// Why not all kinds are known.
    undiscovered: Option<String>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.objects.is_empty() && self.problems.is_empty() && self.undiscovered.is_none()
    }

    fn conditions(&self, now: DateTime<Utc>) -> Vec<NamespaceCondition> {
        let condition = |row: &Told| {
            let (status, reason, message) = match (row.problem)(self) {
                Some(problem) => ("True", row.bad, problem),
                None => ("False", row.good.0, row.good.1.to_owned()),
            };
            NamespaceCondition {
                type_: row.type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(time_of(now)),
            }
        };
        CONDITIONS.iter().map(condition).collect()
    }
}

/// `pods. has 2 resource instances, …`, when there are any.
fn listed(counts: &BTreeMap<String, usize>, word: &str) -> Option<String> {
    let part = |(name, count): (&String, &usize)| format!("{name} {word} {count} resource instances");
    (!counts.is_empty()).then(|| counts.iter().map(part).collect::<Vec<_>>().join(", "))
}

fn refused(left: &Left) -> Option<String> {
    let mut problems = left.problems.clone();
    problems.sort();
    let (failed, problems) = (problems.len(), problems.join(", "));
    (failed > 0).then(|| format!("Failed to delete all resource types, {failed} remaining: {problems}"))
}

/// A condition: what keeps the namespace, and what is said when that does not.
struct Told {
    type_: &'static str,
    good: (&'static str, &'static str),
    bad: &'static str,
    problem: fn(&Left) -> Option<String>,
}

const CONDITIONS: [Told; 5] = [
    Told {
        type_: "NamespaceDeletionDiscoveryFailure",
        good: ("ResourcesDiscovered", "All resources successfully discovered"),
        bad: "DiscoveryFailed",
        problem: |left| left.undiscovered.clone(),
    },
    Told {
        type_: "NamespaceDeletionGroupVersionParsingFailure",
        good: ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        bad: "GroupVersionParsingFailed",
        problem: |_| None,
    },
    Told {
        type_: "NamespaceDeletionContentFailure",
        good: ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        bad: "ContentDeletionFailed",
        problem: refused,
    },
    Told {
        type_: "NamespaceContentRemaining",
        good: ("ContentRemoved", "All content successfully removed"),
        bad: "SomeResourcesRemain",
        problem: |left| Some(format!("Some resources are remaining: {}", listed(&left.objects, "has")?)),
    },
    Told {
        type_: "NamespaceFinalizersRemaining",
        good: ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        bad: "SomeFinalizersRemain",
        problem: |left| {
            let finalizers = listed(&left.finalizers, "in")?;
            Some(format!("Some content in the namespace has finalizers remaining: {finalizers}"))
        },
    },
];

#[async_trait]
impl Controller for NamespaceController {
    const NAME: &'static str = "namespace-controller";
    const CONCURRENCY: usize = 10;

    fn watches(setup: &Setup<'_>) -> Self {
        let namespaces = setup.watch_own::<Namespace>();
        let (queue, known) = (setup.queue.clone(), namespaces.clone());
        setup.read::<Pod>().subscribe(move |change| {
            if let (Some(gone), None) = (change.old, change.new) {
                let key = ObjectKey::cluster(gone.metadata.namespace.clone().unwrap_or_default());
                if known.get(&key).is_some_and(|namespace| is_deleting(&namespace.metadata)) {
                    queue.add(key);
                }
            }
        });
        Self { client: setup.client.clone(), clock: setup.clock, namespaces }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Action::Done) };
        let ours = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        let ours = ours.is_some_and(|finalizers| finalizers.iter().any(|one| one == FINALIZER));
        if !is_deleting(&namespace.metadata) || !ours {
            return Ok(Action::Done);
        }
        let left = self.empty_all(&key.name).await;
        if left.is_nothing() {
            self.finalize(&namespace).await?;
            return Ok(Action::Done);
        }
        self.write_status(&namespace, &left).await?;
        Ok(Action::RequeueAfter(Duration::from_secs(1)))
    }
}

impl NamespaceController {
    /// Deletes all there is: the pods, and once they are gone everything else.
    async fn empty_all(&self, namespace: &str) -> Left {
        let mut left = Left::default();
        let found = async { Ok((served(&self.client).await?, stale(&self.client).await?)) }.await;
        let resources = match found {
            Ok((resources, stale)) => {
                left.undiscovered = undiscovered(&stale);
                resources
            }
            Err::<_, kube::Error>(error) => {
                left.undiscovered = Some(said(&error));
                return left;
            }
        };
        let namespaced = resources.iter().filter(|resource| resource.namespaced);
        let (pods, others): (Vec<_>, Vec<_>) = namespaced.partition(|resource| resource.is_pods());
        for group in [pods, others] {
            for resource in group {
                if let Err(error) = self.empty(namespace, resource, &mut left).await {
                    left.problems.push(said(&error));
                }
            }
            if !left.objects.is_empty() {
                break;
            }
        }
        left
    }

    /// Deletes all objects of one kind and notes what is left.
    async fn empty(
        &self,
        namespace: &str,
        resource: &ServedResource,
        left: &mut Left,
    ) -> Result<(), kube::Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource.api);
        let params = ListParams::default().limit(COUNTED_MAX);
        let mut rest = api.list_metadata(&params).await?.items;
        let (fresh, going): (Vec<_>, Vec<_>) = rest.iter().partition(|object| !is_deleting(&object.metadata));
        if !fresh.is_empty() {
            if resource.can_delete_collection {
                api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
            } else {
                for object in &fresh {
                    api.delete(name_of(&object.metadata), &DeleteParams::background()).await?;
                }
            }
        }
        if !fresh.is_empty() || !going.is_empty() {
            rest = api.list_metadata(&params).await?.items;
        }
        if !rest.is_empty() {
            left.objects.insert(format!("{}.{}", resource.api.plural, resource.api.group), rest.len());
        }
        for finalizer in rest.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *left.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), kube::Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut finalizers = namespace.spec.clone().and_then(|spec| spec.finalizers).unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let wanted =
            Namespace { spec: Some(NamespaceSpec { finalizers: Some(finalizers) }), ..namespace.clone() };
        let name = name_of(&namespace.metadata);
        match api.replace_subresource("finalize", name, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn write_status(&self, namespace: &Namespace, left: &Left) -> Result<(), kube::Error> {
        let old = namespace.status.clone().unwrap_or_default();
        let mut all = old.conditions.clone().unwrap_or_default();
        for condition in left.conditions(self.clock.now()) {
            conditions::set(&mut all, condition);
        }
        let status = NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(all) };
        if status == old {
            return Ok(());
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let wanted = Namespace { status: Some(status), ..namespace.clone() };
        match api.replace_status(name_of(&namespace.metadata), &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            // Whoever changed it wakes this controller again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What discovery failed at, in the words of Kubernetes' client.
fn undiscovered(stale: &[String]) -> Option<String> {
    let texts: Vec<String> =
        stale.iter().map(|version| format!("{version}: stale GroupVersion discovery: {version}")).collect();
    let (failed, texts) = (texts.len(), texts.join(", "));
    (failed > 0).then(|| {
        format!(
            "Discovery failed for some groups, {failed} failing: unable to retrieve the complete list of server APIs: {texts}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_is_left() {
        let mut left = Left::default();
        left.objects.insert("pods.".to_owned(), 2);
        left.finalizers.insert("example.org/keep".to_owned(), 1);
        let all = left.conditions(DateTime::UNIX_EPOCH);
        let told: Vec<_> =
            all.iter().map(|one| (one.status.as_str(), one.message.as_deref().unwrap())).collect();
        assert_eq!(told[0], ("False", "All resources successfully discovered"));
        assert_eq!(told[3], ("True", "Some resources are remaining: pods. has 2 resource instances"));
        let finalizers = "Some content in the namespace has finalizers remaining: example.org/keep in 1 resource instances";
        assert_eq!(told[4], ("True", finalizers));
    }

    #[test]
    fn a_group_that_does_not_answer_keeps_the_namespace() {
        let left = Left { undiscovered: undiscovered(&["example.org/v1".to_owned()]), ..Left::default() };
        assert!(!left.is_nothing());
        let told = left.conditions(DateTime::UNIX_EPOCH).remove(0);
        assert_eq!((told.status.as_str(), told.reason.as_deref()), ("True", Some("DiscoveryFailed")));
        assert!(
            told.message.unwrap().ends_with("example.org/v1: stale GroupVersion discovery: example.org/v1")
        );
    }
}
