//! Questions to the authorizer, built up call by call: `authorizer.group('apps').resource('x').check('get')`.

use std::sync::Arc;

use super::super::authorizer::Query;
use super::super::error::EvalError;
use super::super::value::{Opaque, Value};
use super::{Arguments, Cost, ONE, Outcome, Row, bool, member, text};

/// A check is dear: it may go to another server.
const CHECK: Cost = Cost::Fixed(350_000);

const PATH: &str = "kubernetes.authorization.PathCheck";
const GROUP: &str = "kubernetes.authorization.GroupCheck";
const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";

pub(super) static ROWS: &[Row] = &[
    member("path", "Authorizer, string", "PathCheck", ONE, |a| with(&a, PATH, |q, t| q.path = Some(t))),
    member("group", "Authorizer, string", "GroupCheck", ONE, |a| with(&a, GROUP, |q, t| q.group = t)),
    member("serviceAccount", "Authorizer, string, string", "Authorizer", ONE, service_account),
    member("resource", "GroupCheck, string", "ResourceCheck", ONE, |a| {
        with(&a, RESOURCE, |q, t| q.resource = t)
    }),
    member("subresource", "ResourceCheck, string", "ResourceCheck", ONE, |a| {
        with(&a, RESOURCE, |q, t| q.subresource = t)
    }),
    member("namespace", "ResourceCheck, string", "ResourceCheck", ONE, |a| {
        with(&a, RESOURCE, |q, t| q.namespace = t)
    }),
    member("name", "ResourceCheck, string", "ResourceCheck", ONE, |a| with(&a, RESOURCE, |q, t| q.name = t)),
    member("fieldSelector", "ResourceCheck, string", "ResourceCheck", ONE, |a| {
        with(&a, RESOURCE, |q, t| q.field_selector = t)
    }),
    member("labelSelector", "ResourceCheck, string", "ResourceCheck", ONE, |a| {
        with(&a, RESOURCE, |q, t| q.label_selector = t)
    }),
    member("check", "PathCheck, string", "Decision", CHECK, check),
    member("check", "ResourceCheck, string", "Decision", CHECK, check),
    member("allowed", "Decision", "bool", ONE, |a| match a.opaque(0)? {
        Opaque::Decision(decision) => bool(decision.allowed),
        _ => Err(EvalError::no_overload()),
    }),
    member("errored", "Decision", "bool", ONE, |a| match a.opaque(0)? {
        Opaque::Decision(decision) => bool(decision.error.is_some()),
        _ => Err(EvalError::no_overload()),
    }),
    member("reason", "Decision", "string", ONE, |a| match a.opaque(0)? {
        Opaque::Decision(decision) => text(decision.reason.as_str()),
        _ => Err(EvalError::no_overload()),
    }),
    member("error", "Decision", "string", ONE, |a| match a.opaque(0)? {
        Opaque::Decision(decision) => text(decision.error.as_deref().unwrap_or_default()),
        _ => Err(EvalError::no_overload()),
    }),
];

/// The question with one more part, as a value of the type that the part makes of it.
fn with<'a>(a: &Vec<Value<'a>>, name: &'static str, set: impl Fn(&mut Query, String)) -> Outcome<'a> {
    let (authorizer, mut query) = match a.opaque(0)? {
        Opaque::Authorizer(authorizer) => (*authorizer, Query::default()),
        Opaque::Query(authorizer, _, query) => (*authorizer, (**query).clone()),
        _ => return Err(EvalError::no_overload()),
    };
    set(&mut query, a.text(1)?.to_owned());
    Ok(Value::Opaque(Opaque::Query(authorizer, name, Arc::new(query))))
}

fn service_account(a: Vec<Value<'_>>) -> Outcome<'_> {
    let name = a.text(2)?.to_owned();
    with(&a, AUTHORIZER, |query, namespace| query.service_account = Some((namespace, name.clone())))
}

fn check(a: Vec<Value<'_>>) -> Outcome<'_> {
    let Opaque::Query(authorizer, _, query) = a.opaque(0)? else { return Err(EvalError::no_overload()) };
    let query = Query { verb: a.text(1)?.to_owned(), ..(**query).clone() };
    Ok(Value::Opaque(Opaque::Decision(Arc::new(authorizer.check(&query)))))
}
