//! Runtime classes: what running in one costs, and where it can be done.

use serde_json::json;

use api_types::status::FieldError;

use super::{Check, affinity, containers};
use crate::strategy::rules::{Errors, indexed};

pub(super) fn class(check: &Check<'_>, errors: &mut Errors) {
    let overhead = json!({ "limits": check.new["overhead"]["podFixed"] });
    containers::validate_resources(&overhead, "overhead", errors);
    let scheduling = &check.new["scheduling"];
    affinity::validate_tolerations(scheduling, "scheduling", errors);
    let mut seen = Vec::new();
    for (path, toleration) in indexed(scheduling, "scheduling", "tolerations") {
        if seen.contains(&toleration) {
            errors.push(FieldError::duplicate(path, toleration.clone()));
        }
        seen.push(toleration);
    }
}
