//! RBACEscalation: nobody gives, to himself or others, rights that he does not have.
//!
//! In Kubernetes this check sits in the storage of the RBAC kinds. The verbs `escalate` on roles and `bind` on
//! the role of a binding lift it.

use api_types::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};
use crate::authn::{MASTERS, is_in};
use crate::authz::Attributes;
use crate::authz::rbac::Rule;

pub(crate) struct RbacEscalation;

const GROUP: &str = "rbac.authorization.k8s.io";

impl Plugin for RbacEscalation {
    const NAME: &'static str = "RBACEscalation";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let writes = matches!(review.operation, Operation::Create | Operation::Update);
        if review.kind.group != GROUP || !writes || is_in(review.user, MASTERS) {
            return Ok(());
        }
        let Some(new) = review.new.as_deref() else { return Ok(()) };
        match review.kind.plural.as_str() {
            "roles" | "clusterroles" => check_role(review, new),
            _ => check_binding(review, new),
        }
    }
}

fn may(review: &Review<'_>, verb: &str, resource: &str, name: &str) -> bool {
    review.authorizers.allows(&Attributes {
        user: review.user.clone(),
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        namespace: review.namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    })
}

fn check_role(review: &Review<'_>, new: &Value) -> Result<(), Status> {
    let unchanged = review
        .old
        .is_some_and(|old| old["rules"] == new["rules"] && old["aggregationRule"] == new["aggregationRule"]);
    if unchanged || may(review, "escalate", &review.kind.plural, review.name) {
        return Ok(());
    }
    let aggregates = |role: &Value| !role["aggregationRule"]["clusterRoleSelectors"].is_null();
    if aggregates(new) || review.old.is_some_and(aggregates) {
        let rbac = review.authorizers.rbac();
        if !rbac.missing(review.user, "", &everything()).is_empty() {
            return Err(review.forbidden("must have cluster-admin privileges to use the aggregationRule"));
        }
    }
    let rules: Vec<Rule> = new["rules"].as_array().into_iter().flatten().map(Rule::parse).collect();
    refuse_missing(review, &rules)
}

/// What an aggregating role may come to allow.
fn everything() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [
        Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
        Rule { verbs: star(), urls: star(), ..Rule::default() },
    ]
}

fn check_binding(review: &Review<'_>, new: &Value) -> Result<(), Status> {
    let reference = &new["roleRef"];
    let unchanged =
        review.old.is_some_and(|old| old["subjects"] == new["subjects"] && old["roleRef"] == *reference);
    let resource = if reference["kind"] == "Role" { "roles" } else { "clusterroles" };
    let role = reference["name"].as_str().unwrap_or_default();
    if unchanged || may(review, "bind", resource, role) {
        return Ok(());
    }
    match review.authorizers.rbac().rules_of(reference, review.namespace) {
        Some(rules) => refuse_missing(review, &rules),
        None => Err(Status::not_found(review.kind, role)),
    }
}

fn refuse_missing(review: &Review<'_>, rules: &[Rule]) -> Result<(), Status> {
    let missing = review.authorizers.rbac().missing(review.user, review.namespace, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(Rule::describe).collect();
    let (name, groups) = (&review.user.name, &review.user.groups);
    Err(review.forbidden(&format!(
        "user {name:?} (groups={groups:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        lines.join("\n")
    )))
}
