//! Which webhooks a request concerns: rules, then the labels of its namespace and object.

use std::sync::Arc;

use api_types::kinds::{self, Kind};
use api_types::status::Status;
use serde_json::Value;

use super::hook::{Hook, Rule};
use crate::admission::{Operation, Review};

/// A broken webhook must not be able to keep anybody from removing it.
const EXEMPT: &[&str] = &[
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Whether the request is about what configures admission itself.
pub(crate) fn is_exempt(kind: &Kind) -> bool {
    kind.group == "admissionregistration.k8s.io" && EXEMPT.contains(&kind.plural.as_str())
}

/// The row in whose version the webhook wants to see the request; nothing when it is not its business.
pub(crate) fn find_row(hook: &Hook, review: &Review<'_>) -> Result<Option<Arc<Kind>>, Status> {
    let row = match named_row(hook, review) {
        Some(row) if selects_object(hook, review) => row,
        _ => return Ok(None),
    };
    Ok(selects_namespace(hook, review)?.then_some(row))
}

fn named_row(hook: &Hook, review: &Review<'_>) -> Option<Arc<Kind>> {
    let names = |kind: &Kind| hook.rules.iter().any(|rule| rule.matches(kind, review));
    let own = || {
        let found = review.registry.find(&review.kind.group, &review.kind.version, &review.kind.plural);
        found.unwrap_or_else(|| Arc::new(review.kind.clone()))
    };
    if names(review.kind) {
        return Some(own());
    }
    if !hook.equivalent || review.kind.storage.is_empty() {
        return None;
    }
    let table = review.registry.table();
    let mut equivalent = table.rows().iter().filter(|row| row.storage == review.kind.storage);
    equivalent.find(|row| names(row)).cloned()
}

impl Rule {
    fn matches(&self, kind: &Kind, review: &Review<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let mut resources = self.resources.iter();
        let scope = match self.scope.as_str() {
            "Namespaced" => kind.is_namespaced(),
            "Cluster" => !kind.is_namespaced(),
            _ => true,
        };
        scope
            && has(&self.operations, review.operation.as_str())
            && has(&self.groups, &kind.group)
            && has(&self.versions, &kind.version)
            && resources.any(|(resource, sub)| {
                (resource == "*" || *resource == kind.plural) && (sub == "*" || sub == review.subresource)
            })
    }
}

/// Either state of the object will do: a label that is being taken away must not take a webhook away.
fn selects_object(hook: &Hook, review: &Review<'_>) -> bool {
    let selects = |object: Option<&Value>| object.is_some_and(|object| hook.objects.matches_object(object));
    hook.objects.is_everything() || selects(review.new.as_deref()) || selects(review.old)
}

fn selects_namespace(hook: &Hook, review: &Review<'_>) -> Result<bool, Status> {
    if hook.namespaces.is_everything() {
        return Ok(true);
    }
    let writes = matches!(review.operation, Operation::Create | Operation::Update);
    if writes && review.is_of("namespaces") {
        return Ok(review.new.as_deref().is_some_and(|new| hook.namespaces.matches_object(new)));
    }
    let name = namespace_of(review);
    if name.is_empty() {
        return Ok(true);
    }
    match review.view.object("namespaces", "", name) {
        Some(namespace) => Ok(hook.namespaces.matches_object(&namespace)),
        None => Err(match kinds::find_resource("", "v1", "namespaces") {
            Some(row) => Status::not_found(row, name),
            None => Status::unknown_resource(),
        }),
    }
}

/// The namespace that a request is about: that of the object, or the one that the object is.
pub(crate) fn namespace_of<'a>(review: &Review<'a>) -> &'a str {
    if review.kind.storage == "namespaces" { review.name } else { review.namespace }
}
