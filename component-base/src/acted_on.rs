//! What a component has seen of the cluster, told to the API server with everything it writes.
//!
//! The server keeps it beside the write, so that an object's history says what each change was a reaction to.
//! Kubernetes' servers ignore the header.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, HeaderValue, Request};
use kube::client::Body;
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

    fn header(&self) -> Option<HeaderValue> {
        let newest = self.0.load(Ordering::Relaxed);
        (newest > 0).then(|| HeaderValue::from(newest))
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

/// A client that says with each write what was seen before it.
pub fn telling(client: kube::Client, seen: Seen) -> kube::Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        if !matches!(request.method().as_str(), "GET" | "HEAD")
            && let Some(value) = seen.header()
        {
            request.headers_mut().insert(HEADER, value);
        }
        let client = client.clone();
        async move { client.send(request).await }
    });
    kube::Client::new(service, namespace)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[tokio::test]
    async fn writes_carry_the_newest_revision_seen_and_reads_do_not() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let notes = told.clone();
        let server = tower::service_fn(move |request: Request<Body>| {
            let header = request.headers().get(HEADER).map(|v| v.to_str().unwrap().to_owned());
            notes.lock().unwrap().push(header);
            async { Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(b"{}".to_vec()))) }
        });
        let seen = Seen::default();
        let client = telling(kube::Client::new(server, "default"), seen.clone());
        let object = |revision: &str| {
            let mut map = ConfigMap::default();
            map.metadata.resource_version = Some(revision.to_owned());
            map
        };
        let send = async |method: &str| {
            let request = Request::builder().method(method).uri("/x").body(Vec::new()).unwrap();
            client.request_text(request).await.unwrap();
        };
        send("POST").await;
        seen.note(revision_of(&Event::Apply(object("7"))));
        seen.note(revision_of(&Event::Delete(object("5"))));
        send("PATCH").await;
        send("GET").await;
        assert_eq!(*told.lock().unwrap(), [None, Some("7".to_owned()), None]);
    }
}
