//! What a controller did and its cache does not show yet.
//!
//! A controller counts the objects in its cache; between a create and the event that shows it the count is
//! too small, and creating again would make one too many. So a controller notes each create and delete
//! here, and counts only when the cache has seen them all. Nothing depends on a callback: a create is seen
//! when the cache has reached its revision, a delete when the object is gone or going in the cache.

use std::collections::HashMap;
use std::time::Duration;

use kube::Resource;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::informers::{Cached, Informer, Mark};
use crate::key::ObjectKey;

/// After this long a lagging cache is believed anyway, as in Kubernetes.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// The expectations of one controller about one kind of dependents, per key of what it reconciles.
#[derive(Default)]
pub(crate) struct Expectations {
    pending: Mutex<HashMap<ObjectKey, Pending>>,
}

struct Pending {
    creates: Vec<Mark>,
    deletes: Vec<(ObjectKey, Option<String>)>,
    since: Instant,
}

impl Expectations {
    /// `created` was just made for `key`.
    pub(crate) fn created<K: Cached>(&self, key: &ObjectKey, cache: &Informer<K>, created: &K) {
        let mark = cache.mark(created.meta().resource_version.as_deref());
        self.note(key, |pending| pending.creates.push(mark));
    }

    /// A deletion of `object` was just accepted for `key`.
    pub(crate) fn deleted<K: Resource>(&self, key: &ObjectKey, object: &K) {
        let entry = (ObjectKey::of(object), object.meta().uid.clone());
        self.note(key, |pending| pending.deletes.push(entry));
    }

    fn note(&self, key: &ObjectKey, note: impl FnOnce(&mut Pending)) {
        let mut all = self.pending.lock();
        let pending = all.entry(key.clone());
        let fresh = || Pending { creates: Vec::new(), deletes: Vec::new(), since: Instant::now() };
        note(pending.or_insert_with(fresh));
    }

    /// Whether `cache` shows all that was done for `key`.
    pub(crate) fn are_met<K: Cached>(&self, key: &ObjectKey, cache: &Informer<K>) -> bool {
        let mut all = self.pending.lock();
        let Some(pending) = all.get_mut(key) else { return true };
        pending.creates.retain(|mark| !cache.has_seen(*mark));
        pending.deletes.retain(|(object, uid)| {
            let cached = cache.get(object);
            cached.is_some_and(|seen| seen.meta().uid == *uid && seen.meta().deletion_timestamp.is_none())
        });
        let met = pending.creates.is_empty() && pending.deletes.is_empty();
        let waited_enough = pending.since.elapsed() >= WAIT_MAX;
        if met || waited_enough {
            all.remove(key);
        }
        met || waited_enough
    }

    /// Forgets `key`: its object is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.pending.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, revision: u64) -> Pod {
        let metadata =
            json!({"name": name, "namespace": "ns", "uid": uid, "resourceVersion": revision.to_string()});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn key() -> ObjectKey {
        ObjectKey::new("ns", "owner")
    }

    #[tokio::test(start_paused = true)]
    async fn a_creation_is_met_when_the_cache_shows_its_revision() {
        let (cache, all) = (Informer::<Pod>::after([Event::Init, Event::InitDone]), Expectations::default());
        all.created(&key(), &cache, &pod("a", "a", 7));
        all.created(&key(), &cache, &pod("b", "b", 9));
        cache.play([Event::Apply(pod("a", "a", 7))]);
        assert!(!all.are_met(&key(), &cache));
        assert!(all.are_met(&ObjectKey::new("ns", "other"), &cache));
        cache.play([Event::Delete(pod("b", "b", 10))]);
        assert!(all.are_met(&key(), &cache), "made and gone again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_is_met_when_the_object_goes_or_another_has_its_name() {
        let seen = |uid: &str| Informer::<Pod>::after([Event::Apply(pod("a", uid, 7))]);
        let (cache, all) = (seen("old"), Expectations::default());
        all.deleted(&key(), &pod("a", "old", 7));
        assert!(!all.are_met(&key(), &cache));
        assert!(all.are_met(&key(), &seen("new")));
        all.deleted(&key(), &pod("a", "old", 7));
        cache.play([Event::Delete(pod("a", "old", 8))]);
        assert!(all.are_met(&key(), &cache));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_never_shows_it_is_believed_in_the_end() {
        let (cache, all) = (Informer::<Pod>::after([]), Expectations::default());
        all.created(&key(), &cache, &pod("a", "a", 7));
        tokio::time::advance(WAIT_MAX - Duration::from_secs(1)).await;
        assert!(!all.are_met(&key(), &cache));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(all.are_met(&key(), &cache));
    }
}
