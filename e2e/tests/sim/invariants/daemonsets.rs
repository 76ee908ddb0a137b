//! A DaemonSet has at most one pod on a node, one more while an update surges, and in the end one on each. An update
//! takes no ready pod beyond what maxUnavailable allows.

use serde_json::Value;

use super::{Invariant, Surroundings};
use crate::model::{
    Change, Model, controller, count, has_ended, is_active, is_going, is_ready, name, namespace, uid,
};

pub(super) struct DaemonSets;

impl Invariant for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonsets"
    }

    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        let problem = match change {
            change if change.resource != "pods" => None,
            change if change.is_creation() => check_creation(model, around, change),
            change if change.begins_to_go() && around.is_calm(change.at) => check_end(model, change),
            _ => None,
        };
        problem.into_iter().collect()
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        let nodes = model.all("nodes").count() as i64;
        let lacks = |set: &&Value| {
            let pods = model.controlled_by("pods", uid(set)).filter(|pod| is_active(pod)).count() as i64;
            let status = |field: &str| count(set, &format!("/status/{field}"));
            [pods, status("desiredNumberScheduled"), status("numberReady"), status("updatedNumberScheduled")]
                .iter()
                .any(|one| *one != nodes)
        };
        let say = |set: &Value| format!("daemonset {} on {nodes} nodes: {}", name(set), set["status"]);
        model.all("daemonsets").filter(lacks).map(say).collect()
    }
}

fn check_creation(model: &Model, around: &Surroundings, change: &Change) -> Option<String> {
    let pod = change.object();
    let ("DaemonSet", owner, owner_uid) = controller(pod)? else { return None };
    let node = node_of(pod)?;
    let set = model.get("daemonsets", namespace(pod), owner)?;
    let surges = set.pointer("/spec/updateStrategy/rollingUpdate/maxSurge").is_some_and(|surge| *surge != 0);
    let there = |one: &&Value| node_of(one) == Some(node) && !has_ended(one) && (!surges || !is_going(one));
    let pods = model.controlled_by("pods", owner_uid).filter(there).count();
    let most = if surges { 2 } else { 1 } + around.excess_max(change.at);
    (pods > most).then(|| format!("{} is pod {pods} of {owner} on {node}", name(pod)))
}

/// A ready pod goes only while few enough nodes are without one, itself counted in.
fn check_end(model: &Model, change: &Change) -> Option<String> {
    let pod = change.old.as_ref().filter(|pod| is_ready(pod))?;
    let ("DaemonSet", owner, owner_uid) = controller(pod)? else { return None };
    let set = model.get("daemonsets", namespace(pod), owner).filter(|set| uid(set) == owner_uid)?;
    if is_going(set) {
        return None;
    }
    let (nodes, most) =
        (model.all("nodes").count(), count(set, "/spec/updateStrategy/rollingUpdate/maxUnavailable"));
    let serving = model.controlled_by("pods", owner_uid).filter(|one| is_active(one) && is_ready(one));
    let served: std::collections::BTreeSet<_> = serving.filter_map(node_of).collect();
    // Where another serves the node, nothing is lost by it.
    if node_of(pod).is_some_and(|node| served.contains(node)) {
        return None;
    }
    let lacking = nodes.saturating_sub(served.len()) as i64;
    (lacking > most)
        .then(|| format!("{} goes: {lacking} of {nodes} nodes lack {owner}, {most} may", name(pod)))
}

/// Where the pod is, or where alone it may go.
fn node_of(pod: &Value) -> Option<&str> {
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let field = format!("{required}/nodeSelectorTerms/0/matchFields/0/values/0");
    pod["spec"]["nodeName"].as_str().or_else(|| pod.pointer(&field)?.as_str())
}
