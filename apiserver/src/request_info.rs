//! What a request asks for, from its method and path alone: verb, group, version, resource, namespace,
//! name, subresource. Pure; follows Kubernetes' `RequestInfo`, which authorization rules are written for.

use api_types::kinds::{self, Retired};
use http::Method;

/// A request's meaning. For paths outside the API only `verb` and `path` say something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// Whether the path names a resource under `/api/v1` or `/apis/{group}/{version}`.
    pub(crate) is_resource: bool,
    pub(crate) path: String,
    /// `get list watch create update patch delete deletecollection`, or the method in lower case.
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
    /// What follows the subresource: the path that `proxy` passes on.
    pub(crate) rest: String,
    pub(crate) query: Query,
    /// The path names a retired version; group and version are those of the one that took its place.
    pub(crate) retired: Option<&'static Retired>,
}

/// The decoded query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes `a=b&c=d`.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_percent(key, true), decode_percent(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of `key`, when it is there and not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    pub(crate) fn get_all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// Kubernetes' boolean parameters: present and neither `false` nor `0`.
    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.0.iter().find(|(k, _)| k == key).is_some_and(|(_, v)| v != "false" && v != "0")
    }
}

/// Decodes `%41` escapes; `+` means a space in a query and itself in a path.
pub(crate) fn decode_percent(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = match bytes[at] {
            b'%' => bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok()),
            _ => None,
        };
        match (escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()), bytes[at]) {
            (Some(byte), _) => {
                out.push(byte);
                at += 3;
            }
            (None, b'+') if plus_is_space => {
                out.push(b' ');
                at += 1;
            }
            (None, byte) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Reads method, path and query.
pub(crate) fn parse(method: &Method, path: &str, query: &str) -> RequestInfo {
    let query = Query::parse(query);
    let mut info = RequestInfo {
        path: path.to_owned(),
        verb: method.as_str().to_lowercase(),
        query,
        ..Default::default()
    };
    let segments: Vec<String> =
        path.split('/').filter(|s| !s.is_empty()).map(|s| decode_percent(s, false)).collect();
    let Some(mut rest) = split_group(&mut info, &segments) else { return info };
    info.verb = verb_of(method).to_owned();
    let mut old_watch = false;
    if rest.first().is_some_and(|s| s == "watch") && rest.len() > 1 {
        old_watch = true;
        rest = &rest[1..];
    }
    if rest.is_empty() {
        info.verb = method.as_str().to_lowercase();
        return info;
    }
    info.is_resource = true;
    split_resource(&mut info, rest);
    if let Some(retired) = kinds::find_retired(&info.group, &info.version, &info.resource) {
        info.group.clone_from(&retired.current.group);
        info.version.clone_from(&retired.current.version);
        info.retired = Some(retired);
    }
    refine_verb(&mut info, old_watch);
    info
}

/// Takes group and version off the front; `None` when the path is not the API's.
fn split_group<'a>(info: &mut RequestInfo, segments: &'a [String]) -> Option<&'a [String]> {
    match segments {
        [api, version, rest @ ..] if api == "api" => {
            info.version = version.clone();
            Some(rest)
        }
        [apis, group, version, rest @ ..] if apis == "apis" => {
            info.group = group.clone();
            info.version = version.clone();
            Some(rest)
        }
        _ => None,
    }
}

fn verb_of(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// `namespaces/{ns}/{resource}/…`, `namespaces/{name}/{status|finalize}` and `{resource}/…`.
fn split_resource(info: &mut RequestInfo, parts: &[String]) {
    let mut parts = parts;
    if parts[0] == "namespaces" && parts.len() > 1 {
        info.namespace = parts[1].clone();
        let own = parts.len() == 2 || matches!(parts[2].as_str(), "status" | "finalize");
        if !own {
            parts = &parts[2..];
        }
    }
    info.resource = parts[0].clone();
    info.name = parts.get(1).cloned().unwrap_or_default();
    info.subresource = parts.get(2).cloned().unwrap_or_default();
    info.rest = parts.get(3..).unwrap_or_default().join("/");
}

/// A read or deletion without a name is about the collection.
fn refine_verb(info: &mut RequestInfo, old_watch: bool) {
    if info.verb == "get" && (old_watch || (info.name.is_empty() && info.query.is_true("watch"))) {
        info.verb = "watch".into();
    } else if info.name.is_empty() && info.verb == "get" {
        info.verb = "list".into();
    } else if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".into();
    } else if info.verb == "get" && info.subresource.is_empty() && info.query.is_true("watch") {
        info.verb = "watch".into();
    }
}

impl RequestInfo {
    /// The single name that a list or watch is about, from its path or its `fieldSelector`: authorization
    /// rules with `resourceNames` apply to it.
    pub(crate) fn selected_name(&self) -> &str {
        if !self.name.is_empty() || !matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            return &self.name;
        }
        let selector = self.query.get("fieldSelector").unwrap_or_default();
        let mut terms = selector.split(',');
        terms
            .find_map(|t| t.strip_prefix("metadata.name=").map(|v| v.strip_prefix('=').unwrap_or(v)))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, path: &str) -> (String, String, String, String, String) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let info = parse(&Method::from_bytes(method.as_bytes()).unwrap(), path, query);
        (info.verb, info.namespace, info.resource, info.name, info.subresource)
    }

    fn row(
        verb: &str,
        ns: &str,
        resource: &str,
        name: &str,
        sub: &str,
    ) -> (String, String, String, String, String) {
        (verb.into(), ns.into(), resource.into(), name.into(), sub.into())
    }

    #[test]
    fn collections_and_objects_have_their_verbs() {
        assert_eq!(of("GET", "/api/v1/namespaces/a/pods"), row("list", "a", "pods", "", ""));
        assert_eq!(of("GET", "/api/v1/pods?watch=1"), row("watch", "", "pods", "", ""));
        assert_eq!(of("GET", "/api/v1/pods?watch=false"), row("list", "", "pods", "", ""));
        assert_eq!(
            of("DELETE", "/apis/apps/v1/namespaces/a/deployments"),
            row("deletecollection", "a", "deployments", "", "")
        );
        assert_eq!(
            of("PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale"),
            row("update", "a", "deployments", "d", "scale")
        );
    }

    #[test]
    fn a_namespace_is_its_own_namespace() {
        assert_eq!(of("GET", "/api/v1/namespaces/a"), row("get", "a", "namespaces", "a", ""));
        assert_eq!(
            of("PUT", "/api/v1/namespaces/a/finalize"),
            row("update", "a", "namespaces", "a", "finalize")
        );
        assert_eq!(of("GET", "/api/v1/namespaces"), row("list", "", "namespaces", "", ""));
    }

    #[test]
    fn old_watch_paths_are_watches() {
        assert_eq!(of("GET", "/api/v1/watch/namespaces/a/pods/p"), row("watch", "a", "pods", "p", ""));
    }

    #[test]
    fn escapes_and_selected_names_are_read() {
        let info = parse(&Method::GET, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "");
        assert_eq!(info.name, "system:node");
        let info = parse(&Method::GET, "/api/v1/pods", "fieldSelector=metadata.name%3Dx&watch=true");
        assert_eq!(info.selected_name(), "x");
    }

    #[test]
    fn other_paths_keep_the_method() {
        let info = parse(&Method::GET, "/healthz", "");
        assert!(!info.is_resource);
        assert_eq!(info.verb, "get");
    }
}
