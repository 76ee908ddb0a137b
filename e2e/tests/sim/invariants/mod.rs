//! What must hold at every revision, and what must be so when nothing happens any more: a file each.
//!
//! To add one: write its file, add its module and its row here.

use std::time::Duration;

use serde_json::Value;

use crate::model::{Change, Model, count, is_going, phase};

mod budgets;
mod cronjobs;
mod daemonsets;
mod deployments;
mod history;
mod jobs;
mod nodes;
mod owners;
mod replicasets;
mod statefulsets;

/// A controller may act on what it saw this long ago: watches are held up, writes arrive late, a manager
/// that was cut off comes back.
pub(crate) const STALE_MAX: Duration = Duration::from_secs(120);

/// Something that must hold.
pub(crate) trait Invariant: Send {
    fn name(&self) -> &'static str;

    /// What is wrong with `change`, after which the cluster is as `model` says.
    fn check(&mut self, model: &Model, around: &Surroundings, change: &Change) -> Vec<String>;

    /// What is not yet as it has to become when nobody changes anything.
    fn unfinished(&self, _model: &Model) -> Vec<String> {
        Vec::new()
    }
}

/// What was done to the cluster from outside, which excuses some things for a while.
#[derive(Default)]
pub(crate) struct Surroundings {
    /// Creations that were done and whose answer was lost: who asked cannot know, and may ask again.
    pub(crate) lost_creations: Vec<Duration>,
    /// When a node was last taken away or a pod evicted.
    pub(crate) disturbed_at: Option<Duration>,
    /// When all clocks jumped: what a controller waits to see of its own is waited for no longer.
    pub(crate) jumped_at: Option<Duration>,
}

impl Surroundings {
    /// How many objects may be there too many.
    fn excess_max(&self, at: Duration) -> usize {
        if self.jumped_at.is_some_and(|jumped| at.saturating_sub(jumped) <= STALE_MAX) {
            return usize::from(u16::MAX);
        }
        self.lost_creations.iter().filter(|lost| at.saturating_sub(**lost) <= STALE_MAX).count()
    }

    /// Whether nothing from outside has made pods go of late.
    fn is_calm(&self, at: Duration) -> bool {
        self.disturbed_at.is_none_or(|disturbed| at.saturating_sub(disturbed) > STALE_MAX)
    }
}

/// Every invariant there is.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(deployments::Deployments::default()),
        Box::new(replicasets::ReplicaSets::default()),
        Box::new(statefulsets::StatefulSets::default()),
        Box::new(daemonsets::DaemonSets::default()),
        Box::new(jobs::Jobs::default()),
        Box::new(cronjobs::CronJobs),
        Box::new(budgets::Budgets),
        Box::new(owners::Owners),
        Box::new(nodes::Nodes),
    ]
}

/// What a reader of a trace wants to know of an object.
pub(crate) fn summary(resource: &str, object: &Value) -> String {
    let going = if is_going(object) { " going" } else { "" };
    let replicas =
        || format!("{}/{}", count(object, "/status/readyReplicas"), count(object, "/spec/replicas"));
    let said = match resource {
        "pods" => {
            let node = object["spec"]["nodeName"].as_str().unwrap_or("-");
            let ready = if crate::model::is_ready(object) { " ready" } else { "" };
            format!("{} on {node}{ready}", phase(object))
        }
        "deployments" | "replicasets" | "statefulsets" => replicas(),
        "daemonsets" => format!(
            "{}/{}",
            count(object, "/status/numberReady"),
            count(object, "/status/desiredNumberScheduled")
        ),
        "jobs" => {
            let figure = |name: &str| count(object, &format!("/status/{name}"));
            format!(
                "active {} succeeded {} failed {}",
                figure("active"),
                figure("succeeded"),
                figure("failed")
            )
        }
        _ => String::new(),
    };
    format!("{said}{going}")
}
