//! Who may do what: an ordered table of authorizers (masters, then node and RBAC, or what a file names); the
//! first that allows or denies decides, and a request nobody allows is refused with Kubernetes' words.

pub(crate) mod configuration;
pub(crate) mod node;
mod node_graph;
pub(crate) mod rbac;
pub(crate) mod review;
pub(crate) mod webhook;

use std::sync::Arc;

use api_types::selectors::{FieldSelector, LabelSelector};
use api_types::status::{Details, Reason, Status};
use arc_swap::ArcSwap;
use serde_json::{Value, json};

use crate::UserInfo;
use crate::authn::{MASTERS, is_in};
use crate::backend::Backends;
use crate::request_info::RequestInfo;
use crate::view::View;
use configuration::Entry;
use webhook::Webhook;

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
    /// The selectors, as authorizers outside are told of them.
    pub(crate) field_requirements: Vec<Requirement>,
    pub(crate) label_requirements: Vec<Requirement>,
}

/// A part of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub(crate) key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub(crate) operator: &'static str,
    pub(crate) values: Vec<String>,
}

impl Requirement {
    pub(crate) fn to_json(&self) -> Value {
        match self.values.is_empty() {
            true => json!({"key": self.key, "operator": self.operator}),
            false => json!({"key": self.key, "operator": self.operator, "values": self.values}),
        }
    }

    /// Those of a field selector's text.
    pub(crate) fn of_fields(selector: &FieldSelector) -> Vec<Self> {
        let terms = selector.terms.iter().map(|term| Self {
            key: term.path.clone(),
            operator: if term.equal { "In" } else { "NotIn" },
            values: vec![term.value.clone()],
        });
        terms.collect()
    }

    /// Those of a label selector's text.
    pub(crate) fn of_labels(selector: &LabelSelector) -> Vec<Self> {
        let all = selector.requirements();
        all.map(|(key, operator, values)| Self { key: key.to_owned(), operator, values }).collect()
    }
}

impl Attributes {
    /// What the request `info` by `user` wants.
    pub(crate) fn of(user: &UserInfo, info: &RequestInfo) -> Self {
        if !info.is_resource {
            let (verb, path) = (info.verb.clone(), info.path.clone());
            return Self { user: user.clone(), verb, path, ..Self::default() };
        }
        let selects = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
        let given = |name: &str| info.query.get(name).filter(|text| !text.is_empty());
        let fields = given("fieldSelector").and_then(|text| FieldSelector::parse(text).ok());
        let labels =
            given("labelSelector").filter(|_| selects).and_then(|text| LabelSelector::parse(text).ok());
        let field_requirements = fields.as_ref().filter(|_| selects).map(Requirement::of_fields);
        let terms = fields.into_iter().flat_map(|selector| selector.terms).filter(|term| term.equal);
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
            field_requirements: field_requirements.unwrap_or_default(),
            label_requirements: labels.as_ref().map(Requirement::of_labels).unwrap_or_default(),
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
    /// Refused, whatever authorizers further down say.
    Deny(String),
    NoOpinion(String),
}

impl Decision {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::Deny(reason) | Self::NoOpinion(reason) => reason,
        }
    }
}

/// One way to decide about a request. Called for every request: no I/O, no parsing of objects.
pub(crate) trait Authorizer: Send + Sync {
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// A place in the order.
enum Row {
    Local(Arc<dyn Authorizer>),
    /// Asked over the network.
    Outside(Box<Webhook>),
}

/// The authorizers of this server, in order.
pub(crate) struct Authorizers {
    rows: ArcSwap<Vec<Row>>,
    node: Arc<node::Node>,
    rbac: Arc<rbac::Rbac>,
}

impl Authorizers {
    /// Masters, node identities, RBAC over the live objects of `view`.
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        let rbac = Arc::new(rbac::Rbac::new(view.clone()));
        let node = Arc::new(node::Node::new(view));
        let usual: Vec<Row> =
            vec![Row::Local(Arc::new(Masters)), Row::Local(node.clone()), Row::Local(rbac.clone())];
        Self { rows: ArcSwap::from_pointee(usual), node, rbac }
    }

    /// From now on these decide, after masters.
    pub(crate) fn replace(&self, entries: Vec<Entry>, backends: &Arc<Backends>) {
        let row = |entry: Entry| match entry {
            Entry::AlwaysAllow => Row::Local(Arc::new(Always(Decision::Allow(String::new())))),
            Entry::AlwaysDeny => {
                let why = "Everything is forbidden.".to_owned();
                Row::Local(Arc::new(Always(Decision::NoOpinion(why))))
            }
            Entry::Node => Row::Local(self.node.clone()),
            Entry::Rbac => Row::Local(self.rbac.clone()),
            Entry::Webhook(config) => Row::Outside(Box::new(Webhook::new(*config, backends.clone()))),
        };
        let rows = std::iter::once(Row::Local(Arc::new(Masters))).chain(entries.into_iter().map(row));
        self.rows.store(Arc::new(rows.collect()));
    }

    /// The decision and its reason.
    pub(crate) async fn ask(&self, attributes: &Attributes) -> Decision {
        let rows = self.rows.load_full();
        let mut reasons = Vec::new();
        for row in rows.iter() {
            let decision = match row {
                Row::Local(row) => row.authorize(attributes),
                Row::Outside(webhook) => webhook.ask(attributes).await,
            };
            match decision {
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        nobody(reasons)
    }

    /// As `ask`, where nobody can wait: an authorizer outside counts with what it said lately, and refuses what
    /// it was not asked about.
    pub(crate) fn decide(&self, attributes: &Attributes) -> Decision {
        let rows = self.rows.load();
        let mut reasons = Vec::new();
        for row in rows.iter() {
            let decision = match row {
                Row::Local(row) => row.authorize(attributes),
                Row::Outside(webhook) => webhook.known(attributes),
            };
            match decision {
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        nobody(reasons)
    }

    pub(crate) fn allows(&self, attributes: &Attributes) -> bool {
        matches!(self.decide(attributes), Decision::Allow(_))
    }

    /// Nothing, or the 403 that the client sees.
    pub(crate) async fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        match self.ask(attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        }
    }

    /// The RBAC rules that hold for a user, for rules reviews and escalation checks.
    pub(crate) fn rbac(&self) -> &rbac::Rbac {
        &self.rbac
    }
}

fn nobody(reasons: Vec<String>) -> Decision {
    let said: Vec<String> = reasons.into_iter().filter(|reason| !reason.is_empty()).collect();
    Decision::NoOpinion(said.join(", "))
}

/// Says the same of everything.
struct Always(Decision);

impl Authorizer for Always {
    fn authorize(&self, _attributes: &Attributes) -> Decision {
        self.0.clone()
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
