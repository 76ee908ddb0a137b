//! Replacing the pods of an old template within `maxUnavailable` or `maxSurge`.

use std::sync::Arc;

use api_types::int_or_percent::{Rounding, scaled};
use api_types::pods;
use k8s_openapi::api::apps::v1::DaemonSetSpec;
use k8s_openapi::api::core::v1::Pod;

use crate::controllers::daemonset::{Observed, Place, Step};
use crate::node_fit::Fit;
use crate::pods::{Availability, availability};

/// How far an update may go at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub surge: usize,
    pub unavailable: usize,
    /// Nodes that should have a pod.
    pub desired: usize,
}

pub(super) fn limits(spec: &DaemonSetSpec, places: &[Place<'_>]) -> Limits {
    let desired = places.iter().filter(|place| place.fit == Some(Fit::Run)).count();
    let rolling =
        spec.update_strategy.clone().filter(|strategy| strategy.type_.as_deref() != Some("OnDelete"));
    let Some(rolling) = rolling.map(|strategy| strategy.rolling_update.unwrap_or_default()) else {
        return Limits { surge: 0, unavailable: 0, desired };
    };
    let total = i32::try_from(desired).unwrap_or(i32::MAX);
    let count = |value: Option<_>, or: i32| {
        let count = value.and_then(|value| scaled(&value, total, Rounding::Up).ok()).unwrap_or(or);
        usize::try_from(count).unwrap_or(0)
    };
    let (surge, unavailable) = (count(rolling.max_surge, 0), count(rolling.max_unavailable, 1));
    Limits { surge, unavailable: if surge == 0 { unavailable.max(1) } else { unavailable }, desired }
}

/// Two pods may be there while the old one is ready and the new one is not available yet.
pub(super) fn keep_with_surge(
    observed: &Observed<'_>,
    spec: &DaemonSetSpec,
    running: &[&Arc<Pod>],
) -> Vec<Step> {
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        running.iter().copied().partition(|pod| observed.is_new(pod));
    let surplus = new.iter().skip(1).chain(old.iter().skip(1));
    let mut steps: Vec<Step> = surplus.map(|pod| Step::Delete(Arc::clone(pod))).collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || works(observed, spec, new))
    {
        steps.push(Step::Delete(Arc::clone(old)));
    }
    steps
}

fn works(observed: &Observed<'_>, spec: &DaemonSetSpec, pod: &Pod) -> bool {
    availability(pod, spec.min_ready_seconds, observed.now) == Availability::Available
}

/// The pods of a node, by template.
enum Pair<'a> {
    None,
    New(&'a Arc<Pod>),
    Old(&'a Arc<Pod>),
    Both(&'a Arc<Pod>, &'a Arc<Pod>),
    /// More than one of a kind: the next look has fewer.
    TooMany,
}

fn pair<'a>(observed: &Observed<'_>, place: &Place<'a>) -> Pair<'a> {
    let live = place.pods.iter().copied().filter(|pod| !pods::is_terminating(pod));
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = live.partition(|pod| observed.is_new(pod));
    match (new.as_slice(), old.as_slice()) {
        ([], []) => Pair::None,
        ([new], []) => Pair::New(new),
        ([], [old]) => Pair::Old(old),
        ([new], [old]) => Pair::Both(new, old),
        _ => Pair::TooMany,
    }
}

/// The next steps of an update.
pub(super) fn roll(
    observed: &Observed<'_>,
    spec: &DaemonSetSpec,
    places: &[Place<'_>],
    limits: Limits,
) -> Vec<Step> {
    let concerned: Vec<&Place<'_>> =
        places.iter().filter(|place| place.fit == Some(Fit::Run) || !place.pods.is_empty()).collect();
    match limits.surge {
        0 => replace(observed, spec, &concerned, limits),
        _ => surge(observed, spec, &concerned, limits),
    }
}

/// Old pods go first; new ones come when they are gone.
fn replace(
    observed: &Observed<'_>,
    spec: &DaemonSetSpec,
    places: &[&Place<'_>],
    limits: Limits,
) -> Vec<Step> {
    let (mut unavailable, mut broken, mut working) = (0, Vec::new(), Vec::new());
    for place in places {
        match pair(observed, place) {
            Pair::New(new) => unavailable += usize::from(!works(observed, spec, new)),
            Pair::Old(old) if works(observed, spec, old) => working.push(Step::Delete(old.clone())),
            Pair::Old(old) => {
                unavailable += 1;
                broken.push(Step::Delete(old.clone()));
            }
            Pair::None | Pair::Both(..) | Pair::TooMany => unavailable += 1,
        }
    }
    working.truncate(limits.unavailable.saturating_sub(unavailable));
    broken.extend(working);
    broken
}

/// New pods come first; old ones go when those are available.
fn surge(observed: &Observed<'_>, spec: &DaemonSetSpec, places: &[&Place<'_>], limits: Limits) -> Vec<Step> {
    let (mut surging, mut available) = (0, 0);
    let (mut steps, mut wanted, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
    for place in places {
        let create = || Step::Create(place.node.to_owned());
        let runs = place.fit == Some(Fit::Run);
        match pair(observed, place) {
            Pair::None => {}
            Pair::TooMany => surging += 1,
            Pair::New(new) => available += usize::from(works(observed, spec, new)),
            Pair::Old(old) => match (works(observed, spec, old), runs) {
                (true, true) => {
                    available += 1;
                    wanted.push(create());
                }
                (true, false) => {
                    available += 1;
                    leaving.push(Step::Delete(old.clone()));
                }
                (false, true) => steps.push(create()),
                (false, false) => steps.push(Step::Delete(old.clone())),
            },
            Pair::Both(new, old) => {
                available += usize::from(works(observed, spec, old));
                match works(observed, spec, new) {
                    true => steps.push(Step::Delete(old.clone())),
                    false => surging += 1,
                }
            }
        }
    }
    wanted.truncate(limits.surge.saturating_sub(surging));
    // A pod on a node that it should leave goes only when another works in its place.
    leaving.truncate(available.saturating_sub(limits.desired));
    steps.extend(leaving);
    steps.extend(wanted);
    steps
}
