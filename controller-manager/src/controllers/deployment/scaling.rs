//! A changed number of replicas: of several sets each gets its share.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::Step;
use super::wanted::{DESIRED, MAXIMUM, Wanted, available, number, size};

/// Whether the wanted number changed since the sets were sized.
pub(super) fn is_due(wanted: &Wanted<'_>) -> bool {
    let resized = |set: &ReplicaSet| number(set, DESIRED).is_some_and(|count| count != wanted.replicas);
    wanted.all().any(|set| size(set) > 0 && resized(set))
}

/// Brings the sets to a new total, each in proportion to its size.
pub(super) fn steps(wanted: &Wanted<'_>) -> Vec<Step> {
    let active: Vec<_> = wanted.all().filter(|set| size(set) > 0).collect();
    let only = match active.as_slice() {
        [] => wanted.new.as_ref().or(wanted.old.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = only {
        return wanted.resize(set, wanted.replicas).into_iter().collect();
    }
    if wanted.new.as_ref().is_some_and(|new| is_saturated(wanted, new)) {
        let old = wanted.old.iter().filter(|set| size(set) > 0);
        return old.filter_map(|set| wanted.resize(set, 0)).collect();
    }
    if wanted.is_recreate() { Vec::new() } else { proportional(wanted, active) }
}

/// Whether the new set alone is all that is wanted.
fn is_saturated(wanted: &Wanted<'_>, new: &ReplicaSet) -> bool {
    size(new) == wanted.replicas
        && number(new, DESIRED) == Some(wanted.replicas)
        && available(new) == wanted.replicas
}

fn proportional(wanted: &Wanted<'_>, mut active: Vec<&Arc<ReplicaSet>>) -> Vec<Step> {
    let allowed = if wanted.replicas > 0 { wanted.maximum() } else { 0 };
    let to_add = allowed - active.iter().map(|set| size(set)).sum::<i32>();
    active.sort_by_key(|set| {
        let age = set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        (-size(set), if to_add > 0 { -age } else { age })
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let part = match to_add.cmp(&0) {
            _ if to_add == added => 0,
            std::cmp::Ordering::Greater => share(wanted, set).min(to_add - added),
            _ => share(wanted, set).max(to_add - added),
        };
        added += part;
        sizes.push(size(set) + part);
    }
    // What rounding left over goes to the largest.
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    active.iter().zip(sizes).filter_map(|(set, size)| wanted.resize(set, size)).collect()
}

/// By how much the set would grow if everything grew alike.
fn share(wanted: &Wanted<'_>, set: &ReplicaSet) -> i32 {
    if wanted.replicas == 0 {
        return -size(set);
    }
    let told = || wanted.deployment.status.as_ref()?.replicas;
    let before = number(set, MAXIMUM).filter(|count| *count > 0).or_else(told).filter(|count| *count > 0);
    let Some(before) = before else { return 0 };
    let grown = f64::from(size(set)) * f64::from(wanted.maximum()) / f64::from(before);
    // Counts of pods are far below what an i32 holds.
    #[expect(clippy::cast_possible_truncation, reason = "a rounded number of pods")]
    let grown = grown.round() as i32;
    grown - size(set)
}
