//! What a StatefulSet does next.
//!
//! With OrderedReady one thing is done at a time, and only when every pod before it is available; Parallel
//! does all at once. Both scale before they update, and an update takes pods from the highest ordinal down.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::int_or_percent::{Rounding, scaled};
use api_types::pods;
use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::claims::{self, Owned};
use super::identity::{is_labeled, ordinal_of, pod_name, revision_of};
use crate::owners::{self, name_of};
use crate::pods::{Availability, availability};

/// Which template a new pod gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Template {
    Current,
    Update,
}

/// What `plan` sees.
pub(super) struct Observed<'a> {
    pub set: &'a StatefulSet,
    /// The set's pods, those that go among them.
    pub pods: &'a [Arc<Pod>],
    /// The claims of the namespace by name.
    pub claims: &'a BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// The name of the revision of the set's template.
    pub update: &'a str,
    pub now: DateTime<Utc>,
}

/// What is to be done, in the order of the fields.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Steps {
    pub make_claims: Vec<PersistentVolumeClaim>,
    pub own_claims: Vec<Owned>,
    /// Pods that do not say who they are, with their ordinals.
    pub label: Vec<(i32, Arc<Pod>)>,
    pub create: Vec<(i32, Template)>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that cannot be made now, and why.
    pub refused: Vec<(i32, String)>,
    /// A claim has to go before its pod can be made.
    pub waits: bool,
    /// The pod that has to be available before those after it are looked at.
    pub waits_on: Option<i32>,
}

/// What the set's spec says, with the defaults.
pub(super) struct Rules {
    pub first: i32,
    pub replicas: i32,
    pub ordered: bool,
    pub on_delete: bool,
    /// Below this ordinal pods keep the current revision.
    pub partition: i32,
    pub unavailable_max: usize,
    pub min_ready_seconds: Option<i32>,
}

impl Rules {
    pub(super) fn of(set: &StatefulSet) -> Self {
        let spec = set.spec.clone().unwrap_or_default();
        let strategy = spec.update_strategy.unwrap_or_default();
        let first = spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0);
        let replicas = spec.replicas.unwrap_or(1);
        let rolling = strategy.rolling_update;
        let told = || set.status.as_ref().and_then(|status| status.current_replicas);
        let kept = match &rolling {
            Some(rolling) => rolling.partition,
            None => told(),
        };
        let share = rolling.and_then(|rolling| rolling.max_unavailable).unwrap_or(IntOrString::Int(1));
        let unavailable_max = scaled(&share, replicas, Rounding::Down).unwrap_or(1).max(1);
        Self {
            first,
            replicas,
            ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            on_delete: strategy.type_.as_deref() == Some("OnDelete"),
            partition: first.saturating_add(kept.unwrap_or(0)),
            unavailable_max: usize::try_from(unavailable_max).unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds,
        }
    }

    fn range(&self) -> std::ops::Range<i32> {
        self.first..self.first.saturating_add(self.replicas)
    }

    fn template_for(&self, ordinal: i32) -> Template {
        let keeps = !self.on_delete && ordinal < self.partition;
        if keeps { Template::Current } else { Template::Update }
    }

    fn is_available(&self, pod: &Pod, now: DateTime<Utc>) -> bool {
        let available = availability(pod, self.min_ready_seconds, now) == Availability::Available;
        available && pods::phase(pod) == "Running" && !pods::is_terminating(pod)
    }
}

pub(super) fn plan(observed: &Observed<'_>) -> Steps {
    let mut planner = Planner::of(observed);
    if !owners::is_deleting(&observed.set.metadata) && planner.keep() && planner.condemn() {
        planner.update();
    }
    planner.steps
}

/// The ordinals that the set is to have.
pub(super) fn ordinals(set: &StatefulSet) -> std::ops::Range<i32> {
    Rules::of(set).range()
}

struct Planner<'a> {
    observed: &'a Observed<'a>,
    rules: Rules,
    by_ordinal: BTreeMap<i32, &'a Arc<Pod>>,
    steps: Steps,
}

impl<'a> Planner<'a> {
    fn of(observed: &'a Observed<'a>) -> Self {
        let with_ordinal = |pod: &'a Arc<Pod>| Some((ordinal_of(observed.set, pod)?, pod));
        let by_ordinal = observed.pods.iter().filter_map(with_ordinal).collect();
        Self { observed, rules: Rules::of(observed.set), by_ordinal, steps: Steps::default() }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.rules.is_available(pod, self.observed.now)
    }

    /// Makes each ordinal of the range have its pod. Says whether there is nothing to wait for.
    fn keep(&mut self) -> bool {
        for ordinal in self.rules.range() {
            let pod = self.by_ordinal.get(&ordinal).copied();
            let waits = match pod {
                None => {
                    self.create(ordinal);
                    true
                }
                Some(pod) if pods::is_terminal(pod) => {
                    if !pods::is_terminating(pod) {
                        self.steps.delete.push(pod.clone());
                    }
                    true
                }
                Some(pod) => self.keep_pod(ordinal, pod),
            };
            if waits && self.rules.ordered {
                self.steps.waits_on = Some(ordinal);
                return false;
            }
        }
        true
    }

    /// Looks after a pod that is there. Says whether it has to be waited for.
    fn keep_pod(&mut self, ordinal: i32, pod: &Arc<Pod>) -> bool {
        if pods::phase(pod) == "Pending" {
            self.make_claims(ordinal);
        }
        let available = self.is_available(pod);
        if available || !self.rules.ordered {
            self.own_claims(ordinal, pod, false);
            if !is_labeled(self.observed.set, ordinal, pod) {
                self.steps.label.push((ordinal, pod.clone()));
            }
        }
        !available
    }

    fn create(&mut self, ordinal: i32) {
        let (set, name) = (self.observed.set, pod_name(self.observed.set, ordinal));
        let found = || claims::names(set, ordinal).filter_map(|(_, claim)| self.observed.claims.get(&claim));
        if found().any(|claim| claims::is_stale(set, &name, claim)) {
            self.steps.waits = true;
            return;
        }
        if let Some(going) = found().find(|claim| owners::is_deleting(&claim.metadata)) {
            let why = format!("pvc {} is being deleted", name_of(&going.metadata));
            self.steps.refused.push((ordinal, why));
            self.steps.waits = true;
            return;
        }
        self.make_claims(ordinal);
        self.steps.create.push((ordinal, self.rules.template_for(ordinal)));
    }

    fn make_claims(&mut self, ordinal: i32) {
        let known = self.observed.claims;
        let missing = claims::made_for(self.observed.set, ordinal)
            .filter(|claim| !known.contains_key(name_of(&claim.metadata)));
        self.steps.make_claims.extend(missing);
    }

    fn own_claims(&mut self, ordinal: i32, pod: &Pod, scaled_away: bool) {
        let set = self.observed.set;
        for claim in claims::names(set, ordinal).filter_map(|(_, claim)| self.observed.claims.get(&claim)) {
            if let Some(owners) = claims::owners_due(set, pod, scaled_away, claim) {
                self.steps.own_claims.push((claim.clone(), owners));
            }
        }
    }

    /// Removes pods out of the range, the highest first. Says whether there is nothing to wait for.
    fn condemn(&mut self) -> bool {
        let range = self.rules.range();
        let condemned: Vec<_> =
            self.by_ordinal.clone().into_iter().filter(|(one, _)| !range.contains(one)).collect();
        for (ordinal, pod) in &condemned {
            self.own_claims(*ordinal, pod, true);
        }
        let first_unavailable =
            condemned.iter().find(|(_, pod)| !self.is_available(pod)).map(|(one, _)| *one);
        for (ordinal, pod) in condemned.iter().rev() {
            let going = pods::is_terminating(pod);
            let held = !self.is_available(pod) && first_unavailable != Some(*ordinal);
            let stays = going || (held && self.rules.ordered);
            if !stays {
                self.steps.delete.push((*pod).clone());
            }
            if self.rules.ordered {
                return false;
            }
        }
        true
    }

    /// Takes outdated pods, the highest first, as many as may be unavailable at once.
    fn update(&mut self) {
        if self.rules.on_delete {
            return;
        }
        let range = self.rules.range();
        let missing = |ordinal: &i32| self.by_ordinal.get(ordinal).is_none_or(|pod| !self.is_available(pod));
        let unavailable = range.clone().filter(missing).count();
        let mut spare = self.rules.unavailable_max.saturating_sub(unavailable);
        let updatable = self.rules.partition.max(range.start)..range.end;
        let mut outdated = Vec::new();
        for ordinal in updatable.rev() {
            let Some(pod) = self.by_ordinal.get(&ordinal).copied() else { continue };
            let current = revision_of(pod) == Some(self.observed.update);
            if current || pods::is_terminating(pod) || pods::is_terminal(pod) {
                continue;
            }
            // A pod of an old template that is not available is no loss, so it does not count.
            let broken = !self.rules.ordered && !self.is_available(pod);
            if broken || spare > 0 {
                outdated.push(pod.clone());
                spare -= usize::from(!broken);
            }
        }
        self.steps.delete.extend(outdated);
    }
}
