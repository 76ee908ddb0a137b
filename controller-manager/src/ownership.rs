//! Who owns whom, over all kinds: the graph that garbage collection decides by. Pure.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::owners::{is_deleting, name_of};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

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

/// All objects by uid, and their dependents.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
    by_resource: HashMap<String, BTreeSet<String>>,
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

    /// The uids of a resource's objects.
    pub(crate) fn of_resource(&self, resource: &str) -> BTreeSet<String> {
        self.by_resource.get(resource).cloned().unwrap_or_default()
    }

    /// Notes an object as it is now. Returns the uids to look at.
    pub(crate) fn put(&mut self, uid: &str, node: Node) -> Vec<String> {
        let old = self.take(uid);
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        self.by_resource.entry(node.resource.clone()).or_default().insert(uid.to_owned());
        let mut visit = Vec::new();
        let same_owners = old.as_ref().is_some_and(|old| old.owners == node.owners);
        let doubtful = |owner: &OwnerReference| self.nodes.get(&owner.uid).is_none_or(|owner| owner.waits);
        if node.waits || node.orphans || (!same_owners && node.owners.iter().any(doubtful)) {
            visit.push(uid.to_owned());
        }
        if node.waits && !old.as_ref().is_some_and(|old| old.waits) {
            visit.extend(self.dependents(uid));
        }
        for owner in old.iter().flat_map(|old| &old.owners) {
            let dropped = !node.owners.contains(owner);
            if dropped && self.nodes.get(&owner.uid).is_some_and(|owner| owner.waits) {
                visit.push(owner.uid.clone());
            }
        }
        self.nodes.insert(uid.to_owned(), node);
        visit
    }

    /// Notes that an object is gone. Returns the uids to look at.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        let old = self.take(uid);
        let mut visit = self.dependents(uid);
        for owner in old.iter().flat_map(|old| &old.owners) {
            if self.nodes.get(&owner.uid).is_some_and(|owner| owner.waits) {
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
        assert!(graph.put("child", node(&[("owner", true)])).is_empty());
        assert_eq!(graph.remove("owner"), ["child"]);
    }

    #[test]
    fn an_object_whose_owner_is_unknown_is_looked_at_once() {
        let mut graph = Graph::default();
        assert_eq!(graph.put("child", node(&[("owner", true)])), ["child"]);
        assert!(graph.put("child", node(&[("owner", true)])).is_empty());
    }

    #[test]
    fn an_owner_that_waits_wakes_its_dependents_and_is_woken_by_the_last() {
        let mut graph = Graph::default();
        graph.put("owner", node(&[]));
        graph.put("child", node(&[("owner", true)]));
        let waiting = Node { waits: true, ..node(&[]) };
        assert_eq!(graph.put("owner", waiting), ["owner", "child"]);
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
