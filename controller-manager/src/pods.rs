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

/// The order in which pods are deleted when there are too many: unassigned, pending, not ready, cheap to
/// delete, crowded together with others of the same owner, ready for a short time, restarted often, young.
/// Times count by orders of magnitude, so that of pods of about the same age not always the youngest goes.
pub(crate) fn deletion_order(
    one: &Pod,
    other: &Pod,
    now: DateTime<Utc>,
    neighbours: impl Fn(&Pod) -> usize,
) -> Ordering {
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |pod: &Pod| -> i32 {
        let text = crate::owners::annotation(&pod.metadata, "controller.kubernetes.io/pod-deletion-cost");
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let ready_since = |pod: &Pod| {
        let ready = ready_condition(pod).filter(|ready| ready.status == "True")?;
        ready.last_transition_time.as_ref().map(moment_of)
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(moment_of);
    pods::is_bound(one)
        .cmp(&pods::is_bound(other))
        .then(phase(one).cmp(&phase(other)))
        .then(pods::is_ready(one).cmp(&pods::is_ready(other)))
        .then(cost(one).cmp(&cost(other)))
        .then(neighbours(other).cmp(&neighbours(one)))
        .then_with(|| age(ready_since(one), now).cmp(&age(ready_since(other), now)))
        .then_with(|| restarts(other).cmp(&restarts(one)))
        .then_with(|| age(created(one), now).cmp(&age(created(other), now)))
        .then_with(|| one.metadata.uid.cmp(&other.metadata.uid))
}

/// The most restarts of a container, and of a sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = pod.status.as_ref() else { return (0, 0) };
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let is_sidecar = |name: &str| {
        init.into_iter().flatten().any(|container| container.name == name && pods::is_sidecar(container))
    };
    let containers = status.container_statuses.iter().flatten().map(|one| one.restart_count);
    let sidecars = status.init_container_statuses.iter().flatten().filter(|one| is_sidecar(&one.name));
    (containers.max().unwrap_or(0), sidecars.map(|one| one.restart_count).max().unwrap_or(0))
}

/// How long ago, as a binary order of magnitude: least what has no time, then what is not past yet.
fn age(time: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<Option<u32>> {
    let nanoseconds =
        |time: DateTime<Utc>| (now - time).num_nanoseconds().and_then(|age| u64::try_from(age).ok());
    time.map(|time| nanoseconds(time).and_then(u64::checked_ilog2))
}
