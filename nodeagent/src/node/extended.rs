//! Extended resources that somebody else wrote into the node's capacity: what there is of them may be used.
//!
//! Kubernetes lets an administrator advertise them by a patch of `status.capacity`; the node answers for
//! `status.allocatable`, since it alone knows what it keeps for itself. It keeps nothing of these.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::agent::Agent;

/// Follows the node for as long as it is polled.
pub(crate) async fn follow(agent: Arc<Agent>) {
    let api: Api<Node> = Api::all(agent.client.clone());
    let wanted = watcher::Config::default().fields(&format!("metadata.name={}", agent.node_name));
    let mut nodes = watcher(api.clone(), wanted).default_backoff().applied_objects().boxed();
    loop {
        let node = match nodes.try_next().await {
            Ok(Some(node)) => node,
            Ok(None) => return,
            Err(error) => {
                warn!("watching the node; trying again: {error}");
                continue;
            }
        };
        let Some(change) = change(&node) else { continue };
        let patch = Patch::Merge(json!({"status": {"allocatable": change}}));
        if let Err(error) = api.patch_status(&agent.node_name, &PatchParams::default(), &patch).await {
            // The next event of the node, at the latest its next heartbeat, tries again.
            warn!("telling what may be used of extended resources: {error}");
        }
    }
}

/// What has to change in the node's `allocatable`, if anything; null takes away. Pure.
fn change(node: &Node) -> Option<Map<String, Value>> {
    let status = node.status.as_ref()?;
    let amounts = |of: &Option<_>| -> Map<String, Value> {
        let all = serde_json::to_value(of).unwrap_or_default();
        let all = all.as_object().cloned().unwrap_or_default();
        all.into_iter().filter(|(name, _)| name.contains('/')).collect()
    };
    let (capacity, usable) = (amounts(&status.capacity), amounts(&status.allocatable));
    let gone =
        usable.keys().filter(|name| !capacity.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let new = capacity.iter().filter(|(name, amount)| usable.get(*name) != Some(amount));
    let change: Map<String, Value> =
        gone.chain(new.map(|(name, amount)| (name.clone(), amount.clone()))).collect();
    (!change.is_empty()).then_some(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(capacity: Value, allocatable: Value) -> Option<Value> {
        let status = json!({"capacity": capacity, "allocatable": allocatable});
        change(&serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap()).map(Value::Object)
    }

    #[test]
    fn what_was_advertised_may_be_used_until_it_is_taken_back() {
        let gpu = |count: &str| json!({"cpu": "4", "example.com/gpu": count});
        assert_eq!(changed(gpu("2"), json!({"cpu": "3"})), Some(json!({"example.com/gpu": "2"})));
        assert_eq!(changed(gpu("2"), gpu("1")), Some(json!({"example.com/gpu": "2"})));
        assert_eq!(changed(json!({"cpu": "4"}), gpu("1")), Some(json!({"example.com/gpu": null})));
    }

    #[test]
    fn the_nodes_own_resources_are_left_alone() {
        assert_eq!(changed(json!({"cpu": "4", "a.b/c": "1"}), json!({"cpu": "3", "a.b/c": "1"})), None);
        assert_eq!(changed(json!({"cpu": "4"}), json!({})), None);
    }
}
