//! MutatingAdmissionPolicy: changes in CEL, as JSON patches or as configurations to apply. A policy that wants
//! to know what later ones changed is evaluated once more.

use std::sync::Arc;

use api_types::cel::{Activation, Budget};
use api_types::kinds::Kind;
use api_types::patch;
use api_types::policy::{Mutation, PatchType};
use api_types::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};
use crate::policy::{self, Binding, Policy, Sort, Subject, Variables};
use crate::rest::{schema_of, set_defaults};
use crate::webhook::from_row;

pub(crate) struct MutatingAdmissionPolicy;

const SORT: Sort = Sort {
    policies: "admissionregistration.k8s.io/mutatingadmissionpolicies",
    bindings: "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
    mutates: true,
};

impl Plugin for MutatingAdmissionPolicy {
    const NAME: &'static str = "MutatingAdmissionPolicy";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        if policy::is_exempt(review.kind) || review.operation == Operation::Delete || review.new.is_none() {
            return Ok(());
        }
        let policies = review.state.mutating_policies.of(review.view, &SORT);
        if policies.is_empty() {
            return Ok(());
        }
        let called = &mut review.rounds.policies;
        if review.rounds.is_second && called.left.as_ref() != review.new.as_deref() {
            let attentive = std::mem::take(&mut called.attentive);
            called.due.extend(attentive);
        }
        let mut errors = Vec::new();
        for policy in &*policies {
            if !review.rounds.is_second || review.rounds.policies.due.contains(&policy.name) {
                mutate(review, policy, &mut errors);
            }
        }
        if !review.rounds.policies.attentive.is_empty() {
            review.rounds.policies.left = review.new.as_deref().cloned();
        }
        match errors.is_empty() {
            true => Ok(()),
            false => {
                let why = "admission request denied by policy";
                Err(policy::refusal(review, why, "", errors.join("\n")))
            }
        }
    }
}

/// Evaluates a policy for all its bindings and parameters, each on what the one before left.
fn mutate(review: &mut Review<'_>, policy: &Policy, errors: &mut Vec<String>) {
    let mut fail = |binding: Option<&Binding>, why: String| {
        let name = &policy.name;
        let said = match binding {
            Some(binding) => format!("policy '{name}' with binding '{}' denied request: {why}", binding.name),
            None => format!("policy {name:?} denied request: {why}"),
        };
        if !policy.fails_open {
            errors.push(said);
        }
    };
    let row = match policy.selection.find_row(review) {
        Ok(Some(row)) => row,
        Ok(None) => return,
        Err(why) => return fail(None, format!("failed to configure policy: {}", why.message)),
    };
    for binding in &policy.bindings {
        match binding.selection.selects(review) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(why) => {
                fail(Some(binding), format!("failed to configure binding: {}", why.message));
                continue;
            }
        }
        let params = match policy::find_params(review, policy, binding) {
            Ok(params) => params,
            Err(why) => {
                fail(Some(binding), format!("failed to configure binding: {why}"));
                continue;
            }
        };
        for params in params {
            match invoke(review, policy, &row, params.as_ref()) {
                Ok(changed) => note(review, policy, changed),
                Err(why) => fail(Some(binding), why),
            }
        }
    }
}

/// One evaluation: for one binding, with one parameter object or none. Whether it changed anything; nothing
/// where the policy's conditions do not hold. Where it fails, the object stays as it was.
fn invoke(
    review: &mut Review<'_>,
    policy: &Policy,
    row: &Kind,
    params: Option<&Arc<Value>>,
) -> Result<Option<bool>, String> {
    let compiled = &*policy.compiled;
    let before = review.new.as_deref().cloned().unwrap_or_default();
    let mut budget = Budget::for_rules();
    for (place, mutation) in compiled.mutations.iter().enumerate() {
        let outcome = {
            let subject = Subject::new(review, row);
            let variables =
                Variables::new(&compiled.variables, policy::activation(&subject, params.map(|p| &**p)));
            let activation = variables.activation();
            match if place == 0 { compiled.conditions.hold(&activation) } else { Ok(true) } {
                Ok(true) => patched(review, row, mutation, &activation, &mut budget).map(Some),
                Ok(false) => Ok(None),
                Err(_) if policy.fails_open => Ok(None),
                Err(why) => Err(why),
            }
        };
        match outcome {
            Ok(None) => return Ok(None),
            Ok(Some(object)) => replace(review, row, object),
            Err(why) => {
                if let Some(object) = review.new.as_deref_mut() {
                    *object = before;
                }
                return Err(why);
            }
        }
    }
    Ok(Some(review.new.as_deref() != Some(&before)))
}

fn replace(review: &mut Review<'_>, row: &Kind, object: Value) {
    let mut object = from_row(review, row, object);
    if review.subresource.is_empty() {
        set_defaults(review.kind, &mut object);
    }
    if let Some(new) = review.new.as_deref_mut() {
        *new = object;
    }
}

/// The object as the mutation makes it, in the row's version.
fn patched(
    review: &Review<'_>,
    row: &Kind,
    mutation: &Mutation,
    activation: &Activation<'_>,
    budget: &mut Budget,
) -> Result<Value, String> {
    let made = mutation.expression.eval(activation, budget).map_err(|why| why.into_text())?;
    let object = crate::webhook::shown(review, row);
    let unusable =
        || format!("expression '{}' resulted in a value that is not JSON", mutation.expression.text);
    let made = made.to_json().ok_or_else(unusable)?;
    match mutation.patch_type {
        PatchType::JsonPatch => patch::json(&object, &made).map_err(|why| format!("JSON Patch: {why}")),
        PatchType::ApplyConfiguration => {
            let schema = schema_of(row);
            if let Some(path) = patch::apply::find_atomic(&schema, &made) {
                let why = "may not mutate atomic arrays, maps or structs";
                return Err(format!("error applying patch: invalid ApplyConfiguration: {why}: {path}"));
            }
            patch::apply::overlay(&schema, &object, &made)
                .map_err(|why| format!("error applying patch: {why}"))
        }
    }
}

/// Remembers who was evaluated, and who must be again because of it.
fn note(review: &mut Review<'_>, policy: &Policy, changed: Option<bool>) {
    let Some(changed) = changed else { return };
    let called = &mut review.rounds.policies;
    if changed {
        let mut attentive = std::mem::take(&mut called.attentive);
        attentive.remove(&policy.name);
        called.due.extend(attentive);
        review.rounds.again = true;
    }
    if policy.reinvoked {
        review.rounds.policies.attentive.insert(policy.name.clone());
    }
}

#[cfg(test)]
mod tests;
