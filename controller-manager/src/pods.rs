//! What the controllers ask of a pod beyond `api_types::pods`: since when it is ready, which to delete first.

use std::cmp::Ordering;
use std::time::Duration;

use api_types::pods;
use chrono::{DateTime, Utc};
use component_base::clock::moment_of;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// Whether a pod counts as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    /// It is ready, and will be available after this long if it stays so.
    In(Duration),
    NotReady,
}

/// A pod is available when it has been ready for `min_ready_seconds`.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: Option<i32>, now: DateTime<Utc>) -> Availability {
    if !pods::is_ready(pod) {
        return Availability::NotReady;
    }
    let minimum = chrono::Duration::seconds(i64::from(min_ready_seconds.unwrap_or(0)));
    let since = ready_condition(pod).and_then(|one| one.last_transition_time.as_ref()).map(moment_of);
    match since {
        _ if minimum.is_zero() => Availability::Available,
        Some(since) if since + minimum <= now => Availability::Available,
        Some(since) => Availability::In((since + minimum - now).to_std().unwrap_or(Duration::from_secs(1))),
        None => Availability::NotReady,
    }
}

/// The pod's Ready condition.
pub(crate) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|one| one.type_ == "Ready")
}

/// The order in which pods are deleted when there are too many: unbound, pending, not ready, cheap to
/// delete, crowded together with others of the same set, ready for a short time, restarted often, young.
pub(crate) fn deletion_order(one: &Pod, other: &Pod, neighbours: impl Fn(&Pod) -> usize) -> Ordering {
    let restarts = |pod: &Pod| -> i32 {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
    };
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |pod: &Pod| -> i32 {
        let text = crate::owners::annotation(&pod.metadata, "controller.kubernetes.io/pod-deletion-cost");
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let ready_since = |pod: &Pod| ready_condition(pod).and_then(|ready| ready.last_transition_time.clone());
    let youngest = other.metadata.creation_timestamp.cmp(&one.metadata.creation_timestamp);
    pods::is_bound(one)
        .cmp(&pods::is_bound(other))
        .then(phase(one).cmp(&phase(other)))
        .then(pods::is_ready(one).cmp(&pods::is_ready(other)))
        .then(cost(one).cmp(&cost(other)))
        .then(neighbours(other).cmp(&neighbours(one)))
        .then(ready_since(other).cmp(&ready_since(one)))
        .then(restarts(other).cmp(&restarts(one)))
        .then(youngest)
}
