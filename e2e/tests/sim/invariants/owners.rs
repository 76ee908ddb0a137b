//! What belongs to nobody any more goes, and what is going is gone in the end.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Invariant, Surroundings};
use crate::model::{Change, Model, has_ended, is_broken, is_going, is_ready, name, uid};

pub(super) struct Owners;

impl Invariant for Owners {
    fn name(&self) -> &'static str {
        "owners"
    }

    fn check(&mut self, _: &Model, _: &Surroundings, change: &Change) -> Vec<String> {
        let object = change.object();
        let known = !uid(object).is_empty() && object["metadata"]["resourceVersion"].is_string();
        if known { Vec::new() } else { vec![format!("{} has no uid or no revision", name(object))] }
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        let alive: BTreeSet<&str> = model.everything().map(|(_, object)| uid(object)).collect();
        let orphaned = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            // Owners from before the observer began are not known to it.
            let gone = |owner: &Value| owner["uid"].as_str().is_some_and(|uid| !alive.contains(uid));
            owners.is_some_and(|owners| !owners.is_empty() && owners.iter().all(gone))
        };
        let mut found = Vec::new();
        for (resource, object) in model.everything() {
            if is_going(object) {
                found.push(format!(
                    "{resource} {} does not go: {}",
                    name(object),
                    object["metadata"]["finalizers"]
                ));
            } else if orphaned(object) {
                found.push(format!("{resource} {} belongs to nobody", name(object)));
            } else if resource == "pods" && !has_ended(object) && !is_ready(object) && !is_broken(object) {
                found.push(format!("pod {} is not ready: {}", name(object), object["status"]));
            }
        }
        found
    }
}
