//! ResourceClaimStatusAuthorization: who may write the status of a claim may not write all of it.
//!
//! In Kubernetes this check sits in the storage of claims. What is allocated and for whom is the scheduler's to say,
//! which takes leave on `resourceclaims/binding`; what is told of a device is its driver's, which takes leave on
//! `resourceclaims/driver` of its name: on any node, or on the node of the claim for who runs there.

use std::collections::BTreeSet;

use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::{Operation, Plugin, Review};
use crate::UserInfo;
use crate::authn::{MASTERS, is_in};
use crate::authz::{self, Attributes};

pub(crate) struct ResourceClaimStatusAuthorization;

const CLAIMS: &str = "resource.k8s.io/resourceclaims";
/// Where the token of a service account says on which node its pod runs.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

impl Plugin for ResourceClaimStatusAuthorization {
    const NAME: &'static str = "ResourceClaimStatusAuthorization";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let concerns = review.kind.storage == CLAIMS
            && review.subresource == "status"
            && review.operation == Operation::Update
            && !is_in(review.user, MASTERS);
        let (true, Some(old), Some(new)) = (concerns, review.old, review.new.as_deref()) else {
            return Ok(());
        };
        let mut errors = Vec::new();
        check_binding(review, &old["status"], &new["status"], &mut errors);
        check_devices(review, &old["status"], &new["status"], &mut errors);
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid(review.kind, review.name, errors)),
        }
    }
}

fn check_binding(review: &Review<'_>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    if ["allocation", "reservedFor"].iter().all(|field| old[*field] == new[*field]) {
        return;
    }
    let verb = review.verb;
    let wanted = attributes(review, verb.to_owned(), "binding");
    if !review.authorizers.allows(&wanted) {
        let why = format!(
            "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {}",
            authz::forbidden(&wanted, "").message
        );
        errors.push(FieldError::forbidden("status", why));
    }
}

fn check_devices(review: &Review<'_>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let verb = review.verb;
    let prefixes: &[&str] = match is_on(review.user, node_of(&new["allocation"])) {
        true => &["associated-node", "arbitrary-node"],
        false => &["arbitrary-node"],
    };
    let verbs: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}:{verb}")).collect();
    for driver in changed_drivers(old, new) {
        let wanted = |verb: &String| Attributes {
            namespace: review.namespace.to_owned(),
            name: driver.to_owned(),
            ..attributes(review, verb.clone(), "driver")
        };
        if !verbs.iter().any(|verb| review.authorizers.allows(&wanted(verb))) {
            let why = format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {}",
                verbs.join(" "),
                authz::forbidden(&wanted(&verbs[0]), "").message
            );
            errors.push(FieldError::forbidden("status.devices", why));
        }
    }
}

fn attributes(review: &Review<'_>, verb: String, subresource: &str) -> Attributes {
    Attributes {
        user: review.user.clone(),
        verb,
        group: review.kind.group.clone(),
        version: review.kind.version.clone(),
        resource: review.kind.plural.clone(),
        subresource: subresource.to_owned(),
        ..Attributes::default()
    }
}

/// Drivers of devices of which something else is told now, or nothing any more.
fn changed_drivers<'a>(old: &'a Value, new: &'a Value) -> BTreeSet<&'a str> {
    let devices = |status: &'a Value| status["devices"].as_array().into_iter().flatten();
    let changed = devices(new).filter(|device| !devices(old).any(|other| other == *device));
    let id = |device: &Value| ["driver", "pool", "device", "shareID"].map(|part| device[part].clone());
    let gone = devices(old).filter(|device| !devices(new).any(|other| id(other) == id(device)));
    changed.chain(gone).filter_map(|device| device["driver"].as_str()).collect()
}

/// The one node that an allocation is good for.
fn node_of(allocation: &Value) -> Option<&str> {
    let [term] = allocation["nodeSelector"]["nodeSelectorTerms"].as_array()?.as_slice() else { return None };
    let has_expressions = term["matchExpressions"].as_array().is_some_and(|list| !list.is_empty());
    let [field] = term["matchFields"].as_array()?.as_slice() else { return None };
    let [name] = field["values"].as_array()?.as_slice() else { return None };
    let is_name = field["key"] == "metadata.name" && field["operator"] == "In" && !has_expressions;
    name.as_str().filter(|_| is_name)
}

/// Whether the user is a service account whose pod runs on the node.
fn is_on(user: &UserInfo, node: Option<&str>) -> bool {
    let nodes = user.extra.get(NODE_NAME).map_or(&[][..], Vec::as_slice);
    let is_account = user.name.starts_with("system:serviceaccount:");
    is_account && node.is_some_and(|node| nodes == [node])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::fixture::review;
    use crate::authn::authenticated;
    use crate::view::fixture::Fixture;

    fn paths(user: &UserInfo, old: Value, new: Value) -> Vec<String> {
        let claim =
            |status: Value| json!({"metadata": {"name": "c", "namespace": "default"}, "status": status});
        let (view, old, new) = (Fixture::default(), claim(old), Some(claim(new)));
        let refused = review(&view, user, Operation::Update, CLAIMS, "status", Some(&old), new, |review| {
            ResourceClaimStatusAuthorization::validate(review).err()
        });
        let causes =
            refused.into_iter().flat_map(|status| status.details().cloned().unwrap_or_default().causes);
        causes.map(|cause| cause.field).collect()
    }

    fn told(driver: &str, ready: bool) -> Value {
        json!({"driver": driver, "pool": "p", "device": "d", "data": {"ready": ready}})
    }

    #[test]
    fn parts_of_a_status_take_leave_of_their_own() {
        let dave = authenticated("dave", &[]);
        let allocated = json!({"allocation": {"devices": {}}, "devices": [told("a.b", false)]});
        assert!(paths(&dave, allocated.clone(), allocated.clone()).is_empty());
        assert_eq!(paths(&dave, json!({}), allocated.clone()), ["status", "status.devices"]);
        let mut reserved = allocated.clone();
        reserved["reservedFor"] = json!([{"name": "p"}]);
        assert_eq!(paths(&dave, allocated.clone(), reserved), ["status"]);
        assert!(paths(&UserInfo::admin(), json!({}), allocated).is_empty());
    }

    #[test]
    fn drivers_answer_for_what_is_told_of_their_devices() {
        let status = |devices: &[Value]| json!({ "devices": devices });
        let (old, new) = (
            status(&[told("kept", true), told("changed", false), told("gone", true)]),
            status(&[told("kept", true), told("changed", true), told("new", true)]),
        );
        assert_eq!(Vec::from_iter(changed_drivers(&old, &new)), ["changed", "gone", "new"]);
    }

    #[test]
    fn who_runs_on_the_node_of_a_claim_is_known_by_his_token() {
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
        let allocation = json!({"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}});
        assert_eq!(node_of(&allocation), Some("n1"));
        assert_eq!(
            node_of(&json!({"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field, field]}]}})),
            None
        );
        let mut driver = authenticated("system:serviceaccount:kube-system:driver", &[]);
        assert!(!is_on(&driver, Some("n1")));
        driver.extra.insert(NODE_NAME.to_owned(), vec!["n1".to_owned()]);
        assert!(is_on(&driver, Some("n1")));
        assert!(!is_on(&driver, Some("n2")) && !is_on(&driver, None));
    }
}
