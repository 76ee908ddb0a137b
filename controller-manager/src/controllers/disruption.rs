//! `disruption-controller`: says how many pods of a PodDisruptionBudget may be evicted now.
//!
//! # Watches
//! PodDisruptionBudgets, pods they select, and the workloads that own these pods.
//!
//! # Writes
//! The budget's status.
//!
//! # Guarantees
//! `disruptionsAllowed` counts only pods that are ready and not going, nor already promised to an
//! eviction. A promised pod that does not go within two minutes counts again.
//!
//! # Differs from Kubernetes
//! Sizes are taken from ReplicaSets and StatefulSets; pods of other owners count as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api_types::int_or_percent::{Rounding, scaled};
use api_types::{conditions, pods};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of, time_of};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, name_of};

/// How long a promised eviction may take.
const PROMISE_MAX: Duration = Duration::from_secs(120);

pub(crate) struct DisruptionController {
    client: Client,
    clock: Clock,
    budgets: Arc<Informer<PodDisruptionBudget>>,
    pods: Arc<Informer<Pod>>,
    sets: Arc<Informer<ReplicaSet>>,
    stateful: Arc<Informer<StatefulSet>>,
}

/// What `status` sees.
struct Observed<'a> {
    budget: &'a PodDisruptionBudget,
    pods: &'a [Arc<Pod>],
    /// How many pods their owners want.
    scale: i32,
    now: DateTime<Utc>,
}

/// The status, and when a promise in it ends.
fn status(observed: &Observed<'_>) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    let count = i32::try_from(observed.pods.len()).unwrap_or(i32::MAX);
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(maximum), _) => {
            let maximum = scaled(maximum, observed.scale, Rounding::Up).unwrap_or(0);
            (observed.scale, (observed.scale - maximum).max(0))
        }
        (None, Some(IntOrString::Int(minimum))) => (count, *minimum),
        (None, Some(percent)) => {
            (observed.scale, scaled(percent, observed.scale, Rounding::Up).unwrap_or(observed.scale))
        }
        (None, None) => (count, 1),
    };
    let (promised, next) = promised(observed);
    let healthy = observed.pods.iter().filter(|pod| {
        pods::is_ready(pod) && !pods::is_terminating(pod) && !promised.contains_key(name_of(&pod.metadata))
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let old = observed.budget.status.clone().unwrap_or_default();
    let mut all = old.conditions.unwrap_or_default();
    conditions::set(&mut all, condition(observed, allowed));
    let status = PodDisruptionBudgetStatus {
        conditions: Some(all),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        disrupted_pods: (!promised.is_empty()).then_some(promised),
        observed_generation: observed.budget.metadata.generation,
    };
    (status, next)
}

fn condition(observed: &Observed<'_>, allowed: i32) -> Condition {
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        last_transition_time: time_of(observed.now),
        observed_generation: observed.budget.metadata.generation,
    }
}

type Promises = BTreeMap<String, k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>;

/// The promised evictions that still count, and when the next ends.
fn promised(observed: &Observed<'_>) -> (Promises, Option<Duration>) {
    let mut promises =
        observed.budget.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    let mut next: Option<Duration> = None;
    promises.retain(|name, time| {
        let waiting =
            observed.pods.iter().any(|pod| name_of(&pod.metadata) == name && !pods::is_terminating(pod));
        let age = (observed.now - moment_of(time)).to_std().unwrap_or(Duration::ZERO);
        let counts = waiting && age < PROMISE_MAX;
        if counts {
            let left = PROMISE_MAX - age;
            next = Some(next.map_or(left, |earlier| earlier.min(left)));
        }
        counts
    });
    (promises, next)
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| owners::selects(selector, pod.metadata.labels.as_ref()))
}

#[async_trait]
impl Controller for DisruptionController {
    const NAME: &'static str = "disruption-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let budgets = setup.watch_own::<PodDisruptionBudget>();
        let selecting = budgets.clone();
        let pods = setup.watch::<Pod>(move |pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let all = selecting.in_namespace(namespace);
            all.iter().filter(|budget| selects(budget, pod)).map(|budget| ObjectKey::of(&**budget)).collect()
        });
        let of_namespace = |budgets: Arc<Informer<PodDisruptionBudget>>| {
            move |namespace: &str| -> Vec<ObjectKey> {
                budgets.in_namespace(namespace).iter().map(|budget| ObjectKey::of(&**budget)).collect()
            }
        };
        let (for_sets, for_stateful) = (of_namespace(budgets.clone()), of_namespace(budgets.clone()));
        let sets = setup
            .watch::<ReplicaSet>(move |set| for_sets(set.metadata.namespace.as_deref().unwrap_or_default()));
        let stateful = setup.watch::<StatefulSet>(move |set| {
            for_stateful(set.metadata.namespace.as_deref().unwrap_or_default())
        });
        Self { client: setup.client.clone(), clock: setup.clock, budgets, pods, sets, stateful }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Action::Done) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod) && !pods::is_terminal(pod));
        let observed =
            Observed { budget: &budget, pods: &pods, scale: self.scale_of(&pods), now: self.clock.now() };
        let (status, next) = status(&observed);
        if budget.status.as_ref() != Some(&status) {
            let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
            let wanted = PodDisruptionBudget { status: Some(status), ..PodDisruptionBudget::clone(&budget) };
            api.replace_status(&key.name, &PostParams::default(), &wanted).await?;
        }
        Ok(Action::after(next))
    }
}

impl DisruptionController {
    fn scale_of(&self, pods: &[Arc<Pod>]) -> i32 {
        let mut counted = BTreeSet::new();
        let mut scale = 0;
        for pod in pods {
            let owner = owners::controller_of(&pod.metadata);
            let size = self.owner_size(&pod.metadata);
            scale += match (owner, size) {
                (Some(owner), Some(size)) => {
                    if counted.insert(owner.uid.clone()) {
                        size
                    } else {
                        0
                    }
                }
                _ => 1,
            };
        }
        scale
    }

    fn owner_size(&self, meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<i32> {
        if let Some(key) = owners::controller_key::<ReplicaSet>(meta) {
            return self.sets.get(&key)?.spec.as_ref()?.replicas;
        }
        self.stateful.get(&owners::controller_key::<StatefulSet>(meta)?)?.spec.as_ref()?.replicas
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        spec: serde_json::Value,
        status_before: serde_json::Value,
        ready: usize,
        scale: i32,
        allowed: i32,
    ) {
        let budget =
            serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status_before})).unwrap();
        let pod = |index: usize| {
            let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": format!("p{index}")}, "status": status}))
                    .unwrap(),
            )
        };
        let pods: Vec<_> = (0..ready).map(pod).collect();
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(100);
        let (status, _) = status(&Observed { budget: &budget, pods: &pods, scale, now });
        assert_eq!(status.disruptions_allowed, Some(allowed));
    }

    #[test]
    fn what_is_above_the_minimum_may_go() {
        check(json!({"minAvailable": 2}), json!({}), 3, 3, 1);
        check(json!({"minAvailable": 2}), json!({}), 2, 3, 0);
    }

    #[test]
    fn a_maximum_counts_from_what_the_owners_want() {
        check(json!({"maxUnavailable": 1}), json!({}), 2, 3, 0);
        check(json!({"maxUnavailable": "34%"}), json!({}), 3, 3, 2);
    }

    #[test]
    fn a_promised_pod_counts_as_gone_for_two_minutes() {
        check(json!({"minAvailable": 2}), json!({"disruptedPods": {"p0": "1970-01-01T00:00:30Z"}}), 3, 3, 0);
        check(json!({"minAvailable": 2}), json!({"disruptedPods": {"p0": "1969-12-31T23:59:00Z"}}), 3, 3, 1);
    }
}
