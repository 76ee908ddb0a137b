//! The scheduler without I/O: changes of the cluster in, binds and reports out.
//!
//! It owns the snapshot and the queues. A pod that gets a node is assumed to be there at once, so that the next
//! decision counts it, long before its binding is written and comes back over the watch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use component_base::clock::Clock;
use tokio::time::Instant;

use crate::budgets::{BudgetFacts, BudgetKey};
use crate::cycle::{self, Decision, Outcome, Request, Scratch};
use crate::decisions::Decisions;
use crate::diagnosis::Diagnosis;
use crate::event::ClusterEvent;
use crate::framework::Points;
use crate::node::NodeFacts;
use crate::pod::PodInfo;
use crate::profile::Profiles;
use crate::queue::{Lengths, Popped, Queue, Waits};
use crate::selector::Labels;
use crate::snapshot::Snapshot;
use crate::volumes::{ClaimFacts, ClaimKey, ClassFacts, VolumeFacts};

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Watched {
    Pods,
    Nodes,
    Namespaces,
    Claims,
    Volumes,
    StorageClasses,
    Budgets,
}

/// How many kinds are watched.
const KINDS: usize = 7;

/// One change of the cluster, as the watches tell it.
#[derive(Debug)]
pub(crate) enum Change {
    Pod(Box<PodInfo>),
    PodGone(Arc<str>),
    Node(Box<NodeFacts>),
    NodeGone(String),
    Namespace(String, Labels),
    NamespaceGone(String),
    Claim(Box<ClaimFacts>),
    ClaimGone(ClaimKey),
    Volume(Box<VolumeFacts>),
    VolumeGone(String),
    StorageClass(Box<ClassFacts>),
    StorageClassGone(String),
    Budget(Box<BudgetFacts>),
    BudgetGone(BudgetKey),
    /// A list is complete: what it does not name (uids of pods, `namespace/name` of claims and budgets, else names)
    /// is gone.
    Listed(Watched, HashSet<String>),
}

/// What is to be done about a pod.
#[derive(Debug)]
pub(crate) enum Effect {
    Bind { pod: Arc<PodInfo>, node: Arc<str> },
    Report(Report),
}

/// A failure that the user is to see, and what is done about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) pod: Arc<PodInfo>,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Empty where the pod is not nominated for any node any more.
    pub(crate) nominated: Option<Arc<str>>,
    pub(crate) victims: Vec<Arc<PodInfo>>,
    /// Whether the message is news, or only the nomination is.
    pub(crate) news: bool,
}

/// How many attempts ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) scheduled: u64,
    pub(crate) unschedulable: u64,
    pub(crate) error: u64,
}

/// What the brain is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) waits: Waits,
    pub(crate) sample_percent: usize,
    pub(crate) seed: u64,
}

/// Snapshot, queues and profiles.
pub(crate) struct Brain {
    snapshot: Snapshot,
    queue: Queue,
    profiles: Profiles,
    /// Pods that got a node here and have not come back over the watch.
    assumed: HashMap<Arc<str>, Arc<str>>,
    listed: HashSet<Watched>,
    scratch: Scratch,
    settings: Settings,
    start: usize,
    random: u64,
    decisions: Decisions,
    clock: Clock,
    tally: Tally,
}

impl Brain {
    pub(crate) fn new(profiles: Profiles, settings: Settings, decisions: Decisions, clock: Clock) -> Self {
        Self {
            snapshot: Snapshot::default(),
            queue: Queue::new(settings.waits),
            profiles,
            assumed: HashMap::new(),
            listed: HashSet::new(),
            scratch: Scratch::default(),
            settings,
            start: 0,
            random: settings.seed,
            decisions,
            clock,
            tally: Tally::default(),
        }
    }

    /// Whether everything was listed once. Before, a decision would see half a cluster.
    pub(crate) fn is_synced(&self) -> bool {
        self.listed.len() == KINDS
    }

    /// Whether `step` has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.is_synced() && self.queue.has_ready()
    }

    /// When to call `advance` next, as far as back-offs go.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    pub(crate) fn lengths(&self) -> Lengths {
        self.queue.lengths()
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Takes one change in.
    pub(crate) fn apply(&mut self, change: Change, now: Instant) {
        match change {
            Change::Pod(pod) => self.apply_pod(Arc::from(pod), now),
            Change::PodGone(uid) => self.forget_pod(&uid, now),
            Change::Node(facts) => self.apply_node(*facts, now),
            Change::NodeGone(name) => drop(self.snapshot.remove_node(&name)),
            Change::Namespace(name, labels) => self.apply_namespace(&name, Some(labels), now),
            Change::NamespaceGone(name) => self.apply_namespace(&name, None, now),
            Change::Claim(claim) => self.apply_claim(claim.key.clone(), Some(*claim), now),
            Change::ClaimGone(key) => self.apply_claim(key, None, now),
            Change::Volume(volume) => self.apply_volume(volume.name.clone(), Some(*volume), now),
            Change::VolumeGone(name) => self.apply_volume(name, None, now),
            Change::StorageClass(class) => self.apply_class(class.name.clone(), Some(*class), now),
            Change::StorageClassGone(name) => self.apply_class(name, None, now),
            Change::Budget(budget) => self.snapshot.budgets_mut().set(budget.key.clone(), Some(*budget)),
            Change::BudgetGone(key) => self.snapshot.budgets_mut().set(key, None),
            Change::Listed(kind, names) => self.finish_list(kind, &names, now),
        }
    }

    fn apply_pod(&mut self, pod: Arc<PodInfo>, now: Instant) {
        if pod.state.terminal {
            self.forget_pod(&pod.uid, now);
        } else if !pod.node_name.is_empty() {
            self.place(pod, now);
        } else if pod.terminating && !self.assumed.contains_key(&pod.uid) {
            self.queue.remove(&pod.uid);
            self.withdraw(&pod.uid, now);
        } else {
            self.follow_nomination(&pod, now);
            if let Some(points) = self.profiles.find(&pod) {
                self.queue.apply(pod, points, now);
            }
        }
    }

    /// Room is kept where a waiting pod's status says, or where it was just made and the status will say so.
    fn follow_nomination(&mut self, pod: &Arc<PodInfo>, now: Instant) {
        if self.assumed.contains_key(&pod.uid) {
            return;
        }
        let was_written = self.queue.pod(&pod.uid).is_some_and(|old| !old.state.nominated_node.is_empty());
        match self.snapshot.nomination(&pod.uid).map(str::to_owned) {
            _ if !pod.state.nominated_node.is_empty() => {
                self.snapshot.nominate(pod.clone(), &pod.state.nominated_node);
            }
            Some(_) if was_written => self.withdraw(&pod.uid, now),
            Some(node) => self.snapshot.nominate(pod.clone(), &node),
            None => {}
        }
    }

    /// The room kept for a pod is there for others again.
    fn withdraw(&mut self, uid: &str, now: Instant) {
        if let Some((pod, _)) = self.snapshot.withdraw(uid) {
            self.wake(&ClusterEvent::PodRemoved(&pod), now);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, now: Instant) {
        self.queue.remove(&pod.uid);
        self.withdraw_elsewhere(&pod.uid, &pod.node_name, now);
        let was_assumed = self.assumed.remove(&pod.uid).is_some();
        let known = self.snapshot.pod(&pod.uid).cloned();
        match known {
            Some(old) if old.node_name == pod.node_name && old.decides_like(&pod) => {
                // Only its state is new, but preemption looks at that.
                self.snapshot.place(pod.clone());
                if was_assumed {
                    self.wake(&ClusterEvent::PodPlaced(&pod), now);
                }
            }
            Some(old) if old.node_name == pod.node_name => {
                self.snapshot.place(pod.clone());
                self.wake(&ClusterEvent::PlacedPodUpdated { old: &old, new: &pod }, now);
            }
            known => {
                self.snapshot.place(pod.clone());
                if let Some(old) = known {
                    self.wake(&ClusterEvent::PodRemoved(&old), now);
                }
                self.wake(&ClusterEvent::PodPlaced(&pod), now);
            }
        }
    }

    /// A pod is on a node. If room was kept for it on another, others may want that.
    fn withdraw_elsewhere(&mut self, uid: &str, node: &str, now: Instant) {
        if let Some((pod, nominated)) = self.snapshot.withdraw(uid)
            && nominated != node
        {
            self.wake(&ClusterEvent::PodRemoved(&pod), now);
        }
    }

    fn forget_pod(&mut self, uid: &Arc<str>, now: Instant) {
        self.queue.remove(uid);
        self.withdraw(uid, now);
        self.assumed.remove(uid);
        self.take_off(uid, now);
    }

    fn take_off(&mut self, uid: &Arc<str>, now: Instant) {
        if let Some(gone) = self.snapshot.displace(uid) {
            self.wake(&ClusterEvent::PodRemoved(&gone), now);
        }
    }

    fn apply_node(&mut self, facts: NodeFacts, now: Instant) {
        let name = facts.name.clone();
        let old = self.snapshot.apply_node(facts);
        let Some(new) = self.snapshot.node(&name).map(|node| node.facts.clone()) else { return };
        match &old {
            None => self.wake(&ClusterEvent::NodeAdded(&new), now),
            Some(old) if *old != new => self.wake(&ClusterEvent::NodeUpdated { old, new: &new }, now),
            Some(_) => {}
        }
    }

    fn apply_namespace(&mut self, name: &str, labels: Option<Labels>, now: Instant) {
        if self.snapshot.apply_namespace(name, labels) {
            self.wake(&ClusterEvent::NamespaceUpdated, now);
        }
    }

    fn apply_claim(&mut self, key: ClaimKey, claim: Option<ClaimFacts>, now: Instant) {
        if self.snapshot.volumes_mut().set_claim(key.clone(), claim) {
            self.wake(&ClusterEvent::ClaimChanged(&key), now);
        }
    }

    fn apply_volume(&mut self, name: String, volume: Option<VolumeFacts>, now: Instant) {
        if self.snapshot.volumes_mut().set_volume(name, volume) {
            self.wake(&ClusterEvent::VolumeChanged, now);
        }
    }

    fn apply_class(&mut self, name: String, class: Option<ClassFacts>, now: Instant) {
        if self.snapshot.volumes_mut().set_class(name, class) {
            self.wake(&ClusterEvent::StorageClassChanged, now);
        }
    }

    fn finish_list(&mut self, kind: Watched, names: &HashSet<String>, now: Instant) {
        match kind {
            Watched::Pods => {
                let placed = self.snapshot.pods().map(|pod| pod.uid.clone());
                let known: Vec<Arc<str>> = placed.chain(self.queue.uids()).collect();
                for uid in known.iter().filter(|uid| !names.contains(&***uid)) {
                    self.forget_pod(uid, now);
                }
            }
            Watched::Nodes => {
                for name in self.snapshot.node_names().iter().filter(|name| !names.contains(&***name)) {
                    self.snapshot.remove_node(name);
                }
            }
            Watched::Namespaces => {
                for name in self.snapshot.namespace_names().iter().filter(|name| !names.contains(*name)) {
                    self.apply_namespace(name, None, now);
                }
            }
            Watched::Claims => {
                let gone = |(namespace, name): &ClaimKey| !names.contains(&format!("{namespace}/{name}"));
                let keys = self.snapshot.volumes().claim_keys();
                keys.into_iter().filter(gone).for_each(|key| self.apply_claim(key, None, now));
            }
            Watched::Volumes => {
                let known = self.snapshot.volumes().volume_names();
                let gone = known.into_iter().filter(|name| !names.contains(name));
                gone.for_each(|name| self.apply_volume(name, None, now));
            }
            Watched::StorageClasses => {
                let known = self.snapshot.volumes().class_names();
                let gone = known.into_iter().filter(|name| !names.contains(name));
                gone.for_each(|name| self.apply_class(name, None, now));
            }
            Watched::Budgets => {
                let gone = |(namespace, name): &BudgetKey| !names.contains(&format!("{namespace}/{name}"));
                let keys = self.snapshot.budgets().keys();
                keys.into_iter().filter(gone).for_each(|key| self.snapshot.budgets_mut().set(key, None));
            }
        }
        self.listed.insert(kind);
    }

    fn wake(&mut self, event: &ClusterEvent<'_>, now: Instant) {
        let profiles = &self.profiles;
        self.queue.wake_on(event, |pod| profiles.find(pod), now);
    }

    /// Moves pods whose time has come.
    pub(crate) fn advance(&mut self, now: Instant) {
        let profiles = &self.profiles;
        self.queue.advance(|pod| profiles.find(pod), now);
    }

    /// Decides about the next pod. None when no pod is ready, or when there is nothing to do about the one
    /// that was.
    pub(crate) fn step(&mut self, now: Instant) -> Option<Effect> {
        let popped = self.queue.pop()?;
        if self.snapshot.pod(&popped.pod.uid).is_some() {
            // It is on a node, or assumed to be: the watch will say.
            return None;
        }
        let mut decision = self.decide(&popped)?;
        self.start = decision.next_start;
        self.decisions.keep(self.clock.now(), &popped.pod, popped.attempts, &mut decision);
        match decision.outcome {
            Outcome::Chosen(node) => self.assume(popped.pod, node, now),
            Outcome::Unfit(diagnosis) => self.refuse(popped.pod, *diagnosis, now),
        }
    }

    fn decide(&mut self, popped: &Popped) -> Option<Decision> {
        self.snapshot.track(&popped.pod);
        // SplitMix64: ties fall evenly, and the same on every run from one seed.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let request = Request {
            points: self.profiles.find(&popped.pod)?,
            pod: &popped.pod,
            snapshot: &self.snapshot,
            start: self.start,
            sample_percent: self.settings.sample_percent,
            tie_break: mixed ^ (mixed >> 27),
        };
        Some(cycle::decide(&request, &mut self.scratch))
    }

    fn assume(&mut self, pod: Arc<PodInfo>, node: Arc<str>, now: Instant) -> Option<Effect> {
        let points = self.profiles.find(&pod)?;
        if let Err((plugin, refusal)) = cycle::reserve(points, &pod, &node, &self.snapshot) {
            let mut refused_by = crate::framework::PluginSet::default();
            refused_by.insert(plugin);
            self.tally.unschedulable += 1;
            self.queue.refuse(&pod.uid, refused_by, now);
            return self.report(pod, "Unschedulable", refusal.reason.into_owned(), None, Vec::new());
        }
        let assumed = PodInfo { node_name: node.to_string(), ..(*pod).clone() };
        self.snapshot.place(Arc::new(assumed));
        self.assumed.insert(pod.uid.clone(), node.clone());
        self.withdraw_elsewhere(&pod.uid, &node, now);
        Some(Effect::Bind { pod, node })
    }

    fn refuse(&mut self, pod: Arc<PodInfo>, diagnosis: Diagnosis, now: Instant) -> Option<Effect> {
        self.tally.unschedulable += 1;
        self.queue.refuse(&pod.uid, diagnosis.refused_by, now);
        let message = diagnosis.to_string();
        let mut victims = diagnosis.post.victims;
        victims.retain(|victim| !victim.terminating);
        let nominated = match diagnosis.post.nominated {
            Some(node) => {
                self.snapshot.nominate(pod.clone(), &node);
                Some(node)
            }
            None if diagnosis.post.withdraws => {
                self.withdraw(&pod.uid, now);
                Some("".into())
            }
            None => None,
        };
        self.report(pod, "Unschedulable", message, nominated, victims)
    }

    fn report(
        &mut self,
        pod: Arc<PodInfo>,
        reason: &'static str,
        message: String,
        nominated: Option<Arc<str>>,
        victims: Vec<Arc<PodInfo>>,
    ) -> Option<Effect> {
        let news = self.queue.note_report(&pod.uid, reason, &message);
        let nominates = nominated.as_deref().is_some_and(|node| node != pod.state.nominated_node);
        if !news && !nominates && victims.is_empty() {
            return None;
        }
        Some(Effect::Report(Report { pod, reason, message, nominated, victims, news }))
    }

    /// A report could not be made and is to be made again.
    pub(crate) fn report_failed(&mut self, uid: &str) {
        self.queue.forget_report(uid);
    }

    /// A binding was written. The pod stays assumed until the watch shows it.
    pub(crate) fn bound(&mut self) {
        self.tally.scheduled += 1;
    }

    /// A binding failed: the pod is no longer assumed, and is tried again after its back-off. `message` is
    /// for the user; none when the pod is gone anyway.
    pub(crate) fn bind_failed(
        &mut self,
        pod: &Arc<PodInfo>,
        node: &str,
        message: Option<String>,
        now: Instant,
    ) -> Option<Effect> {
        self.tally.error += 1;
        if let Some(points) = self.profiles.find(pod) {
            cycle::unreserve(points, pod, node);
        }
        // When it is assumed no longer, the watch has shown it meanwhile, bound or deleted.
        self.assumed.remove(&pod.uid)?;
        self.take_off(&pod.uid, now);
        self.queue.fail(&pod.uid, now);
        let current = self.queue.pod(&pod.uid)?.clone();
        self.report(current, "SchedulerError", message?, None, Vec::new())
    }

    /// The points of the pod's profile, shared with the task that binds it.
    pub(crate) fn points(&self, pod: &PodInfo) -> Option<Arc<Points>> {
        self.profiles.shared(pod)
    }
}

#[cfg(test)]
mod tests;
