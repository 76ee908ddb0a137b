//! `resourcequota-controller`: counts what each ResourceQuota's namespace holds.
//!
//! # Watches
//! ResourceQuotas, and pods, services and claims that go or end.
//!
//! # Writes
//! The status of ResourceQuotas: the limits that hold, and what is used of them.
//!
//! # Guarantees
//! The count is of one moment: the quota is read first and written on condition that nothing was charged to
//! it since, so what the API server charges is never lost.
//!
//! # Differs from Kubernetes
//! Other kinds than pods, services and claims are not watched; their quotas are counted again every few
//! seconds, all others every five minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::kinds;
use api_types::quantity::Quantity;
use api_types::quota::{self, Usage};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::{Cached, Informer};
use crate::key::ObjectKey;
use crate::resources::served;

/// Kinds whose objects are watched as they go.
const WATCHED: &[&str] = &["pods", "services", "persistentvolumeclaims"];
const RECOUNT_UNWATCHED: Duration = Duration::from_secs(5);
const RECOUNT: Duration = Duration::from_secs(300);

pub(crate) struct ResourceQuotaController {
    client: Client,
    quotas: Arc<Informer<ResourceQuota>>,
}

#[async_trait]
impl Controller for ResourceQuotaController {
    const NAME: &'static str = "resourcequota-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let quotas = setup.read::<ResourceQuota>();
        let queue = setup.queue.clone();
        quotas.subscribe(move |change| {
            // What the API server charges needs no counting again.
            if let Some(new) = change.new.filter(|new| change.old.is_none() || is_outdated(new)) {
                queue.add(ObjectKey::of(&**new));
            }
        });
        recount_when(setup, &quotas, |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        });
        recount_when(setup, &quotas, |_: &Service| false);
        recount_when(setup, &quotas, |_: &PersistentVolumeClaim| false);
        Self { client: setup.client.clone(), quotas }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        if self.quotas.get(key).is_none() {
            return Ok(Action::Done);
        }
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(read) = api.get_opt(&key.name).await? else { return Ok(Action::Done) };
        let read = serde_json::to_value(read).map_err(|e| ReconcileError::Terminal(e.to_string()))?;
        let hard = quota::read(&read["spec"]["hard"]);
        let mut used: Usage = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        let mut unwatched = false;
        for resource in self.counted(&hard).await? {
            unwatched |= !(resource.group.is_empty() && WATCHED.contains(&resource.plural.as_str()));
            self.count(&resource, &key.namespace, &read["spec"], &mut used).await?;
        }
        let status = json!({ "hard": read["spec"]["hard"], "used": shown(&used) });
        if is_other(&read["status"], &status) {
            let mut next = read;
            next["status"] = status;
            let next: ResourceQuota =
                serde_json::from_value(next).map_err(|e| ReconcileError::Terminal(e.to_string()))?;
            api.replace_status(&key.name, &PostParams::default(), &next).await?;
        }
        Ok(Action::RequeueAfter(if unwatched { RECOUNT_UNWATCHED } else { RECOUNT }))
    }
}

fn is_outdated(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    status.and_then(|status| status.hard.as_ref()) != hard || status.is_none_or(|s| s.used.is_none())
}

/// Queues the quotas of a namespace in which a `K` has gone or has ended.
fn recount_when<K: Cached>(
    setup: &Setup<'_>,
    quotas: &Arc<Informer<ResourceQuota>>,
    has_ended: impl Fn(&K) -> bool + Send + Sync + 'static,
) {
    let (queue, quotas) = (setup.queue.clone(), quotas.clone());
    setup.read::<K>().subscribe(move |change| {
        let Some(old) = change.old.filter(|old| !has_ended(old)) else { return };
        if change.new.is_none_or(|new| has_ended(new)) {
            let namespace = old.meta().namespace.clone().unwrap_or_default();
            quotas.in_namespace(&namespace).iter().for_each(|quota| queue.add(ObjectKey::of(&**quota)));
        }
    });
}

/// Amounts as the API writes them.
fn shown(used: &Usage) -> BTreeMap<String, String> {
    used.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect()
}

/// Whether the two say different amounts, however they are written.
fn is_other(old: &Value, new: &Value) -> bool {
    ["hard", "used"].iter().any(|field| quota::read(&old[*field]) != quota::read(&new[*field]))
}

impl ResourceQuotaController {
    /// The resources that the names are about: built-in ones from the table, others by discovery.
    async fn counted(&self, hard: &Usage) -> Result<Vec<ApiResource>, ReconcileError> {
        let names = || hard.keys();
        let mut found: Vec<ApiResource> = Vec::new();
        let rows = kinds::builtin().iter().filter(|row| row.is_namespaced() && !row.storage.is_empty());
        for row in rows {
            let about = names().any(|name| quota::is_about(&row.group, &row.plural, name));
            let known = found.iter().any(|other| other.group == row.group && other.plural == row.plural);
            if about && !known {
                let kind = GroupVersionKind::gvk(&row.group, &row.version, &row.kind);
                found.push(ApiResource::from_gvk_with_plural(&kind, &row.plural));
            }
        }
        let is_known = |name: &str| found.iter().any(|r| quota::is_about(&r.group, &r.plural, name));
        if names().any(|name| name.starts_with("count/") && !is_known(name)) {
            let custom = served(&self.client).await?.into_iter().filter(|resource| resource.namespaced);
            let custom: Vec<ApiResource> = custom
                .map(|resource| resource.api)
                .filter(|api| names().any(|n| !is_known(n) && quota::is_about(&api.group, &api.plural, n)))
                .collect();
            found.extend(custom);
        }
        Ok(found)
    }

    async fn count(
        &self,
        resource: &ApiResource,
        namespace: &str,
        spec: &Value,
        used: &mut Usage,
    ) -> Result<(), ReconcileError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        for object in api.list(&ListParams::default()).await? {
            let object = serde_json::to_value(object).map_err(|e| ReconcileError::Terminal(e.to_string()))?;
            if !quota::is_in_scope(spec, &resource.group, &resource.plural, &object) {
                continue;
            }
            for (name, amount) in quota::usage(&resource.group, &resource.plural, &object) {
                if let Some(sum) = used.get_mut(&name) {
                    *sum += amount;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_amount_written_otherwise_is_no_change() {
        let old = json!({"hard": {"cpu": "1"}, "used": {"cpu": "0.5"}});
        assert!(!is_other(&old, &json!({"hard": {"cpu": "1000m"}, "used": {"cpu": "500m"}})));
        assert!(is_other(&old, &json!({"hard": {"cpu": "1"}, "used": {"cpu": "1"}})));
    }
}
