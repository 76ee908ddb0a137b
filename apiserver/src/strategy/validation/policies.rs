//! Admission policies: their expressions must compile, and what names them must be names.

use std::collections::HashSet;

use api_types::cel;
use api_types::names;
use api_types::policy;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::fields::check_below;
use super::webhooks::validate_rule;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

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
        if let Some(blank) = text(validation, "messageExpression").filter(|said| said.trim().is_empty()) {
            let why = "must be non-empty if specified";
            errors.push(FieldError::invalid(format!("{path}.messageExpression"), blank, why));
        }
    }
    annotations(check, errors);
    shared(check, false, errors);
}

pub(super) fn mutating(check: &Check<'_>, errors: &mut Errors) {
    for (path, mutation) in indexed(&check.new["spec"], "spec", "mutations") {
        validate_mutation(mutation, &path, errors);
    }
    validate_mutable(&check.new["spec"]["matchConstraints"], "spec.matchConstraints", errors);
    shared(check, true, errors);
}

/// Sorts of patches and the field that says more of each.
const PATCHES: &[(&str, &str)] = &[("JSONPatch", "jsonPatch"), ("ApplyConfiguration", "applyConfiguration")];

fn validate_mutation(mutation: &Value, path: &str, errors: &mut Errors) {
    let kind = mutation["patchType"].as_str().unwrap_or_default();
    if !PATCHES.iter().any(|(known, _)| *known == kind) {
        return;
    }
    for (patch, field) in PATCHES {
        let path = format!("{path}.{field}");
        match (*patch == kind, mutation[*field].is_object()) {
            (true, false) => {
                let why = format!("must be specified when patchType is {kind}");
                errors.push(FieldError::required(path, why));
            }
            (false, true) => {
                let why = format!("must not be specified when patchType is {kind}");
                errors.push(FieldError::invalid(path, format!("{{{field}}}"), why));
            }
            (true, true) if is_blank(&mutation[*field]["expression"]) => {
                errors.push(FieldError::required(format!("{path}.expression"), ""));
            }
            _ => {}
        }
    }
}

fn is_blank(expression: &Value) -> bool {
    expression.as_str().is_none_or(|expression| expression.trim().is_empty())
}

/// What is deleted cannot be mutated any more.
const MUTABLE_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

fn validate_mutable(resources: &Value, path: &str, errors: &mut Errors) {
    for rule in items(&resources["resourceRules"]) {
        for operation in items(&rule["operations"]).iter().filter_map(Value::as_str) {
            if !MUTABLE_OPERATIONS.contains(&operation) {
                let path = format!("{path}.resourceRules.operations");
                errors.push(FieldError::not_supported(path, operation, MUTABLE_OPERATIONS));
            }
        }
    }
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
    if spec["paramKind"].is_object() {
        validate_param_kind(&spec["paramKind"], "spec.paramKind", errors);
    }
    let constraints = &spec["matchConstraints"];
    if constraints.is_object() {
        validate_resources(constraints, "spec.matchConstraints", errors);
        if items(&constraints["resourceRules"]).is_empty() {
            errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
        }
    }
    // An update that leaves the rules alone is not refused for what an older server let pass.
    if check.old.is_none_or(|old| old["spec"] != *spec) {
        errors.extend(policy::problems(spec, mutates));
    }
}

/// The match conditions of a webhook, which sees the request and who makes it.
pub(super) fn webhook_conditions(webhook: &Value, path: &str, errors: &mut Errors) {
    conditions(webhook, path, errors);
    let path = format!("{path}.matchConditions");
    errors.extend(policy::condition_problems(&path, &webhook["matchConditions"]));
}

/// `matchConditions`, as policies and webhooks have them; their expressions are compiled elsewhere.
fn conditions(object: &Value, path: &str, errors: &mut Errors) {
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
    } else if message.trim().contains(['\n', '\r']) {
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
        let key = annotation["key"].as_str().unwrap_or_default();
        let path = format!("{path}.key");
        let whole = format!("{policy}/{key}");
        invalid_all(names::check_label_key(&whole), &path, &whole, errors);
        if !seen.insert(key) {
            errors.push(FieldError::duplicate(path, key));
        }
    }
}

fn validate_param_kind(kind: &Value, path: &str, errors: &mut Errors) {
    if let Some(version) = text(kind, "apiVersion") {
        let at = format!("{path}.apiVersion");
        match version.split('/').collect::<Vec<_>>().as_slice() {
            [version] => invalid_all(names::check_dns_1035_label(version), &at, version, errors),
            [group, version] => {
                if !group.is_empty() {
                    invalid_all(names::check_dns_subdomain(group), &at, group, errors);
                }
                match version.is_empty() {
                    true => errors.push(FieldError::invalid(&at, *version, "version must be specified")),
                    false => invalid_all(names::check_dns_1035_label(version), &at, version, errors),
                }
            }
            _ => {
                let why = format!("unexpected GroupVersion string: {version}");
                errors.push(FieldError::invalid(at, version, why));
            }
        }
    }
    if let Some(name) = text(kind, "kind") {
        let wrong = names::check_dns_1035_label(&name.to_lowercase());
        if !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(format!("{path}.kind"), name, why));
        }
    }
}

/// `matchConstraints` of a policy or `matchResources` of a binding.
fn validate_resources(resources: &Value, path: &str, errors: &mut Errors) {
    check_below("matchResources", resources, path, errors);
    for list in ["resourceRules", "excludeResourceRules"] {
        for (path, rule) in indexed(resources, path, list) {
            let names_of = items(&rule["resourceNames"]);
            for (index, name) in names_of.iter().filter_map(Value::as_str).enumerate() {
                let path = format!("{path}.resourceNames[{index}]");
                invalid_all(names::check_path_segment(name), &path, name, errors);
                if names_of[..index].iter().any(|earlier| earlier == name) {
                    errors.push(FieldError::duplicate(path, name));
                }
            }
            validate_rule(rule, &path, errors);
        }
    }
}

pub(super) fn binding(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_binding(spec, errors);
    if spec["matchResources"].is_object() {
        // Kubernetes spells the path so.
        validate_resources(&spec["matchResources"], "spec.matchResouces", errors);
    }
    let has = |action: &str| items(&spec["validationActions"]).iter().any(|given| given == action);
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid("spec.validationActions", spec["validationActions"].clone(), why));
    }
}

pub(super) fn mutating_binding(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_binding(spec, errors);
    if spec["matchResources"].is_object() {
        validate_resources(&spec["matchResources"], "spec.matchResources", errors);
        validate_mutable(&spec["matchResources"], "spec.matchResources", errors);
    }
}

fn validate_binding(spec: &Value, errors: &mut Errors) {
    if let Some(name) = text(spec, "policyName") {
        invalid_all(names::check_dns_subdomain(name), "spec.policyName", name, errors);
    }
    validate_param_ref(&spec["paramRef"], errors);
}

fn validate_param_ref(reference: &Value, errors: &mut Errors) {
    if !reference.is_object() {
        return;
    }
    match (text(reference, "name").is_some(), reference["selector"].is_object()) {
        (true, true) => {
            for field in ["name", "selector"] {
                let why = "name and selector are mutually exclusive";
                errors.push(FieldError::forbidden(format!("spec.paramRef.{field}"), why));
            }
        }
        (false, false) => {
            errors.push(FieldError::required("spec.paramRef", "one of name or selector must be specified"));
        }
        _ => {}
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
        let patch = json!({"expression": "[JSONPatch{op: 'remove', path: '/a'}]"});
        for (mutation, expected) in [
            (json!({}), vec!["patchType"]),
            (json!({"patchType": "Odd"}), vec!["patchType"]),
            (
                json!({"patchType": "ApplyConfiguration", "jsonPatch": patch}),
                vec!["jsonPatch", "applyConfiguration"],
            ),
            (
                json!({"patchType": "JSONPatch", "jsonPatch": {"expression": " "}}),
                vec!["jsonPatch.expression"],
            ),
        ] {
            let found = wrong("mutatingadmissionpolicies", json!({"mutations": [mutation.clone()]}));
            let expected: Vec<String> = expected.iter().map(|at| format!("spec.mutations[0].{at}")).collect();
            assert_eq!(found, expected, "{mutation}");
        }
    }

    #[test]
    fn what_is_deleted_is_not_mutated() {
        let rule = json!({"operations": ["CREATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let matching = json!({"policyName": "p", "matchResources": {"resourceRules": [rule]}});
        assert_eq!(
            of("mutatingadmissionpolicybindings", matching),
            ["matchResources.resourceRules.operations"]
        );
    }

    fn of(plural: &str, spec: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": "p"}, "spec": spec});
        let found = paths("admissionregistration.k8s.io", plural, "", &object, None);
        found.into_iter().map(|path| path.trim_start_matches("spec.").to_owned()).collect()
    }

    fn policy(extra: Value) -> Value {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let mut spec = json!({"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [rule]}});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    }

    #[test]
    fn a_validating_policys_mistakes_are_named_by_their_path() {
        let one = |validation: Value| json!({ "validations": [validation] });
        let cases = [
            (one(json!({"expression": "object.a == 1"})), vec![]),
            (json!({"validations": []}), vec!["validations", "auditAnnotations"]),
            (one(json!({"expression": ""})), vec!["validations[0].expression"]),
            (one(json!({"expression": "object.a >"})), vec!["validations[0].expression"]),
            (one(json!({"expression": "'x'"})), vec!["validations[0].expression"]),
            (one(json!({"expression": "nothing == 1"})), vec!["validations[0].expression"]),
            (one(json!({"expression": "true", "reason": "Odd"})), vec!["validations[0].reason"]),
            (
                one(json!({"expression": "true", "messageExpression": "1 + 1"})),
                vec!["validations[0].messageExpression"],
            ),
            (one(json!({"expression": "true", "message": "a\nb"})), vec!["validations[0].message"]),
            (
                json!({"auditAnnotations": [{"key": "a b", "valueExpression": "'x'"}]}),
                vec!["auditAnnotations[0].key"],
            ),
            (
                json!({"validations": [{"expression": "variables.v"}], "variables": [{"name": "v", "expression": "true"}]}),
                vec![],
            ),
            (
                json!({"validations": [{"expression": "true"}], "variables": [{"name": "a b", "expression": "1"}]}),
                vec!["variables[0].name"],
            ),
            (
                json!({"validations": [{"expression": "true"}], "paramKind": {"apiVersion": "", "kind": ""}}),
                vec!["paramKind.apiVersion", "paramKind.kind"],
            ),
            (json!({"validations": [{"expression": "params.x"}]}), vec!["validations[0].expression"]),
        ];
        for (extra, expected) in cases {
            assert_eq!(of("validatingadmissionpolicies", policy(extra.clone())), expected, "{extra}");
        }
        let none = json!({"failurePolicy": "Fail", "validations": [{"expression": "true"}]});
        assert_eq!(of("validatingadmissionpolicies", none), ["matchConstraints"]);
    }

    #[test]
    fn a_mutation_has_the_field_of_its_type() {
        let one = |mutation: Value| policy(json!({"reinvocationPolicy": "Never", "mutations": [mutation]}));
        let of = |mutation: Value| of("mutatingadmissionpolicies", one(mutation));
        let expression = "Object{spec: Object.spec{replicas: 1}}";
        assert!(
            of(json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}))
                .is_empty()
        );
        assert_eq!(of(json!({"patchType": "Odd"})), ["mutations[0].patchType"]);
        assert_eq!(of(json!({"patchType": "JSONPatch"})), ["mutations[0].jsonPatch"]);
        assert_eq!(
            of(json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "1"}})),
            ["mutations[0].jsonPatch.expression"]
        );
    }

    #[test]
    fn a_binding_names_its_policy_and_its_params() {
        let of = |spec: Value| of("validatingadmissionpolicybindings", spec);
        assert!(of(json!({"policyName": "p", "validationActions": ["Deny"]})).is_empty());
        assert_eq!(of(json!({"validationActions": ["Odd"]})), ["policyName", "validationActions[0]"]);
        assert_eq!(
            of(json!({"policyName": "p", "validationActions": ["Deny", "Warn"]})),
            ["validationActions"]
        );
        assert_eq!(
            of(
                json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"parameterNotFoundAction": "Deny"}})
            ),
            ["paramRef"]
        );
    }
}
