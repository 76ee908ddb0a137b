//! Discovery and OpenAPI of other API servers beside this server's own.

use std::collections::BTreeMap;

use api_types::status::Status;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{Remote, definitions, remotes};
use crate::server::Server;
use crate::{negotiate, openapi};

/// What a client asked of a document to which other servers add.
#[derive(Default)]
pub(crate) struct Asked {
    /// The tag of the document that it has.
    tag: Option<HeaderValue>,
    /// Whether it wants OpenAPI version 2 in the form of kubectl.
    gnostic: bool,
}

type Add = fn(&Server, &[Group], &mut Value);

/// What other servers add to the document at `path`.
fn additions(path: &str) -> Option<Add> {
    match path.trim_end_matches('/') {
        "/apis" => Some(add_groups),
        "/openapi/v2" => Some(add_openapi_2),
        "/openapi/v3" => Some(add_openapi),
        other => group_of(other).map(|_| add_versions as Add),
    }
}

fn group_of(path: &str) -> Option<&str> {
    path.trim_matches('/').strip_prefix("apis/").filter(|name| !name.contains('/'))
}

/// Turns a request for a document into one for all of this server's own, as only what comes of merging tells
/// whether the client has it already, and in which form it is sent.
pub(crate) fn asked(server: &Server, path: &str, headers: &mut HeaderMap) -> Asked {
    if additions(path).is_none() || remotes(server).is_empty() {
        return Asked::default();
    }
    let gnostic = path.trim_end_matches('/') == "/openapi/v2" && openapi::wants_gnostic(headers);
    if gnostic {
        headers.remove(header::ACCEPT);
    }
    Asked { tag: headers.remove(header::IF_NONE_MATCH), gnostic }
}

/// This server's document at `path` with what other servers serve added.
pub(crate) async fn merged(
    server: &Server,
    path: &str,
    asked: Asked,
    own: Response,
) -> Result<Response, Status> {
    let groups = groups(server);
    let Some(add) = additions(path).filter(|_| !groups.is_empty()) else { return Ok(own) };
    if !own.status().is_success() || own.headers().contains_key(header::CONTENT_ENCODING) {
        return Ok(own);
    }
    let (mut parts, body) = own.into_parts();
    let bytes = body.collect().await.map_err(Status::internal)?.to_bytes();
    let Ok(mut document) = serde_json::from_slice(&bytes) else {
        return Ok(Response::from_parts(parts, Body::from(bytes)));
    };
    add(server, &groups, &mut document);
    let bytes = negotiate::encode(&document);
    let tag = format!("\"{:08X}-{:X}\"", crc32fast::hash(&bytes), bytes.len());
    let tag = HeaderValue::from_str(&tag).map_err(Status::internal)?;
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut response = match (asked.tag.as_ref() == Some(&tag), asked.gnostic) {
        (true, _) => {
            parts.status = StatusCode::NOT_MODIFIED;
            Response::from_parts(parts, Body::empty())
        }
        (false, true) => openapi::gnostic_answer(&document),
        (false, false) => Response::from_parts(parts, Body::from(bytes)),
    };
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

/// The `APIGroup` of a group that only other servers serve.
pub(crate) fn group_document(server: &Server, path: &str) -> Option<Value> {
    let name = group_of(path)?;
    let group = groups(server).into_iter().find(|group| group.name == name)?;
    let mut document = json!({ "kind": "APIGroup", "apiVersion": "v1" });
    document.as_object_mut()?.extend(group.describe().as_object()?.clone());
    Some(document)
}

/// A group of other servers, its versions in the order of their priority.
struct Group {
    name: String,
    priority: i64,
    versions: Vec<Remote>,
}

impl Group {
    fn described(&self) -> Vec<Value> {
        let version = |remote: &Remote| {
            let version = remote.text("version");
            json!({ "groupVersion": format!("{}/{version}", self.name), "version": version })
        };
        self.versions.iter().map(version).collect()
    }

    fn describe(&self) -> Value {
        let versions = self.described();
        json!({ "name": self.name, "versions": versions, "preferredVersion": versions.first() })
    }
}

/// The groups of other servers by priority, then by name.
fn groups(server: &Server) -> Vec<Group> {
    let mut found: BTreeMap<String, Group> = BTreeMap::new();
    for remote in remotes(server) {
        let name = remote.text("group").to_owned();
        let priority = remote.object["spec"]["groupPriorityMinimum"].as_i64().unwrap_or_default();
        let new = || Group { name: name.clone(), priority: 0, versions: Vec::new() };
        let group = found.entry(name.clone()).or_insert_with(new);
        group.priority = group.priority.max(priority);
        group.versions.push(remote);
    }
    let mut groups: Vec<_> = found.into_values().collect();
    for group in &mut groups {
        group.versions.sort_by_key(|r| std::cmp::Reverse(r.object["spec"]["versionPriority"].as_i64()));
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.priority));
    groups
}

/// Both forms of `/apis`: the plain list, and the one with resources.
fn add_groups(server: &Server, groups: &[Group], document: &mut Value) {
    if let Some(list) = document.get_mut("groups").and_then(Value::as_array_mut) {
        for group in groups {
            match list.iter_mut().find(|own| own["name"] == group.name.as_str()) {
                Some(own) => extend(own, group.described()),
                None => list.push(group.describe()),
            }
        }
    } else if let Some(items) = document.get_mut("items").and_then(Value::as_array_mut) {
        for group in groups {
            let mut all = aggregated(server, group);
            match items.iter_mut().find(|own| own["metadata"]["name"] == group.name.as_str()) {
                Some(own) => {
                    let versions = all.get_mut("versions").and_then(Value::as_array_mut);
                    extend(own, versions.map(std::mem::take).unwrap_or_default());
                }
                None => items.push(all),
            }
        }
    }
}

/// The document of a group of which this server serves some versions and others more.
fn add_versions(_: &Server, groups: &[Group], document: &mut Value) {
    if let Some(group) = groups.iter().find(|group| document["name"] == group.name.as_str()) {
        extend(document, group.described());
    }
}

/// Adds versions that this server does not serve itself.
fn extend(own: &mut Value, more: Vec<Value>) {
    let Some(versions) = own.get_mut("versions").and_then(Value::as_array_mut) else { return };
    for version in more {
        if versions.iter().all(|known| known["version"] != version["version"]) {
            versions.push(version);
        }
    }
}

fn aggregated(server: &Server, group: &Group) -> Value {
    let served = server.aggregator.served.lock();
    let version = |remote: &Remote| {
        let known = served.get(&remote.name());
        let resources = known.map(|s| resources(&s.resources, remote)).unwrap_or_default();
        let freshness = if known.is_some() && remote.is_available() { "Current" } else { "Stale" };
        json!({ "version": remote.text("version"), "resources": resources, "freshness": freshness })
    };
    let versions: Vec<_> = group.versions.iter().map(version).collect();
    json!({ "metadata": { "name": group.name, "creationTimestamp": null }, "versions": versions })
}

/// The resources of an `APIResourceList` in the aggregated form.
fn resources(list: &Value, remote: &Remote) -> Vec<Value> {
    let all: Vec<&Value> = list["resources"].as_array().into_iter().flatten().collect();
    let kind = |entry: &Value| {
        let or =
            |field: &str| entry[field].as_str().map_or_else(|| remote.text(field).to_owned(), str::to_owned);
        json!({ "group": or("group"), "version": or("version"), "kind": entry["kind"] })
    };
    let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    let mut shown = Vec::new();
    for entry in all.iter().filter(|e| !name(e).contains('/')) {
        let mut resource = json!({
            "resource": entry["name"], "responseKind": kind(entry), "singularResource": entry["singularName"],
            "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" }, "verbs": entry["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if let Some(names) = entry.get(field) {
                resource[field] = names.clone();
            }
        }
        let prefix = format!("{}/", name(entry));
        let subresources: Vec<_> = all
            .iter()
            .filter_map(|e| {
                let sub = name(e).strip_prefix(&prefix)?.to_owned();
                Some(json!({ "subresource": sub, "responseKind": kind(e), "verbs": e["verbs"] }))
            })
            .collect();
        if !subresources.is_empty() {
            resource["subresources"] = json!(subresources);
        }
        shown.push(resource);
    }
    shown
}

fn add_openapi(server: &Server, groups: &[Group], document: &mut Value) {
    let served = server.aggregator.served.lock();
    for remote in groups.iter().flat_map(|group| &group.versions) {
        let Some(known) = served.get(&remote.name()).filter(|s| s.openapi.is_object()) else { continue };
        let path = format!("apis/{}/{}", remote.text("group"), remote.text("version"));
        if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
            paths.entry(path).or_insert_with(|| known.openapi.clone());
        }
    }
}

fn add_openapi_2(server: &Server, groups: &[Group], document: &mut Value) {
    let served = server.aggregator.served.lock();
    for remote in groups.iter().flat_map(|group| &group.versions) {
        if let Some(known) = served.get(&remote.name()) {
            definitions::merge(document, &known.openapi_2);
        }
    }
}
