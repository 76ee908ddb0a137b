//! What this process did for a job and its caches may not show yet, and the failures that it remembers.
//!
//! A pod that was let go is counted as soon as the request succeeded; until the cache shows that, the pod
//! must not look held, or it would be counted again. And a status written before must be seen before the
//! next decision, or what it counted would be missing. Nothing here has to survive a restart: a new process
//! lists everything first.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::backoff::Failures;
use super::facts::has_finalizer;
use crate::informers::{Informer, Mark};
use crate::key::ObjectKey;
use crate::owners::uid_of;

/// The notes about all jobs, by key.
#[derive(Default)]
pub(super) struct Ledger {
    notes: Mutex<HashMap<ObjectKey, Note>>,
}

#[derive(Default)]
struct Note {
    uid: String,
    written: Option<Mark>,
    released: BTreeSet<String>,
    failures: Option<Failures>,
}

/// What a decision has to know of earlier ones.
#[derive(Default)]
pub(super) struct Past {
    pub released: BTreeSet<String>,
    pub failures: Option<Failures>,
}

impl Ledger {
    fn note<T>(&self, job: &Job, write: impl FnOnce(&mut Note) -> T) -> T {
        let mut notes = self.notes.lock();
        let note = notes.entry(ObjectKey::of(job)).or_default();
        let uid = uid_of(&job.metadata);
        if note.uid != uid {
            *note = Note { uid: uid.to_owned(), ..Note::default() };
        }
        write(note)
    }

    /// Whether `cache` shows the status that was written last.
    pub(super) fn is_current(&self, job: &Job, cache: &Informer<Job>) -> bool {
        self.note(job, |note| note.written.is_none_or(|mark| cache.has_seen(mark)))
    }

    /// What is remembered; pods that the cache shows as let go are forgotten.
    pub(super) fn past(&self, job: &Job, pods: &[Arc<Pod>]) -> Past {
        self.note(job, |note| {
            if !note.released.is_empty() {
                let held = pods.iter().filter(|pod| has_finalizer(pod));
                let held: HashSet<&str> = held.map(|pod| uid_of(&pod.metadata)).collect();
                note.released.retain(|uid| held.contains(uid.as_str()));
            }
            Past { released: note.released.clone(), failures: note.failures.clone() }
        })
    }

    /// A status was written.
    pub(super) fn wrote(&self, job: &Job, mark: Mark) {
        self.note(job, |note| note.written = Some(mark));
    }

    /// The pod's finalizer is gone.
    pub(super) fn released(&self, job: &Job, pod: &Pod) {
        self.note(job, |note| note.released.insert(uid_of(&pod.metadata).to_owned()));
    }

    pub(super) fn remember(&self, job: &Job, failures: Failures) {
        self.note(job, |note| note.failures = Some(failures));
    }

    /// The job is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.notes.lock().remove(key);
    }
}
