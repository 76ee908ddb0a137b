//! What a definition's status should say, from the definition and what became of its names.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::names::{Acceptance, is_condition};
use crate::rest::timestamp;

/// The status as it should be.
pub(super) fn plan(definition: &Value, accepted: &Acceptance, now: DateTime<Utc>) -> Value {
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    status["acceptedNames"] = accepted.names.clone();
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(condition) = approval(definition) {
        set(&mut status, condition, now);
    }
    set(&mut status, names_accepted(accepted), now);
    set(&mut status, established(definition, accepted), now);
    if definition["metadata"]["deletionTimestamp"].is_string() && !is_condition(definition, "Terminating") {
        let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        set(&mut status, condition("Terminating", true, "InstanceDeletionPending", why), now);
    }
    status
}

/// What the condition `Terminating` says while objects are being deleted, or if that did not work.
pub(super) fn terminating(status: &mut Value, failure: Option<&str>, left: usize, now: DateTime<Utc>) {
    let new = match (failure, left) {
        (Some(why), _) => condition(
            "Terminating",
            true,
            "InstanceDeletionFailed",
            &format!("could not list instances: {why}"),
        ),
        (None, 0) => condition("Terminating", false, "InstanceDeletionCompleted", "removed all instances"),
        (None, _) => condition(
            "Terminating",
            true,
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        ),
    };
    set(status, new, now);
}

fn condition(ty: &str, holds: bool, reason: &str, message: &str) -> Value {
    let status = if holds { "True" } else { "False" };
    json!({ "type": ty, "status": status, "reason": reason, "message": message })
}

fn names_accepted(accepted: &Acceptance) -> Value {
    match &accepted.conflict {
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some(conflict) => condition("NamesAccepted", false, conflict.reason, &conflict.message),
    }
}

fn established(definition: &Value, accepted: &Acceptance) -> Value {
    match (is_condition(definition, "Established"), accepted.established) {
        (_, true) => {
            condition("Established", true, "InitialNamesAccepted", "the initial names have been accepted")
        }
        _ => condition("Established", false, "NotAccepted", "not all names are accepted"),
    }
}

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Groups of Kubernetes' own need somebody's approval.
fn approval(definition: &Value) -> Option<Value> {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    if !super::checks::is_protected(group) {
        return None;
    }
    let text = definition["metadata"]["annotations"][APPROVAL].as_str().unwrap_or_default();
    let ty = "KubernetesAPIApprovalPolicyConformant";
    Some(match text {
        "" => condition(
            ty,
            false,
            "MissingAnnotation",
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ),
        bypass if bypass.starts_with("unapproved") => {
            condition(ty, false, "UnapprovedAnnotation", &format!("not approved: {bypass:?}"))
        }
        approved => condition(ty, true, "ApprovedAnnotation", &format!("approved in {approved}")),
    })
}

/// Puts a condition in the place of the one of its type; its time moves when its status does.
fn set(status: &mut Value, mut condition: Value, now: DateTime<Utc>) {
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    let old = conditions.iter_mut().find(|c| c["type"] == condition["type"]);
    let since = match &old {
        Some(old) if old["status"] == condition["status"] => old["lastTransitionTime"].clone(),
        _ => json!(timestamp(now)),
    };
    // As in Kubernetes, the time stands first.
    let mut ordered = json!({ "lastTransitionTime": since });
    for field in ["message", "reason", "status", "type"] {
        ordered[field] = condition[field].take();
    }
    match old {
        Some(old) => *old = ordered,
        None => conditions.push(ordered),
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::accept;
    use super::*;

    #[test]
    fn a_definition_without_conflicts_is_established_once() {
        let mut definition = json!({"metadata": {"name": "lamps.x.io"}, "spec": {"group": "x.io", "names": {"plural": "lamps", "kind": "Lamp"}}});
        let now = DateTime::UNIX_EPOCH;
        let status = plan(&definition, &accept([&definition].into_iter())[0], now);
        let types: Vec<_> = status["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
        assert_eq!(types, ["NamesAccepted", "Established"]);
        definition["status"] = status.clone();
        let later = now + chrono::TimeDelta::hours(1);
        assert_eq!(plan(&definition, &accept([&definition].into_iter())[0], later), status);
    }
}
