//! Who owns whom, over all kinds: the graph that garbage collection decides by. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::owners::{is_deleting, name_of};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";
/// Objects that are remembered as gone, so that their dependents need not ask for them again.
const GONE_MAX: usize = 500;

/// One object, as far as ownership goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// The id of its resource.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub owners: Vec<OwnerReference>,
    /// It waits for its dependents to go.
    pub waits: bool,
    /// It lets its dependents go before it goes.
    pub orphans: bool,
}

impl Node {
    /// The node of an object of `resource`.
    pub(crate) fn of(resource: &str, meta: &ObjectMeta) -> Self {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|one| one == finalizer);
        Self {
            resource: resource.to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: name_of(meta).to_owned(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            waits: is_deleting(meta) && has(FOREGROUND),
            orphans: is_deleting(meta) && has(ORPHAN),
        }
    }
}

impl Node {
    /// Whether a dependent cannot have this owner: it lives in another namespace.
    fn is_elsewhere(&self, dependent: &Self) -> bool {
        !self.namespace.is_empty() && self.namespace != dependent.namespace
    }

    /// Whether the reference of `dependent`, which has this object's uid, also has its name, group and place.
    fn is_meant_by(&self, reference: &OwnerReference, dependent: &Self) -> bool {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        let same_group = self.resource.split_once('/').is_none_or(|(own, _)| own == group);
        same_group && self.name == reference.name && !self.is_elsewhere(dependent)
    }
}

/// All objects by uid, and their dependents.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: BTreeMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
    by_resource: HashMap<String, BTreeSet<String>>,
    gone: Gone,
}

/// What a change of the graph asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Noted {
    /// The uids to look at.
    pub visit: Vec<String>,
    /// Dependents, by uid, that name an owner of another namespace.
    pub misplaced: Vec<(String, OwnerReference)>,
}

/// The uids of the last objects that were seen to go. A uid never comes back.
#[derive(Debug, Default)]
struct Gone {
    uids: HashSet<String>,
    oldest_first: VecDeque<String>,
}

impl Gone {
    fn note(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.oldest_first.push_back(uid.to_owned());
        }
        if self.oldest_first.len() > GONE_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The uids of what `uid` owns.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Whether a dependent keeps `uid` from going.
    pub(crate) fn is_blocked(&self, uid: &str) -> bool {
        self.dependents.get(uid).into_iter().flatten().filter_map(|one| self.nodes.get(one)).any(|node| {
            node.owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        })
    }

    /// Whether one of the dependents of `uid` waits for dependents of its own.
    pub(crate) fn has_waiting_dependent(&self, uid: &str) -> bool {
        self.dependents.get(uid).into_iter().flatten().any(|one| self.waits(one))
    }

    /// Whether the object waits for its dependents to go.
    pub(crate) fn waits(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| node.waits)
    }

    /// Whether the object was seen to go.
    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.gone.uids.contains(uid)
    }

    /// Forgets what was seen to go: the server may have been taken back to an older state.
    pub(crate) fn forget_gone(&mut self) {
        self.gone = Gone::default();
    }

    /// The uids of objects with an owner that was never seen, of those that are `meant`.
    pub(crate) fn with_unknown_owners(&self, meant: impl Fn(&OwnerReference) -> bool) -> Vec<String> {
        let unknown = |owner: &OwnerReference| meant(owner) && !self.nodes.contains_key(&owner.uid);
        let found = self.nodes.iter().filter(|(_, node)| node.owners.iter().any(unknown));
        found.map(|(uid, _)| uid.clone()).collect()
    }

    /// The uids of a resource's objects.
    pub(crate) fn of_resource(&self, resource: &str) -> BTreeSet<String> {
        self.by_resource.get(resource).cloned().unwrap_or_default()
    }

    /// Notes an object as it is now.
    pub(crate) fn put(&mut self, uid: &str, node: Node) -> Noted {
        let old = self.take(uid);
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        self.by_resource.entry(node.resource.clone()).or_default().insert(uid.to_owned());
        let mut noted = Noted::default();
        let same_owners = old.as_ref().is_some_and(|old| old.owners == node.owners);
        let doubtful = |owner: &OwnerReference| {
            let known = self.nodes.get(&owner.uid);
            known.is_none_or(|known| known.waits || !known.is_meant_by(owner, &node))
        };
        if node.waits || node.orphans || (!same_owners && node.owners.iter().any(doubtful)) {
            noted.visit.push(uid.to_owned());
        }
        if node.waits && !old.as_ref().is_some_and(|old| old.waits) {
            noted.visit.extend(self.dependents(uid));
        }
        for owner in old.iter().flat_map(|old| &old.owners) {
            if !node.owners.contains(owner) && self.waits(&owner.uid) {
                noted.visit.push(owner.uid.clone());
            }
        }
        if !same_owners {
            let misplaced = node
                .owners
                .iter()
                .filter(|owner| self.nodes.get(&owner.uid).is_some_and(|known| known.is_elsewhere(&node)));
            noted.misplaced = misplaced.map(|owner| (uid.to_owned(), owner.clone())).collect();
        }
        if old.is_none() {
            self.doubt_dependents(uid, &node, &mut noted);
        }
        self.nodes.insert(uid.to_owned(), node);
        noted
    }

    /// An owner came to light: the dependents that meant another object by its uid must be looked at.
    fn doubt_dependents(&self, uid: &str, owner: &Node, noted: &mut Noted) {
        for name in self.dependents.get(uid).into_iter().flatten() {
            let Some(dependent) = self.nodes.get(name) else { continue };
            let means = |reference: &&OwnerReference| reference.uid == uid;
            let Some(reference) = dependent.owners.iter().find(means) else { continue };
            if !owner.is_meant_by(reference, dependent) {
                noted.visit.push(name.clone());
            }
            if owner.is_elsewhere(dependent) {
                noted.misplaced.push((name.clone(), reference.clone()));
            }
        }
    }

    /// Notes that an object is gone. Returns the uids to look at.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        let old = self.take(uid);
        self.gone.note(uid);
        let mut visit = self.dependents(uid);
        for owner in old.iter().flat_map(|old| &old.owners) {
            if self.waits(&owner.uid) {
                visit.push(owner.uid.clone());
            }
        }
        visit
    }

    fn take(&mut self, uid: &str) -> Option<Node> {
        let old = self.nodes.remove(uid)?;
        for owner in &old.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        if let Some(uids) = self.by_resource.get_mut(&old.resource) {
            uids.remove(uid);
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(owners: &[(&str, bool)]) -> Node {
        let owner = |(uid, blocks): &(&str, bool)| OwnerReference {
            api_version: "apps/v1".to_owned(),
            name: "n".to_owned(),
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(*blocks),
            ..OwnerReference::default()
        };
        Node {
            resource: "apps/replicasets".to_owned(),
            namespace: "ns".to_owned(),
            name: "n".to_owned(),
            owners: owners.iter().map(owner).collect(),
            waits: false,
            orphans: false,
        }
    }

    #[test]
    fn dependents_are_looked_at_when_the_owner_goes() {
        let mut graph = Graph::default();
        graph.put("owner", node(&[]));
        assert_eq!(graph.put("child", node(&[("owner", true)])), Noted::default());
        assert_eq!(graph.remove("owner"), ["child"]);
        assert!(graph.is_gone("owner") && !graph.is_gone("child"));
    }

    #[test]
    fn an_owner_in_another_namespace_is_reported_whoever_comes_first() {
        let elsewhere = || Node { namespace: "other".to_owned(), ..node(&[]) };
        let child = || node(&[("owner", true)]);
        let expected = Noted {
            visit: vec!["child".to_owned()],
            misplaced: vec![("child".to_owned(), child().owners[0].clone())],
        };
        let mut graph = Graph::default();
        graph.put("owner", elsewhere());
        assert_eq!(graph.put("child", child()), expected);
        assert_eq!(graph.put("child", child()), Noted::default());
        let mut graph = Graph::default();
        graph.put("child", child());
        assert_eq!(graph.put("owner", elsewhere()), expected);
    }

    #[test]
    fn a_reference_with_the_uid_of_an_object_of_another_name_is_doubted() {
        let mut graph = Graph::default();
        graph.put("owner", Node { name: "other".to_owned(), ..node(&[]) });
        assert_eq!(graph.put("child", node(&[("owner", true)])).visit, ["child"]);
    }

    #[test]
    fn objects_with_owners_never_seen_are_found_again() {
        let mut graph = Graph::default();
        graph.put("child", node(&[("owner", true)]));
        assert_eq!(graph.with_unknown_owners(|_| true), ["child"]);
        assert!(graph.with_unknown_owners(|owner| owner.api_version == "v1").is_empty(), "of another kind");
        graph.put("owner", node(&[]));
        assert!(graph.with_unknown_owners(|_| true).is_empty());
    }

    #[test]
    fn an_object_whose_owner_is_unknown_is_looked_at_once() {
        let mut graph = Graph::default();
        assert_eq!(graph.put("child", node(&[("owner", true)])).visit, ["child"]);
        assert_eq!(graph.put("child", node(&[("owner", true)])), Noted::default());
    }

    #[test]
    fn an_owner_that_waits_wakes_its_dependents_and_is_woken_by_the_last() {
        let mut graph = Graph::default();
        graph.put("owner", node(&[]));
        graph.put("child", node(&[("owner", true)]));
        let waiting = Node { waits: true, ..node(&[]) };
        assert_eq!(graph.put("owner", waiting).visit, ["owner", "child"]);
        assert!(graph.is_blocked("owner"));
        assert_eq!(graph.remove("child"), ["owner"]);
        assert!(!graph.is_blocked("owner"));
    }

    #[test]
    fn a_reference_that_does_not_block_holds_nothing_up() {
        let mut graph = Graph::default();
        graph.put("owner", Node { waits: true, ..node(&[]) });
        graph.put("child", node(&[("owner", false)]));
        assert!(!graph.is_blocked("owner"));
    }
}
