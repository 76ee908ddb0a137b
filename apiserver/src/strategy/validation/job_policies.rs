//! When a job has failed or succeeded early: its failure and success policies, and the lists of indexes.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::{Errors, indexed, invalid_all, items};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

pub(super) fn validate_failure_policy(spec: &Value, path: &str, errors: &mut Errors) {
    let policy = &spec["podFailurePolicy"];
    let count = items(&policy["rules"]).len();
    if count > RULES_MAX {
        errors.push(FieldError::too_many(format!("{path}.rules"), count, RULES_MAX));
    }
    let pod = &spec["template"]["spec"];
    let names: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| items(&pod[*list]))
        .filter_map(|container| container["name"].as_str())
        .collect();
    for (path, rule) in indexed(policy, path, "rules") {
        let action = rule["action"].as_str().unwrap_or_default();
        let known = ["Count", "FailIndex", "FailJob", "Ignore"];
        if action.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.action"),
                "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
            ));
        } else if !known.contains(&action) {
            errors.push(FieldError::not_supported(format!("{path}.action"), action, &known));
        } else if action == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            let why = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(format!("{path}.action"), action, why));
        }
        validate_exit_codes(&rule["onExitCodes"], &names, &format!("{path}.onExitCodes"), errors);
        validate_conditions(rule, &path, errors);
        let why = match (rule["onExitCodes"].is_object(), items(&rule["onPodConditions"]).is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(FieldError::invalid_unshown(path, why));
    }
}

fn validate_exit_codes(codes: &Value, names: &BTreeSet<&str>, path: &str, errors: &mut Errors) {
    if !codes.is_object() {
        return;
    }
    let operator = codes["operator"].as_str().unwrap_or_default();
    if operator.is_empty() {
        errors.push(FieldError::required(format!("{path}.operator"), "valid values: \"In\", \"NotIn\""));
    } else if !matches!(operator, "In" | "NotIn") {
        errors.push(FieldError::not_supported(format!("{path}.operator"), operator, &["In", "NotIn"]));
    }
    if let Some(name) = codes["containerName"].as_str().filter(|name| !names.contains(name)) {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(format!("{path}.containerName"), name, why));
    }
    let at = format!("{path}.values");
    let values: Vec<i64> = items(&codes["values"]).iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(FieldError::invalid(&at, codes["values"].clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(&at, values.len(), EXIT_CODES_MAX));
    }
    for (index, value) in values.iter().enumerate() {
        if *value == 0 && operator == "In" {
            errors.push(FieldError::invalid(
                format!("{at}[{index}]"),
                0,
                "must not be 0 for the In operator",
            ));
        }
        if values[..index].contains(value) {
            errors.push(FieldError::duplicate(format!("{at}[{index}]"), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(at, codes["values"].clone(), "must be ordered"));
    }
}

fn validate_conditions(rule: &Value, path: &str, errors: &mut Errors) {
    let count = items(&rule["onPodConditions"]).len();
    if count > RULES_MAX {
        errors.push(FieldError::too_many(format!("{path}.onPodConditions"), count, RULES_MAX));
    }
    for (path, condition) in indexed(rule, path, "onPodConditions") {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        invalid_all(names::check_label_key(text("type")), &format!("{path}.type"), text("type"), errors);
        match text("status") {
            "" => errors.push(FieldError::required(
                format!("{path}.status"),
                "valid values: \"False\", \"True\", \"Unknown\"",
            )),
            "False" | "True" | "Unknown" => {}
            other => {
                let known = ["False", "True", "Unknown"];
                errors.push(FieldError::not_supported(format!("{path}.status"), other, &known));
            }
        }
    }
}

pub(super) fn validate_success_policy(spec: &Value, path: &str, errors: &mut Errors) {
    let rules = &spec["successPolicy"];
    let at = format!("{path}.rules");
    match items(&rules["rules"]).len() {
        0 => {
            let why = "at least one rules must be specified when the successPolicy is specified";
            errors.push(FieldError::required(&at, why));
        }
        count if count > RULES_MAX => errors.push(FieldError::too_many(&at, count, RULES_MAX)),
        _ => {}
    }
    let completions = spec["completions"].as_i64().unwrap_or_default();
    for (path, rule) in indexed(rules, path, "rules") {
        let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
        if count.is_none() && indexes.is_none() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(FieldError::required(&path, why));
        }
        if indexes.is_some_and(|indexes| indexes.len() > INDEXES_BYTES_MAX) {
            errors.push(FieldError::too_long(format!("{path}.succeededIndexes"), INDEXES_BYTES_MAX));
        }
        let listed = indexes.map(|indexes| count_indexes(indexes, completions));
        if let (Some(Err(why)), Some(indexes)) = (&listed, indexes) {
            let why = format!("error parsing succeededIndexes: {why}");
            errors.push(FieldError::invalid(format!("{path}.succeededIndexes"), indexes, why));
        }
        let Some(count) = count else { continue };
        let at = format!("{path}.succeededCount");
        if count < 0 {
            errors.push(FieldError::invalid(&at, count, "must be greater than or equal to 0"));
        }
        if count > completions {
            let why =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(FieldError::invalid(&at, count, why));
        }
        if let Some(all) = listed.map(|listed| listed.unwrap_or(0)).filter(|all| count > *all) {
            let why = format!(
                "must be less than or equal to {all} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(FieldError::invalid(&at, count, why));
        }
    }
}

const INDEXES_BYTES_MAX: usize = 64 * 1024;

/// How many indexes `1,3-5` names, each below `completions` and above the one before.
pub(super) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut count, mut last) = (0, None);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, end) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        count += end - first + 1;
        last = Some(end);
    }
    Ok(count)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let number = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match text.split('-').collect::<Vec<_>>().as_slice() {
        [one] => number(one).map(|index| (index, index)),
        [first, end] => match (number(first)?, number(end)?) {
            (first, end) if first >= end => {
                Err(format!("non-increasing order, previous: {first}, current: {end}"))
            }
            both => Ok(both),
        },
        _ => Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// An index that both lists name. What cannot be read is passed over: it is told where the format is checked.
pub(super) fn common_index(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (completed, failed) = (read(completed), read(failed));
    let meeting = |(a, b): &(i64, i64)| failed.iter().find(|(x, y)| a <= y && x <= b).map(|(x, _)| *a.max(x));
    completed.iter().find_map(meeting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_grow_and_stay_below_the_completions() {
        for (text, counted) in [
            ("", Ok(0)),
            ("0", Ok(1)),
            ("0,2-4", Ok(4)),
            ("1,0", Err("non-increasing order, previous: 1, current: 0")),
            ("2-2", Err("non-increasing order, previous: 2, current: 2")),
            ("5", Err("too large index: \"5\"")),
            ("x", Err("cannot convert string to integer for index: \"x\"")),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ] {
            assert_eq!(count_indexes(text, 5), counted.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn an_index_is_completed_or_failed() {
        assert_eq!(common_index("0-2,4", "3", 5), None);
        assert_eq!(common_index("0-2,4", "1", 5), Some(1));
        assert_eq!(common_index("", "1", 5), None);
    }
}
