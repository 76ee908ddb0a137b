//! `disruption-controller`: says how many pods of a PodDisruptionBudget may be evicted now.
//!
//! `scale` finds how many pods the owners of pods want, `stale` takes back the mark of an eviction that did
//! not come.
//!
//! # Watches
//! PodDisruptionBudgets, pods they select, and the workloads that own these pods.
//!
//! # Writes
//! The budget's status; the condition DisruptionTarget of pods that were not disrupted after all.
//!
//! # Guarantees
//! `disruptionsAllowed` counts only pods that are ready and not going, nor already promised to an
//! eviction. A promised pod that does not go within two minutes counts again. When the pods' owners cannot
//! be asked, nothing may be evicted, and the condition says why.
//!
//! # Differs from Kubernetes
//! A pod that several budgets select counts for each of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::int_or_percent::{NotAPercentage, Rounding, scaled};
use api_types::{conditions, pods};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of, time_of};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::PostParams;
use kube::{Api, Client, Resource};

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::controllers::disruption::scale::{Scale, ScaleError, Scales};
use crate::controllers::disruption::stale::StaleTargets;
use crate::informers::{Cached, Informer};
use crate::key::ObjectKey;
use crate::owners::{self, name_of};

mod scale;
mod stale;

/// How long a promised eviction may take.
const PROMISE_MAX: Duration = Duration::from_secs(120);

pub(crate) struct DisruptionController {
    client: Client,
    clock: Clock,
    events: Events,
    budgets: Arc<Informer<PodDisruptionBudget>>,
    pods: Arc<Informer<Pod>>,
    scales: Scales,
    stale: StaleTargets,
}

/// What `status` sees.
struct Observed<'a> {
    budget: &'a PodDisruptionBudget,
    pods: &'a [Arc<Pod>],
    /// How many pods their owners want, if the budget depends on it.
    scale: i32,
    now: DateTime<Utc>,
}

/// What `status` decides.
struct Decision {
    status: PodDisruptionBudgetStatus,
    /// When the next promise ends.
    next: Option<Duration>,
    /// Pods that were promised to go and did not.
    overdue: Vec<Arc<Pod>>,
}

fn status(observed: &Observed<'_>) -> Result<Decision, NotAPercentage> {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    let count = i32::try_from(observed.pods.len()).unwrap_or(i32::MAX);
    let scale = observed.scale;
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(maximum), _) => (scale, (scale - scaled(maximum, scale, Rounding::Up)?).max(0)),
        (None, Some(IntOrString::Int(minimum))) => (count, *minimum),
        (None, Some(percent)) => (scale, scaled(percent, scale, Rounding::Up)?),
        (None, None) => (0, 0),
    };
    let Promises { kept, next, overdue } = promises(observed);
    let healthy = observed.pods.iter().filter(|pod| {
        pods::is_ready(pod) && !pods::is_terminating(pod) && !kept.contains_key(name_of(&pod.metadata))
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let mut all = observed.budget.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let (state, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    conditions::set(&mut all, condition(state, reason, "", observed.budget, observed.now));
    let status = PodDisruptionBudgetStatus {
        conditions: Some(all),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        disrupted_pods: (!kept.is_empty()).then_some(kept),
        observed_generation: observed.budget.metadata.generation,
    };
    Ok(Decision { status, next, overdue })
}

/// The status of a budget that cannot be worked out: nothing may be evicted.
fn failed(budget: &PodDisruptionBudget, why: &str, now: DateTime<Utc>) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    status.current_healthy.get_or_insert(0);
    status.desired_healthy.get_or_insert(0);
    status.expected_pods.get_or_insert(0);
    let mut failed = condition("False", "SyncFailed", why, budget, now);
    failed.observed_generation = status.observed_generation;
    conditions::set(status.conditions.get_or_insert_default(), failed);
    status
}

fn condition(
    status: &str,
    reason: &str,
    message: &str,
    budget: &PodDisruptionBudget,
    now: DateTime<Utc>,
) -> Condition {
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: time_of(now),
        observed_generation: budget.metadata.generation,
    }
}

/// The evictions that were promised.
struct Promises {
    /// Those that still count.
    kept: BTreeMap<String, Time>,
    next: Option<Duration>,
    overdue: Vec<Arc<Pod>>,
}

fn promises(observed: &Observed<'_>) -> Promises {
    let before = observed.budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let mut promises = Promises { kept: BTreeMap::new(), next: None, overdue: Vec::new() };
    for pod in observed.pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = name_of(&pod.metadata);
        let Some(time) = before.and_then(|before| before.get(name)) else { continue };
        let age = (observed.now - moment_of(time)).to_std().unwrap_or(Duration::ZERO);
        if age > PROMISE_MAX {
            promises.overdue.push(pod.clone());
            continue;
        }
        let left = (PROMISE_MAX - age).max(Duration::from_millis(1));
        promises.next = Some(promises.next.map_or(left, |earlier| earlier.min(left)));
        promises.kept.insert(name.to_owned(), time.clone());
    }
    promises
}

/// Whether the status depends on what the pods' owners want.
fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| owners::selects(selector, pod.metadata.labels.as_ref()))
}

/// The selector as Go prints it, which the event about unmanaged pods does.
fn printed(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(name, value)| format!("{name}: {value},")).collect();
    let expressions = selector.match_expressions.iter().flatten();
    let expressions: String = expressions
        .map(|one| {
            let values = one.values.as_deref().unwrap_or_default().join(" ");
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                one.key, one.operator
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
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
        let scales = Scales {
            client: setup.client.clone(),
            controllers: watch_owners::<ReplicationController>(setup, &budgets),
            deployments: watch_owners::<Deployment>(setup, &budgets),
            sets: watch_owners::<ReplicaSet>(setup, &budgets),
            stateful: watch_owners::<StatefulSet>(setup, &budgets),
        };
        let stale = StaleTargets::watch(setup, &pods);
        let (client, clock, events) = (setup.client.clone(), setup.clock, setup.events());
        Self { client, clock, events, budgets, pods, scales, stale }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        if let Some(pod) = stale::pod_key(key) {
            return Ok(self.stale.reconcile(&pod).await?);
        }
        let Some(budget) = self.budgets.get(key) else { return Ok(Action::Done) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod));
        if pods.is_empty() {
            self.events.normal(&*budget, "NoPods", "No matching pods found");
        }
        let now = self.clock.now();
        match self.decide(&budget, &pods, now).await {
            Ok(Decision { status, next, overdue }) => {
                let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
                overdue.iter().for_each(|pod| self.events.warning(&**pod, "NotDeleted", &message));
                self.write(&budget, status).await?;
                Ok(Action::after(next))
            }
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.events.warning(&*budget, "CalculateExpectedPodCountFailed", &message);
                self.write(&budget, failed(&budget, &why.to_string(), now)).await?;
                Ok(Action::Done)
            }
        }
    }
}

/// The cache of owners of pods; a changed owner concerns the budgets of its namespace.
fn watch_owners<K: Cached + Resource>(
    setup: &Setup<'_>,
    budgets: &Arc<Informer<PodDisruptionBudget>>,
) -> Arc<Informer<K>> {
    let budgets = budgets.clone();
    setup.watch::<K>(move |owner| {
        let all = budgets.in_namespace(owner.meta().namespace.as_deref().unwrap_or_default());
        all.iter().map(|budget| ObjectKey::of(&**budget)).collect()
    })
}

impl DisruptionController {
    async fn decide(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        now: DateTime<Utc>,
    ) -> Result<Decision, ScaleError> {
        let spec = budget.spec.clone().unwrap_or_default();
        let mut scale = 0;
        if needs_scale(&spec) {
            let Scale { pods: wanted, unmanaged } = self.scales.of(pods).await?;
            scale = wanted;
            if unmanaged > 0 {
                let message = format!(
                    "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a \
                     result, the status of the PDB cannot be calculated correctly, which may result in undefined \
                     behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an \
                     integer value.",
                    printed(spec.selector.as_ref())
                );
                self.events.warning(budget, "UnmanagedPods", &message);
            }
        }
        Ok(status(&Observed { budget, pods, scale, now })?)
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), kube::Error> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), namespace);
        let wanted = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        api.replace_status(name_of(&budget.metadata), &PostParams::default(), &wanted).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(spec: Value, before: Value) -> PodDisruptionBudget {
        let meta = json!({"generation": 3});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": before})).unwrap()
    }

    fn pods(ready: usize) -> Vec<Arc<Pod>> {
        let pod = |index: usize| {
            let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": format!("p{index}")}, "status": status}))
                    .unwrap(),
            )
        };
        (0..ready).map(pod).collect()
    }

    fn decide(spec: Value, before: Value, ready: usize, scale: i32) -> Decision {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(100);
        let (budget, pods) = (budget(spec, before), pods(ready));
        status(&Observed { budget: &budget, pods: &pods, scale, now }).unwrap()
    }

    fn check(spec: Value, before: Value, ready: usize, scale: i32, allowed: i32) {
        assert_eq!(decide(spec, before, ready, scale).status.disruptions_allowed, Some(allowed));
    }

    #[test]
    fn what_is_above_the_minimum_may_go() {
        check(json!({"minAvailable": 2}), json!({}), 3, 3, 1);
        check(json!({"minAvailable": 2}), json!({}), 2, 3, 0);
        check(json!({"minAvailable": "67%"}), json!({}), 10, 10, 3);
    }

    #[test]
    fn a_maximum_counts_from_what_the_owners_want() {
        check(json!({"maxUnavailable": 1}), json!({}), 2, 3, 0);
        check(json!({"maxUnavailable": "34%"}), json!({}), 3, 3, 2);
        let status = decide(json!({"maxUnavailable": 1}), json!({}), 5, 7).status;
        assert_eq!((status.expected_pods, status.desired_healthy), (Some(7), Some(6)));
    }

    #[test]
    fn without_expected_pods_nothing_may_go() {
        check(json!({"maxUnavailable": 1}), json!({}), 1, 0, 0);
        check(json!({"minAvailable": 0}), json!({}), 0, 0, 0);
        check(json!({}), json!({}), 3, 3, 0);
    }

    #[test]
    fn a_promised_pod_counts_as_gone_for_two_minutes() {
        let promised = |at: &str| json!({"disruptedPods": {"p0": at, "gone": at}});
        let decision = decide(json!({"minAvailable": 2}), promised("1970-01-01T00:00:30Z"), 3, 3);
        assert_eq!(decision.status.disruptions_allowed, Some(0));
        assert_eq!(decision.next, Some(Duration::from_secs(50)));
        let names: Vec<_> = decision.status.disrupted_pods.unwrap().into_keys().collect();
        assert_eq!(names, ["p0"], "a pod that is gone is forgotten");
        let decision = decide(json!({"minAvailable": 2}), promised("1969-12-31T23:59:00Z"), 3, 3);
        assert_eq!(decision.status.disruptions_allowed, Some(1));
        assert_eq!((decision.status.disrupted_pods, decision.overdue.len()), (None, 1));
    }

    #[test]
    fn the_condition_says_whether_there_are_pods_enough() {
        let state = |ready| {
            let conditions =
                decide(json!({"minAvailable": 1}), json!({}), ready, 0).status.conditions.unwrap();
            format!(
                "{} {} {:?}",
                conditions[0].status, conditions[0].reason, conditions[0].observed_generation
            )
        };
        assert_eq!(state(2), "True SufficientPods Some(3)");
        assert_eq!(state(1), "False InsufficientPods Some(3)");
    }

    #[test]
    fn a_budget_that_cannot_be_worked_out_allows_nothing_and_says_why() {
        let before = json!({"disruptionsAllowed": 4, "currentHealthy": 5, "observedGeneration": 2});
        let status = failed(&budget(json!({}), before), "found no controllers", DateTime::UNIX_EPOCH);
        assert_eq!((status.disruptions_allowed, status.current_healthy), (Some(0), Some(5)));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("SyncFailed", "found no controllers")
        );
    }

    #[test]
    fn a_selector_is_told_as_kubernetes_tells_it() {
        let selector = json!({"matchLabels": {"foo": "bar"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["b", "c"]}]});
        let expected = "&LabelSelector{MatchLabels:map[string]string{foo: bar,},MatchExpressions:\
                        []LabelSelectorRequirement{LabelSelectorRequirement{Key:a,Operator:In,Values:[b c],},},}";
        assert_eq!(printed(Some(&serde_json::from_value(selector).unwrap())), expected);
    }
}
