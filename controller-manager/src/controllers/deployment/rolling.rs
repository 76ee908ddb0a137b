//! RollingUpdate: the new set grows into the surge, the old ones shrink as far as availability allows.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::Step;
use super::history::new_set;
use super::wanted::{Wanted, available, size};

pub(super) fn steps(wanted: &Wanted<'_>) -> Vec<Step> {
    let total: i32 = wanted.all().map(|set| size(set)).sum();
    let Some(new) = &wanted.new else {
        let room = (wanted.maximum() - total).clamp(0, wanted.replicas);
        return vec![Step::Create(Box::new(new_set(wanted, room)))];
    };
    let grown = match size(new) {
        now if now >= wanted.replicas => wanted.replicas,
        now => now + (wanted.maximum() - total).clamp(0, wanted.replicas - now),
    };
    let up: Vec<_> = wanted.resize(new, grown).into_iter().collect();
    if up.is_empty() { shrink_old(wanted, new, total) } else { up }
}

/// Takes pods from the old sets, the oldest first: before all those that do not work, then as many as availability allows.
fn shrink_old(wanted: &Wanted<'_>, new: &ReplicaSet, total: i32) -> Vec<Step> {
    let missing_new = size(new) - lasting(new);
    let may_go = total - wanted.minimum() - missing_new;
    let mut sizes: Vec<i32> = wanted.old.iter().map(|set| size(set)).collect();
    let mut cleaned = 0;
    for (set, size) in wanted.old.iter().zip(&mut sizes) {
        let broken = (*size - lasting(set)).clamp(0, (may_go - cleaned).max(0));
        *size -= broken;
        cleaned += broken;
    }
    let all_available: i32 = wanted.all().map(|set| lasting(set)).sum();
    let mut spare = (all_available - wanted.minimum()).min(may_go - cleaned).max(0);
    for size in &mut sizes {
        let part = (*size).min(spare);
        *size -= part;
        spare -= part;
    }
    let changed = wanted.old.iter().zip(sizes).filter(|(set, after)| size(set) != *after);
    changed.filter_map(|(set, after)| wanted.resize(set, after)).collect()
}

/// What of a set is available and stays. Its controller will soon take what is beyond its size, so nothing may rest
/// on it; Kubernetes counts it, and a Deployment that was made smaller in mid-rollout can fall below its minimum.
fn lasting(set: &ReplicaSet) -> i32 {
    available(set).min(size(set))
}
