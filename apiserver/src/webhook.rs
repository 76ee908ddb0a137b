//! Calls to what users run: one JSON document is posted over HTTPS, one comes back.
//!
//! A webhook is a URL or a Service of this cluster. A Service is reached at the address of one of its ready
//! endpoints, read from the cache when a connection is made: the server needs no cluster DNS and no service
//! proxy on its own machine, only a way to the pods. Connections are kept per target and authority.

mod ask;
mod connect;
mod conversation;
mod hook;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use serde_json::Value;

pub(crate) use ask::{Called, Half, WebhookMetrics, ask};
use connect::{Connector, DialError};
pub(crate) use conversation::{Answer, from_row, request_of, shown, to_row};
pub(crate) use hook::{Hook, Hooks};

use crate::view::View;

/// What a webhook may answer with.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// How many targets keep connections; past it all begin anew.
const TARGETS_MAX: usize = 256;
const IDLE_PER_TARGET_MAX: usize = 16;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a webhook answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// `https://host:port/path`.
    Url(String),
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
}

/// A webhook and the authority of its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) address: Address,
    /// PEM in base64, as the API has it; empty for the authorities that this machine trusts.
    pub(crate) ca_bundle: String,
}

/// Why a webhook gave no answer, in the words of Go's HTTP client: people search for them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("Post {url:?}: {why}")]
    Transport { url: String, why: String },
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout { url: String },
    #[error("{0}")]
    Refused(String),
    #[error("couldn't get version/kind; json parse error: {0}")]
    NotJson(#[source] serde_json::Error),
}

impl Target {
    /// A `clientConfig` of the API: validated there, so what is missing is empty.
    pub(crate) fn from_value(config: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = &config["service"];
        let address = match service.is_object() {
            false => Address::Url(text(&config["url"])),
            true => Address::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                port: service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
                path: text(&service["path"]),
            },
        };
        Self { address, ca_bundle: text(&config["caBundle"]) }
    }

    /// The URL that is posted to, which names the time it has.
    fn url(&self, timeout: Duration) -> String {
        let base = match &self.address {
            Address::Url(url) => url.clone(),
            Address::Service { namespace, name, port, path } => {
                format!("https://{name}.{namespace}.svc:{port}/{}", path.trim_start_matches('/'))
            }
        };
        let base = base.split(['?', '#']).next().unwrap_or_default();
        let base = base.trim_end_matches('/');
        let has_path = base.splitn(4, '/').count() == 4;
        let slash = if has_path { "" } else { "/" };
        format!("{base}{slash}?timeout={}s", timeout.as_secs())
    }
}

type Connections = Client<Connector, Full<Bytes>>;

/// Calls webhooks; keeps their connections.
pub(crate) struct Webhooks {
    view: Arc<dyn View>,
    kept: Mutex<HashMap<Target, Connections>>,
}

impl Webhooks {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view, kept: Mutex::default() }
    }

    /// Posts `document` and reads the answer. The whole call has `timeout`.
    pub(crate) async fn call(
        &self,
        target: &Target,
        timeout: Duration,
        document: &Value,
    ) -> Result<Value, CallError> {
        let url = target.url(timeout);
        let body = Bytes::from(document.to_string());
        match tokio::time::timeout(timeout, self.post(target, &url, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Timeout { url }),
        }
    }

    async fn post(&self, target: &Target, url: &str, body: Bytes) -> Result<Value, CallError> {
        let broken = |why: String| CallError::Transport { url: url.to_owned(), why };
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|e| broken(e.to_string()))?;
        let client = self.client(target).map_err(|e| broken(e.to_string()))?;
        let response = client.request(request).await.map_err(|e| broken(reason(&e)))?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| broken(e.to_string()))?.to_bytes();
        match code {
            200..=299 => serde_json::from_slice(&body).map_err(CallError::NotJson),
            code => Err(CallError::Refused(refusal(code, &String::from_utf8_lossy(&body)))),
        }
    }

    fn client(&self, target: &Target) -> Result<Connections, DialError> {
        let mut kept = self.kept.lock();
        if let Some(client) = kept.get(target) {
            return Ok(client.clone());
        }
        let connector = Connector::new(target, self.view.clone())?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_TARGET_MAX)
            .build(connector);
        if kept.len() >= TARGETS_MAX {
            kept.clear();
        }
        kept.insert(target.clone(), client.clone());
        Ok(client)
    }
}

/// The innermost reason that says something: the dialler's, else the last of the chain.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = Some(error);
    let mut last = error.to_string();
    while let Some(error) = at {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return dial.to_string();
        }
        last = error.to_string();
        at = error.source();
    }
    last
}

/// What Kubernetes' client makes of an answer's code.
fn refusal(code: u16, body: &str) -> String {
    const TEXT_MAX: usize = 2048;
    let text: String = body.trim().chars().take(TEXT_MAX).collect();
    match code {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => format!("forbidden: {text}"),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        415 => "the body of the request was in an unknown format".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        500 => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
        other => format!("the server responded with the status code {other} but did not return more information"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn url(config: Value) -> String {
        Target::from_value(&config).url(Duration::from_secs(5))
    }

    #[test]
    fn the_url_names_the_time_that_the_call_has() {
        assert_eq!(url(json!({"url": "https://127.0.0.1:1/"})), "https://127.0.0.1:1/?timeout=5s");
        assert_eq!(url(json!({"url": "https://host"})), "https://host/?timeout=5s");
        assert_eq!(url(json!({"url": "https://host/a/b/"})), "https://host/a/b?timeout=5s");
        let service = json!({"namespace": "n", "name": "s", "path": "/check", "port": 8443});
        assert_eq!(url(json!({"service": service})), "https://s.n.svc:8443/check?timeout=5s");
        assert_eq!(
            url(json!({"service": {"namespace": "n", "name": "s"}})),
            "https://s.n.svc:443/?timeout=5s"
        );
    }
}
