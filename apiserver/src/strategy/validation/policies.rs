//! Admission policies: their expressions must compile, and what names them must be names.

use std::collections::HashSet;

use api_types::cel;
use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use crate::policy;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, required, text};

const CONDITIONS_MAX: usize = 64;
const ANNOTATIONS_MAX: usize = 20;

pub(super) fn validating(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    if items(&spec["validations"]).is_empty() && items(&spec["auditAnnotations"]).is_empty() {
        for field in ["spec.validations", "spec.auditAnnotations"] {
            let why = "validations or auditAnnotations must contain at least one item";
            errors.push(FieldError::required(field, why));
        }
    }
    for (path, validation) in indexed(spec, "spec", "validations") {
        message(&validation["message"], &format!("{path}.message"), errors);
    }
    annotations(check, errors);
    shared(check, false, errors);
}

pub(super) fn mutating(check: &Check<'_>, errors: &mut Errors) {
    for (path, mutation) in indexed(&check.new["spec"], "spec", "mutations") {
        let fields = [("JSONPatch", "jsonPatch"), ("ApplyConfiguration", "applyConfiguration")];
        for (patch_type, field) in fields {
            let (is_its, is_given) = (mutation["patchType"] == patch_type, mutation[field].is_object());
            let path = format!("{path}.{field}");
            match (is_its, is_given) {
                (true, false) => errors.push(FieldError::required(
                    path,
                    format!("must be specified when patchType is {patch_type}"),
                )),
                (false, true) => errors.push(FieldError::forbidden(
                    path,
                    format!("must not be specified when patchType is not {patch_type}"),
                )),
                (true, true) if text(&mutation[field], "expression").is_none() => errors
                    .push(FieldError::required(format!("{path}.expression"), "expression is not specified")),
                _ => {}
            }
        }
    }
    shared(check, true, errors);
}

fn shared(check: &Check<'_>, mutates: bool, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let mut seen = HashSet::new();
    for (path, variable) in indexed(spec, "spec", "variables") {
        let Some(name) = text(variable, "name") else { continue };
        let path = format!("{path}.name");
        if !cel::is_identifier(name) {
            errors.push(FieldError::invalid(path.as_str(), name, "must be a valid CEL identifier"));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
    conditions(spec, "spec", errors);
    // An update that leaves the rules alone is not refused for what an older server let pass.
    if check.old.is_none_or(|old| old["spec"] != *spec) {
        errors.extend(policy::problems(spec, mutates));
    }
}

/// `matchConditions`, as policies and webhooks have them; their expressions are compiled elsewhere.
pub(super) fn conditions(object: &Value, path: &str, errors: &mut Errors) {
    let count = items(&object["matchConditions"]).len();
    if count > CONDITIONS_MAX {
        errors.push(FieldError::too_many(format!("{path}.matchConditions"), count, CONDITIONS_MAX));
    }
    let mut seen = HashSet::new();
    for (path, condition) in indexed(object, path, "matchConditions") {
        if text(condition, "expression").is_none_or(|e| e.trim().is_empty()) {
            errors.push(FieldError::required(format!("{path}.expression"), ""));
        }
        let Some(name) = text(condition, "name") else {
            errors.push(FieldError::required(format!("{path}.name"), ""));
            continue;
        };
        invalid_all(names::check_label_key(name), &format!("{path}.name"), name, errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
    }
}

fn message(message: &Value, path: &str, errors: &mut Errors) {
    let Some(message) = message.as_str().filter(|message| !message.is_empty()) else { return };
    if message.trim().is_empty() {
        errors.push(FieldError::invalid(path, message, "message must be non-empty if specified"));
    } else if message.contains('\n') {
        errors.push(FieldError::invalid(path, message, "message must not contain line breaks"));
    }
}

fn annotations(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let count = items(&spec["auditAnnotations"]).len();
    if count > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid("spec.auditAnnotations", count, why));
    }
    let policy = check.new["metadata"]["name"].as_str().unwrap_or_default();
    let mut seen = HashSet::new();
    for (path, annotation) in indexed(spec, "spec", "auditAnnotations") {
        let Some(key) = text(annotation, "key") else {
            required(annotation, &path, "key", errors);
            continue;
        };
        let path = format!("{path}.key");
        let whole = format!("{policy}/{key}");
        invalid_all(names::check_label_key(&whole), &path, &whole, errors);
        if !seen.insert(key) {
            errors.push(FieldError::duplicate(path, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::paths;

    fn wrong(plural: &str, mut spec: Value) -> Vec<String> {
        spec["matchConstraints"] = json!({"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"],
            "operations": ["CREATE"], "resources": ["*"]}]});
        spec["failurePolicy"] = json!("Fail");
        spec["reinvocationPolicy"] = json!("Never");
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        paths("admissionregistration.k8s.io", plural, "", &policy, None)
    }

    #[test]
    fn every_expression_must_compile_to_what_it_is_for() {
        let found = wrong(
            "validatingadmissionpolicies",
            json!({
                "variables": [{"name": "a", "expression": "1 +"}, {"name": "b-c", "expression": "1"}],
                "matchConditions": [{"name": "x", "expression": "1"}, {"name": "no good", "expression": "true"}],
                "validations": [{"expression": "'text'"}, {"expression": "true", "messageExpression": "1"}],
                "auditAnnotations": [{"key": "k", "valueExpression": "nothing"}],
            }),
        );
        let expected = [
            "spec.auditAnnotations[0].valueExpression",
            "spec.matchConditions[0].expression",
            "spec.matchConditions[1].name",
            "spec.validations[0].expression",
            "spec.validations[1].messageExpression",
            "spec.variables[0].expression",
            "spec.variables[1].name",
        ];
        let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_mutation_says_what_its_type_needs() {
        let found = wrong(
            "mutatingadmissionpolicies",
            json!({"mutations": [
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'remove', path: '/a'}]"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "Object{}"}},
                {"patchType": "ApplyConfiguration"},
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.spec{}}"}},
            ]}),
        );
        assert_eq!(found, ["spec.mutations[2].applyConfiguration", "spec.mutations[1].jsonPatch.expression"]);
    }
}
