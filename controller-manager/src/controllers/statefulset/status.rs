//! What a StatefulSet says of its pods and revisions.

use std::time::Duration;

use api_types::pods;
use k8s_openapi::api::apps::v1::StatefulSetStatus;

use super::identity::revision_of;
use super::plan::{Observed, Rules};
use crate::pods::{Availability, availability};
use crate::replicas::counted;

/// The status that the pods show, and when it will change by the passing of time. `current` is the name of
/// the revision that the pods had before the update, `collisions` how often a revision's name was taken.
pub(super) fn status(
    observed: &Observed<'_>,
    current: &str,
    collisions: i32,
) -> (StatefulSetStatus, Option<Duration>) {
    let rules = Rules::of(observed.set);
    let (mut ready, mut available, mut at_current, mut at_update) = (0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in observed.pods {
        let running = pods::phase(pod) == "Running";
        match availability(pod, rules.min_ready_seconds, observed.now) {
            Availability::Available if running => (ready, available) = (ready + 1, available + 1),
            Availability::In(wait) if running => {
                ready += 1;
                next = Some(next.map_or(wait, |earlier| earlier.min(wait)));
            }
            _ => {}
        }
        if !pods::is_terminating(pod) {
            at_current += i32::from(revision_of(pod) == Some(current));
            at_update += i32::from(revision_of(pod) == Some(observed.update));
        }
    }
    let replicas = i32::try_from(observed.pods.len()).unwrap_or(i32::MAX);
    let all = |count: i32| count == rules.replicas;
    let rolled_out = !rules.on_delete && all(at_update) && all(replicas) && all(ready);
    let status = StatefulSetStatus {
        observed_generation: observed.set.metadata.generation,
        replicas,
        ready_replicas: counted(ready),
        available_replicas: Some(available),
        current_replicas: counted(if rolled_out { at_update } else { at_current }),
        updated_replicas: counted(at_update),
        current_revision: Some(if rolled_out { observed.update } else { current }.to_owned()),
        update_revision: Some(observed.update.to_owned()),
        collision_count: Some(collisions),
        conditions: observed.set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, next)
}
