//! `clusterrole-aggregation-controller`: gives each ClusterRole with an aggregation rule the rules of those that
//! it selects.
//!
//! # Watches
//! ClusterRoles.
//!
//! # Writes
//! The rules of ClusterRoles that have an `aggregationRule`, by server-side apply.
//!
//! # Guarantees
//! Each rule of a selected role is there once, in the order of the roles' names; what is the same is not
//! written again.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use api_types::selectors::LabelSelector;
use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;

pub(crate) struct ClusterRoleAggregation {
    client: Client,
    roles: Arc<Informer<ClusterRole>>,
}

/// Every role may count for every other, so there is one key for all of them.
const ALL: &str = "all";

#[async_trait]
impl Controller for ClusterRoleAggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    const CONCURRENCY: usize = 1;

    fn watches(setup: &Setup<'_>) -> Self {
        let roles = setup.watch(|_: &ClusterRole| vec![ObjectKey::cluster(ALL)]);
        Self { client: setup.client.clone(), roles }
    }

    async fn reconcile(&self, _key: &ObjectKey) -> Result<Action, ReconcileError> {
        let all = self.roles.all();
        let api: Api<ClusterRole> = Api::all(self.client.clone());
        for role in &all {
            let Some(rules) = plan(role, &all) else { continue };
            let name = role.metadata.name.as_deref().unwrap_or_default();
            let body = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": name}, "rules": rules,
            });
            let params = PatchParams::apply(Self::NAME).force();
            api.patch(name, &params, &Patch::Apply(&body)).await?;
        }
        Ok(Action::Done)
    }
}

/// The rules that the role shall have, if it has others. `all` is ordered by name.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut wanted: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let Ok(selector) = LabelSelector::from_value(&json!(selector)) else { continue };
        for other in all.iter().filter(|other| other.metadata.name != role.metadata.name) {
            let labels = other.metadata.labels.as_ref();
            if !selector.matches_with(|name| labels.and_then(|l| l.get(name)).map(String::as_str)) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !wanted.contains(rule) {
                    wanted.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != wanted).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, verbs: &[&str]) -> ClusterRole {
        let rules: Vec<_> = verbs
            .iter()
            .map(|verb| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}))
            .collect();
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"part-of": label}}, "rules": rules}),
        )
        .unwrap()
    }

    fn collecting(rules: &[&str]) -> ClusterRole {
        let aggregation = json!({"clusterRoleSelectors": [{"matchLabels": {"part-of": "x"}}]});
        ClusterRole {
            aggregation_rule: Some(serde_json::from_value(aggregation).unwrap()),
            ..role("whole", "x", rules)
        }
    }

    fn verbs(rules: Option<Vec<PolicyRule>>) -> Option<Vec<String>> {
        rules.map(|rules| rules.into_iter().flat_map(|rule| rule.verbs).collect())
    }

    #[test]
    fn rules_of_selected_roles_are_there_once_in_order() {
        let all = [
            role("a", "x", &["get", "list"]),
            role("b", "x", &["list", "watch"]),
            role("c", "y", &["delete"]),
        ]
        .map(Arc::new);
        assert_eq!(verbs(plan(&collecting(&[]), &all)).unwrap(), ["get", "list", "watch"]);
        assert_eq!(verbs(plan(&collecting(&["get", "list", "watch"]), &all)), None);
        assert_eq!(verbs(plan(&role("d", "x", &["get"]), &all)), None);
    }

    #[test]
    fn a_role_without_parts_has_no_rules() {
        assert_eq!(verbs(plan(&collecting(&["get"]), &[])).unwrap(), Vec::<String>::new());
    }
}
