//! The newest events of one resource: what a watch resumes from and a past state is made of.

use std::collections::VecDeque;
use std::sync::Arc;

use super::snapshot::Resource;
use super::stored::Stored;
use crate::store::{Did, Revision};

/// What was there before an event.
#[derive(Clone, Debug)]
pub(super) enum Previous {
    Nothing,
    Was(Arc<Stored>),
    /// Something, but the log that the ring was read from begins later.
    Unknown,
}

/// One change of one object.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) did: Did,
    /// The state that the change made; of a deletion the last state, at the deletion's revision.
    pub(super) object: Arc<Stored>,
    pub(super) previous: Previous,
    pub(super) at_ms: u64,
}

/// Bounds of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingLimits {
    /// Kept however old.
    pub(super) events_min: usize,
    pub(super) events_max: usize,
    pub(super) bytes_max: usize,
    pub(super) age_ms_max: u64,
}

/// Events in revision order, without a gap after `floor`.
pub(super) struct Ring {
    floor: Revision,
    /// A past state below this cannot be made, because an event there does not know what it replaced.
    undo_floor: Revision,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Ring {
    pub(super) fn new(floor: Revision) -> Self {
        Self { floor, undo_floor: floor, events: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, event: Arc<Event>, limits: RingLimits) {
        self.bytes += event.object.bytes.len();
        if matches!(event.previous, Previous::Unknown) {
            self.undo_floor = event.object.revision;
        }
        let now = event.at_ms;
        self.events.push_back(event);
        while self.is_over(limits, now) {
            let Some(dropped) = self.events.pop_front() else { break };
            self.bytes -= dropped.object.bytes.len();
            self.floor = dropped.object.revision;
        }
    }

    fn is_over(&self, limits: RingLimits, now: u64) -> bool {
        let count = self.events.len();
        let old = self.events.front().is_some_and(|event| event.at_ms + limits.age_ms_max < now);
        count > limits.events_max || count > limits.events_min && (old || self.bytes > limits.bytes_max)
    }

    /// The events after `from`, oldest first; the floor if some of them are gone.
    pub(super) fn after(&self, from: Revision) -> Result<impl Iterator<Item = &Arc<Event>>, Revision> {
        if from < self.floor {
            return Err(self.floor);
        }
        let start = self.events.partition_point(|event| event.object.revision <= from);
        Ok(self.events.range(start..))
    }

    /// The state at `revision`, made from the `current` one by undoing what came after.
    pub(super) fn rewind(&self, mut current: Resource, revision: Revision) -> Result<Resource, Revision> {
        let floor = self.floor.max(self.undo_floor);
        if revision < floor {
            return Err(floor);
        }
        for event in self.events.iter().rev().take_while(|event| event.object.revision > revision) {
            let key = &event.object.key;
            let name = (key.namespace.clone(), key.name.clone());
            match &event.previous {
                Previous::Was(stored) => drop(current.insert(name, stored.clone())),
                Previous::Nothing => drop(current.remove(&name)),
                Previous::Unknown => return Err(event.object.revision),
            }
        }
        Ok(current)
    }
}
