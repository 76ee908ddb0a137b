//! What expressions read of a request: its facts, the objects, their namespace, and who may do what.

use std::borrow::Cow;
use std::fmt;

use api_types::cel::{self, Activation, Query, Value as Cel};
use api_types::kinds::Kind;
use serde_json::{Map, Value, json};

use crate::UserInfo;
use crate::admission::Review;
use crate::authz::{Attributes, Authorizers, Decision};
use crate::matching::namespace_of;
use crate::webhook::{request_of, to_row};

/// A request as one policy sees it: in the version that its rules name.
pub(crate) struct Subject<'r> {
    request: Value,
    object: Option<Cow<'r, Value>>,
    old: Option<Cow<'r, Value>>,
    namespace: Value,
    asker: Asker<'r>,
    asked: Query,
}

impl<'r> Subject<'r> {
    pub(crate) fn new(review: &'r Review<'_>, row: &Kind) -> Self {
        let old = review.old.map(|object| to_row(review, row, object));
        let object = review.new.as_deref().map(|object| to_row(review, row, object));
        Self {
            request: Value::Object(request_of(review, row)),
            object,
            old,
            namespace: namespace(review),
            asker: Asker { user: review.user, authorizers: review.authorizers },
            asked: Query {
                group: row.group.clone(),
                resource: row.plural.clone(),
                subresource: review.subresource.to_owned(),
                namespace: review.namespace.to_owned(),
                name: review.name.to_owned(),
                ..Query::default()
            },
        }
    }
}

/// What the expressions of a policy or a webhook see of the subject.
pub(crate) fn activation<'a>(subject: &'a Subject<'_>, params: Option<&'a Value>) -> Activation<'a> {
    let shown = |object: &'a Option<Cow<'_, Value>>| object.as_deref().map_or(Cel::Null, Cel::json);
    Activation::new()
        .with("request", Cel::json(&subject.request))
        .with("object", shown(&subject.object))
        .with("oldObject", shown(&subject.old))
        .with("namespaceObject", Cel::json(&subject.namespace))
        .with("params", params.map_or(Cel::Null, Cel::json))
        .with("authorizer", Cel::authorizer(&subject.asker))
        .with("authorizer.requestResource", Cel::resource_check(&subject.asker, subject.asked.clone()))
}

/// What of a namespace expressions may read.
const METADATA: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "resourceVersion",
    "finalizers",
];

/// The namespace of the request; null for what is in none.
fn namespace(review: &Review<'_>) -> Value {
    let name = namespace_of(review);
    let found = match name {
        "" => None,
        name => review.view.object("namespaces", "", name),
    };
    let Some(found) = found else { return Value::Null };
    let metadata: Map<String, Value> = METADATA
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), found["metadata"].get(*field)?.clone())))
        .collect();
    json!({ "metadata": metadata, "spec": found["spec"], "status": found["status"] })
}

/// Answers `authorizer` for the user of the request.
struct Asker<'r> {
    user: &'r UserInfo,
    authorizers: &'r Authorizers,
}

impl fmt::Debug for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("user", &self.user.name).finish_non_exhaustive()
    }
}

impl cel::Authorizer for Asker<'_> {
    fn check(&self, query: &Query) -> cel::Decision {
        let user = match &query.service_account {
            Some((namespace, name)) => service_account(namespace, name),
            None => self.user.clone(),
        };
        let attributes = Attributes {
            user,
            verb: query.verb.clone(),
            group: query.group.clone(),
            version: "*".to_owned(),
            resource: query.resource.clone(),
            subresource: query.subresource.clone(),
            namespace: query.namespace.clone(),
            name: query.name.clone(),
            path: query.path.clone().unwrap_or_default(),
            ..Attributes::default()
        };
        match self.authorizers.decide(&attributes) {
            Decision::Allow(reason) => cel::Decision { allowed: true, reason, error: None },
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                cel::Decision { allowed: false, reason, error: None }
            }
        }
    }
}

fn service_account(namespace: &str, name: &str) -> UserInfo {
    UserInfo {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        ..UserInfo::default()
    }
}
