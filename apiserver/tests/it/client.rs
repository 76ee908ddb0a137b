//! A few lines of client: requests in, JSON out.

use apiserver::{Config, Loopback, Running, UserInfo};
use axum::body::Body;
use component_base::Shutdown;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) struct Client {
    loopback: Loopback,
    shutdown: Shutdown,
    running: Option<Running>,
}

impl Client {
    /// A fresh server in memory, and a client that may do everything.
    pub(crate) async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    /// A server started as `config` says, and a client that may do everything.
    pub(crate) async fn start_with(config: Config) -> Self {
        component_base::client::install_crypto_provider();
        let shutdown = Shutdown::new();
        let running = apiserver::start(config, shutdown.clone()).await.unwrap();
        Self { loopback: running.loopback(UserInfo::admin()), shutdown, running: Some(running) }
    }

    /// A client of the same server that acts as somebody else.
    pub(crate) fn acting_as(&self, user: UserInfo) -> Self {
        let running = self.running.as_ref().unwrap();
        Self { loopback: running.loopback(user), shutdown: self.shutdown.clone(), running: None }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.running.take().unwrap().stopped().await;
    }

    /// Replaces a configuration file at once, and waits until the server goes by it.
    pub(crate) async fn reconfigure(&self, path: &std::path::Path, text: &str) {
        let mut reloads = self.running.as_ref().unwrap().reloads();
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, path).unwrap();
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, reloads.changed()).await.expect("the changed file is read").unwrap();
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: Body,
    ) -> http::Response<Body> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .header("accept", "application/json")
            .header("user-agent", "test/1")
            .body(body)
            .unwrap();
        self.loopback.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn call(&self, method: &str, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.send(method, path, media, body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// A request as it is.
    pub(crate) async fn respond(&self, request: http::Request<Body>) -> http::Response<Body> {
        self.loopback.clone().oneshot(request).await.unwrap()
    }

    /// A request as it is, answered in JSON.
    pub(crate) async fn raw(&self, request: http::Request<Body>) -> Value {
        let response = self.loopback.clone().oneshot(request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, "application/json", &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("POST", path, "application/json", body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("PUT", path, "application/json", body).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("PATCH", path, "application/merge-patch+json", body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        self.call("DELETE", path, "application/json", &Value::Null).await
    }

    /// The object at `path` once it is as `look` wants it. It is watched, not asked for again and again.
    pub(crate) async fn wait_for(&self, path: &str, look: impl Fn(&Value) -> bool) -> Value {
        let (collection, name) = path.rsplit_once('/').unwrap();
        let watch = format!("{collection}?watch=true&fieldSelector=metadata.name%3D{name}");
        let mut events = self.watch(&watch).await;
        loop {
            let mut event = events.next().await.unwrap_or_else(|| panic!("the watch of {path} ended"));
            if event["type"] != "DELETED" && look(&event["object"]) {
                return event["object"].take();
            }
        }
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let response = self.send("GET", path, "application/json", Body::empty()).await;
        assert_eq!(response.status().as_u16(), 200, "{path}");
        Events { body: response.into_body(), rest: Vec::new() }
    }
}

/// The events of a watch.
pub(crate) struct Events {
    body: Body,
    rest: Vec<u8>,
}

impl Events {
    /// The next event, `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let limit = std::time::Duration::from_secs(20);
            let frame = tokio::time::timeout(limit, self.body.frame()).await.expect("an event in time")?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}
