//! What the server serves: the registry of kinds, and the discovery documents made from it.
//!
//! The registry is replaced as a whole when kinds come or go, so a request sees one state of it.

use std::collections::HashMap;
use std::sync::Arc;

use api_types::kinds::{self, Kind, Scope};
use api_types::status::Status;
use arc_swap::ArcSwap;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::negotiate::{self, Accept, media_ranges};

/// Rows that come and go while the server runs.
pub(crate) trait RowSource: Send + Sync {
    /// All of them now; the same list as before as long as nothing changed.
    fn rows(&self) -> Arc<Vec<Arc<Kind>>>;
}

/// What kubectl says of itself, and what it says when it only wants to know what there is.
pub(crate) const COMMAND: &str = "kubectl-command";
const ASKING: &[&str] = &["api-resources", "api-versions", "explain", "version", "cluster-info"];

/// Whether the client may bring a manifest of a retired version, which it could not send without finding the
/// version listed. Nobody else is told of them.
fn may_bring_manifests(headers: &HeaderMap) -> bool {
    let command = headers.get(COMMAND).and_then(|value| value.to_str().ok());
    command.is_some_and(|command| !ASKING.iter().any(|asking| command.contains(asking)))
}

/// All kinds that are served now.
pub(crate) struct Registry {
    source: Box<dyn RowSource>,
    table: ArcSwap<Table>,
}

/// No rows but the built-in ones.
#[cfg(test)]
struct NoRows(Arc<Vec<Arc<Kind>>>);

#[cfg(test)]
impl RowSource for NoRows {
    fn rows(&self) -> Arc<Vec<Arc<Kind>>> {
        self.0.clone()
    }
}

/// One immutable state of the registry.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Arc<Kind>>,
    /// Those of them that came from the source.
    dynamic: Arc<Vec<Arc<Kind>>>,
    resources: HashMap<(String, String, String), Arc<Kind>>,
    /// The row whose form objects are stored in, by storage prefix.
    storing: HashMap<String, Arc<Kind>>,
}

impl Registry {
    /// The built-in kinds and those of `source`.
    pub(crate) fn new(source: Box<dyn RowSource>) -> Self {
        let table = ArcSwap::from_pointee(Table::new(source.rows()));
        Self { source, table }
    }

    #[cfg(test)]
    pub(crate) fn builtin() -> Self {
        Self::new(Box::new(NoRows(Arc::default())))
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        let dynamic = self.source.rows();
        let current = self.table.load_full();
        if Arc::ptr_eq(&current.dynamic, &dynamic) {
            return current;
        }
        let table = Arc::new(Table::new(dynamic));
        self.table.store(table.clone());
        table
    }

    /// The kinds that a client is told of.
    pub(crate) fn told(&self, headers: &HeaderMap) -> Arc<Table> {
        match may_bring_manifests(headers) {
            true => Arc::new(self.table().with_retired()),
            false => self.table(),
        }
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        // What is built in is in every table.
        let known = self.table.load().resources.get(&key).filter(|kind| kind.custom.is_none()).cloned();
        known.or_else(|| self.table().resources.get(&key).cloned())
    }

    /// Whether any kind of this group version is served.
    pub(crate) fn serves(&self, group: &str, version: &str) -> bool {
        self.table.load().rows.iter().any(|row| row.group == group && row.version == version)
    }

    /// The row in whose form objects of `kind` are stored: `kind` itself unless rows share a prefix.
    pub(crate) fn storing(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        let table = if kind.custom.is_none() { self.table.load_full() } else { self.table() };
        table.storing.get(&kind.storage).unwrap_or(kind).clone()
    }
}

impl Table {
    fn new(dynamic: Arc<Vec<Arc<Kind>>>) -> Self {
        let rows: Vec<_> = kinds::builtin().iter().chain(dynamic.iter()).cloned().collect();
        let mut table = Self { dynamic, ..Self::default() };
        for row in &rows {
            let key = (row.group.clone(), row.version.clone(), row.plural.clone());
            table.resources.insert(key, row.clone());
            // The first row of a prefix stores: rows stand in the order of preference.
            table.storing.entry(row.storage.clone()).or_insert_with(|| row.clone());
        }
        table.rows = rows;
        table
    }

    /// This table with the retired versions behind it.
    fn with_retired(&self) -> Self {
        let served = |kind: &Kind| {
            let key = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
            self.resources.contains_key(&key)
        };
        let retired = kinds::retired().iter().map(|row| &row.shown).filter(|kind| !served(kind));
        let mut table = Self::new(self.dynamic.clone());
        table.rows.extend(retired.cloned());
        table
    }

    pub(crate) fn rows(&self) -> &[Arc<Kind>] {
        &self.rows
    }

    /// The row of an object by the type that it names.
    pub(crate) fn of_object(&self, object: &Value) -> Option<&Arc<Kind>> {
        let (group, version) = kinds::split_api_version(object["apiVersion"].as_str().unwrap_or_default());
        self.rows
            .iter()
            .find(|k| k.group == group && k.version == version && object["kind"] == k.kind.as_str())
    }

    /// Groups in the order of their first row, each with its versions.
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|(g, _)| *g == row.group) {
                Some((_, versions)) if versions.contains(&row.version.as_str()) => {}
                Some((_, versions)) => versions.push(&row.version),
                None => groups.push((&row.group, vec![&row.version])),
            }
        }
        groups
    }

    fn of_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Kind>> {
        self.rows.iter().filter(move |r| r.group == group && r.version == version)
    }
}

/// The document at a discovery path, if it is one.
pub(crate) fn document(
    table: &Table,
    path: &str,
    headers: &HeaderMap,
    address: &str,
) -> Result<Option<Answer>, Status> {
    let segments: Vec<_> = path.split('/').filter(|s| !s.is_empty()).collect();
    let all = match segments.as_slice() {
        ["api"] | ["apis"] => wanted_form(headers)?,
        other => return Ok(part(table, other)),
    };
    let core = segments == ["api"];
    Ok(Some(match all {
        Some(version) => Answer::aggregated(aggregated(table, core, version), version),
        None if core => Answer::plain(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
        })),
        None => Answer::plain(group_list(table)),
    }))
}

/// The document of a group or of one of its versions.
fn part(table: &Table, segments: &[&str]) -> Option<Answer> {
    match segments {
        ["api", version] => resource_list(table, "", version).map(Answer::plain),
        ["apis", group] => {
            let groups = table.groups();
            let (name, versions) = groups.iter().find(|(g, _)| *g == *group && !g.is_empty())?;
            let mut document = json!({ "kind": "APIGroup", "apiVersion": "v1" });
            let described = describe_group(name, versions);
            document.as_object_mut()?.extend(described.as_object()?.clone());
            Some(Answer::plain(document))
        }
        ["apis", group, version] => resource_list(table, group, version).map(Answer::plain),
        _ => None,
    }
}

/// A discovery document and its media type.
pub(crate) struct Answer {
    pub(crate) value: Value,
    pub(crate) media: String,
}

impl Answer {
    /// The answer to a client that may have the same document already.
    pub(crate) fn response(self, headers: &HeaderMap) -> Result<http::Response<Body>, Status> {
        let body = negotiate::encode(&self.value);
        let tag = HeaderValue::from_str(&format!("\"{:08X}-{:X}\"", crc32fast::hash(&body), body.len()));
        let tag = tag.map_err(Status::internal)?;
        let mut response = match headers.get(header::IF_NONE_MATCH) {
            Some(known) if *known == tag => {
                let mut response = http::Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            _ => negotiate::answer_json(StatusCode::OK, body, &Accept::default())?,
        };
        let commanded = headers.contains_key(COMMAND);
        let media = HeaderValue::from_str(&self.media).map_err(Status::internal)?;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media);
        let vary = if commanded { "Accept, Kubectl-Command" } else { "Accept" };
        headers.insert(header::VARY, HeaderValue::from_static(vary));
        headers.insert(header::ETAG, tag);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }

    fn plain(value: Value) -> Self {
        Self { value, media: "application/json".into() }
    }

    fn aggregated(value: Value, version: &str) -> Self {
        let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        Self { value, media }
    }
}

/// Whether the client prefers the aggregated form, and in which version; an error when it accepts neither form.
fn wanted_form(headers: &HeaderMap) -> Result<Option<&'static str>, Status> {
    let ranges = media_ranges(headers);
    let form = ranges.iter().find_map(|range| {
        negotiate::encoding(range.media)?;
        match (range.param("as"), range.param("g"), range.param("v")) {
            (None, ..) => Some(None),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Some(Some("v2")),
            _ => None,
        }
    });
    match form {
        Some(form) => Ok(form),
        None if ranges.is_empty() => Ok(None),
        // Old clients name protobuf only, and read JSON.
        None if ranges.iter().any(|range| range.media == PROTOBUF && range.param("as").is_none()) => Ok(None),
        None => Err(negotiate::not_acceptable(&ranges)),
    }
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn describe_group(name: &str, versions: &[&str]) -> Value {
    let described: Vec<_> =
        versions.iter().map(|v| json!({ "groupVersion": format!("{name}/{v}"), "version": v })).collect();
    json!({ "name": name, "preferredVersion": described[0].clone(), "versions": described })
}

fn group_list(table: &Table) -> Value {
    let groups: Vec<_> = table
        .groups()
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, versions)| describe_group(name, versions))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

fn resource_list(table: &Table, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for row in table.of_version(group, version) {
        resources.push(describe_resource(row));
        resources.extend(row.subresources.iter().map(|s| {
            let mut entry = json!({
                "name": format!("{}/{}", row.plural, s.name), "singularName": "",
                "namespaced": row.is_namespaced(), "kind": s.kind, "verbs": s.verbs,
            });
            if (s.group.as_str(), s.version.as_str()) != (group, version) {
                entry["group"] = json!(s.group);
                entry["version"] = json!(s.version);
            }
            entry
        }));
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut list =
        json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": resources });
    // The core group's list has always been without; clients rely on neither.
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    Some(list)
}

fn describe_resource(row: &Kind) -> Value {
    let mut entry = json!({
        "name": row.plural, "singularName": row.singular, "namespaced": row.is_namespaced(),
        "kind": row.kind, "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    if !row.storage.is_empty() {
        entry["storageVersionHash"] = json!(storage_hash(row));
    }
    entry
}

/// Tells a client when objects of a kind are stored in another form; only equality says something.
fn storage_hash(row: &Kind) -> String {
    use base64::Engine as _;
    let sum = crc32fast::hash(format!("{}/{}/{}", row.group, row.version, row.kind).as_bytes());
    base64::engine::general_purpose::STANDARD.encode(u64::from(sum).to_be_bytes())
}

fn aggregated(table: &Table, core: bool, api_version: &str) -> Value {
    let groups = table.groups();
    let items: Vec<_> = groups
        .iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<_> =
                        table.of_version(name, version).map(|r| aggregate_resource(r)).collect();
                    json!({ "version": version, "resources": resources, "freshness": "Current" })
                })
                .collect();
            let metadata = if core { json!({}) } else { json!({ "name": name }) };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{api_version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregate_resource(row: &Kind) -> Value {
    let mut entry = json!({
        "resource": row.plural,
        "responseKind": { "group": row.group, "version": row.version, "kind": row.kind },
        "scope": if row.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        entry["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        entry["categories"] = json!(row.categories);
    }
    if !row.subresources.is_empty() {
        let subresources: Vec<_> = row
            .subresources
            .iter()
            .map(|s| {
                json!({
                    "subresource": s.name,
                    "responseKind": { "group": s.group, "version": s.version, "kind": s.kind },
                    "verbs": s.verbs,
                })
            })
            .collect();
        entry["subresources"] = json!(subresources);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_and_described_in_both_forms() {
        let registry = Registry::builtin();
        let table = registry.table();
        let all = [aggregated(&table, true, "v2"), aggregated(&table, false, "v2")];
        for row in table.rows() {
            assert!(registry.find(&row.group, &row.version, &row.plural).is_some());
            let list = resource_list(&table, &row.group, &row.version).unwrap();
            assert!(list["resources"].as_array().unwrap().iter().any(|r| r["name"] == json!(row.plural)));
            let named = format!("\"resource\":\"{}\"", row.plural);
            assert!(all.iter().any(|d| d.to_string().contains(&named)));
        }
    }

    #[test]
    fn rows_that_share_a_prefix_are_stored_in_the_first_form() {
        let registry = Registry::builtin();
        let shown = registry.find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(registry.storing(&shown).group, "");
    }

    #[test]
    fn retired_versions_are_listed_for_who_may_bring_manifests_and_never_preferred() {
        let registry = Registry::builtin();
        let versions = |command: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(
                command.map(|c| (header::HeaderName::from_static(COMMAND), HeaderValue::from_static(c))),
            );
            let table = registry.told(&headers);
            let groups = table.groups();
            groups.iter().find(|(group, _)| *group == "batch").map(|(_, versions)| versions.join(","))
        };
        assert_eq!(versions(None).as_deref(), Some("v1"));
        assert_eq!(versions(Some("kubectl apply")).as_deref(), Some("v1,v1beta1"));
        assert_eq!(versions(Some("kubectl api-versions")).as_deref(), Some("v1"));
    }

    #[test]
    fn plain_discovery_wins_when_it_is_named_first() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "accept",
            "application/json, application/json;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2"
                .parse()
                .unwrap(),
        );
        assert_eq!(wanted_form(&headers).unwrap(), None);
    }
}
