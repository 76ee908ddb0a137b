//! What a component has seen of the cluster, told to the API server with everything it writes.
//!
//! The server keeps it beside the write, so that an object's history says what each change was a reaction to.
//! Kubernetes' servers ignore the header.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kube::runtime::watcher::Event;

/// Says which revision a write reacts to.
const HEADER: HeaderName = HeaderName::from_static("x-coxswain-acted-on");

/// The newest revision that a component's watches have brought.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<AtomicU64>);

impl Seen {
    /// Notes a revision, once what was done with its event can be seen by those who write.
    pub fn note(&self, revision: Option<u64>) {
        if let Some(revision) = revision {
            self.0.fetch_max(revision, Ordering::Relaxed);
        }
    }

    /// The server was restored from an older state: what was seen before is no longer so.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Says in a writing request's headers what was seen before it.
    pub(crate) fn tell(&self, method: &Method, headers: &mut HeaderMap) {
        let newest = self.0.load(Ordering::Relaxed);
        if newest > 0 && !matches!(*method, Method::GET | Method::HEAD) {
            headers.insert(HEADER, HeaderValue::from(newest));
        }
    }
}

/// The revision of what a watch has brought.
pub fn revision_of<K: kube::Resource>(event: &Event<K>) -> Option<u64> {
    match event {
        Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
            object.meta().resource_version.as_deref()?.parse().ok()
        }
        Event::Init | Event::InitDone => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn writes_carry_the_newest_revision_seen_and_reads_do_not() {
        let seen = Seen::default();
        let object = |revision: &str| {
            let mut map = ConfigMap::default();
            map.metadata.resource_version = Some(revision.to_owned());
            map
        };
        let told = |method: Method| {
            let mut headers = HeaderMap::new();
            seen.tell(&method, &mut headers);
            headers.get(HEADER).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(told(Method::POST), None);
        seen.note(revision_of(&Event::Apply(object("7"))));
        seen.note(revision_of(&Event::Delete(object("5"))));
        assert_eq!(told(Method::PATCH).as_deref(), Some("7"));
        assert_eq!(told(Method::GET), None);
    }
}
