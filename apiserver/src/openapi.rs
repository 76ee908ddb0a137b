//! `/openapi/v3`: what kubectl's `explain`, and its check whether the server validates, read.
//!
//! Paths and schemas follow from the kinds table. Version 2 is the same in one document.

mod custom;
mod gnostic;
mod paths;
mod version_2;

use std::collections::HashMap;
use std::sync::LazyLock;

use api_types::schema;
use api_types::status::Status;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::discovery::Table;
use crate::negotiate::{self, Accept};
use crate::request_info::RequestInfo;

/// The answer at an OpenAPI path.
pub(crate) fn answer(
    table: &Table,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Option<Result<http::Response<Body>, Status>> {
    let path = info.path.trim_end_matches('/');
    let found = match path {
        "/openapi/v2" => answer_version_2(table, headers),
        "/openapi/v3" => index(table),
        _ => document(table, path.strip_prefix("/openapi/v3/")?, info),
    };
    Some(found.map(|response| unless_known(response, headers)))
}

/// Nothing but its tag for a client that has the document already.
fn unless_known(mut response: http::Response<Body>, headers: &HeaderMap) -> http::Response<Body> {
    let known = headers.get(header::IF_NONE_MATCH);
    if known.is_some() && known == response.headers().get(header::ETAG) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
    }
    response
}

/// The list of the documents of version 3; it has always been served as plain text.
fn index(table: &Table) -> Result<http::Response<Body>, Status> {
    let body = negotiate::encode(&root(table));
    let hash = format!("{:08X}", crc32fast::hash(&body));
    let mut response = negotiate::answer_json(StatusCode::OK, body, &Accept::default())?;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    tagged(response, &hash)
}

/// The form of version 2 that kubectl and helm ask for, and nothing else.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

fn answer_version_2(table: &Table, headers: &HeaderMap) -> Result<http::Response<Body>, Status> {
    let text = format!("{} {:?}", env!("CARGO_PKG_VERSION"), table.rows());
    let hash = format!("{:08X}", crc32fast::hash(text.as_bytes()));
    if !wants_gnostic(headers) {
        let body = kept(&format!("v2 {hash}"), || negotiate::encode(&version_2(table)));
        return tagged(negotiate::answer_json(StatusCode::OK, body, &Accept::default())?, &hash);
    }
    let body = kept(&format!("v2 protobuf {hash}"), || gnostic::encode(&version_2(table)).into());
    tagged(gnostic_response(body), &hash)
}

/// Whether a client wants version 2 in the form of kubectl.
pub(crate) fn wants_gnostic(headers: &HeaderMap) -> bool {
    let wanted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    wanted.into_iter().any(|accept| accept.contains(GNOSTIC))
}

/// A document of version 2 in that form.
pub(crate) fn gnostic_answer(document: &Value) -> http::Response<Body> {
    gnostic_response(gnostic::encode(document).into())
}

fn gnostic_response(body: Bytes) -> http::Response<Body> {
    let mut response = http::Response::new(Body::from(body));
    // An `@` is no letter of a media type; Kubernetes answers with a dot.
    let named = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    response.headers_mut().insert(header::CONTENT_TYPE, named);
    response
}

fn version_2(table: &Table) -> Value {
    let mut all = Map::new();
    for (group, versions) in table.groups() {
        versions.iter().for_each(|version| all.extend(paths::of_version(table, group, version)));
    }
    let mut definitions = schema::openapi_definitions();
    for (name, schema) in table.rows().iter().flat_map(|row| custom::definitions_of_version_2(row)) {
        definitions[name] = schema;
    }
    version_2::document(about(), definitions, all)
}

fn about() -> Value {
    json!({ "title": "Kubernetes", "version": "v1.36.0" })
}

/// A document of version 3.
enum Part<'a> {
    /// What a path of discovery answers: its description and definition.
    Discovery(&'static str, &'static str),
    Version(&'a str, &'a str),
}

/// All documents of version 3 by name, sorted.
fn parts(table: &Table) -> Vec<(String, Part<'_>)> {
    let mut parts = vec![
        ("api".to_owned(), Part::Discovery("get available API versions", "APIVersions")),
        ("apis".to_owned(), Part::Discovery("get available API versions", "APIGroupList")),
        ("version".to_owned(), Part::Discovery("get the version information for this server", "")),
    ];
    for (group, versions) in table.groups() {
        if !group.is_empty() {
            let name = format!("apis/{group}");
            parts.push((name, Part::Discovery("get information of a group", "APIGroup")));
        }
        parts.extend(versions.into_iter().map(|v| (path_of(group, v), Part::Version(group, v))));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts
}

fn root(table: &Table) -> Value {
    let mut paths = Map::new();
    for (name, part) in parts(table) {
        let url = format!("/openapi/v3/{name}?hash={}", part.hash(table, &name));
        paths.insert(name, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

impl Part<'_> {
    fn hash(&self, table: &Table, name: &str) -> String {
        match self {
            Part::Discovery(..) => {
                let text = format!("{} {name}", env!("CARGO_PKG_VERSION"));
                format!("{:08X}", crc32fast::hash(text.as_bytes()))
            }
            Part::Version(group, version) => hash(table, group, version),
        }
    }

    fn paths(&self, table: &Table, name: &str) -> Map<String, Value> {
        match self {
            Part::Discovery(description, definition) => {
                Map::from_iter([(format!("/{name}/"), paths::document(description, definition))])
            }
            Part::Version(group, version) => paths::of_version(table, group, version),
        }
    }

    fn schemas(&self, table: &Table) -> Value {
        match self {
            Part::Discovery(_, "") => json!({}),
            Part::Discovery(..) => schema::openapi_discovery(),
            Part::Version(group, version) => {
                let own = table.rows().iter().filter(|r| r.group == *group && r.version == *version);
                let bodies = own.flat_map(|row| &row.subresources);
                let bodies: Vec<_> =
                    bodies.map(|s| (s.group.as_str(), s.version.as_str(), s.kind.as_str())).collect();
                let mut schemas = schema::openapi_v3(group, version, &bodies);
                let own = table.rows().iter().filter(|r| r.group == *group && r.version == *version);
                for (name, schema) in own.flat_map(|row| custom::definitions(row)) {
                    schemas[name] = schema;
                }
                schemas
            }
        }
    }
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Changes when the document may have changed: clients keep documents by it.
fn hash(table: &Table, group: &str, version: &str) -> String {
    let rows: Vec<_> = table.rows().iter().filter(|r| r.group == group && r.version == version).collect();
    let text = format!("{} {rows:?}", env!("CARGO_PKG_VERSION"));
    format!("{:08X}", crc32fast::hash(text.as_bytes()))
}

fn document(table: &Table, name: &str, info: &RequestInfo) -> Result<http::Response<Body>, Status> {
    let found = parts(table).into_iter().find(|(known, _)| known == name);
    let (_, part) = found.ok_or_else(Status::unknown_resource)?;
    let hash = part.hash(table, name);
    let body = kept(&format!("{name} {hash}"), || {
        let document = json!({
            "openapi": "3.0.0", "info": about(), "paths": part.paths(table, name),
            "components": { "schemas": part.schemas(table) },
        });
        negotiate::encode(&document)
    });
    let mut response = negotiate::answer_json(StatusCode::OK, body, &Accept::default())?;
    if info.query.get("hash") == Some(&hash) {
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    tagged(response, &hash)
}

fn tagged(mut response: http::Response<Body>, hash: &str) -> Result<http::Response<Body>, Status> {
    let tag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(Status::internal)?;
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

/// As many documents are kept as this: group versions come and go with custom kinds.
const KEPT_MAX: usize = 256;

/// Documents made so far, by name and hash.
fn kept(key: &str, make: impl FnOnce() -> Bytes) -> Bytes {
    static KEPT: LazyLock<Mutex<HashMap<String, Bytes>>> = LazyLock::new(Mutex::default);
    if let Some(bytes) = KEPT.lock().get(key) {
        return bytes.clone();
    }
    let made = make();
    let mut kept = KEPT.lock();
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(key.to_owned(), made.clone());
    made
}
