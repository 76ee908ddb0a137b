//! The cluster as one decision sees it: nodes, the pods on them, and indexes over both.
//!
//! One task owns the snapshot and applies each watch event to it in place; a decision borrows it unchanged.
//! Nothing is listed again, and nothing is copied per decision.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::budgets::Budgets;
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::PodInfo;
use crate::selector::Labels;
use crate::terms::{Namespaces, Step, TermIndex};
use crate::volumes::Volumes;

/// Nodes, pods on nodes, and namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: BTreeMap<Arc<str>, usize>,
    /// Where each pod is, by its uid, also on nodes that are not (yet, or no longer) known.
    placed: BTreeMap<Arc<str>, Arc<PodInfo>>,
    /// Pods bound to nodes that are not known, by node.
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    namespaces: Namespaces,
    terms: TermIndex,
    /// How many nodes have an image.
    images: HashMap<String, i64>,
    soft_tainted: usize,
    /// How many nodes have each value, for each label key that some term names.
    domains: HashMap<String, HashMap<String, usize>>,
    volumes: Volumes,
    /// By node, the waiting pods for which preemption has made room there.
    nominated: BTreeMap<String, Vec<Arc<PodInfo>>>,
    budgets: Budgets,
}

impl Snapshot {
    pub(crate) fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index(name).map(|index| &self.nodes[index])
    }

    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The pod if it is on a node.
    pub(crate) fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.placed.get(uid)
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.placed.values()
    }

    /// Claims, volumes and classes of storage.
    pub(crate) fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    pub(crate) fn volumes_mut(&mut self) -> &mut Volumes {
        &mut self.volumes
    }

    /// How many pods may go.
    pub(crate) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    pub(crate) fn budgets_mut(&mut self) -> &mut Budgets {
        &mut self.budgets
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub(crate) fn terms(&self) -> &TermIndex {
        &self.terms
    }

    /// How many nodes have the image.
    pub(crate) fn image_spread(&self, image: &str) -> i64 {
        self.images.get(image).copied().unwrap_or(0)
    }

    pub(crate) fn has_images(&self) -> bool {
        !self.images.is_empty()
    }

    pub(crate) fn has_soft_taints(&self) -> bool {
        self.soft_tainted > 0
    }

    /// How many nodes have each value of a topology key that a tracked pod names.
    pub(crate) fn domains(&self, topology_key: &str) -> Option<&HashMap<String, usize>> {
        self.domains.get(topology_key)
    }

    /// Prepares the indexes that a decision about `pod` reads. The decision itself changes nothing.
    pub(crate) fn track(&mut self, pod: &PodInfo) {
        if pod.terms().next().is_none() {
            return;
        }
        self.terms.track(pod, &self.nodes, &self.namespaces);
        for constraint in &pod.spread {
            let key = &constraint.term.topology_key;
            if self.domains.contains_key(key) {
                continue;
            }
            let mut values = HashMap::new();
            for value in self.nodes.iter().filter_map(|node| node.domain(key)) {
                *values.entry(value.to_owned()).or_insert(0) += 1;
            }
            self.domains.insert(key.clone(), values);
        }
    }

    /// Adds or replaces a node. Gives the facts it had before.
    pub(crate) fn apply_node(&mut self, facts: NodeFacts) -> Option<Arc<NodeFacts>> {
        let facts = Arc::new(facts);
        let Some(index) = self.index(&facts.name) else {
            self.insert_node(facts);
            return None;
        };
        let old = self.nodes[index].facts.clone();
        if *old == *facts {
            return Some(old);
        }
        self.count_node(&old, Step::Remove);
        if old.labels == facts.labels {
            self.nodes[index].facts = facts.clone();
        } else {
            self.count_pods(index, Step::Remove);
            self.nodes[index].facts = facts.clone();
            self.count_pods(index, Step::Add);
        }
        self.count_node(&facts, Step::Add);
        Some(old)
    }

    fn insert_node(&mut self, facts: Arc<NodeFacts>) {
        self.count_node(&facts, Step::Add);
        let mut node = NodeInfo::new(facts.clone());
        for pod in self.homeless.remove(&*facts.name).unwrap_or_default() {
            self.terms.apply(&pod, &node, &self.namespaces, Step::Add);
            node.add(pod);
        }
        self.by_name.insert(facts.name.clone(), self.nodes.len());
        self.nodes.push(node);
    }

    /// Takes the node away; its pods stay known until they are deleted.
    pub(crate) fn remove_node(&mut self, name: &str) -> Option<Arc<NodeFacts>> {
        let index = self.by_name.remove(name)?;
        self.count_pods(index, Step::Remove);
        let node = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.by_name.insert(moved.name().clone(), index);
        }
        self.count_node(&node.facts, Step::Remove);
        if !node.pods.is_empty() {
            self.homeless.insert(name.to_owned(), node.pods);
        }
        Some(node.facts)
    }

    fn count_pods(&mut self, index: usize, step: Step) {
        let node = &self.nodes[index];
        for pod in &node.pods {
            self.terms.apply(pod, node, &self.namespaces, step);
        }
    }

    fn count_node(&mut self, facts: &NodeFacts, step: Step) {
        for image in facts.images.keys() {
            let number = self.images.entry(image.clone()).or_insert(0);
            *number += if step == Step::Add { 1 } else { -1 };
            if *number == 0 {
                self.images.remove(image);
            }
        }
        if facts.has_soft_taint() {
            self.soft_tainted = if step == Step::Add { self.soft_tainted + 1 } else { self.soft_tainted - 1 };
        }
        for (key, values) in &mut self.domains {
            let Some(value) = facts.labels.get(key) else { continue };
            let number = values.entry(value.clone()).or_insert(0);
            *number = if step == Step::Add { *number + 1 } else { *number - 1 };
            if *number == 0 {
                values.remove(value);
            }
        }
    }

    /// Puts the pod on the node that it names, or replaces what was known of it. Gives the former version.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let old = self.displace(&pod.uid);
        match self.by_name.get(&*pod.node_name) {
            Some(&index) => {
                let node = &mut self.nodes[index];
                self.terms.apply(&pod, node, &self.namespaces, Step::Add);
                node.add(pod.clone());
            }
            None => self.homeless.entry(pod.node_name.clone()).or_default().push(pod.clone()),
        }
        self.placed.insert(pod.uid.clone(), pod);
        old
    }

    /// Takes the pod off its node.
    pub(crate) fn displace(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.placed.remove(uid)?;
        match self.by_name.get(&*pod.node_name) {
            Some(&index) => {
                let node = &mut self.nodes[index];
                node.remove(uid);
                self.terms.apply(&pod, node, &self.namespaces, Step::Remove);
            }
            None => self.forget_homeless(&pod),
        }
        Some(pod)
    }

    fn forget_homeless(&mut self, pod: &PodInfo) {
        let Some(pods) = self.homeless.get_mut(&pod.node_name) else { return };
        pods.retain(|other| other.uid != pod.uid);
        if pods.is_empty() {
            self.homeless.remove(&pod.node_name);
        }
    }

    /// The waiting pods for which room was made on a node.
    pub(crate) fn nominated(&self, node: &str) -> &[Arc<PodInfo>] {
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }

    /// The node on which room was made for a waiting pod.
    pub(crate) fn nomination(&self, uid: &str) -> Option<&str> {
        let mut all = self.nominated.iter();
        all.find(|(_, pods)| pods.iter().any(|pod| &*pod.uid == uid)).map(|(node, _)| node.as_str())
    }

    /// Keeps the room on `node` for a waiting pod, and on no other.
    pub(crate) fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.withdraw(&pod.uid);
        self.nominated.entry(node.to_owned()).or_default().push(pod);
    }

    /// Keeps no room for a pod any more; gives the pod and its node if there was some.
    pub(crate) fn withdraw(&mut self, uid: &str) -> Option<(Arc<PodInfo>, String)> {
        let node = self.nomination(uid)?.to_owned();
        let pods = self.nominated.get_mut(&node)?;
        let index = pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = pods.remove(index);
        if pods.is_empty() {
            self.nominated.remove(&node);
        }
        Some((pod, node))
    }

    /// Sets a namespace's labels; says whether they changed.
    pub(crate) fn apply_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let changed = self.namespaces.get(name) != labels.as_ref();
        if changed {
            match labels {
                Some(labels) => drop(self.namespaces.insert(name.to_owned(), labels)),
                None => drop(self.namespaces.remove(name)),
            }
            self.terms.forget_namespaced();
        }
        changed
    }

    pub(crate) fn namespace_names(&self) -> Vec<String> {
        self.namespaces.keys().cloned().collect()
    }

    pub(crate) fn node_names(&self) -> Vec<Arc<str>> {
        self.by_name.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{anti_affinity, node, pod, snapshot};

    #[test]
    fn sums_return_to_zero_when_pods_go() {
        let mut snapshot = snapshot([node("n1")]);
        let placed = pod("a").node("n1").requests("100m", "1Gi").host_port(80).info();
        snapshot.place(placed.clone());
        assert_eq!(snapshot.nodes()[0].requested.milli_cpu, 100);
        snapshot.displace(&placed.uid);
        let left = &snapshot.nodes()[0];
        assert_eq!((left.requested.milli_cpu, left.requested.pods, left.ports.len()), (0, 0, 0));
    }

    #[test]
    fn pods_bound_before_their_node_is_known_count_when_it_comes() {
        let mut snapshot = snapshot([]);
        snapshot.place(pod("a").node("n1").requests("100m", "1Gi").info());
        snapshot.apply_node(node("n1").facts());
        assert_eq!(snapshot.nodes()[0].requested.milli_cpu, 100);
    }

    #[test]
    fn pods_of_a_node_that_goes_and_returns_still_count() {
        let mut snapshot = snapshot([node("n1"), node("n2")]);
        snapshot.place(pod("a").node("n1").requests("100m", "1Gi").info());
        snapshot.remove_node("n1");
        assert_eq!(snapshot.index("n2"), Some(0));
        snapshot.apply_node(node("n1").facts());
        assert_eq!(snapshot.node("n1").unwrap().requested.milli_cpu, 100);
    }

    #[test]
    fn counts_follow_pods_and_labels_of_nodes() {
        let mut snapshot = snapshot([node("n1").label("zone", "a")]);
        let asking = pod("x").affinity(anti_affinity("app=web", "zone")).info();
        snapshot.track(&asking);
        let term = asking.others.anti_affinity[0].clone();
        snapshot.place(pod("w").label("app", "web").node("n1").info());
        assert_eq!(snapshot.terms().by_domain(&term).get("a"), Some(&1));
        snapshot.apply_node(node("n1").label("zone", "b").facts());
        assert_eq!(*snapshot.terms().by_domain(&term), HashMap::from([("b".to_owned(), 1)]));
        snapshot.displace("w");
        assert!(snapshot.terms().by_domain(&term).is_empty());
    }

    #[test]
    fn replicas_with_the_same_anti_affinity_are_one_term() {
        let mut snapshot = snapshot([node("n1").label("zone", "a"), node("n2").label("zone", "b")]);
        for (name, node) in [("a", "n1"), ("b", "n2")] {
            let owner = pod(name).label("app", "web").affinity(anti_affinity("app=web", "zone")).node(node);
            snapshot.place(owner.info());
        }
        let refusing = snapshot.terms().refusing(&pod("c").label("app", "web").info(), snapshot.namespaces());
        assert_eq!(refusing.len(), 1);
        assert_eq!(refusing[0].1.len(), 2);
    }
}
