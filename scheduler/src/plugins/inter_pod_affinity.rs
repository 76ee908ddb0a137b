//! InterPodAffinity: pods that want to be near to, or far from, other pods.

use std::sync::Arc;

use crate::event::{ClusterEvent, EventKind, Hint, always};
use crate::framework::{
    Adjustment, Attaching, Check, CycleState, Filter, Plugin, PreFilter, PreFiltered, PreScore, Refusal,
    SCORE_MAX, Score,
};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::terms::{Counts, Term, bump};

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_FAR: &str = "node(s) didn't match pod anti-affinity rules";
const UNWANTED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// # Decides
/// Required affinity: a node passes if, for each term, a pod that matches all terms is in the node's domain of
/// the term's topology key; the first pod of a group that wants to be near itself passes on any node that has
/// the keys. Required anti-affinity, in both directions: a node passes if its domain holds no pod that
/// matches a term of the pod, nor a pod with a term that matches the pod. Preferred terms of both sides, and
/// required affinity of pods already there, count for the score.
/// # Wakes on
/// Pods that come, go or change labels; new nodes and changed labels of nodes; changed labels of namespaces.
/// # Differs
/// The weight of existing pods' required affinity is fixed at Kubernetes' default, 1.
pub(crate) struct InterPodAffinity;

type Domains = (Arc<Term>, Arc<Counts>);

/// What the filter reads: domains by term.
struct Filtering {
    near: Vec<Domains>,
    /// No pod anywhere matches, and the pod itself would: it may be the first.
    may_be_first: bool,
    far: Vec<Domains>,
    unwanted: Vec<Domains>,
}

/// What scoring reads: weighted domains.
struct Scoring {
    parts: Vec<(Domains, i64)>,
}

fn labels_changed(_: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels,
        ClusterEvent::PlacedPodUpdated { old, new } | ClusterEvent::PodUpdated { old, new } => {
            old.labels != new.labels
        }
        _ => false,
    }
}

fn wants_others(pod: &PodInfo, _: &ClusterEvent<'_>) -> bool {
    !pod.others.affinity.is_empty()
}

fn was_in_the_way(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::PodRemoved(gone) => {
            !pod.others.anti_affinity.is_empty() || !gone.others.anti_affinity.is_empty()
        }
        _ => false,
    }
}

impl Plugin for InterPodAffinity {
    const NAME: &'static str = "InterPodAffinity";
    const WEIGHT: i64 = 2;
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::PodPlaced, helps: wants_others },
        Hint { on: EventKind::PodRemoved, helps: was_in_the_way },
        Hint { on: EventKind::PlacedPodUpdated, helps: labels_changed },
        Hint { on: EventKind::PodUpdated, helps: labels_changed },
        Hint { on: EventKind::NodeAdded, helps: always },
        Hint { on: EventKind::NodeUpdated, helps: labels_changed },
        Hint { on: EventKind::NamespaceUpdated, helps: always },
    ];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_filter(self.clone()).filter(self.clone()).pre_score(self.clone()).score(self);
    }
}

impl PreFilter for InterPodAffinity {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFiltered, Refusal> {
        let unwanted = snapshot.terms().refusing(pod, snapshot.namespaces());
        let wish = &pod.others;
        if unwanted.is_empty() && wish.affinity.is_empty() && wish.anti_affinity.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        let domains = |term: &Arc<Term>| (term.clone(), snapshot.terms().by_domain(term));
        let mut filtering = Filtering {
            near: wish.affinity.iter().map(domains).collect(),
            may_be_first: false,
            far: wish.anti_affinity.iter().map(domains).collect(),
            unwanted,
        };
        filtering.may_be_first = may_be_first(&filtering.near, pod, snapshot);
        state.put(filtering);
        Ok(PreFiltered::Run)
    }

    fn adjust(&self, change: &Adjustment<'_>, state: &mut CycleState) {
        let Some(filtering) = state.get_mut::<Filtering>() else { return };
        let namespaces = change.snapshot.namespaces();
        let amount = if change.step == crate::terms::Step::Add { 1 } else { -1 };
        for (term, counts) in filtering.near.iter_mut().chain(&mut filtering.far) {
            if let (true, Some(domain)) =
                (term.matches(change.other, namespaces), change.node.domain(&term.topology_key))
            {
                bump(Arc::make_mut(counts), domain, amount);
            }
        }
        for (term, counts) in &mut filtering.unwanted {
            if let (true, Some(domain)) =
                (change.other.others.anti_affinity.contains(term), change.node.domain(&term.topology_key))
            {
                bump(Arc::make_mut(counts), domain, amount);
            }
        }
        filtering.may_be_first = may_be_first(&filtering.near, change.pod, change.snapshot);
    }
}

fn may_be_first(near: &[Domains], pod: &PodInfo, snapshot: &Snapshot) -> bool {
    let nobody = near.iter().all(|(_, counts)| counts.is_empty());
    nobody && near.first().is_some_and(|(term, _)| term.matches(pod, snapshot.namespaces()))
}

/// Whether the node's domain holds a pod that is meant.
fn holds(node: &NodeInfo, (term, counts): &Domains) -> bool {
    node.domain(&term.topology_key).is_some_and(|domain| counts.get(domain).is_some_and(|number| *number > 0))
}

impl Filter for InterPodAffinity {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Check {
        let Some(filtering) = state.get::<Filtering>() else { return Ok(()) };
        if !is_near(filtering, node) {
            return Err(Refusal::unresolvable(NOT_NEAR));
        }
        if filtering.far.iter().any(|domains| holds(node, domains)) {
            return Err(Refusal::resolvable(NOT_FAR));
        }
        if filtering.unwanted.iter().any(|domains| holds(node, domains)) {
            return Err(Refusal::resolvable(UNWANTED));
        }
        Ok(())
    }
}

fn is_near(filtering: &Filtering, node: &NodeInfo) -> bool {
    let has_keys = || filtering.near.iter().all(|(term, _)| node.domain(&term.topology_key).is_some());
    filtering.near.iter().all(|domains| holds(node, domains)) || (filtering.may_be_first && has_keys())
}

impl PreScore for InterPodAffinity {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot, _: &[u32]) -> bool {
        let own = pod.others.preferred.iter();
        let own = own.map(|(term, weight)| ((term.clone(), snapshot.terms().by_domain(term)), *weight));
        let theirs =
            snapshot.terms().wanting(pod, snapshot.namespaces()).into_iter().map(|domains| (domains, 1));
        let parts: Vec<(Domains, i64)> =
            own.chain(theirs).filter(|((_, counts), _)| !counts.is_empty()).collect();
        let scores = !parts.is_empty();
        state.put(Scoring { parts });
        scores
    }
}

impl Score for InterPodAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo, _: &Snapshot) -> i64 {
        let Some(scoring) = state.get::<Scoring>() else { return 0 };
        let part = |((term, counts), weight): &(Domains, i64)| {
            let domain = node.domain(&term.topology_key)?;
            Some(weight * counts.get(domain)?)
        };
        scoring.parts.iter().filter_map(part).sum()
    }

    fn normalize(&self, _: &CycleState, scores: &mut [i64]) {
        let lowest = scores.iter().copied().min().unwrap_or(0);
        let range = scores.iter().copied().max().unwrap_or(0) - lowest;
        for score in scores {
            *score = if range == 0 { 0 } else { (*score - lowest) * SCORE_MAX / range };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, affinity, anti_affinity, node, pod, preferred_affinity, snapshot};

    /// Two nodes in zone a, one in zone b, and one without a zone; the pod `web` is on n1.
    fn reasons(web: PodBuilder, incoming: PodBuilder) -> Vec<Option<String>> {
        let nodes = [
            node("n1").label("zone", "a"),
            node("n2").label("zone", "a"),
            node("n3").label("zone", "b"),
            node("n4"),
        ];
        let mut snapshot = snapshot(nodes);
        snapshot.place(web.node("n1").info());
        let incoming = incoming.info();
        snapshot.track(&incoming);
        let mut state = CycleState::default();
        let run = InterPodAffinity.pre_filter(&mut state, &incoming, &snapshot).unwrap() == PreFiltered::Run;
        let check = |node| if run { InterPodAffinity.filter(&state, &incoming, node) } else { Ok(()) };
        snapshot.nodes().iter().map(|node| check(node).err().map(|r| r.reason.to_string())).collect()
    }

    fn web() -> PodBuilder {
        pod("web").label("app", "web")
    }

    fn no(reason: &str) -> Option<String> {
        Some(reason.to_owned())
    }

    #[test]
    fn affinity_follows_the_topology_key() {
        let found = reasons(web(), pod("p").affinity(affinity("app=web", "zone")));
        assert_eq!(found, [None, None, no(NOT_NEAR), no(NOT_NEAR)]);
    }

    #[test]
    fn anti_affinity_follows_the_topology_key() {
        let found = reasons(web(), pod("p").affinity(anti_affinity("app=web", "zone")));
        assert_eq!(found, [no(NOT_FAR), no(NOT_FAR), None, None]);
    }

    #[test]
    fn existing_pods_keep_others_away() {
        let found = reasons(web().affinity(anti_affinity("app=db", "zone")), pod("p").label("app", "db"));
        assert_eq!(found, [no(UNWANTED), no(UNWANTED), None, None]);
    }

    #[test]
    fn pods_of_other_namespaces_do_not_count() {
        let found = reasons(web().namespace("other"), pod("p").affinity(anti_affinity("app=web", "zone")));
        assert_eq!(found, [None, None, None, None]);
    }

    #[test]
    fn first_of_a_group_passes_where_the_key_is() {
        let found = reasons(web(), pod("p").label("app", "new").affinity(affinity("app=new", "zone")));
        assert_eq!(found, [None, None, None, no(NOT_NEAR)]);
    }

    #[test]
    fn pod_that_wants_others_that_are_nowhere_passes_nowhere() {
        let found = reasons(web(), pod("p").affinity(affinity("app=new", "zone")));
        assert!(found.iter().all(|reason| *reason == no(NOT_NEAR)));
    }

    #[test]
    fn preferred_terms_of_both_sides_score() {
        let mut snapshot = snapshot([node("n1").label("zone", "a"), node("n2").label("zone", "b")]);
        snapshot.place(web().affinity(preferred_affinity(10, "app=p", "zone")).node("n1").info());
        let incoming = pod("p").label("app", "p").affinity(preferred_affinity(5, "app=web", "zone")).info();
        snapshot.track(&incoming);
        let mut state = CycleState::default();
        assert!(InterPodAffinity.pre_score(&mut state, &incoming, &snapshot, &[0, 1]));
        let score = |i: usize| InterPodAffinity.score(&state, &incoming, &snapshot.nodes()[i], &snapshot);
        let mut scores = [score(0), score(1)];
        assert_eq!(scores, [15, 0]);
        InterPodAffinity.normalize(&state, &mut scores);
        assert_eq!(scores, [100, 0]);
    }
}
