//! Keeps definitions' conditions true, and deletes what a deleted definition leaves behind.
//!
//! It looks at all definitions whenever one changes, and writes as any client would. A definition that is
//! being deleted is looked at again until its last object is gone: objects may have finalizers of their own.

use std::sync::Arc;
use std::time::Duration;

use api_types::kinds::Kind;
use axum::body::Body;
use component_base::clock::Clock;
use futures::StreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::{FINALIZER, STORAGE, names, status};
use crate::Loopback;
use crate::cache::{Objects, WatchEvent, WatchSpec};
use crate::discovery::Registry;
use crate::negotiate;
use crate::server::Server;

pub(crate) struct Keeper {
    server: Arc<Server>,
    loopback: Loopback,
}

/// How soon a definition is looked at again whose objects are not gone yet.
const WAIT: Duration = Duration::from_millis(500);

impl Keeper {
    pub(crate) fn new(server: Arc<Server>, loopback: Loopback) -> Self {
        Self { server, loopback }
    }

    fn objects(&self) -> &Objects {
        &self.server.objects
    }

    fn registry(&self) -> &Registry {
        &self.server.registry
    }

    fn clock(&self) -> Clock {
        self.server.clock
    }

    /// Works until the server's tasks end.
    pub(crate) async fn run(self) {
        loop {
            let seen = self.objects().revision();
            let unfinished = self.look().await;
            self.wait(seen, unfinished).await;
        }
    }

    /// Waits for a change of a definition after `seen`, or a while when something is unfinished.
    async fn wait(&self, seen: u64, unfinished: bool) {
        let spec = WatchSpec {
            resource: STORAGE.to_owned(),
            namespace: None,
            name: None,
            node: None,
            matches: Arc::new(|_| true),
            from: seen,
        };
        let Ok(mut events) = self.objects().watch(spec) else { return };
        let change = async {
            while let Some(event) = events.next().await {
                if !matches!(event, WatchEvent::Bookmark(_)) {
                    return;
                }
            }
            // The server ends its watches when it stops; this task ends with it.
            tokio::time::sleep(WAIT).await;
        };
        match unfinished {
            false => change.await,
            true => drop(tokio::time::timeout(WAIT, change).await),
        }
    }

    /// Looks at all definitions; true if one has to be looked at again.
    async fn look(&self) -> bool {
        let stored: Vec<Value> = self.objects().list(STORAGE, None).iter().map(|s| s.value()).collect();
        let accepted = names::accept(stored.iter());
        let mut unfinished = false;
        for (definition, accepted) in stored.iter().zip(&accepted) {
            unfinished |= self.keep(definition, accepted).await;
        }
        unfinished
    }

    async fn keep(&self, definition: &Value, accepted: &names::Acceptance) -> bool {
        let now = self.clock().now();
        let mut next = definition.clone();
        next["status"] = status::plan(definition, accepted, now);
        let holds = |d: &Value| {
            d["metadata"]["finalizers"].as_array().is_some_and(|f| f.iter().any(|f| f == FINALIZER))
        };
        let deleting = definition["metadata"]["deletionTimestamp"].is_string() && holds(definition);
        let mut left = 0;
        if deleting {
            let outcome = self.clear(definition).await;
            left = *outcome.as_ref().unwrap_or(&1);
            status::terminating(&mut next["status"], outcome.as_ref().err().map(String::as_str), left, now);
            if left == 0
                && let Some(finalizers) =
                    next.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut)
            {
                finalizers.retain(|f| f != FINALIZER);
            }
        }
        let written = next == *definition || self.write(&next).await;
        !written || left > 0
    }

    async fn write(&self, definition: &Value) -> bool {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}/status");
        match self.send(Method::PUT, &path, Some(definition)).await {
            // Somebody else wrote it: the next look sees what.
            (200 | 404 | 409, _) => true,
            (code, body) => {
                warn!(name, code, answer = %body["message"], "a definition's status was not written");
                false
            }
        }
    }

    /// Deletes the definition's objects and says how many are there still.
    async fn clear(&self, definition: &Value) -> Result<usize, String> {
        let spec = &definition["spec"];
        let (Some(group), Some(plural)) = (spec["group"].as_str(), spec["names"]["plural"].as_str()) else {
            return Ok(0);
        };
        let Some(row) = self.row(group, plural) else { return Ok(0) };
        let mut namespaces: Vec<Option<String>> = self
            .objects()
            .list(&row.storage, None)
            .iter()
            .map(|s| row.is_namespaced().then(|| s.key.namespace.to_string()))
            .collect();
        namespaces.dedup();
        for namespace in namespaces {
            let within = namespace.map(|n| format!("/namespaces/{n}")).unwrap_or_default();
            let path = format!("/apis/{group}/{}{within}/{plural}", row.version);
            let (code, body) = self.send(Method::DELETE, &path, None).await;
            if code != 200 {
                return Err(body["message"].as_str().unwrap_or_default().to_owned());
            }
        }
        let left = self.objects().list(&row.storage, None).iter().count();
        debug!(group, plural, left, "objects of a deleted definition");
        Ok(left)
    }

    fn row(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        let table = self.registry().table();
        table.rows().iter().find(|row| row.group == group && row.plural == plural).cloned()
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map_or_else(Body::empty, |b| Body::from(negotiate::encode(b)));
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::USER_AGENT, "kube-apiserver/v1.36")
            .body(body);
        let Ok(request) = request else { return (400, Value::Null) };
        let response = self.loopback.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}
