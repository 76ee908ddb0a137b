//! Disruption budgets as preemption sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::pod::PodInfo;
use crate::selector::Selector;

/// What tells budgets apart: namespace and name.
pub(crate) type BudgetKey = (String, String);

/// A budget.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BudgetFacts {
    pub(crate) key: BudgetKey,
    /// Of the pods it counts; one that requires nothing matches none.
    selector: Selector,
    /// How many pods may go now.
    allowed: i32,
    /// Pods that were let go and are still there.
    disrupted: BTreeSet<String>,
}

impl BudgetFacts {
    pub(crate) fn from_budget(budget: PodDisruptionBudget) -> Self {
        let (spec, status) = (budget.spec.unwrap_or_default(), budget.status.unwrap_or_default());
        let metadata = budget.metadata;
        Self {
            key: (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default()),
            selector: spec.selector.as_ref().map(Selector::from_label_selector).unwrap_or_default(),
            allowed: status.disruptions_allowed.unwrap_or_default(),
            disrupted: status.disrupted_pods.unwrap_or_default().into_keys().collect(),
        }
    }

    /// Whether the pod's end would be one of those that the budget counts.
    fn counts(&self, pod: &PodInfo) -> bool {
        self.key.0 == pod.namespace
            && !self.selector.is_empty()
            && self.selector.matches(&pod.labels)
            && !self.disrupted.contains(&pod.name)
    }
}

/// All budgets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budgets {
    all: BTreeMap<BudgetKey, BudgetFacts>,
}

impl Budgets {
    pub(crate) fn set(&mut self, key: BudgetKey, budget: Option<BudgetFacts>) {
        match budget {
            Some(budget) => drop(self.all.insert(key, budget)),
            None => drop(self.all.remove(&key)),
        }
    }

    pub(crate) fn keys(&self) -> Vec<BudgetKey> {
        self.all.keys().cloned().collect()
    }

    /// Those of `pods` whose end some budget does not allow, and the others; the first ones use up what is allowed.
    pub(crate) fn divide(&self, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut left: Vec<(&BudgetFacts, i32)> =
            self.all.values().map(|budget| (budget, budget.allowed)).collect();
        pods.iter().cloned().partition(|pod| {
            let mut is_violated = false;
            for (_, allowed) in left.iter_mut().filter(|(budget, _)| budget.counts(pod)) {
                *allowed -= 1;
                is_violated |= *allowed < 0;
            }
            is_violated
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    fn budget(selector: serde_json::Value, allowed: i32, disrupted: &[&str]) -> BudgetFacts {
        let gone: BTreeMap<&str, &str> =
            disrupted.iter().map(|name| (*name, "2026-01-01T00:00:00Z")).collect();
        let budget = json!({"metadata": {"namespace": "default", "name": "b"}, "spec": {"selector": selector},
            "status": {"disruptionsAllowed": allowed, "disruptedPods": gone, "currentHealthy": 0,
                "desiredHealthy": 0, "expectedPods": 0}});
        BudgetFacts::from_budget(serde_json::from_value(budget).unwrap())
    }

    #[test]
    fn pods_beyond_what_a_budget_allows_violate_it() {
        let pods: Vec<_> = ["a", "b", "c"].map(|name| pod(name).label("app", "web").info()).into();
        let web = json!({"matchLabels": {"app": "web"}});
        for (budget, expected) in [
            (budget(web.clone(), 0, &[]), &["a", "b", "c"][..]),
            (budget(web.clone(), 1, &[]), &["b", "c"]),
            (budget(web.clone(), 0, &["b"]), &["a", "c"]),
            (budget(web, 3, &[]), &[]),
            (budget(json!({"matchLabels": {"app": "other"}}), 0, &[]), &[]),
            (budget(json!({}), 0, &[]), &[]),
        ] {
            let mut budgets = Budgets::default();
            budgets.set(budget.key.clone(), Some(budget));
            let (violating, others) = budgets.divide(&pods);
            let names: Vec<&str> = violating.iter().map(|pod| &*pod.name).collect();
            assert_eq!((names, others.len()), (expected.to_vec(), 3 - expected.len()));
        }
    }
}
