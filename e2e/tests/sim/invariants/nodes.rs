//! A pod stays on the node that it was bound to, and every node is ready and without taints in the end.

use super::{Invariant, Surroundings};
use crate::model::{Change, Model, is_ready, name, uid};

pub(super) struct Nodes;

impl Invariant for Nodes {
    fn name(&self) -> &'static str {
        "nodes"
    }

    fn check(&mut self, _: &Model, _: &Surroundings, change: &Change) -> Vec<String> {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Vec::new() };
        let node = |pod: &serde_json::Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
        let moved = change.resource == "pods"
            && uid(old) == uid(new)
            && node(old).is_some()
            && node(old) != node(new);
        if moved {
            vec![format!("{} moved from {:?} to {:?}", name(new), node(old), node(new))]
        } else {
            Vec::new()
        }
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        let bad = |node: &&serde_json::Value| {
            !is_ready(node) || node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty())
        };
        model.all("nodes").filter(bad).map(|node| format!("node {}: {}", name(node), node["spec"])).collect()
    }
}
