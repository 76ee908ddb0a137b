//! How much of a device's capacity a request may take: one of a few values, or what lies in a range.

use api_types::quantity::Quantity;
use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::{Errors, items};

const VALUES_MAX: usize = 10;

/// `capacity.requestPolicy` of a device that can be allocated more than once.
pub(super) fn validate_policy(capacity: &Value, path: &str, errors: &mut Errors) {
    let policy = &capacity["requestPolicy"];
    if !policy.is_object() {
        return;
    }
    let path = format!("{path}.requestPolicy");
    let has_values = !items(&policy["validValues"]).is_empty();
    let has_range = policy["validRange"].is_object();
    let max = quantity(&capacity["value"]).unwrap_or(Quantity::ZERO);
    match (has_values, has_range, quantity(&policy["default"])) {
        (true, true, _) => {
            let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.push(FieldError::forbidden(path, why));
        }
        (true, false, None) => {
            let why = "required when validValues is defined";
            errors.push(FieldError::required(format!("{path}.default"), why));
        }
        (false, true, None) => {
            let why = "required when validRange is defined";
            errors.push(FieldError::required(format!("{path}.default"), why));
        }
        (true, false, Some(usual)) => {
            let values: Vec<Quantity> = items(&policy["validValues"]).iter().filter_map(quantity).collect();
            validate_values(usual, max, &values, &format!("{path}.validValues"), errors);
        }
        (false, true, Some(usual)) => {
            let range = Bounds::of(&policy["validRange"], usual, max);
            range.validate(&format!("{path}.validRange"), errors);
        }
        (false, false, _) => {}
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

fn validate_values(usual: Quantity, max: Quantity, values: &[Quantity], path: &str, errors: &mut Errors) {
    for (index, pair) in values.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        let why = "values must be sorted in ascending order";
        errors.push(FieldError::invalid(format!("{path}[{}]", index + 1), pair[1].to_string(), why));
    }
    let is_usual_known = values.len() <= VALUES_MAX && values.contains(&usual);
    if values.len() > VALUES_MAX {
        errors.push(FieldError::too_many(path, values.len(), VALUES_MAX));
    } else {
        for (index, value) in values.iter().enumerate().filter(|(_, value)| **value > max) {
            let why = format!("option is larger than capacity value: {max}");
            errors.push(FieldError::invalid(format!("{path}[{index}]"), value.to_string(), why));
        }
        for (index, value) in values.iter().enumerate() {
            if values[..index].iter().any(|earlier| earlier.units() == value.units()) {
                let shown = value.units().to_string();
                errors.push(FieldError::duplicate(format!("{path}[{index}]"), shown));
            }
        }
    }
    if !is_usual_known {
        let why = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(path, usual.to_string(), why));
    }
}

struct Bounds {
    usual: Quantity,
    /// All that there is.
    capacity: Quantity,
    min: Option<Quantity>,
    max: Option<Quantity>,
    step: Option<Quantity>,
}

impl Bounds {
    fn of(range: &Value, usual: Quantity, capacity: Quantity) -> Bounds {
        let [min, max, step] = ["min", "max", "step"].map(|field| quantity(&range[field]));
        Bounds { usual, capacity, min, max, step }
    }

    fn validate(&self, path: &str, errors: &mut Errors) {
        let Some(min) = self.min else {
            let why = "required when validRange is defined";
            errors.push(FieldError::required(format!("{path}.min"), why));
            return;
        };
        let Bounds { usual, capacity, .. } = *self;
        let mut wrong = |is: bool, field: &str, value: Quantity, why: String| {
            if is {
                errors.push(FieldError::invalid(format!("{path}.{field}"), value.to_string(), why));
            }
        };
        wrong(min > capacity, "min", min, format!("min is larger than capacity value: {capacity}"));
        wrong(usual < min, "default", usual, format!("default is less than min: {min}"));
        if let Some(max) = self.max {
            wrong(min > max, "max", min, format!("min is larger than max: {max}"));
            wrong(max > capacity, "max", max, format!("max is larger than capacity value: {capacity}"));
            wrong(usual > max, "default", usual, format!("default is more than max: {max}"));
        }
        if let Some(step) = self.step {
            self.validate_step(min, step, path, errors);
        }
    }

    fn validate_step(&self, min: Quantity, step: Quantity, path: &str, errors: &mut Errors) {
        let path = format!("{path}.step");
        if step.is_zero() || step.is_negative() {
            errors.push(FieldError::invalid(path, step.to_string(), "must be greater than zero"));
            return;
        }
        let (first, capacity) = (min + step, self.capacity);
        if first > capacity {
            let why = format!("one step {first} is larger than capacity value: {capacity}");
            errors.push(FieldError::invalid(path.as_str(), step.to_string(), why));
        }
        for value in [Some(self.usual), self.max].into_iter().flatten() {
            if (i128::from(value.units()) - i128::from(min.units())) % i128::from(step.units()) != 0 {
                let why = format!("value is not a multiple of a given step ({step}) from ({min})");
                errors.push(FieldError::invalid(path.as_str(), value.to_string(), why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(policy: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate_policy(&json!({"value": "10Gi", "requestPolicy": policy}), "", &mut errors);
        let shown = |e: FieldError| format!("{}: {}", e.path.trim_start_matches(".requestPolicy"), e.body());
        errors.into_iter().map(shown).collect()
    }

    #[test]
    fn a_policy_has_values_or_a_range_and_a_default_that_fits() {
        assert!(check(json!({"default": "1Gi"})).is_empty());
        assert!(check(json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]})).is_empty());
        assert!(
            check(json!({"default": "2Gi", "validRange": {"min": "1Gi", "max": "9Gi", "step": "1Gi"}}))
                .is_empty()
        );
        assert_eq!(
            check(json!({"validValues": ["1"]})),
            [".default: Required value: required when validValues is defined"]
        );
        assert_eq!(
            check(json!({"validRange": {}})),
            [".default: Required value: required when validRange is defined"]
        );
        assert_eq!(check(json!({"validValues": ["1"], "validRange": {}})).len(), 1);
    }

    #[test]
    fn values_ascend_are_told_apart_and_are_there() {
        assert_eq!(
            check(json!({"default": "3", "validValues": ["2", "1", "1", "11Gi"]})),
            [
                ".validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                ".validValues[3]: Invalid value: \"11Gi\": option is larger than capacity value: 10Gi",
                ".validValues[2]: Duplicate value: \"1\"",
                ".validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ]
        );
        let many: Vec<String> = (1..=11).map(|n| n.to_string()).collect();
        assert_eq!(
            check(json!({"default": "1", "validValues": many})),
            [
                ".validValues: Too many: 11: must have at most 10 items",
                ".validValues: Invalid value: \"1\": default value is not valid according to the requestPolicy",
            ]
        );
    }

    #[test]
    fn a_range_lies_in_the_capacity_and_is_walked_in_steps() {
        let range = |usual: &str, range: Value| check(json!({"default": usual, "validRange": range}));
        assert_eq!(
            range("1", json!({})),
            [".validRange.min: Required value: required when validRange is defined"]
        );
        assert_eq!(
            range("1", json!({"min": "11Gi"})),
            [
                ".validRange.min: Invalid value: \"11Gi\": min is larger than capacity value: 10Gi",
                ".validRange.default: Invalid value: \"1\": default is less than min: 11Gi",
            ]
        );
        assert_eq!(
            range("6", json!({"min": "5", "max": "4"})),
            [
                ".validRange.max: Invalid value: \"5\": min is larger than max: 4",
                ".validRange.default: Invalid value: \"6\": default is more than max: 4",
            ]
        );
        assert_eq!(
            range("6", json!({"min": "5", "max": "9", "step": "0"})),
            [".validRange.step: Invalid value: \"0\": must be greater than zero"]
        );
        assert_eq!(
            range("6", json!({"min": "5", "max": "9", "step": "2"})),
            [".validRange.step: Invalid value: \"6\": value is not a multiple of a given step (2) from (5)"]
        );
        assert_eq!(
            range("1", json!({"min": "1", "step": "10Gi"})),
            [
                ".validRange.step: Invalid value: \"10Gi\": one step 10737418241 is larger than capacity value: 10Gi"
            ]
        );
    }
}
