//! `Impersonate-*` headers: acting as someone else, for those whom the authorizer lets.

use std::collections::BTreeMap;

use api_types::status::Status;
use http::HeaderMap;

use super::{AUTHENTICATED, UNAUTHENTICATED, UserInfo, is_in};
use crate::authz::{Attributes, Authorizers};

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "impersonate-extra-";

/// The user that the request shall run as: the one of the headers if there are any and the real user may
/// impersonate every part of it, else the real user.
pub(crate) fn apply(
    user: UserInfo,
    headers: &HeaderMap,
    authorizers: &Authorizers,
) -> Result<UserInfo, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(user);
    }
    let wanted = wanted(headers)?;
    for (group, resource, subresource, namespace, name) in parts(&wanted) {
        authorizers.check(&Attributes {
            user: user.clone(),
            verb: "impersonate".to_owned(),
            group,
            version: "v1".to_owned(),
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        })?;
    }
    Ok(complete(wanted))
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

/// What must be allowed, each on its own: (group, resource, subresource, namespace, name).
fn parts(wanted: &UserInfo) -> Vec<Part> {
    let part = |group: &str, resource: &str, sub: &str, namespace: &str, name: &str| {
        (group.to_owned(), resource.to_owned(), sub.to_owned(), namespace.to_owned(), name.to_owned())
    };
    let mut parts = vec![match account_of(&wanted.name) {
        Some((namespace, name)) => part("", "serviceaccounts", "", namespace, name),
        None => part("", "users", "", "", &wanted.name),
    }];
    parts.extend(wanted.groups.iter().map(|group| part("", "groups", "", "", group)));
    let authentication = "authentication.k8s.io";
    for (key, values) in &wanted.extra {
        parts.extend(values.iter().map(|value| part(authentication, "userextras", key, "", value)));
    }
    if !wanted.uid.is_empty() {
        parts.push(part(authentication, "uids", "", "", &wanted.uid));
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
    let everyone = if user.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !is_in(&user, UNAUTHENTICATED) && !is_in(&user, everyone) {
        user.groups.push(everyone.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::view::fixture::Fixture;

    fn authorizers() -> Authorizers {
        Authorizers::new(Arc::new(Fixture::default()))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn masters_become_whom_they_like() {
        let asked = headers(&[("impersonate-user", "jane"), ("impersonate-group", "dev")]);
        let user = apply(UserInfo::admin(), &asked, &authorizers()).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups),
            ("jane", vec!["dev".to_owned(), AUTHENTICATED.to_owned()])
        );
    }

    #[test]
    fn others_are_refused_with_what_they_may_not() {
        let asked = headers(&[("impersonate-user", "jane")]);
        let error = apply(super::super::authenticated("bob", &[]), &asked, &authorizers()).unwrap_err();
        assert_eq!(
            error.message,
            r#"users "jane" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
    }

    #[test]
    fn an_impersonated_service_account_has_its_groups() {
        let asked = headers(&[("impersonate-user", "system:serviceaccount:ns:robot")]);
        let user = apply(UserInfo::admin(), &asked, &authorizers()).unwrap();
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", AUTHENTICATED]);
    }
}
