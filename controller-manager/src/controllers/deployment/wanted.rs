//! The facts of a Deployment and its sets that all decisions use.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::int_or_percent::{Rounding, scaled};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Change, Step};
use crate::owners::{annotation, name_of};

/// The number that the Deployment wanted when the set was sized.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The most pods that all sets together might have had then.
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of one set from those of another.
pub(super) const HASH: &str = "pod-template-hash";

/// What a Deployment wants, and its sets by what they are to it.
pub(super) struct Wanted<'a> {
    pub deployment: &'a Deployment,
    pub spec: &'a DeploymentSpec,
    pub replicas: i32,
    pub surge: i32,
    pub unavailable: i32,
    /// The set with the Deployment's template.
    pub new: Option<Arc<ReplicaSet>>,
    /// The other sets, oldest first.
    pub old: Vec<Arc<ReplicaSet>>,
}

impl<'a> Wanted<'a> {
    pub(super) fn of(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Self> {
        let spec = deployment.spec.as_ref()?;
        let replicas = spec.replicas.unwrap_or(1);
        let (surge, unavailable) = limits(spec, replicas);
        let mut sets = sets.to_vec();
        sets.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
        let new = sets.iter().find(|set| has_template(set, &spec.template)).cloned();
        let old = sets
            .into_iter()
            .filter(|set| Some(name_of(&set.metadata)) != new.as_ref().map(|new| name_of(&new.metadata)));
        let old = old.collect();
        Some(Self { deployment, spec, replicas, surge, unavailable, new, old })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.iter())
    }

    pub(super) fn is_paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    pub(super) fn is_recreate(&self) -> bool {
        self.spec.strategy.as_ref().is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
    }

    /// The progress deadline, if one was set; the highest number means none.
    pub(super) fn deadline_seconds(&self) -> Option<i32> {
        self.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
    }

    pub(super) fn maximum(&self) -> i32 {
        self.replicas + self.surge
    }

    pub(super) fn minimum(&self) -> i32 {
        self.replicas - self.unavailable
    }

    /// Whether `status` shows everything rolled out and available.
    pub(super) fn is_complete(&self, status: Option<&DeploymentStatus>) -> bool {
        let all = |count: Option<i32>| count.unwrap_or(0) == self.replicas;
        status.is_some_and(|status| {
            all(status.updated_replicas)
                && all(status.replicas)
                && all(status.available_replicas)
                && status.observed_generation >= self.deployment.metadata.generation
        })
    }

    /// A change of a set to `replicas`, with the size annotations that go with it.
    pub(super) fn resize(&self, set: &Arc<ReplicaSet>, replicas: i32) -> Option<Step> {
        let mut annotations = self.sizes();
        annotations.retain(|name, value| annotation(&set.metadata, name) != Some(value));
        let changed = size(set) != replicas || !annotations.is_empty();
        let change = Change { set: set.clone(), replicas, annotations, min_ready_seconds: None };
        changed.then_some(Step::Change(change))
    }

    /// The annotations that say for which size a set was sized.
    pub(super) fn sizes(&self) -> BTreeMap<String, String> {
        [(DESIRED, self.replicas), (MAXIMUM, self.maximum())]
            .map(|(name, count)| (name.to_owned(), count.to_string()))
            .into()
    }
}

/// The rolling update's surge and unavailability in pods; both zero would never move, so then one may be unavailable.
pub(super) fn limits(spec: &DeploymentSpec, replicas: i32) -> (i32, i32) {
    let strategy = spec.strategy.clone().unwrap_or_default();
    if strategy.type_.as_deref() == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let quarter = || IntOrString::String("25%".to_owned());
    let surge = scaled(&rolling.max_surge.unwrap_or_else(quarter), replicas, Rounding::Up).unwrap_or(1);
    let unavailable =
        scaled(&rolling.max_unavailable.unwrap_or_else(quarter), replicas, Rounding::Down).unwrap_or(0);
    match (surge, unavailable) {
        (0, 0) => (0, 1.min(replicas)),
        (surge, unavailable) => (surge, unavailable.min(replicas)),
    }
}

/// How many pods the set is to have.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// A number in an annotation of the set.
pub(super) fn number(set: &ReplicaSet, name: &str) -> Option<i32> {
    annotation(&set.metadata, name).and_then(|text| text.parse().ok())
}

/// Whether the set makes pods of `template`; the label that tells sets apart does not count.
pub(super) fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    own.is_some_and(|own| own.spec == template.spec && bare(&own.metadata) == bare(&template.metadata))
}

/// A template's metadata without the label and the time that only a set's has, and without what is empty.
pub(super) fn bare(meta: &Option<ObjectMeta>) -> ObjectMeta {
    let mut meta = meta.clone().unwrap_or_default();
    meta.creation_timestamp = None;
    if let Some(labels) = meta.labels.as_mut() {
        labels.remove(HASH);
    }
    meta.labels = meta.labels.filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.filter(|annotations| !annotations.is_empty());
    meta
}
