//! A StatefulSet in order: pod n is made only after those before it were ready, and the last goes first.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::history::History;
use super::{Invariant, STALE_MAX, Surroundings};
use crate::model::{Change, Model, controller, count, is_active, is_going, is_ready, name, namespace, uid};

#[derive(Default)]
pub(super) struct StatefulSets {
    /// When the pod of a name of a set (its uid) was last seen ready.
    ready: BTreeMap<(String, String), Duration>,
    asked: History,
}

impl Invariant for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulsets"
    }

    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        let object = change.object();
        if change.resource == "statefulsets" {
            self.asked.note(uid(object), change.at, count(object, "/spec/replicas"));
        }
        if change.resource != "pods" {
            return Vec::new();
        }
        let Some(("StatefulSet", set_name, owner)) = controller(object) else { return Vec::new() };
        for pod in change.old.iter().chain(&change.new).filter(|pod| is_ready(pod)) {
            self.ready.insert((owner.to_owned(), name(pod).to_owned()), change.at);
        }
        let set = model.get("statefulsets", namespace(object), set_name).filter(|set| uid(set) == owner);
        let Some(set) = set.filter(|set| set["spec"]["podManagementPolicy"] != "Parallel") else {
            return Vec::new();
        };
        let problem = match change {
            change if change.is_creation() => self.check_creation(model, change, set, object),
            change if change.begins_to_go() && around.is_calm(change.at) => {
                self.check_end(model, change, set, object)
            }
            _ => None,
        };
        problem.into_iter().collect()
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        let lacks = |set: &&Value| {
            let wanted = count(set, "/spec/replicas");
            let pods = model.controlled_by("pods", uid(set)).filter(|pod| is_active(pod)).count();
            let status = |field: &str| count(set, &format!("/status/{field}"));
            let partition = count(set, "/spec/updateStrategy/rollingUpdate/partition");
            pods as i64 != wanted
                || status("readyReplicas") != wanted
                || status("replicas") != wanted
                || status("updatedReplicas") < wanted - partition
        };
        let say = |set: &Value| format!("statefulset {}: {}", name(set), set["status"]);
        model.all("statefulsets").filter(lacks).map(say).collect()
    }
}

impl StatefulSets {
    fn check_creation(&self, model: &Model, change: &Change, set: &Value, pod: &Value) -> Option<String> {
        let (base, ordinal) = split(name(pod))?;
        let first = count(set, "/spec/ordinals/start");
        (first..ordinal).map(|before| format!("{base}-{before}")).find_map(|before| {
            let seen = self.ready.get(&(uid(set).to_owned(), before.clone()));
            let now = model.get("pods", namespace(pod), &before).is_some_and(is_ready);
            let was = seen.is_some_and(|seen| change.at.saturating_sub(*seen) <= STALE_MAX);
            (!now && !was).then(|| format!("{} was made while {before} was not ready", name(pod)))
        })
    }

    fn check_end(&self, model: &Model, change: &Change, set: &Value, pod: &Value) -> Option<String> {
        let (_, ordinal) = split(name(pod))?;
        let end = count(set, "/spec/ordinals/start") + self.asked.highest(uid(set), change.at)?;
        if ordinal < end {
            return self.check_update(model, change, set, pod);
        }
        let later =
            |one: &&Value| is_active(one) && split(name(one)).is_some_and(|(_, other)| other > ordinal);
        let later = model.controlled_by("pods", uid(set)).find(later)?;
        Some(format!("{} goes before {}", name(pod), name(later)))
    }
}

impl StatefulSets {
    /// A ready pod that is not one too many goes only to be updated: after those behind it, one at a time.
    fn check_update(&self, model: &Model, change: &Change, set: &Value, pod: &Value) -> Option<String> {
        let (base, ordinal) = split(name(pod))?;
        let was_ready = change.old.as_ref().is_some_and(is_ready);
        if !was_ready || is_going(set) {
            return None;
        }
        let last = count(set, "/spec/ordinals/start") + self.asked.lowest(uid(set), change.at)?;
        (ordinal + 1..last).map(|behind| format!("{base}-{behind}")).find_map(|behind| {
            let seen = self.ready.get(&(uid(set).to_owned(), behind.clone()));
            let now = model.get("pods", namespace(pod), &behind).is_some_and(is_ready);
            let was = seen.is_some_and(|seen| change.at.saturating_sub(*seen) <= STALE_MAX);
            (!now && !was).then(|| format!("{} is updated while {behind} is not ready", name(pod)))
        })
    }
}

fn split(name: &str) -> Option<(&str, i64)> {
    let (base, ordinal) = name.rsplit_once('-')?;
    Some((base, ordinal.parse().ok()?))
}
