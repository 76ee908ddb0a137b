//! PrioritySort: the more important pod first, then the one that waits longer.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::framework::{Attaching, Plugin, QueueSort};
use crate::pod::PodInfo;
use crate::queue::SortKey;

/// # Decides
/// The order of the active queue: by priority, then by arrival.
/// # Wakes on
/// Nothing.
/// # Differs
/// No.
pub(crate) struct PrioritySort;

impl Plugin for PrioritySort {
    const NAME: &'static str = "PrioritySort";

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.queue_sort(self);
    }
}

impl QueueSort for PrioritySort {
    fn sort_key(&self, pod: &PodInfo, arrival: u64) -> SortKey {
        SortKey { first: Reverse(i64::from(pod.priority)), then: arrival }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn priority_goes_before_arrival() {
        let key = |priority, arrival| PrioritySort.sort_key(&pod("a").priority(priority).info(), arrival);
        assert!(key(10, 2) < key(0, 1));
        assert!(key(0, 1) < key(0, 2));
    }
}
