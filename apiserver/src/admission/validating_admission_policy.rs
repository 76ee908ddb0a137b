//! ValidatingAdmissionPolicy: rules in CEL that may refuse a request, warn of it, or note it in the audit log.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::cel::{Activation, Budget, Value as Cel};
use api_types::policy::{Compiled, Expression, OUT_OF_BUDGET, Validation};
use api_types::status::Status;
use serde_json::{Value, json};

use super::{Plugin, Review};
use crate::policy::{self, Binding, Policy, Sort, Subject, Variables};

pub(crate) struct ValidatingAdmissionPolicy;

const SORT: Sort = Sort {
    policies: "admissionregistration.k8s.io/validatingadmissionpolicies",
    bindings: "admissionregistration.k8s.io/validatingadmissionpolicybindings",
    mutates: false,
};

/// What a message expression may give, in bytes.
const MESSAGE_MAX: usize = 5 << 10;
/// What an audit annotation may hold, in bytes; the rest is cut off.
const ANNOTATION_MAX: usize = 10 << 10;

impl Plugin for ValidatingAdmissionPolicy {
    const NAME: &'static str = "ValidatingAdmissionPolicy";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        if policy::is_exempt(review.kind) {
            return Ok(());
        }
        let policies = review.state.validating_policies.of(review.view, &SORT);
        let mut outcome = Outcome::default();
        for policy in &*policies {
            judge(review, policy, &mut outcome);
        }
        outcome.conclude(review)
    }
}

/// What the policies found.
#[derive(Default)]
struct Outcome {
    /// The message of the first refusal, with its reason.
    refused: Option<(String, String)>,
    noted: Vec<Value>,
    annotations: BTreeMap<String, Vec<String>>,
}

impl Outcome {
    fn refuse(&mut self, policy: &Policy, binding: Option<&Binding>, reason: &str, why: &str) {
        let name = &policy.name;
        let message = match binding {
            Some(binding) => format!(
                "ValidatingAdmissionPolicy '{name}' with binding '{}' denied request: {why}",
                binding.name
            ),
            None => format!("ValidatingAdmissionPolicy '{name}' denied request: {why}"),
        };
        self.refused.get_or_insert_with(|| (message, reason.to_owned()));
    }

    /// A policy or binding that cannot be evaluated refuses, unless it may fail.
    fn misconfigured(&mut self, policy: &Policy, binding: Option<&Binding>, why: &str) {
        if policy.fails_open {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        self.refuse(policy, binding, "", &format!("failed to configure {what}: {why}"));
    }

    fn conclude(self, review: &Review<'_>) -> Result<(), Status> {
        if !self.noted.is_empty() {
            let key = "validation.policy.admission.k8s.io/validation_failure";
            review.notes.annotate(key, Value::Array(self.noted).to_string());
        }
        for (key, values) in self.annotations {
            review.notes.annotate(key, values.join(", "));
        }
        match self.refused {
            Some((message, reason)) => Err(policy::refusal(review, &message, &reason, message.clone())),
            None => Ok(()),
        }
    }
}

fn judge(review: &Review<'_>, policy: &Policy, outcome: &mut Outcome) {
    let row = match policy.selection.find_row(review) {
        Ok(Some(row)) => row,
        Ok(None) => return,
        Err(why) => return outcome.misconfigured(policy, None, &why.message),
    };
    let mut subject = None;
    for binding in &policy.bindings {
        match binding.selection.selects(review) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(why) => {
                outcome.misconfigured(policy, Some(binding), &why.message);
                continue;
            }
        }
        match policy::find_params(review, policy, binding) {
            Ok(params) => {
                let subject = subject.get_or_insert_with(|| Subject::new(review, &row));
                for params in params {
                    evaluate(review, policy, binding, subject, params, outcome);
                }
            }
            Err(why) => outcome.misconfigured(policy, Some(binding), &why),
        }
    }
}

/// One evaluation of a policy: for one binding, with one parameter object or none.
fn evaluate(
    review: &Review<'_>,
    policy: &Policy,
    binding: &Binding,
    subject: &Subject<'_>,
    params: Option<Arc<Value>>,
    outcome: &mut Outcome,
) {
    let compiled = &*policy.compiled;
    let variables = Variables::new(&compiled.variables, policy::activation(subject, params.as_deref()));
    let activation = variables.activation();
    match compiled.conditions.hold(&activation) {
        Ok(true) => {}
        Ok(false) => return,
        Err(_) if policy.fails_open => return,
        Err(why) => {
            return act(review, policy, binding, &Finding { place: 0, message: why, reason: "" }, outcome);
        }
    }
    for finding in findings(compiled, &activation, policy.fails_open) {
        act(review, policy, binding, &finding, outcome);
    }
    annotate(policy, binding, &activation, outcome);
}

/// A rule that does not hold.
struct Finding<'p> {
    place: usize,
    message: String,
    reason: &'p str,
}

fn findings<'p>(compiled: &'p Compiled, activation: &Activation<'_>, fails_open: bool) -> Vec<Finding<'p>> {
    let mut budget = Budget::for_rules();
    let mut found = Vec::new();
    for (place, validation) in compiled.validations.iter().enumerate() {
        match validation.expression.eval(activation, &mut budget) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => found.push((place, validation, None)),
            Err(_) if fails_open => {}
            Err(why) => {
                let why = why.into_text();
                if why == OUT_OF_BUDGET {
                    return vec![Finding { place: 0, message: why, reason: "" }];
                }
                found.push((place, validation, Some(why)));
            }
        }
    }
    let finding = |(place, validation, why): (usize, &'p Validation, Option<String>)| match why {
        Some(message) => Finding { place, message, reason: "" },
        None => {
            let message = message(validation, activation, &mut budget);
            Finding { place, message, reason: &validation.reason }
        }
    };
    found.into_iter().map(finding).collect()
}

/// The message of a rule that does not hold: its expression's if that gives a good one, else its own.
fn message(validation: &Validation, activation: &Activation<'_>, budget: &mut Budget) -> String {
    let made = validation.message_expression.as_ref().and_then(|e| e.eval(activation, budget).ok());
    let made = made.as_ref().and_then(Cel::as_str).map(str::trim).unwrap_or_default();
    if !made.is_empty() && made.len() <= MESSAGE_MAX && !made.contains('\n') {
        return made.to_owned();
    }
    match validation.message.trim() {
        "" => format!("failed expression: {}", validation.expression.text.trim()),
        message => message.to_owned(),
    }
}

fn act(
    review: &Review<'_>,
    policy: &Policy,
    binding: &Binding,
    finding: &Finding<'_>,
    outcome: &mut Outcome,
) {
    for action in &binding.actions {
        match action.as_str() {
            "Deny" => outcome.refuse(policy, Some(binding), finding.reason, &finding.message),
            "Warn" => review.notes.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name, binding.name, finding.message
            )),
            "Audit" => outcome.noted.push(json!({
                "message": finding.message,
                "policy": policy.name,
                "binding": binding.name,
                "expressionIndex": finding.place,
                "validationActions": binding.actions,
            })),
            _ => {}
        }
    }
}

/// Adds the policy's own audit annotations. One that fails refuses the request, unless the policy may fail.
fn annotate(policy: &Policy, binding: &Binding, activation: &Activation<'_>, outcome: &mut Outcome) {
    let mut budget = Budget::for_rules();
    for (key, expression) in &policy.compiled.annotations {
        match annotation(expression, activation, &mut budget) {
            Ok(None) => {}
            Ok(Some(value)) => {
                let values = outcome.annotations.entry(format!("{}/{key}", policy.name)).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            Err(_) if policy.fails_open => {}
            Err(why) => outcome.refuse(policy, Some(binding), "", &why),
        }
    }
}

fn annotation(
    expression: &Expression,
    activation: &Activation<'_>,
    budget: &mut Budget,
) -> Result<Option<String>, String> {
    let text = match expression.eval(activation, budget).map_err(|why| why.into_text())? {
        Cel::String(text) => text.trim().to_owned(),
        Cel::Null => return Ok(None),
        other => {
            return Err(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                expression.text,
                other.kind()
            ));
        }
    };
    let end = (0..=ANNOTATION_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Ok((!text.is_empty()).then(|| text[..end].to_owned()))
}

#[cfg(test)]
mod tests;
