//! Writes that are held back until all of a transaction are known. Each goes the way of every write, and
//! sees what those before it have written; then the store takes all of them as one.

use std::collections::HashMap;
use std::sync::Arc;

use api_types::kinds::Kind;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;

use crate::cache::{Objects, Stored};
use crate::service_ip::{Claim, ServiceAddresses};
use crate::store::{Body, Cause, Change, CommitError, Durability, Key, Precondition, Revision, Transaction};
use crate::strategy;
use crate::view::{Version, View};

/// The writes of one transaction so far.
pub(crate) struct Staging {
    objects: Arc<Objects>,
    /// Revisions of what is staged count on from here; the store's own begin anew.
    base: Revision,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    places: HashMap<Key, usize>,
    writes: u64,
    claims: Vec<Claim>,
    released: Vec<(Arc<Kind>, Value)>,
    cause: Cause,
}

/// One object that the transaction changes.
struct Entry {
    key: Key,
    before: Option<Arc<Stored>>,
    /// With the last change, none where nothing came of it.
    now: Option<Arc<Stored>>,
    change: Change,
    admitted: String,
}

/// What a transaction does to one object.
pub(crate) struct Difference {
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Stored>>,
    pub(crate) after: Option<Body>,
}

impl Staging {
    pub(crate) fn new(objects: Arc<Objects>) -> Self {
        let base = objects.revision();
        Self { objects, base, state: Mutex::default() }
    }

    /// The object as it is after what is staged.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        let state = self.state.lock();
        match state.places.get(key) {
            Some(place) => state.entries[*place].now.clone(),
            None => self.objects.get(key),
        }
    }

    /// How many writes are staged; what is staged later is a write of somebody who asked later.
    pub(crate) fn writes(&self) -> u64 {
        self.state.lock().writes
    }

    /// Takes a write. It conflicts as in the store, with what is there or was staged before.
    pub(crate) fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        for precondition in &transaction.preconditions {
            let current = self.get(precondition.key()).map(|stored| stored.revision);
            if !precondition.holds(current) {
                return Err(CommitError::Conflict { key: precondition.key().clone(), current });
            }
        }
        let mut state = self.state.lock();
        state.writes += 1;
        let revision = self.base + state.writes;
        state.cause.acted_on = state.cause.acted_on.or(transaction.cause.acted_on);
        if state.cause.manager.is_empty() {
            state.cause.manager.clone_from(&transaction.cause.manager);
        }
        let mut admitted = transaction.cause.admitted.into_iter();
        for change in transaction.changes {
            let key = change.key().clone();
            let now = match &change {
                Change::Put { body, .. } => {
                    Some(self.objects.stored(key.clone(), revision, body.at(revision)))
                }
                Change::Delete { .. } => None,
            };
            let admitted = admitted.next().unwrap_or_default();
            match state.places.get(&key).copied() {
                Some(place) => {
                    let entry = &mut state.entries[place];
                    (entry.now, entry.change) = (now, change);
                    entry.admitted.push_str(&admitted);
                }
                None => {
                    let place = state.entries.len();
                    let before = self.objects.get(&key);
                    state.entries.push(Entry { key: key.clone(), before, now, change, admitted });
                    state.places.insert(key, place);
                }
            }
        }
        Ok(revision)
    }

    /// Keeps a claim until the whole transaction has happened.
    pub(crate) fn hold(&self, claim: Claim) {
        self.state.lock().claims.push(claim);
    }

    /// Notes what is to be given back once the whole transaction has happened.
    pub(crate) fn release(&self, kind: Arc<Kind>, gone: Value) {
        self.state.lock().released.push((kind, gone));
    }

    /// What the transaction does, object by object, in the order in which it came to them.
    pub(crate) fn differences(&self) -> Vec<Difference> {
        let state = self.state.lock();
        let entries = state.entries.iter().filter(|entry| entry.is_change());
        entries
            .map(|entry| Difference {
                key: entry.key.clone(),
                before: entry.before.clone(),
                after: match &entry.change {
                    Change::Put { body, .. } => Some(body.clone()),
                    Change::Delete { .. } => None,
                },
            })
            .collect()
    }

    /// All that is staged as one transaction of the store, on condition that nothing it touches, or that
    /// `preconditions` name, was changed by others.
    pub(crate) fn transaction(&self, mut preconditions: Vec<Precondition>, cause: Cause) -> Transaction {
        let state = self.state.lock();
        preconditions.extend(state.entries.iter().map(|entry| match &entry.before {
            Some(before) => Precondition::Revision(entry.key.clone(), before.revision),
            None => Precondition::Absent(entry.key.clone()),
        }));
        let changes = state.entries.iter().filter(|entry| entry.is_change());
        let (changes, admitted) = changes.map(|entry| (entry.change.clone(), entry.admitted.clone())).unzip();
        let cause = Cause {
            admitted,
            manager: state.cause.manager.clone(),
            acted_on: cause.acted_on.or(state.cause.acted_on),
            ..cause
        };
        Transaction { preconditions, changes, durability: Durability::Synced, cause }
    }

    /// The transaction has happened: what it took is its own, what it gave back is free.
    pub(crate) fn settle(&self, services: &ServiceAddresses) {
        let mut state = self.state.lock();
        state.claims.drain(..).for_each(Claim::keep);
        for (kind, gone) in state.released.drain(..) {
            strategy::find(&kind).release(services, &gone);
        }
    }
}

impl Entry {
    /// What was created and deleted again was never there.
    fn is_change(&self) -> bool {
        self.before.is_some() || self.now.is_some()
    }
}

impl View for Staging {
    fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.get(&Key::new(resource, namespace, name)).map(|stored| Arc::new(stored.value()))
    }

    fn objects(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let mut found: std::collections::BTreeMap<Key, Arc<Stored>> = self
            .objects
            .list(resource, namespace)
            .iter()
            .map(|stored| (stored.key.clone(), stored.clone()))
            .collect();
        let is_wanted =
            |key: &Key| &*key.resource == resource && namespace.is_none_or(|n| n == &*key.namespace);
        for entry in self.state.lock().entries.iter().filter(|entry| is_wanted(&entry.key)) {
            match &entry.now {
                Some(now) => found.insert(entry.key.clone(), now.clone()),
                None => found.remove(&entry.key),
            };
        }
        found.values().map(|stored| Arc::new(stored.value())).collect()
    }

    fn objects_on(&self, resource: &str, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        let mut bound = self.objects(resource, Some(namespace));
        bound.retain(|object| object["spec"]["nodeName"] == node);
        bound
    }

    /// A transaction's own part is not waited for: what it makes is there, or nobody makes it.
    fn appearing<'a>(
        &'a self,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Arc<Value>> {
        match self.object(resource, namespace, name) {
            Some(object) => Box::pin(std::future::ready(object)),
            None => self.objects.appearing(resource, namespace, name),
        }
    }

    fn version(&self, resource: &str) -> Version {
        Version::Snapshot(self.objects.list(resource, None))
    }
}
