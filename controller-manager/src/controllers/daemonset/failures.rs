//! How long a failed pod stays on its node before it is replaced: an agent that refuses a pod would
//! otherwise be asked without end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api_types::pods;
use component_base::backoff::Backoff;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controllers::daemonset::pod::node_of;
use crate::owners::uid_of;

const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(900) };
/// A node that was well for this long starts anew.
const FORGET_AFTER: Duration = Duration::from_secs(1800);

/// A node, for one generation of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    set: String,
    generation: i64,
    node: String,
}

impl Place {
    pub(super) fn of(set: &DaemonSet, node: &str) -> Self {
        let generation = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        Self { set: uid_of(&set.metadata).to_owned(), generation, node: node.to_owned() }
    }
}

/// The failures that were replaced.
#[derive(Default)]
pub(super) struct Failures {
    last: Mutex<HashMap<Place, (u32, Instant)>>,
}

impl Failures {
    /// A failed pod was just replaced there.
    pub(super) fn note(&self, place: Place) {
        let mut last = self.last.lock();
        last.retain(|_, (_, when)| when.elapsed() < FORGET_AFTER);
        let entry = last.entry(place).or_insert((0, Instant::now()));
        *entry = (entry.0.saturating_add(1), Instant::now());
    }

    /// The nodes whose failed pod has to wait, and until the first of them need not.
    pub(super) fn held(&self, set: &DaemonSet, pods: &[Arc<Pod>]) -> (BTreeSet<String>, Option<Duration>) {
        let last = self.last.lock();
        let failed = pods.iter().filter(|pod| pods::phase(pod) == "Failed" && !pods::is_terminating(pod));
        let waits = failed.filter_map(|pod| {
            let node = node_of(pod)?;
            let (count, when) = last.get(&Place::of(set, node))?;
            let left = BACKOFF.delay(*count).checked_sub(when.elapsed()).filter(|left| !left.is_zero())?;
            Some((node.to_owned(), left))
        });
        let waits: Vec<(String, Duration)> = waits.collect();
        let first = waits.iter().map(|(_, left)| *left).min();
        (waits.into_iter().map(|(node, _)| node).collect(), first)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_failure_in_a_row_waits_twice_as_long() {
        let set: DaemonSet = serde_json::from_value(json!({"metadata": {"uid": "d"}})).unwrap();
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Failed"}});
        let pods = [Arc::new(serde_json::from_value(pod).unwrap())];
        let failures = Failures::default();
        assert_eq!(failures.held(&set, &pods), (BTreeSet::new(), None), "the first is replaced at once");
        for seconds in [1, 2, 4] {
            failures.note(Place::of(&set, "n"));
            let (held, wait) = failures.held(&set, &pods);
            assert_eq!((held.len(), wait), (1, Some(Duration::from_secs(seconds))));
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(failures.held(&set, &pods).1, None);
        }
        tokio::time::advance(FORGET_AFTER).await;
        failures.note(Place::of(&set, "n"));
        assert_eq!(failures.held(&set, &pods).1, Some(Duration::from_secs(1)));
    }
}
