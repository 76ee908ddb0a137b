//! Recreate: every old pod goes before the first new one is made.

use super::Step;
use super::history::new_set;
use super::wanted::{Wanted, size};

/// `old_pods`: whether a pod of an old set is still there.
pub(super) fn steps(wanted: &Wanted<'_>, old_pods: bool) -> Vec<Step> {
    let active = wanted.old.iter().filter(|set| size(set) > 0);
    let down: Vec<_> = active.filter_map(|set| wanted.resize(set, 0)).collect();
    if !down.is_empty() || old_pods {
        return down;
    }
    match &wanted.new {
        None => vec![Step::Create(Box::new(new_set(wanted, wanted.replicas)))],
        Some(new) => wanted.resize(new, wanted.replicas).into_iter().collect(),
    }
}
