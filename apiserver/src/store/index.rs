//! At which revision each key is: what preconditions are checked against.

use std::collections::HashMap;

use super::{Change, CommitError, Key, Revision, Transaction};

/// The revision of every key that exists, and changes on top that are not yet certain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    settled: HashMap<Key, Revision>,
    staged: HashMap<Key, Option<Revision>>,
}

impl Index {
    pub(crate) fn new(keys: impl Iterator<Item = (Key, Revision)>) -> Self {
        Self { settled: keys.collect(), staged: HashMap::new() }
    }

    pub(crate) fn current(&self, key: &Key) -> Option<Revision> {
        match self.staged.get(key) {
            Some(staged) => *staged,
            None => self.settled.get(key).copied(),
        }
    }

    /// Whether `transaction` may happen on top of everything staged before it.
    pub(crate) fn check(&self, transaction: &Transaction) -> Result<(), CommitError> {
        for precondition in &transaction.preconditions {
            let current = self.current(precondition.key());
            if !precondition.holds(current) {
                return Err(CommitError::Conflict { key: precondition.key().clone(), current });
            }
        }
        for (i, change) in transaction.changes.iter().enumerate() {
            let key = change.key();
            if transaction.changes[..i].iter().any(|earlier| earlier.key() == key) {
                return Err(CommitError::Repeated(key.clone()));
            }
            if matches!(change, Change::Delete { .. }) && self.current(key).is_none() {
                return Err(CommitError::Conflict { key: key.clone(), current: None });
            }
        }
        Ok(())
    }

    /// Notes what a checked transaction does at `revision`.
    pub(crate) fn stage(&mut self, transaction: &Transaction, revision: Revision) {
        for change in &transaction.changes {
            let now = match change {
                Change::Put { .. } => Some(revision),
                Change::Delete { .. } => None,
            };
            self.staged.insert(change.key().clone(), now);
        }
    }

    /// What is staged has happened.
    pub(crate) fn settle(&mut self) {
        for (key, now) in self.staged.drain() {
            match now {
                Some(revision) => self.settled.insert(key, revision),
                None => self.settled.remove(&key),
            };
        }
    }

    /// What is staged will not happen.
    pub(crate) fn discard(&mut self) {
        self.staged.clear();
    }
}
