//! API services: a name that follows from group and version, and who serves them.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use crate::strategy::rules::{Errors, indexed, invalid_all, text};

pub(super) fn service(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let text_of = |field: &str| spec[field].as_str().unwrap_or_default();
    let (group, version) = (text_of("group"), text_of("version"));
    let wanted = format!("{version}.{group}");
    let name = check.new["metadata"]["name"].as_str().unwrap_or_default();
    if check.old.is_none() && name != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    match group {
        "" => errors.push(FieldError::required(
            "spec.group",
            "only v1 may have an empty group and it better be legacy kube",
        )),
        group => invalid_all(names::check_dns_subdomain(group), "spec.group", group, errors),
    }
    if group.is_empty() && version == "v1" {
        errors.pop();
    }
    invalid_all(names::check_dns_1035_label(version), "spec.version", version, errors);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let number = spec[field].as_i64().unwrap_or_default();
        if !(1..=most).contains(&number) {
            let why = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(format!("spec.{field}"), number, why));
        }
    }
    validate_backend(spec, errors);
}

fn validate_backend(spec: &Value, errors: &mut Errors) {
    let is_insecure = spec["insecureSkipTLSVerify"] == true;
    let has_bundle = text(spec, "caBundle").is_some();
    if spec["service"].is_null() {
        let why = "local APIServices may not have a caBundle";
        if has_bundle {
            errors.push(FieldError::invalid("spec.caBundle", "", why));
        }
        if is_insecure {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
        }
    } else if is_insecure && has_bundle {
        let why = "may not be true if caBundle is present";
        errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
    }
}

pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    for (path, condition) in indexed(&check.new["status"], "status", "conditions") {
        let status = condition["status"].as_str().unwrap_or_default();
        if !matches!(status, "True" | "False" | "Unknown") {
            let known = ["True", "False", "Unknown"];
            errors.push(FieldError::not_supported(format!("{path}.status"), status, &known));
        }
    }
}
