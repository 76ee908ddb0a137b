//! Conditions in the form that most kinds share (`metav1.Condition`).

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::{Errors, indexed, invalid_all, text};

const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// The list `owner.conditions`: one condition of a type, each complete.
pub(super) fn validate(owner: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (path, condition) in indexed(owner, path, "conditions") {
        let name = condition["type"].as_str().unwrap_or_default();
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.type"), name));
        }
        validate_one(condition, &path, errors);
    }
}

fn validate_one(condition: &Value, path: &str, errors: &mut Errors) {
    let name = condition["type"].as_str().unwrap_or_default();
    invalid_all(names::check_label_key(name), &format!("{path}.type"), name, errors);
    let status = condition["status"].as_str().unwrap_or_default();
    let known = ["False", "True", "Unknown"];
    if !known.contains(&status) {
        errors.push(FieldError::not_supported(format!("{path}.status"), status, &known));
    }
    if let Some(generation) = condition["observedGeneration"].as_i64().filter(|generation| *generation < 0) {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(format!("{path}.observedGeneration"), generation, why));
    }
    if text(condition, "lastTransitionTime").is_none() {
        errors.push(FieldError::required(format!("{path}.lastTransitionTime"), "must be set"));
    }
    validate_reason(condition, path, errors);
    if condition["message"].as_str().is_some_and(|message| message.len() > MESSAGE_BYTES_MAX) {
        errors.push(FieldError::too_long(format!("{path}.message"), MESSAGE_BYTES_MAX));
    }
}

fn validate_reason(condition: &Value, path: &str, errors: &mut Errors) {
    const WHY: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    let path = format!("{path}.reason");
    let Some(reason) = text(condition, "reason") else {
        errors.push(FieldError::required(path, "must be set"));
        return;
    };
    if !is_reason(reason) {
        errors.push(FieldError::invalid(path.as_str(), reason, WHY));
    }
    if reason.len() > REASON_BYTES_MAX {
        errors.push(FieldError::too_long(path, REASON_BYTES_MAX));
    }
}

fn is_reason(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_,:".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_is_complete_and_the_only_one_of_its_type() {
        let good = json!({"type": "Ready", "status": "True", "reason": "Up", "lastTransitionTime": "2026-01-02T03:04:05Z"});
        let with = |field: &str, value: Value| {
            let mut changed = good.clone();
            changed[field] = value;
            json!([changed])
        };
        let cases = [
            (json!([good]), vec![]),
            (json!([good, good]), vec!["s.conditions[1].type"]),
            (with("type", json!("")), vec!["s.conditions[0].type", "s.conditions[0].type"]),
            (with("status", json!("Yes")), vec!["s.conditions[0].status"]),
            (with("observedGeneration", json!(-1)), vec!["s.conditions[0].observedGeneration"]),
            (with("lastTransitionTime", Value::Null), vec!["s.conditions[0].lastTransitionTime"]),
            (with("reason", json!("")), vec!["s.conditions[0].reason"]),
            (with("reason", json!("A:B,c_")), vec![]),
            (with("reason", json!("not so")), vec!["s.conditions[0].reason"]),
            (with("message", json!("m".repeat(MESSAGE_BYTES_MAX + 1))), vec!["s.conditions[0].message"]),
        ];
        for (conditions, expected) in cases {
            let mut errors = Errors::new();
            validate(&json!({ "conditions": conditions }), "s", &mut errors);
            let paths: Vec<_> = errors.into_iter().map(|error| error.path).collect();
            assert_eq!(paths, expected, "{conditions}");
        }
    }
}
