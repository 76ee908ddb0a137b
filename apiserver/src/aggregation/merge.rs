//! Discovery and OpenAPI of other API servers beside this server's own.

use std::collections::BTreeMap;

use api_types::status::Status;
use axum::body::Body;
use axum::response::Response;
use http::header;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{Remote, remotes};
use crate::negotiate;
use crate::server::Server;

/// This server's document at `path` with what other servers serve added.
pub(crate) async fn merged(server: &Server, path: &str, own: Response) -> Result<Response, Status> {
    let add: fn(&Server, &[Group], &mut Value) = match path.trim_end_matches('/') {
        "/apis" => add_groups,
        "/openapi/v3" => add_openapi,
        _ => return Ok(own),
    };
    let groups = groups(server);
    if groups.is_empty() || !own.status().is_success() || own.headers().contains_key(header::CONTENT_ENCODING)
    {
        return Ok(own);
    }
    let (mut parts, body) = own.into_parts();
    let bytes = body.collect().await.map_err(Status::internal)?.to_bytes();
    let Ok(mut document) = serde_json::from_slice(&bytes) else {
        return Ok(Response::from_parts(parts, Body::from(bytes)));
    };
    add(server, &groups, &mut document);
    // They were those of the document without the others.
    parts.headers.remove(header::ETAG);
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(negotiate::encode(&document))))
}

/// The `APIGroup` of a group that only other servers serve.
pub(crate) fn group_document(server: &Server, path: &str) -> Option<Value> {
    let name = path.trim_matches('/').strip_prefix("apis/").filter(|name| !name.contains('/'))?;
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
    fn describe(&self) -> Value {
        let version = |remote: &Remote| {
            let version = remote.text("version");
            json!({ "groupVersion": format!("{}/{version}", self.name), "version": version })
        };
        let versions: Vec<_> = self.versions.iter().map(version).collect();
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
        let own: Vec<_> = list.iter().map(|group| group["name"].clone()).collect();
        list.extend(groups.iter().filter(|g| !own.contains(&json!(g.name))).map(Group::describe));
    } else if let Some(items) = document.get_mut("items").and_then(Value::as_array_mut) {
        let own: Vec<_> = items.iter().map(|group| group["metadata"]["name"].clone()).collect();
        items.extend(groups.iter().filter(|g| !own.contains(&json!(g.name))).map(|g| aggregated(server, g)));
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
