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
        if !SYSTEM.contains(&(name, value)) {
            let why = "priority class names with 'system-' prefix are reserved for system use only";
            let why = format!("{why}. error: {name} is not a known system priority class");
            errors.push(FieldError::forbidden("metadata.name", why));
        }
    } else if value > USER_PRIORITY_MAX {
        let why = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(FieldError::forbidden("value", why));
    }
}
