//! The rows of what this server serves itself: one APIService for each group version, and the configuration
//! that extension API servers read to know whom to trust.

use std::collections::HashSet;

use api_types::status::Status;
use axum::body::Body;
use http::{Method, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tracing::warn;

use super::{FRONT_PROXY, STORAGE, priorities};
use crate::negotiate;
use crate::server::{Loopback, Server};

/// Says that a row is this server's own: made at the start, or as long as a custom resource is served.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ROOT: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// The group of the rows themselves has none.
const OWN_GROUP: &str = "apiregistration.k8s.io";

/// Makes the rows that are missing and removes those of custom resources that are served no more.
pub(super) async fn sync(server: &Server, loopback: &Loopback) {
    let stored: Vec<Value> = server.objects.list(STORAGE, None).iter().map(|s| s.value().clone()).collect();
    let names: HashSet<&str> = stored.iter().filter_map(|o| o["metadata"]["name"].as_str()).collect();
    let wanted = wanted(server);
    for object in wanted.iter().filter(|o| !names.contains(name_of(o))) {
        tell(send(loopback, Method::POST, ROOT, object).await, &[201, 409], name_of(object));
    }
    let served: HashSet<&str> = wanted.iter().map(name_of).collect();
    let is_gone = |o: &&Value| o["metadata"]["labels"][MANAGED] == "true" && !served.contains(name_of(o));
    for object in stored.iter().filter(is_gone) {
        let path = format!("{ROOT}/{}", name_of(object));
        tell(send(loopback, Method::DELETE, &path, &Value::Null).await, &[200, 404], name_of(object));
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn wanted(server: &Server) -> Vec<Value> {
    let table = server.registry.table();
    let groups = table.groups();
    let all = groups.iter().flat_map(|(group, versions)| versions.iter().map(|version| (*group, *version)));
    all.filter(|(group, _)| *group != OWN_GROUP).map(|(group, version)| row(group, version)).collect()
}

fn row(group: &str, version: &str) -> Value {
    let (least, priority, own) = priorities::of(group, version);
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"), "labels": { MANAGED: if own { "onstart" } else { "true" } },
        },
        "spec": { "group": group, "version": version, "groupPriorityMinimum": least, "versionPriority": priority },
    })
}

/// Publishes whom an extension API server trusts to say who asks.
pub(super) async fn publish_authorities(server: &Server, loopback: &Loopback) {
    let authority = server.pki.ca_pem();
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "client-ca-file": authority,
            "requestheader-allowed-names": json!([FRONT_PROXY]).to_string(),
            "requestheader-client-ca-file": authority,
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        },
    });
    const MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
    let mut made = send(loopback, Method::POST, MAPS, &object).await;
    if matches!(made, Ok((409, _))) {
        let path = format!("{MAPS}/extension-apiserver-authentication");
        made = send(loopback, Method::PUT, &path, &object).await;
    }
    tell(made, &[200, 201], "extension-apiserver-authentication");
}

/// Writes the condition `Available` of an APIService.
pub(super) async fn write_condition(loopback: &Loopback, name: &str, condition: Value) {
    let path = format!("{ROOT}/{name}/status");
    let body = json!({ "status": { "conditions": [condition] } });
    tell(send(loopback, Method::PATCH, &path, &body).await, &[200, 404], name);
}

/// A request of the server's own.
async fn send(
    loopback: &Loopback,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<(u16, String), Status> {
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Body::empty() } else { Body::from(negotiate::encode(body)) };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, media)
        .header(header::USER_AGENT, "kube-aggregator")
        .body(bytes)
        .map_err(Status::internal)?;
    let response = loopback.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let code = response.status().as_u16();
    let text = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    Ok((code, String::from_utf8_lossy(&text).into_owned()))
}

fn tell(result: Result<(u16, String), Status>, fine: &[u16], name: &str) {
    match result {
        Ok((code, _)) if fine.contains(&code) => {}
        // At the end of the process writes are refused.
        Ok((503, _)) => {}
        Ok((code, text)) => warn!(name, code, text, "a row of a served group cannot be kept"),
        Err(status) => warn!(name, %status, "a row of a served group cannot be kept"),
    }
}
