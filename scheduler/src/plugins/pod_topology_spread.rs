//! PodTopologySpread: pods lie evenly over zones, nodes or other domains.

use std::collections::HashMap;
use std::sync::Arc;

use super::taint_toleration::tolerated;
use crate::event::{ClusterEvent, EventKind, Hint, always};
use crate::framework::{
    Adjustment, Attaching, Check, CycleState, Filter, Plugin, PreFilter, PreFiltered, PreScore, Refusal,
    SCORE_MAX, Score,
};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Spread};
use crate::snapshot::Snapshot;
use crate::terms::{Counts, Step, Term};

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// # Decides
/// For each constraint with `DoNotSchedule`: a node passes if it has the topology key and its domain would not
/// hold more than `maxSkew` matching pods above the domain that holds fewest. Domains are those of the nodes
/// that the pod could use (`nodeAffinityPolicy`, `nodeTaintsPolicy`). Constraints with `ScheduleAnyway` score.
/// # Wakes on
/// Pods that come, go or change labels; new nodes and nodes that change.
/// # Differs
/// Pods without constraints are not spread by default constraints; NodeResourcesFit spreads them by load.
pub(crate) struct PodTopologySpread;

/// One constraint with its numbers.
struct Counting {
    term: Arc<Term>,
    skew_max: i64,
    /// Every domain that counts, also with none.
    domains: HashMap<String, i64>,
    domains_min: usize,
    /// Whether the pod itself will count.
    counts_itself: bool,
}

impl Counting {
    fn lowest(&self) -> i64 {
        if self.domains.len() < self.domains_min {
            return 0;
        }
        self.domains.values().copied().min().unwrap_or(0)
    }
}

struct Filtering(Vec<(Counting, i64)>);

struct Scoring(Vec<Counting>);

fn concerns(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels || old.taints != new.taints,
        ClusterEvent::PlacedPodUpdated { old, new } => {
            new.namespace == pod.namespace && (old.labels != new.labels || old.terminating != new.terminating)
        }
        ClusterEvent::PodUpdated { old, new } => old.labels != new.labels,
        ClusterEvent::PodPlaced(other) | ClusterEvent::PodRemoved(other) => other.namespace == pod.namespace,
        _ => false,
    }
}

impl Plugin for PodTopologySpread {
    const NAME: &'static str = "PodTopologySpread";
    const WEIGHT: i64 = 2;
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::PodPlaced, helps: concerns },
        Hint { on: EventKind::PodRemoved, helps: concerns },
        Hint { on: EventKind::PlacedPodUpdated, helps: concerns },
        Hint { on: EventKind::PodUpdated, helps: concerns },
        Hint { on: EventKind::NodeAdded, helps: always },
        Hint { on: EventKind::NodeUpdated, helps: concerns },
    ];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_filter(self.clone()).filter(self.clone()).pre_score(self.clone()).score(self);
    }
}

impl PreFilter for PodTopologySpread {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFiltered, Refusal> {
        let required: Vec<&Spread> = pod.spread.iter().filter(|spread| spread.required).collect();
        if required.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let counted = count_domains(&required, pod, snapshot);
        state.put(Filtering(
            counted.into_iter().map(|counting| (counting.lowest(), counting)).map(|(l, c)| (c, l)).collect(),
        ));
        Ok(PreFiltered::Run)
    }

    fn adjust(&self, change: &Adjustment<'_>, state: &mut CycleState) {
        let Some(Filtering(counted)) = state.get_mut::<Filtering>() else { return };
        for (counting, lowest) in counted {
            if !counting.term.matches(change.other, change.snapshot.namespaces()) {
                continue;
            }
            let Some(domain) = change.node.domain(&counting.term.topology_key) else { continue };
            if let Some(number) = counting.domains.get_mut(domain) {
                *number += if change.step == Step::Add { 1 } else { -1 };
            }
            *lowest = counting.lowest();
        }
    }
}

/// The matching pods of each domain. All domains of the snapshot count where the pod could use every node;
/// else the nodes are gone through.
fn count_domains(spreads: &[&Spread], pod: &PodInfo, snapshot: &Snapshot) -> Vec<Counting> {
    let simple = simple_domains(spreads, pod, snapshot);
    let eligible: Vec<&NodeInfo> = match simple {
        true => Vec::new(),
        false => snapshot.nodes().iter().filter(|node| has_keys(spreads, node)).collect(),
    };
    let count = |spread: &&Spread| {
        let term = &spread.term;
        let domains = if simple {
            all_domains(term, snapshot)
        } else {
            usable_domains(spread, pod, &eligible, snapshot)
        };
        Counting {
            term: term.clone(),
            skew_max: spread.skew_max,
            domains,
            domains_min: spread.domains_min,
            counts_itself: term.matches(pod, snapshot.namespaces()),
        }
    };
    spreads.iter().map(count).collect()
}

fn has_keys(spreads: &[&Spread], node: &NodeInfo) -> bool {
    spreads.iter().all(|spread| node.domain(&spread.term.topology_key).is_some())
}

/// Whether every node that has a key has all of them, and the pod's wishes and tolerations exclude none.
fn simple_domains(spreads: &[&Spread], pod: &PodInfo, snapshot: &Snapshot) -> bool {
    let keyed = |spread: &&Spread| {
        let nodes: usize =
            snapshot.domains(&spread.term.topology_key).map_or(0, |values| values.values().sum());
        nodes == snapshot.nodes().len()
    };
    let excludes =
        |spread: &&Spread| spread.honors_taints || (spread.honors_node_wish && !pod.nodes.requires_nothing());
    !spreads.iter().any(excludes) && (spreads.len() == 1 || spreads.iter().all(keyed))
}

fn all_domains(term: &Term, snapshot: &Snapshot) -> HashMap<String, i64> {
    let counts: Arc<Counts> = snapshot.terms().by_domain(term);
    let Some(values) = snapshot.domains(&term.topology_key) else { return HashMap::new() };
    values.keys().map(|value| (value.clone(), counts.get(value).copied().unwrap_or(0))).collect()
}

fn usable_domains(
    spread: &Spread,
    pod: &PodInfo,
    eligible: &[&NodeInfo],
    snapshot: &Snapshot,
) -> HashMap<String, i64> {
    let by_node = snapshot.terms().by_node(&spread.term);
    let mut domains = HashMap::new();
    for node in eligible.iter().filter(|node| is_usable(spread, pod, node)) {
        let Some(domain) = node.domain(&spread.term.topology_key) else { continue };
        let on_node = by_node.get(node.name()).copied().unwrap_or(0);
        match domains.get_mut(domain) {
            Some(number) => *number += on_node,
            None => drop(domains.insert(domain.to_owned(), on_node)),
        }
    }
    domains
}

fn is_usable(spread: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    let hard = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let tainted =
        || node.facts.taints.iter().any(|taint| hard(&taint.effect) && !tolerated(taint, &pod.tolerations));
    (!spread.honors_node_wish || pod.nodes.allows(node.name(), &node.facts.labels))
        && !(spread.honors_taints && tainted())
}

impl Filter for PodTopologySpread {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Check {
        let Some(Filtering(counted)) = state.get::<Filtering>() else { return Ok(()) };
        for (counting, lowest) in counted {
            let Some(domain) = node.domain(&counting.term.topology_key) else {
                return Err(Refusal::unresolvable(NO_LABEL));
            };
            let there = counting.domains.get(domain).copied().unwrap_or(0);
            if there + i64::from(counting.counts_itself) - lowest > counting.skew_max {
                return Err(Refusal::resolvable(UNEVEN));
            }
        }
        Ok(())
    }
}

impl PreScore for PodTopologySpread {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot, _: &[u32]) -> bool {
        let soft: Vec<&Spread> = pod.spread.iter().filter(|spread| !spread.required).collect();
        let scores = !soft.is_empty();
        if scores {
            state.put(Scoring(count_domains(&soft, pod, snapshot)));
        }
        scores
    }
}

impl Score for PodTopologySpread {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let Some(Scoring(counted)) = state.get::<Scoring>() else { return 0 };
        let part = |counting: &Counting| {
            let Some(domain) = node.domain(&counting.term.topology_key) else { return i64::MAX / 1024 };
            let there = counting.domains.get(domain).copied().unwrap_or(0);
            // Few large domains weigh less than many small ones; in thousandths, as the logarithm is.
            let weight = ((counting.domains.len() + 2) as f64).ln() * 1000.0;
            there * (weight as i64) + (counting.skew_max - 1) * 1000
        };
        counted.iter().map(part).sum()
    }

    fn normalize(&self, _: &CycleState, scores: &mut [i64]) {
        let unlabelled = i64::MAX / 1024;
        let rated = || scores.iter().copied().filter(|score| *score < unlabelled);
        let (lowest, highest) = (rated().min().unwrap_or(0), rated().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                far if far >= unlabelled => 0,
                _ if highest == 0 => SCORE_MAX,
                near => SCORE_MAX * (highest + lowest - near) / highest,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, node, pod, snapshot};

    /// Zone a has two matching pods, zone b one; n4 has no zone.
    fn cluster() -> Snapshot {
        let zones = [("n1", "a"), ("n2", "a"), ("n3", "b")];
        let labelled = zones.map(|(name, zone)| node(name).label("zone", zone).label("disk", zone));
        let mut snapshot = snapshot(labelled);
        snapshot.apply_node(node("n4").facts());
        for (name, node) in [("w1", "n1"), ("w2", "n2"), ("w3", "n3")] {
            snapshot.place(pod(name).label("app", "web").node(node).info());
        }
        snapshot
    }

    fn reasons(incoming: PodBuilder) -> Vec<Option<String>> {
        let mut snapshot = cluster();
        let incoming = incoming.info();
        snapshot.track(&incoming);
        let mut state = CycleState::default();
        PodTopologySpread.pre_filter(&mut state, &incoming, &snapshot).unwrap();
        let check =
            |node| PodTopologySpread.filter(&state, &incoming, node).err().map(|r| r.reason.to_string());
        snapshot.nodes().iter().map(check).collect()
    }

    #[test]
    fn skew_is_kept_by_domain() {
        let web = || pod("p").label("app", "web");
        let (uneven, unlabelled) = (Some(UNEVEN.to_owned()), Some(NO_LABEL.to_owned()));
        let strict = reasons(web().spread("app=web", "zone", 1, "DoNotSchedule"));
        assert_eq!(strict, [uneven.clone(), uneven, None, unlabelled.clone()]);
        let loose = reasons(web().spread("app=web", "zone", 2, "DoNotSchedule"));
        assert_eq!(loose, [None, None, None, unlabelled]);
    }

    #[test]
    fn domains_the_pod_cannot_use_do_not_count() {
        let only_a =
            pod("p").label("app", "web").select("disk", "a").spread("app=web", "zone", 1, "DoNotSchedule");
        assert_eq!(reasons(only_a)[..2], [None, None]);
    }

    #[test]
    fn soft_constraint_scores_the_emptier_domain_higher() {
        let mut snapshot = cluster();
        let incoming = pod("p").label("app", "web").spread("app=web", "zone", 1, "ScheduleAnyway").info();
        snapshot.track(&incoming);
        let mut state = CycleState::default();
        assert!(PodTopologySpread.pre_score(&mut state, &incoming, &snapshot, &[]));
        let score = |node| PodTopologySpread.score(&state, &incoming, node, &snapshot);
        let mut scores: Vec<i64> = snapshot.nodes().iter().map(score).collect();
        PodTopologySpread.normalize(&state, &mut scores);
        assert!(scores[2] > scores[0], "{scores:?}");
        assert_eq!(scores[3], 0);
    }
}
