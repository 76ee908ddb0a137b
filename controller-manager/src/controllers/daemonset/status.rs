//! What a DaemonSet's status says.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetStatus};

use crate::controllers::daemonset::{Observed, places};
use crate::node_fit::Fit;
use crate::pods::{Availability, availability};

/// The status, and when a pod becomes available by waiting. Of each node the first pod counts. The
/// generation is noted only when it was `acted_on`.
pub(super) fn status(
    observed: &Observed<'_>,
    spec: &DaemonSetSpec,
    acted_on: bool,
) -> (DaemonSetStatus, Option<Duration>) {
    let (mut desired, mut current, mut misplaced, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for place in places(observed, spec) {
        match (place.fit, place.pods.first()) {
            (Some(Fit::Run), None) => desired += 1,
            (Some(Fit::Run), Some(pod)) => {
                desired += 1;
                current += 1;
                updated += i32::from(observed.is_new(pod));
                let state = availability(pod, spec.min_ready_seconds, observed.now);
                ready += i32::from(state != Availability::NotReady);
                available += i32::from(state == Availability::Available);
                if let Availability::In(wait) = state {
                    next = Some(next.map_or(wait, |earlier| earlier.min(wait)));
                }
            }
            (Some(_), pod) => misplaced += i32::from(pod.is_some()),
            (None, _) => {}
        }
    }
    let old = observed.set.status.clone().unwrap_or_default();
    let generation = if acted_on { observed.set.metadata.generation } else { old.observed_generation };
    let status = DaemonSetStatus {
        current_number_scheduled: current,
        desired_number_scheduled: desired,
        number_misscheduled: misplaced,
        number_ready: ready,
        number_available: Some(available).filter(|count| *count > 0),
        number_unavailable: Some(desired - available).filter(|count| *count > 0),
        updated_number_scheduled: Some(updated).filter(|count| *count > 0),
        observed_generation: generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    (status, next)
}
