//! A Job's counts: each pod that ended counts once, none that did not, and never more than was asked for. Never more
//! pods at once than its parallelism allows, and of an index never two.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::history::History;
use super::{Invariant, Surroundings};
use crate::model::{Change, Model, condition, controller, count, has_ended, is_active, name, phase, uid};

#[derive(Default)]
pub(super) struct Jobs {
    ends: BTreeMap<String, Ends>,
    parallelism: History,
}

/// What became of the pods of one Job.
#[derive(Default)]
struct Ends {
    succeeded: BTreeSet<String>,
    /// Of an Indexed Job.
    indexes: BTreeSet<String>,
    /// Ended badly, or gone before the end.
    failed: BTreeSet<String>,
}

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

impl Invariant for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        match &*change.resource {
            "pods" => {
                self.note(change);
                self.check_creation(model, around, change)
            }
            "jobs" => {
                let job = change.object();
                self.parallelism.note(uid(job), change.at, count(job, "/spec/parallelism"));
                self.check_counts(around, change)
            }
            _ => Vec::new(),
        }
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        let open = |job: &&Value| {
            let finished = ["Complete", "Failed"].iter().any(|type_| condition(job, type_) == Some("True"));
            let left = count(job, "/status/active") + count(job, "/status/terminating");
            job["spec"]["suspend"] != true && (!finished || left > 0)
        };
        let say = |job: &Value| format!("job {}: {}", name(job), job["status"]);
        model.all("jobs").filter(open).map(say).collect()
    }
}

impl Jobs {
    fn note(&mut self, change: &Change) {
        let pod = change.object();
        let Some(("Job", _, owner)) = controller(pod) else { return };
        let ends = self.ends.entry(owner.to_owned()).or_default();
        match (phase(pod), change.new.is_some()) {
            ("Succeeded", _) => {
                ends.succeeded.insert(uid(pod).to_owned());
                ends.indexes.extend(pod["metadata"]["annotations"][INDEX].as_str().map(str::to_owned));
            }
            ("Failed", _) => drop(ends.failed.insert(uid(pod).to_owned())),
            (_, gone_or_there) if !gone_or_there || (change.begins_to_go() && !has_ended(pod)) => {
                ends.failed.insert(uid(pod).to_owned());
            }
            _ => {}
        }
    }

    fn check_creation(&self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String> {
        let pod = change.object();
        let Some(("Job", owner, owner_uid)) = controller(pod).filter(|_| change.is_creation()) else {
            return Vec::new();
        };
        let excess = around.excess_max(change.at);
        let active: Vec<&Value> =
            model.controlled_by("pods", owner_uid).filter(|pod| is_active(pod)).collect();
        let index = &pod["metadata"]["annotations"][INDEX];
        let same = active.iter().filter(|one| one["metadata"]["annotations"][INDEX] == *index).count();
        let most = self.parallelism.highest(owner_uid, change.at).unwrap_or(i64::MAX);
        let mut problems = Vec::new();
        if active.len() as i64 > most.saturating_add(excess as i64) {
            problems.push(format!("{} is pod {} of {owner} of at most {most}", name(pod), active.len()));
        }
        if index.is_string() && same > 1 + excess {
            problems.push(format!("{} is one of {same} of index {index} of {owner}", name(pod)));
        }
        problems
    }

    fn check_counts(&self, around: &Surroundings, change: &Change) -> Vec<String> {
        let Some(job) = &change.new else { return Vec::new() };
        let nothing = Ends::default();
        let ends = self.ends.get(uid(job)).unwrap_or(&nothing);
        let indexed = job["spec"]["completionMode"] == "Indexed";
        let figure = |field: &str| count(job, &format!("/status/{field}"));
        let before =
            |field: &str| change.old.as_ref().map_or(0, |old| count(old, &format!("/status/{field}")));
        let (succeeded, failed) = (figure("succeeded"), figure("failed"));
        let really = if indexed { ends.indexes.len() } else { ends.succeeded.len() } as i64;
        let mut problems = Vec::new();
        let mut hold = |holds: bool, what: String| {
            if !holds {
                problems.push(format!("{}: {what}", name(job)));
            }
        };
        hold(succeeded <= really, format!("{succeeded} counted as succeeded, {really} did"));
        hold(
            failed <= ends.failed.len() as i64,
            format!("{failed} counted as failed, {} did", ends.failed.len()),
        );
        hold(succeeded >= before("succeeded"), format!("succeeded went back to {succeeded}"));
        hold(failed >= before("failed"), format!("failed went back to {failed}"));
        if let Some(completions) = job["spec"]["completions"].as_i64() {
            let excess = if indexed { 0 } else { around.excess_max(change.at) as i64 };
            hold(succeeded <= completions + excess, format!("{succeeded} of {completions} succeeded"));
            let complete = condition(job, "Complete") == Some("True");
            hold(
                !complete || succeeded >= completions,
                format!("complete with {succeeded} of {completions}"),
            );
        }
        problems
    }
}
