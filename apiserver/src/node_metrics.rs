//! `metrics.k8s.io`: what nodes and pods use now, asked of the node agents when somebody asks here.
//!
//! Nothing is measured or kept while nobody asks. An agent's answer counts for a few seconds, so that many
//! autoscalers do not ask the same agents again and again. Of a node that does not answer nothing is shown.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api_types::kinds::{self, Kind};
use axum::body::Body;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http::header;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::debug;

use crate::backend::Security;
use crate::discovery::RowSource;
use crate::node_proxy;
use crate::rest::Call;

/// An agent's answer is good for this long.
const FRESH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
/// Agents asked at the same time by one request.
const AGENTS_MAX: usize = 16;
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// What the agents look back on.
const WINDOW: &str = "10s";

/// The last answers of the agents, by node.
#[derive(Default)]
pub(crate) struct Answers {
    last: Mutex<HashMap<String, (Instant, Arc<Value>)>>,
}

/// The rows of a source, and those of `metrics.k8s.io` behind them.
pub(crate) struct WithMetrics<S> {
    source: S,
    /// Those of the source, and what was made of them.
    joined: Mutex<(Rows, Rows)>,
}

type Rows = Arc<Vec<Arc<Kind>>>;

impl<S: RowSource> WithMetrics<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, joined: Mutex::default() }
    }
}

impl<S: RowSource> RowSource for WithMetrics<S> {
    fn rows(&self) -> Rows {
        let others = self.source.rows();
        let mut joined = self.joined.lock();
        if joined.1.is_empty() || !Arc::ptr_eq(&joined.0, &others) {
            let all = others.iter().chain(kinds::measured()).cloned().collect();
            *joined = (others, Arc::new(all));
        }
        joined.1.clone()
    }
}

/// The usage of all nodes, or of the one that is named.
pub(crate) fn of_nodes<'a>(call: &'a Call, name: &'a str) -> BoxFuture<'a, Vec<Value>> {
    async move {
        let nodes = call.server.view.objects("nodes", None);
        let wanted: BTreeMap<&str, &Arc<Value>> = nodes
            .iter()
            .map(|node| (node["metadata"]["name"].as_str().unwrap_or_default(), node))
            .filter(|(node, _)| name.is_empty() || *node == name)
            .collect();
        let answers = ask_all(call, wanted.keys().map(|node| (*node).to_owned()).collect()).await;
        let now = call.server.clock.now();
        let shown = |(node, object): (&str, &Arc<Value>)| {
            let answer = answers.get(node)?;
            let mut shown = head(object, &answer["node"]["cpu"]["time"], &now.to_rfc3339());
            shown["usage"] = usage(&answer["node"])?;
            Some(shown)
        };
        wanted.into_iter().filter_map(shown).collect()
    }
    .boxed()
}

/// The usage of the pods of the request's namespace, or of the one that is named.
pub(crate) fn of_pods<'a>(call: &'a Call, name: &'a str) -> BoxFuture<'a, Vec<Value>> {
    async move {
        let namespace = Some(call.namespace()).filter(|namespace| !namespace.is_empty());
        let mut pods = call.server.view.objects("pods", namespace);
        pods.retain(|pod| name.is_empty() || pod["metadata"]["name"] == name);
        let node_of = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let mut nodes: Vec<String> = pods.iter().map(|pod| node_of(pod)).filter(|n| !n.is_empty()).collect();
        nodes.sort();
        nodes.dedup();
        let answers = ask_all(call, nodes).await;
        let now = call.server.clock.now().to_rfc3339();
        let measured = by_uid(&answers);
        let shown = |pod: &Arc<Value>| {
            let entry = measured.get(pod["metadata"]["uid"].as_str()?)?;
            let containers = entry["containers"].as_array().filter(|all| !all.is_empty())?;
            let of = |container: &Value| Some(json!({"name": container["name"], "usage": usage(container)?}));
            let mut shown = head(pod, &containers[0]["cpu"]["time"], &now);
            shown["containers"] = containers.iter().map(of).collect::<Option<Value>>()?;
            Some(shown)
        };
        pods.iter().filter_map(shown).collect()
    }
    .boxed()
}

/// The entries of all pods that any agent knows.
fn by_uid(answers: &HashMap<String, Arc<Value>>) -> HashMap<&str, &Value> {
    let pods = answers.values().flat_map(|answer| answer["pods"].as_array().into_iter().flatten());
    pods.filter_map(|pod| Some((pod["podRef"]["uid"].as_str()?, pod))).collect()
}

/// Name, labels and time of what is measured.
fn head(object: &Value, at: &Value, now: &str) -> Value {
    let meta = &object["metadata"];
    let mut metadata = json!({"name": meta["name"], "creationTimestamp": now});
    for field in ["namespace", "labels"] {
        if let Some(value) = meta.get(field) {
            metadata[field] = value.clone();
        }
    }
    let at = if at.is_string() { at.clone() } else { now.into() };
    json!({"metadata": metadata, "timestamp": at, "window": WINDOW})
}

/// CPU in billionths of a core and memory in KiB, if both were measured.
fn usage(measured: &Value) -> Option<Value> {
    let cpu = measured["cpu"]["usageNanoCores"].as_u64()?;
    let memory = measured["memory"]["workingSetBytes"].as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

async fn ask_all(call: &Call, nodes: Vec<String>) -> HashMap<String, Arc<Value>> {
    let asked = nodes.into_iter().map(|node| async move {
        let answer = ask(call, &node).await?;
        Some((node, answer))
    });
    let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(AGENTS_MAX).collect().await;
    answers.into_iter().flatten().collect()
}

async fn ask(call: &Call, node: &str) -> Option<Arc<Value>> {
    let answers = &call.server.node_answers.last;
    let kept = answers.lock().get(node).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, kept)| kept.clone());
    if kept.is_some() {
        return kept;
    }
    let answer = match tokio::time::timeout(PATIENCE, fetch(call, node)).await {
        Ok(Ok(answer)) => Arc::new(answer),
        Ok(Err(why)) => {
            debug!(node, why, "a node agent does not say what its pods use");
            return None;
        }
        Err(_) => {
            debug!(node, "a node agent took too long to say what its pods use");
            return None;
        }
    };
    let mut answers = answers.lock();
    answers.retain(|_, (at, _)| at.elapsed() < FRESH);
    answers.insert(node.to_owned(), (Instant::now(), answer.clone()));
    Some(answer)
}

async fn fetch(call: &Call, node: &str) -> Result<Value, String> {
    let (host, port) = node_proxy::address_of(call, node).map_err(|status| status.message)?;
    let request = http::Request::get("/stats/summary")
        .header(header::HOST, format!("{host}:{port}"))
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let backend = call.server.backends.dial(&host, port, Security::Node).await;
    let backend = backend.map_err(|error| error.to_string())?;
    let response = backend.exchange(request, None).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status()));
    }
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_shown_only_when_all_of_it_was_measured() {
        let measured = json!({"cpu": {"usageNanoCores": 1_500}, "memory": {"workingSetBytes": 2048}});
        assert_eq!(usage(&measured), Some(json!({"cpu": "1500n", "memory": "2Ki"})));
        assert_eq!(usage(&json!({"cpu": {"usageNanoCores": 1}})), None);
    }

    #[test]
    fn figures_carry_the_labels_of_their_pod() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}, "uid": "u"}});
        let shown = head(&pod, &Value::Null, "now");
        assert_eq!(shown["metadata"]["labels"]["a"], "b");
        assert_eq!((&shown["timestamp"], &shown["window"]), (&json!("now"), &json!("10s")));
        assert!(shown["metadata"].get("uid").is_none());
    }
}
