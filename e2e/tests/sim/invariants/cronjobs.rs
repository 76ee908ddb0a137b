//! A CronJob that forbids that its Jobs run side by side, or replaces the one that runs, has one at a time.

use serde_json::Value;

use super::{Invariant, Surroundings};
use crate::model::{Change, Model, condition, controller, is_going, name, namespace, uid};

pub(super) struct CronJobs;

impl Invariant for CronJobs {
    fn name(&self) -> &'static str {
        "cronjobs"
    }

    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        if change.resource != "jobs" || !change.is_creation() {
            return Vec::new();
        }
        check_creation(model, around, change).into_iter().collect()
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        let stale = |cron_job: &&Value| {
            let mut active = cron_job["status"]["active"].as_array().into_iter().flatten();
            let runs = |one: &Value| {
                let title = one["name"].as_str().unwrap_or_default();
                model.get("jobs", namespace(cron_job), title).is_some_and(|job| !has_finished(job))
            };
            active.any(|one| !runs(one))
        };
        let say = |cron_job: &Value| format!("cronjob {}: {}", name(cron_job), cron_job["status"]);
        model.all("cronjobs").filter(stale).map(say).collect()
    }
}

fn check_creation(model: &Model, around: &Surroundings, change: &Change) -> Option<String> {
    let job = change.object();
    let ("CronJob", owner, owner_uid) = controller(job)? else { return None };
    let policy = model.get("cronjobs", namespace(job), owner)?["spec"]["concurrencyPolicy"].as_str()?;
    if policy == "Allow" {
        return None;
    }
    let runs = |one: &&Value| uid(one) != uid(job) && !has_finished(one) && !is_going(one);
    let others: Vec<&str> = model.controlled_by("jobs", owner_uid).filter(runs).map(name).collect();
    let most = around.excess_max(change.at);
    (others.len() > most).then(|| format!("{} was made beside {others:?}, policy {policy}", name(job)))
}

fn has_finished(job: &Value) -> bool {
    ["Complete", "Failed"].iter().any(|type_| condition(job, type_) == Some("True"))
}
