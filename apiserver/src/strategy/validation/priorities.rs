//! Priority classes: high values and some names are the cluster's own.

use api_types::status::FieldError;

use super::Check;
use crate::strategy::rules::Errors;

/// Values above this are the cluster's own.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) fn class(check: &Check<'_>, errors: &mut Errors) {
    if check.old.is_some() {
        return;
    }
    let name = check.new["metadata"]["name"].as_str().unwrap_or_default();
    let value = check.new["value"].as_i64().unwrap_or(0);
    if name.starts_with("system-") {
        let known = SYSTEM.iter().find(|(known, _)| *known == name);
        let error = match known {
            Some((_, wanted)) if *wanted == value => None,
            Some((_, wanted)) => Some(format!("value of {name} PriorityClass must be {wanted}")),
            None => Some(format!("{name} is not a known system priority class")),
        };
        if let Some(error) = error {
            let why = "priority class names with 'system-' prefix are reserved for system use only";
            let why = format!("{why}. error: {error}");
            errors.push(FieldError::forbidden("metadata.name", why));
        }
    } else if value > USER_PRIORITY_MAX {
        let why = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(FieldError::forbidden("value", why));
    }
}
