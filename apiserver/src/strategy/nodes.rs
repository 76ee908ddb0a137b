//! Nodes and leases: heartbeats, whose last seconds a crash may lose.

use serde_json::{Value, json};

use super::{Context, Haste, Strategy, isolate};

pub(super) struct Nodes;
pub(super) struct Leases;

impl Strategy for Nodes {
    fn unify(&self, new: &mut Value) {
        unify_ranges(new);
    }

    fn haste(&self, context: &Context<'_>, new: &Value, old: Option<&Value>) -> Haste {
        let is_heartbeat = context.subresource == "status"
            && old.is_some_and(|old| without_times(new) == without_times(old));
        if is_heartbeat { Haste::Lazy } else { Haste::Synced }
    }
}

/// The older field has the first of the ranges, and is believed where the two differ.
fn unify_ranges(node: &mut Value) {
    let Some(spec) = node.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let first = spec["podCIDRs"].get(0).and_then(Value::as_str).map(str::to_owned);
    match (spec["podCIDR"].as_str().filter(|range| !range.is_empty()), first) {
        (Some(one), first) if first.as_deref() != Some(one) => spec["podCIDRs"] = json!([one]),
        (None, Some(first)) => spec["podCIDR"] = json!(first),
        _ => {}
    }
}

/// What of a node's status tells more than that the node is alive.
fn without_times(node: &Value) -> Value {
    let mut status = node["status"].clone();
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.shift_remove("lastHeartbeatTime");
        }
    }
    status
}

impl Strategy for Leases {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        drop_coordinated(new);
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        drop_coordinated(new);
    }

    fn haste(&self, _context: &Context<'_>, new: &Value, old: Option<&Value>) -> Haste {
        // A lease that changes hands decides who leads: that must not be forgotten.
        let renews = old.is_some_and(|old| old["spec"]["holderIdentity"] == new["spec"]["holderIdentity"]);
        if renews { Haste::Lazy } else { Haste::Synced }
    }
}

/// Coordinated leader election is off, and its fields are not kept.
fn drop_coordinated(lease: &mut Value) {
    let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.shift_remove("strategy");
    spec.shift_remove("preferredHolder");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_ip::{ServiceAddresses, ServiceCidr};

    fn haste(strategy: &dyn Strategy, subresource: &str, new: Value, old: Option<Value>) -> Haste {
        let kind = api_types::kinds::find_resource("", "v1", "nodes").unwrap();
        let services = ServiceAddresses::new(ServiceCidr::usual());
        let context = Context { subresource, ..Context::fixture(kind, &services) };
        strategy.haste(&context, &new, old.as_ref())
    }

    #[test]
    fn a_nodes_range_stands_in_both_fields() {
        let unified = |spec: Value| {
            let mut node = json!({ "spec": spec });
            unify_ranges(&mut node);
            node["spec"].clone()
        };
        let both = json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]});
        assert_eq!(unified(json!({"podCIDR": "10.0.0.0/24"})), both);
        assert_eq!(unified(json!({"podCIDRs": ["10.0.0.0/24"]}))["podCIDR"], "10.0.0.0/24");
        assert_eq!(unified(json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.1.0.0/24"]})), both);
        assert_eq!(unified(json!({})), json!({}));
    }

    #[test]
    fn only_heartbeats_are_lazy() {
        let node = |time: &str, ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": time}]}});
        assert_eq!(haste(&Nodes, "status", node("2", "True"), Some(node("1", "True"))), Haste::Lazy);
        assert_eq!(haste(&Nodes, "status", node("2", "False"), Some(node("1", "True"))), Haste::Synced);
        assert_eq!(haste(&Nodes, "", node("2", "True"), Some(node("1", "True"))), Haste::Synced);
        let lease = |holder: &str, at: &str| json!({"spec": {"holderIdentity": holder, "renewTime": at}});
        assert_eq!(haste(&Leases, "", lease("a", "2"), Some(lease("a", "1"))), Haste::Lazy);
        assert_eq!(haste(&Leases, "", lease("b", "2"), Some(lease("a", "1"))), Haste::Synced);
        assert_eq!(haste(&Leases, "", lease("a", "1"), None), Haste::Synced);
    }
}
