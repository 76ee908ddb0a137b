//! A rollout: never more replicas than maxSurge allows, never fewer available than maxUnavailable allows by
//! the controller's own doing, and at the end what was asked for.

use serde_json::Value;

use super::history::History;
use super::{Invariant, Surroundings};
use crate::model::{Change, Model, controller, count, is_active, is_going, is_ready, name, uid};

#[derive(Default)]
pub(super) struct Deployments {
    most: History,
    fewest: History,
    replicas: History,
}

impl Invariant for Deployments {
    fn name(&self) -> &'static str {
        "deployments"
    }

    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        match &*change.resource {
            "deployments" => {
                let object = change.object();
                let (most, fewest) = bounds(object);
                self.most.note(uid(object), change.at, most);
                self.fewest.note(uid(object), change.at, fewest);
                self.replicas.note(uid(object), change.at, count(object, "/spec/replicas"));
                Vec::new()
            }
            "replicasets" => self.check_scale(model, around, change).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        model.all("deployments").filter_map(|deployment| unfinished(model, deployment)).collect()
    }
}

impl Deployments {
    fn check_scale(&self, model: &Model, around: &Surroundings, change: &Change) -> Option<String> {
        let set = change.new.as_ref()?;
        let ("Deployment", owner, owner_uid) = controller(set)? else { return None };
        let before = change.old.as_ref().map_or(0, |old| count(old, "/spec/replicas"));
        let now = count(set, "/spec/replicas");
        let sets: Vec<&Value> =
            model.controlled_by("replicasets", owner_uid).filter(|set| !is_going(set)).collect();
        let sum: i64 = sets.iter().map(|set| count(set, "/spec/replicas")).sum();
        let most = self.most.highest(owner_uid, change.at)?;
        if now > before && sum > most {
            return Some(format!(
                "{} was scaled from {before} to {now}: {owner} has {sum} replicas and may have {most}",
                name(set)
            ));
        }
        // Who makes a Deployment smaller in mid-rollout takes from all its sets, whatever is available.
        if self.replicas.lowest(owner_uid, change.at) != self.replicas.highest(owner_uid, change.at) {
            return None;
        }
        let fewest = self.fewest.lowest(owner_uid, change.at)?;
        let ready = |wanted: &dyn Fn(&Value) -> i64| -> i64 {
            sets.iter().map(|set| ready_pods(model, set).min(wanted(set))).sum()
        };
        let after = ready(&|set| count(set, "/spec/replicas"));
        let had = ready(&|one| if uid(one) == uid(set) { before } else { count(one, "/spec/replicas") });
        if now < before && after < had && after < fewest && around.is_calm(change.at) {
            return Some(format!(
                "{} was scaled from {before} to {now}: that leaves {owner} {after} available of {fewest}",
                name(set)
            ));
        }
        None
    }
}

/// Those of them that the set's own controller has told of, too.
fn ready_pods(model: &Model, set: &Value) -> i64 {
    let ready = model.controlled_by("pods", uid(set)).filter(|pod| is_active(pod) && is_ready(pod));
    i64::try_from(ready.count()).unwrap_or(i64::MAX).min(count(set, "/status/availableReplicas"))
}

/// The most replicas there may be and the fewest that must be available.
fn bounds(deployment: &Value) -> (i64, i64) {
    let (replicas, strategy) = (count(deployment, "/spec/replicas"), &deployment["spec"]["strategy"]);
    if strategy["type"] == "Recreate" {
        return (replicas, 0);
    }
    let surge = of(&strategy["rollingUpdate"]["maxSurge"], replicas, true);
    let unavailable = of(&strategy["rollingUpdate"]["maxUnavailable"], replicas, false);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    (replicas + surge, replicas - unavailable)
}

fn of(value: &Value, replicas: i64, up: bool) -> i64 {
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok());
    match percent {
        Some(percent) if up => (replicas * percent + 99) / 100,
        Some(percent) => replicas * percent / 100,
        None => value.as_i64().unwrap_or(0),
    }
}

fn unfinished(model: &Model, deployment: &Value) -> Option<String> {
    let wanted = count(deployment, "/spec/replicas");
    let paused = deployment["spec"]["paused"] == true;
    let status = |field: &str| count(deployment, &format!("/status/{field}"));
    let observed = status("observedGeneration") == count(deployment, "/metadata/generation");
    let counts = [status("replicas"), status("readyReplicas"), status("availableReplicas")];
    let updated = paused || status("updatedReplicas") == wanted;
    let sets = model.controlled_by("replicasets", uid(deployment));
    let pods: usize =
        sets.map(|set| model.controlled_by("pods", uid(set)).filter(|pod| is_active(pod)).count()).sum();
    let complete = observed && updated && counts.iter().all(|one| *one == wanted) && pods as i64 == wanted;
    (!complete).then(|| {
        format!(
            "deployment {}: {wanted} wanted, {pods} pods, status {}",
            name(deployment),
            deployment["status"]
        )
    })
}
