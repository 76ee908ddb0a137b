//! Whether the servers behind APIServices answer: the condition `Available`, and what they serve.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{Remote, STORAGE, Served, Unreachable, name_user, registration};
use crate::UserInfo;
use crate::cache::{Stored, WatchSpec, WatchStream};
use crate::rest::timestamp;
use crate::server::{Loopback, Server};

/// How often a server that answers is asked again.
const PERIOD: Duration = Duration::from_secs(15);
/// How often one that does not, and how soon after a change of what is registered.
const PERIOD_SHORT: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// More of its documents is not read.
const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Servers asked at the same time.
const CONCURRENCY: usize = 8;
/// Changes that are taken as one.
const CHANGES_MAX: usize = 1024;

const CUSTOM_RESOURCES: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Keeps rows and conditions until the process ends. Without other servers it only waits for changes.
pub(crate) async fn keep(server: Arc<Server>, loopback: Loopback) {
    registration::publish_authorities(&server, &loopback).await;
    let mut changes = registered(&server);
    let mut settled = false;
    loop {
        registration::sync(&server, &loopback).await;
        let remotes = check_all(&server, &loopback).await;
        let pause = match (settled, remotes) {
            (false, _) | (_, Some(false)) => PERIOD_SHORT,
            (true, Some(true)) => PERIOD,
            (true, None) => Duration::MAX,
        };
        settled = true;
        tokio::select! {
            biased;
            change = changes.next() => {
                if change.is_none() {
                    // A watch that fell behind: the rounds go on by the clock, and a new one begins.
                    tokio::time::sleep(PERIOD_SHORT).await;
                    changes = registered(&server);
                }
                // What a custom resource brings is served a moment after it is stored.
                settled = false;
            }
            () = sleep(pause) => {}
        }
    }
}

async fn sleep(pause: Duration) {
    match pause {
        Duration::MAX => std::future::pending().await,
        pause => tokio::time::sleep(pause).await,
    }
}

/// Changes of what is registered from now on. Those that have come by then are one: a round brings a change of its
/// own for every condition that it writes.
fn registered(server: &Server) -> impl futures::Stream<Item = Vec<()>> + Unpin + Send + use<> {
    let changes = futures::stream::select(follow(server, STORAGE), follow(server, CUSTOM_RESOURCES));
    changes.ready_chunks(CHANGES_MAX)
}

/// Changes of a resource from now on.
fn follow(server: &Server, resource: &str) -> futures::stream::BoxStream<'static, ()> {
    let spec = WatchSpec {
        resource: resource.to_owned(),
        namespace: None,
        name: None,
        node: None,
        matches: Arc::new(|_| true),
        from: server.objects.revision(),
    };
    match server.objects.watch(spec) {
        Ok(stream) => changes(stream).boxed(),
        Err(_) => futures::stream::empty().boxed(),
    }
}

fn changes(stream: WatchStream) -> impl futures::Stream<Item = ()> + Send {
    use crate::cache::WatchEvent::{Added, Deleted, Modified};
    stream.filter_map(|event| {
        let counts = matches!(event, Added(_) | Modified(_) | Deleted(_));
        std::future::ready(counts.then_some(()))
    })
}

/// Brings every condition up to date. Says whether there are other servers and, if so, whether all answer.
async fn check_all(server: &Arc<Server>, loopback: &Loopback) -> Option<bool> {
    let stored: Vec<_> = server.objects.list(STORAGE, None).iter().cloned().collect();
    let checks = stored.into_iter().map(|stored| check_one(server, loopback, stored));
    let states: Vec<_> = futures::stream::iter(checks).buffer_unordered(CONCURRENCY).collect().await;
    states.into_iter().flatten().reduce(|all, one| all && one)
}

/// Brings one condition up to date. `None` for what this server serves itself.
async fn check_one(server: &Arc<Server>, loopback: &Loopback, stored: Arc<Stored>) -> Option<bool> {
    let object = stored.value().clone();
    let remote = Remote::of(&stored);
    let condition = match &remote {
        None => ("True", "Local", "Local APIServices are always available".to_owned()),
        Some(remote) => match check(server, remote).await {
            Ok(()) => ("True", "Passed", "all checks passed".to_owned()),
            Err(Unreachable { reason, message }) => ("False", reason, message),
        },
    };
    if let Some(changed) = changed(&object, &condition, &timestamp(server.clock.now())) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        registration::write_condition(loopback, name, changed).await;
    }
    remote.map(|_| condition.0 == "True")
}

/// The condition to write, if it is not there already.
fn changed(object: &Value, (status, reason, message): &(&str, &str, String), now: &str) -> Option<Value> {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let old = conditions.find(|c| c["type"] == "Available").cloned().unwrap_or_default();
    if old["status"] == *status && old["reason"] == *reason && old["message"] == message.as_str() {
        return None;
    }
    let since = if old["status"] == *status { old["lastTransitionTime"].clone() } else { json!(now) };
    Some(json!({
        "type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
    }))
}

/// Asks a server for what it serves.
async fn check(server: &Arc<Server>, remote: &Remote) -> Result<(), Unreachable> {
    let (host, port) = remote.address(server)?;
    let (group, version) = (remote.text("group"), remote.text("version"));
    let path = format!("/apis/{group}/{version}");
    let resources = fetch(server, remote, &path).await.map_err(|why| Unreachable {
        reason: "FailedDiscoveryCheck",
        message: format!("failing or missing response from https://{host}:{port}{path}: {why}"),
    })?;
    let mut openapi = fetch(server, remote, "/openapi/v3").await.unwrap_or_default();
    let openapi = openapi["paths"][path.trim_start_matches('/')].take();
    let openapi_2 = of_version(fetch(server, remote, "/openapi/v2").await.unwrap_or_default(), &path);
    server.aggregator.served.lock().insert(remote.name(), Served { resources, openapi, openapi_2 });
    Ok(())
}

/// What of an OpenAPI document of version 2 is about the group version at `path`.
fn of_version(mut document: Value, path: &str) -> Value {
    let below = format!("{path}/");
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        paths.retain(|name, _| name.starts_with(&below));
    }
    json!({ "paths": document["paths"].take(), "definitions": document["definitions"].take() })
}

async fn fetch(server: &Arc<Server>, remote: &Remote, path: &str) -> Result<Value, String> {
    let mut request = http::Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
    name_user(request.headers_mut(), &UserInfo::new("system:kube-aggregator", &["system:masters"]));
    let asked = async {
        let response = remote.ask(server, request, None).await?;
        if !response.status().is_success() {
            return Err(format!("bad status: {}", response.status().as_u16()));
        }
        let body = http_body_util::Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| Err("it took too long".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_only_when_it_says_something_new() {
        let passed = ("True", "Passed", "all checks passed".to_owned());
        let first = changed(&json!({}), &passed, "now").unwrap();
        assert_eq!(first["lastTransitionTime"], "now");
        let object = json!({ "status": { "conditions": [first] } });
        assert_eq!(changed(&object, &passed, "later"), None);
        let local = changed(&object, &("True", "Local", String::new()), "later").unwrap();
        assert_eq!(local["lastTransitionTime"], "now");
    }
}
