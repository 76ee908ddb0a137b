//! Counts of pods by topology domain, kept up to date with each pod that comes or goes.
//!
//! Inter-pod affinity and topology spread ask "how many pods that match S are in each domain of K?" and
//! "which domains hold a pod that refuses pods like this one?". Both answers are kept per distinct term, so
//! that a decision costs the terms it has and not the pods there are: 2,000 replicas with the same
//! anti-affinity are one term.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PodAffinityTerm, TopologySpreadConstraint};

use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::selector::{Labels, Selector};

/// Distinct terms whose matching pods are counted; beyond, the one not asked for the longest is forgotten
/// and counted anew when asked for again.
const COUNTED_TERMS_MAX: usize = 1024;
/// What a pod's required affinity is worth to pods that it wants near, as in Kubernetes.
const REQUIRED_AFFINITY_WEIGHT: i64 = 1;

/// A number per topology domain.
pub(crate) type Counts = HashMap<String, i64>;

/// Labels of every namespace.
pub(crate) type Namespaces = BTreeMap<String, Labels>;

/// Which pods are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodMatcher {
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
    /// None matches no pod.
    selector: Option<Selector>,
}

impl PodMatcher {
    pub(crate) fn compile(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        let mut selector = term.label_selector.as_ref().map(Selector::from_label_selector);
        for (keys, included) in [(&term.match_label_keys, true), (&term.mismatch_label_keys, false)] {
            for (key, value) in keys.iter().flatten().filter_map(|key| labels.get_key_value(key)) {
                selector = selector.map(|selector| selector.with(key, value, included));
            }
        }
        let namespace_selector = term.namespace_selector.as_ref().map(Selector::from_label_selector);
        Self { namespaces, namespace_selector, selector }
    }

    pub(crate) fn of_constraint(
        constraint: &TopologySpreadConstraint,
        namespace: &str,
        labels: &Labels,
    ) -> Self {
        let mut selector = constraint.label_selector.as_ref().map(Selector::from_label_selector);
        let keys = constraint.match_label_keys.iter().flatten();
        for (key, value) in keys.filter_map(|key| labels.get_key_value(key)) {
            selector = selector.map(|selector| selector.with(key, value, true));
        }
        Self { namespaces: BTreeSet::from([namespace.to_owned()]), namespace_selector: None, selector }
    }

    fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let in_namespace = self.namespaces.contains(&pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                match namespaces.get(&pod.namespace) {
                    Some(labels) => selector.matches(labels),
                    None => selector.matches(&Labels::new()),
                }
            });
        in_namespace && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
    }
}

/// Pods that match all matchers, told apart by their node's value of a label.
#[derive(Debug)]
pub(crate) struct Term {
    matchers: Vec<PodMatcher>,
    pub(crate) topology_key: String,
    /// Whether pods that are being deleted count.
    counts_terminating: bool,
    /// Terms are looked up for each decision; the hash is computed once.
    hash: u64,
}

impl PartialEq for Term {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.counts_terminating == other.counts_terminating
            && self.topology_key == other.topology_key
            && self.matchers == other.matchers
    }
}

impl Eq for Term {}

impl Hash for Term {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Term {
    /// A term of inter-pod affinity.
    pub(crate) fn new(matchers: Vec<PodMatcher>, topology_key: &str) -> Arc<Self> {
        Self::build(matchers, topology_key, true)
    }

    /// A term of topology spread, for which pods that are being deleted do not count.
    pub(crate) fn living(matcher: PodMatcher, topology_key: &str) -> Arc<Self> {
        Self::build(vec![matcher], topology_key, false)
    }

    fn build(matchers: Vec<PodMatcher>, topology_key: &str, counts_terminating: bool) -> Arc<Self> {
        let mut hasher = std::hash::DefaultHasher::new();
        (&matchers, topology_key, counts_terminating).hash(&mut hasher);
        let hash = hasher.finish();
        Arc::new(Self { matchers, topology_key: topology_key.to_owned(), counts_terminating, hash })
    }

    pub(crate) fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        (self.counts_terminating || !pod.terminating)
            && self.matchers.iter().all(|matcher| matcher.matches(pod, namespaces))
    }

    fn depends_on_namespaces(&self) -> bool {
        self.matchers.iter().any(|matcher| matcher.namespace_selector.is_some())
    }
}

#[derive(Clone, Debug, Default)]
struct Counted {
    /// Shared with decisions; changing it while one holds it copies it.
    by_domain: Arc<Counts>,
    by_node: Arc<HashMap<Arc<str>, i64>>,
    asked: u64,
}

/// Domains of the pods that have a term, and how much they want.
#[derive(Clone, Debug, Default)]
struct Owned {
    refusing: Arc<Counts>,
    wanting: Arc<Counts>,
}

/// The counts for all terms that matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermIndex {
    counted: HashMap<Arc<Term>, Counted>,
    owned: HashMap<Arc<Term>, Owned>,
    asked: u64,
}

/// Whether a pod comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Add,
    Remove,
}

impl Step {
    fn sign(self) -> i64 {
        match self {
            Self::Add => 1,
            Self::Remove => -1,
        }
    }
}

impl TermIndex {
    /// Matching pods by domain; zero everywhere for a term that is not counted.
    pub(crate) fn by_domain(&self, term: &Term) -> Arc<Counts> {
        self.counted.get(term).map(|counted| counted.by_domain.clone()).unwrap_or_default()
    }

    /// Matching pods by node, also of nodes without the topology key.
    pub(crate) fn by_node(&self, term: &Term) -> Arc<HashMap<Arc<str>, i64>> {
        self.counted.get(term).map(|counted| counted.by_node.clone()).unwrap_or_default()
    }

    /// Domains where a pod is that refuses `pod`, for each term that does.
    pub(crate) fn refusing(&self, pod: &PodInfo, namespaces: &Namespaces) -> Vec<(Arc<Term>, Arc<Counts>)> {
        let refuses = |(term, owned): &(&Arc<Term>, &Owned)| {
            !owned.refusing.is_empty() && term.matches(pod, namespaces)
        };
        self.owned
            .iter()
            .filter(refuses)
            .map(|(term, owned)| (term.clone(), owned.refusing.clone()))
            .collect()
    }

    /// How much the pods of each domain want `pod` near (negative: away), for each term that matches it.
    pub(crate) fn wanting(&self, pod: &PodInfo, namespaces: &Namespaces) -> Vec<(Arc<Term>, Arc<Counts>)> {
        let wants =
            |(term, owned): &(&Arc<Term>, &Owned)| !owned.wanting.is_empty() && term.matches(pod, namespaces);
        self.owned.iter().filter(wants).map(|(term, owned)| (term.clone(), owned.wanting.clone())).collect()
    }

    /// Counts `pod` on `node` in or out.
    pub(crate) fn apply(&mut self, pod: &PodInfo, node: &NodeInfo, namespaces: &Namespaces, step: Step) {
        for (term, counted) in &mut self.counted {
            if term.matches(pod, namespaces) {
                count(counted, term, node, step);
            }
        }
        for term in &pod.others.anti_affinity {
            self.own(term, node, |owned| &mut owned.refusing, step.sign());
        }
        for term in &pod.others.affinity {
            self.own(term, node, |owned| &mut owned.wanting, step.sign() * REQUIRED_AFFINITY_WEIGHT);
        }
        for (term, weight) in &pod.others.preferred {
            self.own(term, node, |owned| &mut owned.wanting, step.sign() * weight);
        }
    }

    fn own(
        &mut self,
        term: &Arc<Term>,
        node: &NodeInfo,
        side: fn(&mut Owned) -> &mut Arc<Counts>,
        amount: i64,
    ) {
        let Some(domain) = node.domain(&term.topology_key) else { return };
        let owned = self.owned.entry(term.clone()).or_default();
        bump(Arc::make_mut(side(owned)), domain, amount);
        if owned.refusing.is_empty() && owned.wanting.is_empty() {
            self.owned.remove(term);
        }
    }

    /// Sees to it that the terms of `pod` are counted, over the pods of `nodes` where they are not yet.
    pub(crate) fn track(&mut self, pod: &PodInfo, nodes: &[NodeInfo], namespaces: &Namespaces) {
        self.asked += 1;
        for term in pod.terms() {
            if let Some(counted) = self.counted.get_mut(term) {
                counted.asked = self.asked;
                continue;
            }
            self.make_room();
            let mut counted = Counted { asked: self.asked, ..Counted::default() };
            for node in nodes {
                for other in node.pods.iter().filter(|other| term.matches(other, namespaces)) {
                    debug_assert!(!other.uid.is_empty());
                    count(&mut counted, term, node, Step::Add);
                }
            }
            self.counted.insert(term.clone(), counted);
        }
    }

    fn make_room(&mut self) {
        if self.counted.len() < COUNTED_TERMS_MAX {
            return;
        }
        let oldest =
            self.counted.iter().min_by_key(|(_, counted)| counted.asked).map(|(term, _)| term.clone());
        if let Some(oldest) = oldest {
            self.counted.remove(&oldest);
        }
    }

    /// A namespace's labels changed: what depends on them is counted anew when next asked for.
    pub(crate) fn forget_namespaced(&mut self) {
        self.counted.retain(|term, _| !term.depends_on_namespaces());
    }
}

fn count(counted: &mut Counted, term: &Term, node: &NodeInfo, step: Step) {
    let by_node = Arc::make_mut(&mut counted.by_node);
    let on_node = by_node.entry(node.name().clone()).or_insert(0);
    *on_node += step.sign();
    if *on_node == 0 {
        by_node.remove(node.name());
    }
    if let Some(domain) = node.domain(&term.topology_key) {
        bump(Arc::make_mut(&mut counted.by_domain), domain, step.sign());
    }
}

/// Adds to a domain's number and drops a domain at zero, so that an empty map means "nowhere".
pub(crate) fn bump(counts: &mut Counts, domain: &str, amount: i64) {
    match counts.get_mut(domain) {
        Some(number) => {
            *number += amount;
            if *number == 0 {
                counts.remove(domain);
            }
        }
        None if amount != 0 => drop(counts.insert(domain.to_owned(), amount)),
        None => {}
    }
}
