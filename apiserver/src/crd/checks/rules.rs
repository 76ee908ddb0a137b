//! `x-kubernetes-validations` of a definition: rules that compile, say what they may, and do not cost too much.

use api_types::schema::Schema;
use api_types::schema::validations::{Limits, Validations, check_costs};
use api_types::status::FieldError;
use serde_json::Value;

use super::{Errors, items, text};

const REASONS: &[&str] =
    &["FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate"];
const MESSAGE_CHARS_MAX: usize = 2048;

/// Checks the rules in `schema`; `structural` says whether rules can be compiled against it.
pub(super) fn check(schema: &Value, path: &str, structural: bool, errors: &mut Errors) {
    words(schema, path, true, errors);
    if !structural {
        return;
    }
    let Ok(compiled) = Schema::from_openapi(schema) else { return };
    let (rules, broken) = Validations::compile(&compiled, schema);
    errors
        .extend(broken.into_iter().map(|e| FieldError::invalid(format!("{path}{}", e.path), e.value, e.why)));
    let dear = check_costs(&rules, schema, Limits::default());
    errors.extend(dear.into_iter().map(|e| FieldError { path: format!("{path}{}", e.path), ..e }));
}

/// What is said beside the expressions. `correlated`: whether the old state of a value here can be told.
fn words(schema: &Value, path: &str, correlated: bool, errors: &mut Errors) {
    for (i, rule) in items(&schema["x-kubernetes-validations"]).iter().enumerate() {
        rule_words(schema, rule, &format!("{path}.x-kubernetes-validations[{i}]"), correlated, errors);
    }
    let granular = correlated && schema["x-kubernetes-map-type"] != "atomic";
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        words(below, &format!("{path}.properties[{name}]"), granular, errors);
    }
    if let Some(below) = schema.get("additionalProperties").filter(|b| b.is_object()) {
        words(below, &format!("{path}.additionalProperties"), granular, errors);
    }
    if let Some(below) = schema.get("items").filter(|b| b.is_object()) {
        let keyed = correlated && schema["x-kubernetes-list-type"] == "map";
        words(below, &format!("{path}.items"), keyed, errors);
    }
}

fn rule_words(schema: &Value, rule: &Value, path: &str, correlated: bool, errors: &mut Errors) {
    let expression = text(rule, "rule");
    if expression.trim().is_empty() {
        errors.push(FieldError::required(format!("{path}.rule"), "rule is not specified"));
    }
    if let Some(message) = rule["message"].as_str() {
        let path = format!("{path}.message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(path, message, "message must be non-empty if specified"));
        } else if message.contains('\n') {
            errors.push(FieldError::invalid(path, message, "message must not contain line breaks"));
        } else if message.len() > MESSAGE_CHARS_MAX {
            errors.push(FieldError::invalid(
                path,
                message,
                "message must have a maximum length of 2048 characters",
            ));
        }
    }
    if expression.contains('\n') && text(rule, "message").is_empty() {
        let why = "message must be specified if rule contains line breaks";
        errors.push(FieldError::required(format!("{path}.message"), why));
    }
    let expression_of_message = text(rule, "messageExpression");
    if !expression_of_message.is_empty() && expression_of_message.trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        errors.push(FieldError::required(format!("{path}.messageExpression"), why));
    }
    let reason = text(rule, "reason");
    if !reason.is_empty() && !REASONS.contains(&reason) {
        errors.push(FieldError::not_supported(format!("{path}.reason"), reason, REASONS));
    }
    field_path(schema, rule, path, errors);
    old_self(rule, expression, path, correlated, errors);
}

fn field_path(schema: &Value, rule: &Value, path: &str, errors: &mut Errors) {
    let given = text(rule, "fieldPath");
    if given.is_empty() {
        return;
    }
    let path = format!("{path}.fieldPath");
    if given.contains('\n') {
        return errors.push(FieldError::invalid(path, given, "fieldPath must not contain line breaks"));
    }
    let parsed = api_types::json_path::JsonPath::parse(given).ok();
    let names = parsed.as_ref().and_then(|p| p.fields()).filter(|_| given.starts_with(['.', '[']));
    let found = names.and_then(|names| names.iter().try_fold(schema, |s, name| below(s, name)));
    if found.is_none() {
        let why = "fieldPath must be a valid path: does not refer to a valid field";
        errors.push(FieldError::invalid(path, given, why));
    }
}

fn below<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let additional = || schema.get("additionalProperties").filter(|a| a.is_object());
    schema["properties"].get(name).or_else(additional)
}

fn old_self(rule: &Value, expression: &str, path: &str, correlated: bool, errors: &mut Errors) {
    let reads = expression.contains("oldSelf");
    if reads && !correlated {
        let why = "oldSelf cannot be used on the uncorrelatable portion of the schema";
        errors.push(FieldError::invalid(format!("{path}.rule"), expression, why));
    }
    if !rule["optionalOldSelf"].is_null() && !reads {
        let why = "may not be set if oldSelf is not used in rule";
        let given = rule["optionalOldSelf"].clone();
        errors.push(FieldError::invalid(format!("{path}.optionalOldSelf"), given, why));
    }
}
