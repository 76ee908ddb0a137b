//! A DaemonSet has at most one pod on a node, one more while an update surges, and in the end one on each. An update
//! takes no ready pod beyond what maxUnavailable allows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::history::History;
use super::{Invariant, Surroundings};
use crate::model::{
    Change, Model, controller, count, has_ended, is_active, is_going, is_ready, name, namespace, uid,
};

#[derive(Default)]
pub(super) struct DaemonSets {
    /// By pod: whether it was ready.
    ready: History,
    /// By set and node: whether a ready pod was there.
    served: History,
    /// Sets and nodes whose ready pod was taken, and no other is ready yet. Who takes it knows that.
    taken: BTreeSet<String>,
}

impl Invariant for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonsets"
    }

    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        if change.resource != "pods" {
            return Vec::new();
        }
        let problem = match change {
            change if change.is_creation() => check_creation(model, around, change),
            change if change.begins_to_go() && around.is_calm(change.at) => self.check_end(model, change),
            _ => None,
        };
        self.note(model, change);
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

impl DaemonSets {
    fn note(&mut self, model: &Model, change: &Change) {
        let pod = change.object();
        let (Some(("DaemonSet", _, owner)), Some(node)) = (controller(pod), node_of(pod)) else { return };
        self.ready.note(uid(pod), change.at, i64::from(change.new.as_ref().is_some_and(serves)));
        let place = place(owner, node);
        let mut there = model.controlled_by("pods", owner).filter(|one| node_of(one) == Some(node));
        let served = there.any(serves);
        self.served.note(&place, change.at, i64::from(served));
        if served {
            self.taken.remove(&place);
        } else if change.begins_to_go() && change.old.as_ref().is_some_and(serves) {
            self.taken.insert(place);
        }
    }

    /// A pod that has long been ready goes only while few enough nodes are without one, itself counted in.
    fn check_end(&self, model: &Model, change: &Change) -> Option<String> {
        let pod = change.old.as_ref()?;
        let ("DaemonSet", owner, owner_uid) = controller(pod)? else { return None };
        let set = model.get("daemonsets", namespace(pod), owner).filter(|set| uid(set) == owner_uid)?;
        if is_going(set) || self.ready.lowest(uid(pod), change.at) != Some(1) {
            return None;
        }
        let serving = model.controlled_by("pods", owner_uid).filter(|one| serves(one));
        let served: BTreeSet<_> = serving.filter_map(node_of).collect();
        let here = node_of(pod)?;
        // Where another serves the node, nothing is lost by it.
        if served.contains(here) {
            return None;
        }
        let lacks = |node: &str| {
            let place = place(owner_uid, node);
            let was_served = self.served.highest(&place, change.at) == Some(1);
            !served.contains(node) && (self.taken.contains(&place) || !was_served)
        };
        let nodes: Vec<_> = model.all("nodes").map(name).collect();
        let lacking = 1 + nodes.iter().filter(|node| **node != here && lacks(node)).count() as i64;
        let most = count(set, "/spec/updateStrategy/rollingUpdate/maxUnavailable");
        let nodes = nodes.len();
        (lacking > most)
            .then(|| format!("{} goes: {lacking} of {nodes} nodes lack {owner}, {most} may", name(pod)))
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

fn serves(pod: &Value) -> bool {
    is_active(pod) && is_ready(pod)
}

fn place(owner: &str, node: &str) -> String {
    format!("{owner} {node}")
}

/// Where the pod is, or where alone it may go.
fn node_of(pod: &Value) -> Option<&str> {
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let field = format!("{required}/nodeSelectorTerms/0/matchFields/0/values/0");
    pod["spec"]["nodeName"].as_str().or_else(|| pod.pointer(&field)?.as_str())
}
