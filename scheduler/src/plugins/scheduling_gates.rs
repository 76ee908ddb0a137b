//! SchedulingGates: pods with gates are not tried.

use std::sync::Arc;

use crate::event::{EventKind, Hint};
use crate::framework::{Attaching, Check, Plugin, PreEnqueue, Refusal};
use crate::pod::PodInfo;

/// # Decides
/// A pod with `spec.schedulingGates` does not enter the active queue.
/// # Wakes on
/// An update of the pod that takes its last gate away.
/// # Differs
/// No.
pub(crate) struct SchedulingGates;

impl Plugin for SchedulingGates {
    const NAME: &'static str = "SchedulingGates";
    const HINTS: &'static [Hint] =
        &[Hint { on: EventKind::PodUpdated, helps: |pod, _| pod.gates.is_empty() }];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_enqueue(self);
    }
}

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &PodInfo) -> Check {
        if pod.gates.is_empty() {
            return Ok(());
        }
        Err(Refusal::unresolvable(format!("waiting for scheduling gates: [{}]", pod.gates.join(" "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn gated_pod_is_refused_with_its_gates() {
        let refusal = SchedulingGates.pre_enqueue(&pod("a").gate("x/y").gate("z").info()).unwrap_err();
        assert_eq!(refusal.reason, "waiting for scheduling gates: [x/y z]");
        assert!(SchedulingGates.pre_enqueue(&pod("a").info()).is_ok());
    }
}
