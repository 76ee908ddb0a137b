//! Who may do what: an ordered table of authorizers (masters, node, RBAC); the first that allows
//! decides, and a request nobody allows is refused with Kubernetes' words.

pub(crate) mod node;
mod node_graph;
pub(crate) mod rbac;
pub(crate) mod review;

use std::sync::Arc;

use api_types::selectors::FieldSelector;
use api_types::status::{Details, Reason, Status};

use crate::UserInfo;
use crate::authn::{MASTERS, is_in};
use crate::request_info::RequestInfo;
use crate::view::View;

/// What a request wants to do, in RBAC's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) user: UserInfo,
    /// get, list, watch, create, update, patch, delete, deletecollection; the lower-case method for paths.
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for a request of a path that is not a resource.
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The path of a request that is not for a resource.
    pub(crate) path: String,
    /// What the field selector demands to be equal: path and value.
    pub(crate) fields: Vec<(String, String)>,
}

impl Attributes {
    /// What the request `info` by `user` wants.
    pub(crate) fn of(user: &UserInfo, info: &RequestInfo) -> Self {
        if !info.is_resource {
            let (verb, path) = (info.verb.clone(), info.path.clone());
            return Self { user: user.clone(), verb, path, ..Self::default() };
        }
        let selector = info.query.get("fieldSelector").and_then(|text| FieldSelector::parse(text).ok());
        let terms = selector.into_iter().flat_map(|selector| selector.terms).filter(|term| term.equal);
        Self {
            user: user.clone(),
            verb: info.verb.clone(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.selected_name().to_owned(),
            path: String::new(),
            fields: terms.map(|term| (term.path, term.value)).collect(),
        }
    }

    pub(crate) fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// `pods` or `pods/log`, as rules and messages say it.
    pub(crate) fn resource_path(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }
}

/// An authorizer's answer, with the reason that reviews report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allow(String),
    NoOpinion(String),
}

impl Decision {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::NoOpinion(reason) => reason,
        }
    }
}

/// One way to decide about a request. Called for every request: no I/O, no parsing of objects.
pub(crate) trait Authorizer: Send + Sync {
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// The authorizers of this server, in order.
pub(crate) struct Authorizers {
    rows: Vec<Box<dyn Authorizer>>,
    rbac: Arc<rbac::Rbac>,
}

impl Authorizers {
    /// Masters, node identities, RBAC over the live objects of `view`.
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        let rbac = Arc::new(rbac::Rbac::new(view.clone()));
        Self { rows: vec![Box::new(Masters), Box::new(node::Node::new(view)), Box::new(rbac.clone())], rbac }
    }

    /// The decision and its reason.
    pub(crate) fn decide(&self, attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for row in &self.rows {
            match row.authorize(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join(", "))
    }

    pub(crate) fn allows(&self, attributes: &Attributes) -> bool {
        matches!(self.decide(attributes), Decision::Allow(_))
    }

    /// Nothing, or the 403 that the client sees.
    pub(crate) fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        match self.decide(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        }
    }

    /// The RBAC rules that hold for a user, for rules reviews and escalation checks.
    pub(crate) fn rbac(&self) -> &rbac::Rbac {
        &self.rbac
    }
}

struct Masters;

impl Authorizer for Masters {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        match is_in(&attributes.user, MASTERS) {
            true => Decision::Allow(String::new()),
            false => Decision::NoOpinion(String::new()),
        }
    }
}

/// What exactly was refused, in the words of kube-apiserver.
pub(crate) fn refusal(attributes: &Attributes) -> String {
    let user = &attributes.user.name;
    if !attributes.is_resource() {
        return format!("User {user:?} cannot {} path {:?}", attributes.verb, attributes.path);
    }
    let place = match attributes.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    format!(
        "User {user:?} cannot {} resource {:?} in API group {:?} {place}",
        attributes.verb,
        attributes.resource_path(),
        attributes.group
    )
}

/// The 403 for refused attributes.
pub(crate) fn forbidden(attributes: &Attributes, reason: &str) -> Status {
    let mut why = refusal(attributes);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let (group, resource, name) = (&attributes.group, &attributes.resource, &attributes.name);
    let message = match (resource.as_str(), group.as_str(), name.as_str()) {
        ("", _, _) => format!("forbidden: {why}"),
        (_, "", "") => format!("{resource} is forbidden: {why}"),
        (_, "", _) => format!("{resource} {name:?} is forbidden: {why}"),
        (_, _, "") => format!("{resource}.{group} is forbidden: {why}"),
        (_, _, _) => format!("{resource}.{group} {name:?} is forbidden: {why}"),
    };
    let details =
        Details { name: name.clone(), group: group.clone(), kind: resource.clone(), ..Details::default() };
    Status::new(Reason::Forbidden, message).with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_pods() -> Attributes {
        Attributes {
            user: UserInfo::new("x", &[]),
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_refusal_says_who_cannot_do_what_where() {
        assert_eq!(
            refusal(&list_pods()),
            r#"User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        let nodes = Attributes { resource: "nodes".into(), namespace: String::new(), ..list_pods() };
        assert_eq!(
            refusal(&nodes),
            r#"User "x" cannot list resource "nodes" in API group "" at the cluster scope"#
        );
        let log = Attributes { subresource: "log".into(), verb: "get".into(), ..list_pods() };
        assert!(refusal(&log).contains(r#"cannot get resource "pods/log""#));
        let path = Attributes {
            resource: String::new(),
            path: "/metrics".into(),
            verb: "get".into(),
            ..list_pods()
        };
        assert_eq!(refusal(&path), r#"User "x" cannot get path "/metrics""#);
    }

    #[test]
    fn masters_may_do_everything() {
        let authorizers = Authorizers::new(Arc::new(crate::view::fixture::Fixture::default()));
        assert!(!authorizers.allows(&list_pods()));
        assert!(authorizers.allows(&Attributes { user: UserInfo::admin(), ..list_pods() }));
    }
}
