//! The pods that wait: ready to be tried, backing off, or unschedulable until something helps them.
//!
//! A pod is in one place at a time. What moves it: time (back-off, and a flush of pods that waited for long),
//! an event that a plugin says may help, or a change of the pod. The write of a pod's own condition is none of
//! these. Time is a parameter.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::ClusterEvent;
use crate::framework::{PluginSet, Points};
use crate::plugins;
use crate::pod::PodInfo;

/// Where a pod stands in the active queue; the smallest is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SortKey {
    pub(crate) first: Reverse<i64>,
    pub(crate) then: u64,
}

/// The waiting times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    /// The back-off after a first attempt; doubled with each.
    pub(crate) backoff_first: Duration,
    pub(crate) backoff_max: Duration,
    /// After so long an unschedulable pod is tried again though nothing is known to have helped.
    pub(crate) flush_after: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            flush_after: Duration::from_secs(300),
        }
    }
}

type Uid = Arc<str>;
type Turn = (SortKey, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A plugin keeps it out until it changes.
    Gated,
    Active(Turn),
    /// Waits for its time after an error.
    BackingOff(Instant, u64),
    /// Something helped; it waits for its time unless nobody else wants to be tried.
    HelpedBackingOff(Instant, u64),
    Unschedulable(Instant),
    /// Taken out by `pop`.
    Tried,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    arrival: u64,
    attempts: u32,
    place: Place,
    /// When the last attempt ended.
    tried_at: Option<Instant>,
    refused_by: PluginSet,
    /// Reason and message that were last reported.
    reported: Option<(String, String)>,
}

/// A pod to be tried now.
#[derive(Clone, Debug)]
pub(crate) struct Popped {
    pub(crate) pod: Arc<PodInfo>,
    pub(crate) attempts: u32,
}

/// How many pods are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) active: usize,
    pub(crate) backing_off: usize,
    pub(crate) unschedulable: usize,
    pub(crate) gated: usize,
}

/// The queues.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waits: Waits,
    entries: BTreeMap<Uid, Entry>,
    active: BTreeMap<Turn, Uid>,
    backing_off: BTreeMap<(Instant, u64), Uid>,
    helped: BTreeMap<(Instant, u64), Uid>,
    unschedulable: BTreeSet<Uid>,
    gated: BTreeSet<Uid>,
    arrivals: u64,
}

impl Queue {
    pub(crate) fn new(waits: Waits) -> Self {
        Self { waits, ..Self::default() }
    }

    pub(crate) fn lengths(&self) -> Lengths {
        Lengths {
            active: self.active.len(),
            backing_off: self.backing_off.len() + self.helped.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated.len(),
        }
    }

    /// The pods of the queue, for comparison with a list.
    pub(crate) fn uids(&self) -> Vec<Uid> {
        self.entries.keys().cloned().collect()
    }

    pub(crate) fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(uid).map(|entry| &entry.pod)
    }

    /// A pod as it is now: a new one is queued; a known one is moved only if a change may help it.
    pub(crate) fn apply(&mut self, pod: Arc<PodInfo>, points: &Points, now: Instant) {
        let Some(entry) = self.entries.get_mut(&pod.uid) else {
            self.insert(pod, points);
            return;
        };
        let old = std::mem::replace(&mut entry.pod, pod.clone());
        if old.decides_like(&pod) {
            return;
        }
        let (place, refused_by) = (entry.place, entry.refused_by);
        let event = ClusterEvent::PodUpdated { old: &old, new: &pod };
        match place {
            Place::Gated => self.admit(&pod.uid, points),
            Place::Active(_) => self.put(&pod.uid, Place::Active(self.turn(&pod.uid, points))),
            Place::Unschedulable(_) if plugins::helped(refused_by, &pod, &event) => {
                self.wake(&pod.uid, points, now)
            }
            _ => {}
        }
    }

    fn insert(&mut self, pod: Arc<PodInfo>, points: &Points) {
        self.arrivals += 1;
        let uid = pod.uid.clone();
        let entry = Entry {
            pod,
            arrival: self.arrivals,
            attempts: 0,
            place: Place::Tried,
            tried_at: None,
            refused_by: PluginSet::default(),
            reported: None,
        };
        self.entries.insert(uid.clone(), entry);
        self.admit(&uid, points);
    }

    /// Asks the pre-enqueue plugins.
    fn admit(&mut self, uid: &Uid, points: &Points) {
        let Some(entry) = self.entries.get(uid) else { return };
        let place = match points.pre_enqueue(&entry.pod) {
            Ok(()) => Place::Active(self.turn(uid, points)),
            Err(_) => Place::Gated,
        };
        self.put(uid, place);
    }

    fn turn(&self, uid: &str, points: &Points) -> Turn {
        let entry = &self.entries[uid];
        (points.sort_key(&entry.pod, entry.arrival), entry.arrival)
    }

    /// Moves a pod from where it is to `place`.
    fn put(&mut self, uid: &Uid, place: Place) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let old = std::mem::replace(&mut entry.place, place);
        self.unlink(uid, old);
        match place {
            Place::Gated => drop(self.gated.insert(uid.clone())),
            Place::Active(turn) => drop(self.active.insert(turn, uid.clone())),
            Place::BackingOff(until, arrival) => drop(self.backing_off.insert((until, arrival), uid.clone())),
            Place::HelpedBackingOff(until, arrival) => {
                drop(self.helped.insert((until, arrival), uid.clone()))
            }
            Place::Unschedulable(_) => drop(self.unschedulable.insert(uid.clone())),
            Place::Tried => {}
        }
    }

    fn unlink(&mut self, uid: &Uid, place: Place) {
        match place {
            Place::Gated => drop(self.gated.remove(uid)),
            Place::Active(turn) => drop(self.active.remove(&turn)),
            Place::BackingOff(until, arrival) => drop(self.backing_off.remove(&(until, arrival))),
            Place::HelpedBackingOff(until, arrival) => drop(self.helped.remove(&(until, arrival))),
            Place::Unschedulable(_) => drop(self.unschedulable.remove(uid)),
            Place::Tried => {}
        }
    }

    /// The pod is bound, deleted or somebody else's.
    pub(crate) fn remove(&mut self, uid: &Uid) -> Option<Arc<PodInfo>> {
        let entry = self.entries.remove(uid)?;
        self.unlink(uid, entry.place);
        Some(entry.pod)
    }

    /// The next pod to try. When no pod is ready, one that was helped need not sit out its back-off.
    pub(crate) fn pop(&mut self) -> Option<Popped> {
        let first = self.active.first_key_value().or(None).map(|(_, uid)| uid.clone());
        let uid = first.or_else(|| self.helped.first_key_value().map(|(_, uid)| uid.clone()))?;
        self.put(&uid, Place::Tried);
        let entry = self.entries.get_mut(&uid)?;
        entry.attempts += 1;
        Some(Popped { pod: entry.pod.clone(), attempts: entry.attempts })
    }

    /// A tried pod that these plugins refused: it waits until something helps.
    pub(crate) fn refuse(&mut self, uid: &Uid, refused_by: PluginSet, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.refused_by = refused_by;
        entry.tried_at = Some(now);
        self.put(uid, Place::Unschedulable(now));
    }

    /// A tried pod whose attempt went wrong: it is tried again after its back-off.
    pub(crate) fn fail(&mut self, uid: &Uid, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.refused_by = PluginSet::default();
        entry.tried_at = Some(now);
        let (arrival, until) = (entry.arrival, now + self.waits.backoff(entry.attempts));
        self.put(uid, Place::BackingOff(until, arrival));
    }

    /// Moves the pods that `event` may help.
    pub(crate) fn wake_on<'p>(
        &mut self,
        event: &ClusterEvent<'_>,
        points: impl Fn(&PodInfo) -> Option<&'p Points>,
        now: Instant,
    ) {
        let entries = &self.entries;
        let helped = |uid: &&Uid| {
            entries.get(*uid).is_some_and(|entry| plugins::helped(entry.refused_by, &entry.pod, event))
        };
        let moved: Vec<Uid> = self.unschedulable.iter().filter(helped).cloned().collect();
        for uid in moved {
            if let Some(points) = self.entries.get(&uid).and_then(|entry| points(&entry.pod)) {
                self.wake(&uid, points, now);
            }
        }
    }

    fn wake(&mut self, uid: &Uid, points: &Points, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        let until = entry.tried_at.unwrap_or(now) + self.waits.backoff(entry.attempts);
        match until > now {
            true => self.put(uid, Place::HelpedBackingOff(until, entry.arrival)),
            false => self.admit(uid, points),
        }
    }

    /// Moves the pods whose time has come.
    pub(crate) fn advance<'p>(&mut self, points: impl Fn(&PodInfo) -> Option<&'p Points>, now: Instant) {
        let due = |queue: &BTreeMap<(Instant, u64), Uid>| -> Vec<Uid> {
            queue.range(..=(now, u64::MAX)).map(|(_, uid)| uid.clone()).collect()
        };
        let mut moved = due(&self.backing_off);
        moved.extend(due(&self.helped));
        let waited = |uid: &&Uid| match self.entries.get(*uid).map(|entry| entry.place) {
            Some(Place::Unschedulable(since)) => since + self.waits.flush_after <= now,
            _ => false,
        };
        moved.extend(self.unschedulable.iter().filter(waited).cloned());
        for uid in moved {
            if let Some(points) = self.entries.get(&uid).and_then(|entry| points(&entry.pod)) {
                self.admit(&uid, points);
            }
        }
    }

    /// Whether `pop` would give a pod.
    pub(crate) fn has_ready(&self) -> bool {
        !self.active.is_empty() || !self.helped.is_empty()
    }

    /// When `advance` has something to do next, as far as back-offs go.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let first =
            |queue: &BTreeMap<(Instant, u64), Uid>| queue.first_key_value().map(|((until, _), _)| *until);
        first(&self.backing_off).into_iter().chain(first(&self.helped)).min()
    }

    /// Notes what is about to be reported of a pod; false if the same was reported already.
    pub(crate) fn note_report(&mut self, uid: &str, reason: &str, message: &str) -> bool {
        let Some(entry) = self.entries.get_mut(uid) else { return false };
        let news = (reason.to_owned(), message.to_owned());
        // What is in the pod's status survives a restart of the scheduler.
        let told = entry.reported.as_ref().or(entry.pod.state.unscheduled.as_ref());
        if told == Some(&news) {
            return false;
        }
        entry.reported = Some(news);
        true
    }

    /// A report could not be written: the next one is to be written though it is the same.
    pub(crate) fn forget_report(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.reported = None;
        }
    }
}

impl Waits {
    fn backoff(&self, attempts: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempts.saturating_sub(1));
        self.backoff_first.saturating_mul(factor).min(self.backoff_max)
    }
}

#[cfg(test)]
mod tests;
