//! `Impersonate-*` headers: acting as someone else, for those whom the authorizer lets.
//!
//! Two ways lead there. The constrained ones ask for two rights: to do this very request on behalf of somebody
//! (`impersonate-on:user-info:list` of what is listed) and to be that somebody (`impersonate:user-info`). The
//! old one asks for the verb `impersonate` on each part of the identity. The constrained ones are tried first,
//! and the first refusal is the one that the client sees.

use std::collections::BTreeMap;

use api_types::status::Status;
use http::HeaderMap;

use super::{AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo, is_in};
use crate::authz::{Attributes, Authorizers};

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom a request shall run as, and by which constrained mode, if by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Impersonated {
    pub(crate) user: UserInfo,
    /// `impersonate:user-info`, for the audit log; empty for the unconstrained way.
    pub(crate) constraint: &'static str,
}

/// Whether a request asks to run as somebody else.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

/// The user of the headers, if the asking user of `request` may be it.
pub(crate) async fn apply(
    request: &Attributes,
    headers: &HeaderMap,
    authorizers: &Authorizers,
) -> Result<Impersonated, Status> {
    let wanted = wanted(headers)?;
    let mut refusal = None;
    for mode in MODES.iter().filter(|mode| (mode.fits)(&wanted, &request.user)) {
        match check_constrained(mode, &wanted, request, authorizers).await {
            Ok(()) => return Ok(Impersonated { user: complete(wanted), constraint: mode.verb }),
            Err(status) => refusal = refusal.or(Some(status)),
        }
    }
    let allowed = check_parts("impersonate", parts(&wanted, ""), request, authorizers).await;
    match (allowed, refusal) {
        (Ok(()), _) => Ok(Impersonated { user: complete(wanted), constraint: "" }),
        (Err(_), Some(first)) => Err(first),
        (Err(status), None) => Err(status),
    }
}

/// A constrained way of impersonation.
struct Mode {
    verb: &'static str,
    fits: fn(&UserInfo, &UserInfo) -> bool,
}

/// In the order in which they are tried.
static MODES: &[Mode] = &[
    Mode {
        verb: "impersonate:associated-node",
        fits: |wanted, asking| {
            node_of(wanted).is_some_and(|node| is_name_only(wanted) && runs_on(asking, node))
        },
    },
    Mode {
        verb: "impersonate:arbitrary-node",
        fits: |wanted, _| is_name_only(wanted) && node_of(wanted).is_some(),
    },
    Mode {
        verb: "impersonate:serviceaccount",
        fits: |wanted, _| is_name_only(wanted) && account_of(&wanted.name).is_some(),
    },
    Mode {
        verb: "impersonate:user-info",
        fits: |wanted, _| {
            node_of(wanted).is_none() && account_of(&wanted.name).is_none() && !is_in(wanted, MASTERS)
        },
    },
];

fn is_name_only(wanted: &UserInfo) -> bool {
    wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty()
}

fn node_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|name| !name.is_empty())
}

/// Whether the user is a service account whose token is bound to the node.
fn runs_on(user: &UserInfo, node: &str) -> bool {
    let on = user.extra.get("authentication.kubernetes.io/node-name").and_then(|v| v.first());
    account_of(&user.name).is_some() && on.is_some_and(|name| name == node)
}

async fn check_constrained(
    mode: &Mode,
    wanted: &UserInfo,
    request: &Attributes,
    authorizers: &Authorizers,
) -> Result<(), Status> {
    let sort = mode.verb.trim_start_matches("impersonate:");
    let verb = format!("impersonate-on:{sort}:{}", request.verb);
    authorizers.check(&Attributes { verb, ..request.clone() }).await?;
    let mut parts = parts(wanted, AUTHENTICATION);
    if mode.verb == "impersonate:associated-node" {
        // Which node it is follows from the token, so the right is to whatever node that is.
        parts.iter_mut().for_each(|part| "*".clone_into(&mut part.4));
    }
    check_parts(mode.verb, parts, request, authorizers).await
}

async fn check_parts(
    verb: &str,
    parts: Vec<Part>,
    request: &Attributes,
    authorizers: &Authorizers,
) -> Result<(), Status> {
    for (group, resource, subresource, namespace, name) in parts {
        let part = Attributes {
            user: request.user.clone(),
            verb: verb.to_owned(),
            group,
            version: "v1".to_owned(),
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        authorizers.check(&part).await?;
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty())
}

fn wanted(headers: &HeaderMap) -> Result<UserInfo, Status> {
    let name = text(headers, "impersonate-user").ok_or_else(|| {
        Status::internal("requested impersonation of groups, uid or extra without impersonating a user")
    })?;
    let groups = headers.get_all("impersonate-group").iter();
    let groups = groups.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        let Some(key) = header.as_str().strip_prefix(EXTRA) else { continue };
        let key = crate::request_info::decode_percent(key, false);
        extra.entry(key).or_default().extend(value.to_str().ok().map(str::to_owned));
    }
    let uid = text(headers, "impersonate-uid").unwrap_or_default().to_owned();
    Ok(UserInfo { name: name.to_owned(), uid, groups, extra })
}

type Part = (String, String, String, String, String);

/// What must be allowed, each on its own: (group, resource, subresource, namespace, name). Users, groups and
/// accounts are of `group`.
fn parts(wanted: &UserInfo, group: &str) -> Vec<Part> {
    let part = |group: &str, resource: &str, sub: &str, namespace: &str, name: &str| {
        (group.to_owned(), resource.to_owned(), sub.to_owned(), namespace.to_owned(), name.to_owned())
    };
    let constrained = !group.is_empty();
    let mut parts = vec![match (account_of(&wanted.name), node_of(wanted)) {
        (Some((namespace, name)), _) => part(group, "serviceaccounts", "", namespace, name),
        (None, Some(node)) if constrained => part(group, "nodes", "", "", node),
        _ => part(group, "users", "", "", &wanted.name),
    }];
    parts.extend(wanted.groups.iter().map(|name| part(group, "groups", "", "", name)));
    for (key, values) in &wanted.extra {
        parts.extend(values.iter().map(|value| part(AUTHENTICATION, "userextras", key, "", value)));
    }
    if !wanted.uid.is_empty() {
        parts.push(part(AUTHENTICATION, "uids", "", "", &wanted.uid));
    }
    parts
}

/// Namespace and name, if the user is a service account.
pub(crate) fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Adds the groups that the user would have had by authenticating.
fn complete(mut user: UserInfo) -> UserInfo {
    let account = account_of(&user.name).map(|(namespace, _)| namespace.to_owned());
    if let (Some(namespace), true) = (account, user.groups.is_empty()) {
        user.groups.push("system:serviceaccounts".to_owned());
        user.groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    if node_of(&user).is_some() && user.groups.is_empty() {
        user.groups.push("system:nodes".to_owned());
    }
    let everyone = if user.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !is_in(&user, UNAUTHENTICATED) && !is_in(&user, everyone) {
        user.groups.push(everyone.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::executor::block_on;

    use super::*;
    use crate::view::fixture::Fixture;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn list_pods(user: UserInfo) -> Attributes {
        Attributes {
            user,
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "ns".into(),
            ..Attributes::default()
        }
    }

    fn become_by(user: UserInfo, asked: &HeaderMap, view: Fixture) -> Result<Impersonated, Status> {
        block_on(apply(&list_pods(user), asked, &Authorizers::new(Arc::new(view))))
    }

    #[test]
    fn masters_become_whom_they_like() {
        let asked = headers(&[("impersonate-user", "jane"), ("impersonate-group", "dev")]);
        let user = become_by(UserInfo::admin(), &asked, Fixture::default()).unwrap().user;
        assert_eq!(
            (user.name.as_str(), user.groups),
            ("jane", vec!["dev".to_owned(), AUTHENTICATED.to_owned()])
        );
    }

    #[test]
    fn others_are_refused_with_what_they_may_not() {
        let asked = headers(&[("impersonate-user", "jane")]);
        let bob = || super::super::authenticated("bob", &[]);
        let error = become_by(bob(), &asked, Fixture::default()).unwrap_err();
        assert_eq!(
            error.message,
            r#"pods is forbidden: User "bob" cannot impersonate-on:user-info:list resource "pods" in API group "" in the namespace "ns""#
        );
        let asked =
            headers(&[("impersonate-user", "system:serviceaccount:ns:a"), ("impersonate-group", "x")]);
        let error = become_by(bob(), &asked, Fixture::default()).unwrap_err();
        assert_eq!(
            error.message,
            r#"serviceaccounts "a" is forbidden: User "bob" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "ns""#
        );
    }

    #[test]
    fn a_constrained_right_is_for_one_sort_of_request() {
        let role = serde_json::json!({"metadata": {"name": "r"}, "rules": [
            {"verbs": ["impersonate-on:user-info:list"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["impersonate:user-info"], "apiGroups": [AUTHENTICATION], "resources": ["users"]}]});
        let binding = serde_json::json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "bob"}]});
        let world = Fixture::default()
            .with("rbac.authorization.k8s.io/clusterroles", role)
            .with("rbac.authorization.k8s.io/clusterrolebindings", binding);
        let authorizers = Authorizers::new(Arc::new(world));
        let asked = headers(&[("impersonate-user", "jane")]);
        let bob = super::super::authenticated("bob", &[]);
        let found = block_on(apply(&list_pods(bob.clone()), &asked, &authorizers)).unwrap();
        assert_eq!((found.user.name.as_str(), found.constraint), ("jane", "impersonate:user-info"));
        let deletion = Attributes { verb: "delete".into(), ..list_pods(bob) };
        assert!(block_on(apply(&deletion, &asked, &authorizers)).is_err());
    }

    #[test]
    fn an_impersonated_service_account_has_its_groups() {
        let asked = headers(&[("impersonate-user", "system:serviceaccount:ns:robot")]);
        let user = become_by(UserInfo::admin(), &asked, Fixture::default()).unwrap().user;
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]);
    }
}
