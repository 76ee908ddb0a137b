//! A ReplicaSet never makes more pods than were asked of it, and in the end has as many.

use serde_json::Value;

use super::history::History;
use super::{Invariant, Surroundings};
use crate::model::{Change, Model, controller, count, is_active, is_broken, name, uid};

#[derive(Default)]
pub(super) struct ReplicaSets {
    asked: History,
}

impl Invariant for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicasets"
    }

    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        let object = change.object();
        if change.resource == "replicasets" {
            self.asked.note(uid(object), change.at, count(object, "/spec/replicas"));
        }
        if change.resource != "pods" || !change.is_creation() {
            return Vec::new();
        }
        self.check_creation(model, around, change, object).into_iter().collect()
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        let lacks = |set: &&Value| {
            let wanted = count(set, "/spec/replicas");
            let active = model.controlled_by("pods", uid(set)).filter(|pod| is_active(pod)).count();
            let status = |field: &str| count(set, &format!("/status/{field}"));
            let ready = is_broken(&set["spec"]["template"]) || status("readyReplicas") == wanted;
            active as i64 != wanted || status("replicas") != wanted || !ready
        };
        let say = |set: &Value| format!("replicaset {}: {}", name(set), set["status"]);
        model.all("replicasets").filter(lacks).map(say).collect()
    }
}

impl ReplicaSets {
    fn check_creation(
        &self,
        model: &Model,
        around: &Surroundings,
        change: &Change,
        pod: &Value,
    ) -> Option<String> {
        let ("ReplicaSet", owner, owner_uid) = controller(pod)? else { return None };
        let asked = self.asked.highest(owner_uid, change.at)?;
        let active = model.controlled_by("pods", owner_uid).filter(|pod| is_active(pod)).count();
        let most = usize::try_from(asked).unwrap_or(0) + around.excess_max(change.at);
        (active > most)
            .then(|| format!("{} is pod {active} of {owner}, of which {asked} are wanted", name(pod)))
    }
}
