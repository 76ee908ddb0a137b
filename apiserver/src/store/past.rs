//! States of the past, made from a base and the transactions after it.

use std::collections::BTreeMap;

use super::{Committed, Did, Key, Record, Revision};

/// The objects of one resource, or one object, brought forward transaction by transaction.
pub(super) struct Past<'a> {
    resource: &'a str,
    key: Option<&'a Key>,
    objects: BTreeMap<Key, Record>,
}

impl<'a> Past<'a> {
    pub(super) fn new(resource: &'a str, key: Option<&'a Key>) -> Self {
        Self { resource, key, objects: BTreeMap::new() }
    }

    fn wants(&self, key: &Key) -> bool {
        self.key.map_or(&*key.resource == self.resource, |wanted| wanted == key)
    }

    /// Takes an object of the base.
    pub(super) fn begin_with(&mut self, record: Record) {
        if self.wants(&record.key) {
            self.objects.insert(record.key.clone(), record);
        }
    }

    pub(super) fn follow(&mut self, committed: &Committed) {
        let revision = committed.revision;
        for event in committed.events.iter().filter(|event| self.wants(&event.key)).collect::<Vec<_>>() {
            let (key, bytes) = (event.key.clone(), event.bytes.clone());
            match event.did {
                Did::Put => self.objects.insert(key.clone(), Record { key, revision, bytes }),
                Did::Delete => self.objects.remove(&key),
            };
        }
    }

    pub(super) fn records(self) -> Vec<Record> {
        self.objects.into_values().collect()
    }
}

/// The newest revision at or before `at_ms` among `commits`, which are in order.
pub(super) fn last_before<'a>(commits: impl Iterator<Item = &'a Committed>, at_ms: u64) -> Option<Revision> {
    commits.filter(|committed| committed.at_ms <= at_ms).map(|committed| committed.revision).last()
}
