//! Numbers and percentages that steer how fast workloads are replaced.

use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::Errors;

const NOT_A_PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Digits and a percent sign.
fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().unwrap_or(u64::MAX))
}

/// A number that is not negative, or a percentage.
pub(super) fn check_positive(value: &Value, path: &str, errors: &mut Errors) {
    match value {
        Value::String(text) if percent(text).is_none() => {
            errors.push(FieldError::invalid(path, text.as_str(), NOT_A_PERCENT));
        }
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.push(FieldError::invalid(path, value.clone(), "must be greater than or equal to 0"));
        }
        _ => {}
    }
}

pub(super) fn check_at_most_all(value: &Value, path: &str, errors: &mut Errors) {
    if value.as_str().and_then(percent).is_some_and(|percent| percent > 100) {
        errors.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

/// A number or percentage of what there is.
pub(super) fn check_int_or_percent(value: &Value, path: &str, errors: &mut Errors) {
    check_positive(value, path, errors);
    check_at_most_all(value, path, errors);
}

pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        // As in Kubernetes, what is neither counts as nothing.
        Value::String(text) => {
            percent(text).is_some_and(|percent| percent == 0)
                || (percent(text).is_none() && text.parse::<i64>().unwrap_or(0) == 0)
        }
        Value::Number(number) => number.as_i64() == Some(0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_share_is_a_whole_number_of_percents_up_to_all() {
        for (value, wrong) in [
            (json!(0), 0),
            (json!("100%"), 0),
            (json!(-1), 1),
            (json!("101%"), 1),
            (json!("1.5%"), 1),
            (json!("10"), 1),
            (json!("%"), 1),
        ] {
            let mut errors = Errors::new();
            check_int_or_percent(&value, "p", &mut errors);
            assert_eq!(errors.len(), wrong, "{value}");
        }
    }
}
