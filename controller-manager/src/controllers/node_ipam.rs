//! `node-ipam-controller`: gives each node a range of addresses for its pods.
//!
//! # Watches
//! Nodes.
//!
//! # Writes
//! `spec.podCIDR` and `spec.podCIDRs` of nodes.
//!
//! # Guarantees
//! No two nodes have addresses in common. What nodes have is read from the nodes, so a restart forgets
//! nothing, and a node that goes frees its range. It works only when it is asked to (`--allocate-node-cidrs`).
//!
//! # Differs from Kubernetes
//! The first free range is given out, not the one after the last; there is no cloud allocator.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::NodeRanges;
use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{is_deleting, name_of};
use crate::prefix::Prefix;

pub(crate) struct NodeIpam {
    client: Client,
    events: Events,
    ranges: Option<NodeRanges>,
    nodes: Arc<Informer<Node>>,
    /// What was given to nodes that do not show it yet.
    given: Mutex<BTreeMap<String, Vec<Prefix>>>,
}

/// What to do about a node.
#[derive(Debug, PartialEq)]
enum Step {
    Keep,
    Assign(Vec<Prefix>),
    /// There is no range left.
    Full,
}

fn plan(node: &Node, ranges: &NodeRanges, taken: &[Prefix]) -> Step {
    if !ranges_of(node).is_empty() || is_deleting(&node.metadata) {
        return Step::Keep;
    }
    let part = |range: &Prefix| {
        let len = if range.is_v6() { ranges.len_v6 } else { ranges.len_v4 };
        range.free_part(len, taken)
    };
    match ranges.cluster.iter().map(part).collect::<Option<Vec<_>>>() {
        Some(parts) => Step::Assign(parts),
        None => Step::Full,
    }
}

/// What a node has.
fn ranges_of(node: &Node) -> Vec<Prefix> {
    let Some(spec) = node.spec.as_ref() else { return Vec::new() };
    let texts = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.as_ref());
    texts.filter_map(|text| text.parse().ok()).collect()
}

#[async_trait]
impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam-controller";
    const CONCURRENCY: usize = 1;

    fn watches(setup: &Setup<'_>) -> Self {
        let ranges = setup.config.node_ranges.clone();
        let nodes = setup.read::<Node>();
        let queue = setup.queue.clone();
        nodes.subscribe(move |change| {
            let shows = change.new.map(|node| !ranges_of(node).is_empty());
            if shows != change.old.map(|node| !ranges_of(node).is_empty())
                && let Some(node) = change.new.or(change.old)
            {
                queue.add(ObjectKey::of(&**node));
            }
        });
        let (client, events) = (setup.client.clone(), setup.events());
        Self { client, events, ranges, nodes, given: Mutex::default() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(ranges) = &self.ranges else { return Ok(Action::Done) };
        let Some(node) = self.nodes.get(key) else {
            self.given.lock().remove(&key.name);
            return Ok(Action::Done);
        };
        match plan(&node, ranges, &self.taken(ranges)) {
            Step::Keep => {
                self.given.lock().remove(&key.name);
                Ok(Action::Done)
            }
            Step::Assign(_) if self.given.lock().contains_key(&key.name) => Ok(Action::Done),
            Step::Assign(parts) => {
                self.assign(&node, parts).await?;
                Ok(Action::Done)
            }
            Step::Full => {
                self.tell(&node, "CIDRNotAvailable");
                Err(ReconcileError::Again("no range of addresses is left for the node".to_owned()))
            }
        }
    }
}

impl NodeIpam {
    fn taken(&self, ranges: &NodeRanges) -> Vec<Prefix> {
        let mut taken = ranges.reserved.clone();
        taken.extend(self.nodes.all().iter().flat_map(|node| ranges_of(node)));
        taken.extend(self.given.lock().values().flatten());
        taken
    }

    async fn assign(&self, node: &Node, parts: Vec<Prefix>) -> Result<(), kube::Error> {
        let name = name_of(&node.metadata);
        let texts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        let patch = json!({"metadata": {"uid": node.metadata.uid},
                           "spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        self.given.lock().insert(name.to_owned(), parts);
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.given.lock().remove(name);
                self.tell(node, "CIDRAssignmentFailed");
                Err(error)
            }
        }
    }

    fn tell(&self, node: &Node, reason: &str) {
        let name = name_of(&node.metadata);
        self.events.normal(node, reason, &format!("Node {name} status is now: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(cluster: &[&str]) -> NodeRanges {
        let cluster = cluster.iter().map(|text| text.parse().unwrap()).collect();
        NodeRanges { cluster, reserved: Vec::new(), len_v4: 24, len_v6: 64 }
    }

    fn check(has: &[&str], cluster: &[&str], taken: &[&str], expected: &str) {
        let node =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": has}})).unwrap();
        let taken: Vec<Prefix> = taken.iter().map(|text| text.parse().unwrap()).collect();
        let told = match plan(&node, &ranges(cluster), &taken) {
            Step::Assign(parts) => parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn a_node_gets_the_first_free_range_of_each_family() {
        check(&[], &["10.244.0.0/16"], &["10.244.0.0/24"], "10.244.1.0/24");
        check(&[], &["10.244.0.0/16", "fd00::/48"], &["fd00::/64"], "10.244.0.0/24 fd00:0:0:1::/64");
    }

    #[test]
    fn a_node_keeps_what_it_has() {
        check(&["10.7.0.0/24"], &["10.244.0.0/16"], &[], "Keep");
    }

    #[test]
    fn a_full_cluster_is_told() {
        check(&[], &["10.244.0.0/24"], &["10.244.0.0/24"], "Full");
    }
}
