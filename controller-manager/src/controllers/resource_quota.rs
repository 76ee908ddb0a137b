//! `resourcequota-controller`: counts what each ResourceQuota's namespace holds.
//!
//! # Watches
//! ResourceQuotas, pods that end, and the metadata of every kind: what goes is counted no longer.
//!
//! # Writes
//! The status of ResourceQuotas: the limits that hold, and what is used of them.
//!
//! # Guarantees
//! The count is of one moment: the quota is read first and written on condition that nothing was charged to
//! it since, so what the API server charges is never lost.
//!
//! # Differs from Kubernetes
//! Nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api_types::kinds;
use api_types::quantity::Quantity;
use api_types::quota::{self, Usage};
use async_trait::async_trait;
use component_base::Shutdown;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::metadata::{Listener, Metadata, MetadataWatches};
use crate::queue::Queue;
use crate::resources::ServedResource;

/// Counted again all the same, as Kubernetes does.
const RECOUNT: Duration = Duration::from_secs(300);

pub(crate) struct ResourceQuotaController {
    client: Client,
    quotas: Arc<Informer<ResourceQuota>>,
    kinds: Arc<MetadataWatches>,
    stop: Shutdown,
}

/// Queues the quotas that count what has gone.
struct Counted {
    quotas: Arc<Informer<ResourceQuota>>,
    queue: Queue,
}

impl Counted {
    fn recount(&self, quotas: Vec<Arc<ResourceQuota>>, resource: &ServedResource) {
        let of_it = quotas.iter().filter(|quota| counts(quota, resource));
        of_it.for_each(|quota| self.queue.add(ObjectKey::of(&**quota)));
    }
}

impl Listener for Counted {
    /// The API server charges what is made; only what changed its end here must be counted again.
    fn put(&self, _resource: &ServedResource, _object: &Metadata) {}

    fn remove(&self, resource: &ServedResource, object: &Metadata) {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        self.recount(self.quotas.in_namespace(namespace), resource);
    }

    /// What vanished while nobody watched is not told one by one.
    fn listed(&self, resource: &ServedResource, _uids: &BTreeSet<String>) {
        self.recount(self.quotas.all(), resource);
    }
}

/// Whether the quota says anything of objects of this kind.
fn counts(quota: &ResourceQuota, resource: &ServedResource) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter()
        .flatten()
        .any(|(name, _)| quota::is_about(&resource.api.group, &resource.api.plural, name))
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
        recount_when_pods_end(setup, &quotas);
        let kinds = setup.informers.metadata();
        kinds.subscribe(Arc::new(Counted { quotas: quotas.clone(), queue: setup.queue.clone() }));
        let stop = setup.tasks.shutdown().clone();
        Self { client: setup.client.clone(), quotas, kinds, stop }
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
        for resource in self.counted(&hard).await {
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
        Ok(Action::RequeueAfter(RECOUNT))
    }
}

fn is_outdated(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    status.and_then(|status| status.hard.as_ref()) != hard || status.is_none_or(|s| s.used.is_none())
}

/// Queues the quotas of a namespace in which a pod has ended: it counts no longer, though it is still there.
fn recount_when_pods_end(setup: &Setup<'_>, quotas: &Arc<Informer<ResourceQuota>>) {
    let (queue, quotas) = (setup.queue.clone(), quotas.clone());
    setup.read::<Pod>().subscribe(move |change| {
        let Some(old) = change.old.filter(|old| !api_types::pods::is_terminal(old)) else { return };
        if change.new.is_some_and(|new| api_types::pods::is_terminal(new)) {
            let namespace = old.metadata.namespace.as_deref().unwrap_or_default();
            quotas.in_namespace(namespace).iter().for_each(|quota| queue.add(ObjectKey::of(&**quota)));
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
    /// The resources that the names are about: built-in ones from the table, others that the server has.
    async fn counted(&self, hard: &Usage) -> Vec<ApiResource> {
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
            // Before every kind is known, one that is counted may only seem not to be there.
            self.stop.run_until_cancelled(self.kinds.wait_until_synced()).await;
            let is_asked = |one: &ServedResource| {
                let about = |name: &String| quota::is_about(&one.api.group, &one.api.plural, name);
                one.namespaced && names().any(|name| !is_known(name) && about(name))
            };
            let custom = self.kinds.resources(is_asked);
            found.extend(custom.into_iter().map(|resource| resource.api));
        }
        found
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
