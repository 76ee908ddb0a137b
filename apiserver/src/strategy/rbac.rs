//! Roles and bindings: rules that say something, and a binding that keeps its role.

use api_types::status::FieldError;
use serde_json::Value;

use super::metadata::NameRule;
use super::rules::{Errors, indexed, items, required, selector, text};
use super::{Context, Strategy};

pub(super) struct Roles;
pub(super) struct ClusterRoles;
pub(super) struct Bindings;

const GROUP: &str = "rbac.authorization.k8s.io";

impl Strategy for Roles {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_rules(new, true, &mut errors);
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

impl Strategy for ClusterRoles {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_rules(new, false, &mut errors);
        let aggregation = &new["aggregationRule"];
        if aggregation.is_object() {
            let path = "aggregationRule.clusterRoleSelectors";
            if items(&aggregation["clusterRoleSelectors"]).is_empty() {
                errors.push(FieldError::required(
                    path,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                ));
            }
            for (path, wanted) in indexed(aggregation, "aggregationRule", "clusterRoleSelectors") {
                let before = errors.len();
                selector(wanted, &path, &mut errors);
                if errors.len() > before {
                    errors.push(FieldError::invalid(
                        path,
                        serde_json::Value::Null,
                        "invalid label selector.",
                    ));
                }
            }
        }
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

fn validate_rules(role: &Value, is_namespaced: bool, errors: &mut Errors) {
    for (path, rule) in indexed(role, "", "rules") {
        if items(&rule["verbs"]).is_empty() {
            errors
                .push(FieldError::required(format!("{path}.verbs"), "verbs must contain at least one value"));
        }
        let urls = items(&rule["nonResourceURLs"]);
        if !urls.is_empty() {
            let path = format!("{path}.nonResourceURLs");
            if is_namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&path, rule["nonResourceURLs"].clone(), why));
            }
            let resources = ["apiGroups", "resources", "resourceNames"];
            if resources.iter().any(|field| !items(&rule[*field]).is_empty()) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&path, rule["nonResourceURLs"].clone(), why));
            }
            continue;
        }
        for (field, why) in [
            ("apiGroups", "resource rules must supply at least one api group"),
            ("resources", "resource rules must supply at least one resource"),
        ] {
            if items(&rule[field]).is_empty() {
                errors.push(FieldError::required(format!("{path}.{field}"), why));
            }
        }
    }
}

impl Strategy for Bindings {
    fn validate_create(&self, context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let reference = &new["roleRef"];
        let kinds: &[&str] =
            if context.kind.is_namespaced() { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        let text_of = |field: &str| reference[field].as_str().unwrap_or_default();
        if text_of("apiGroup") != GROUP {
            errors.push(FieldError::not_supported("roleRef.apiGroup", text_of("apiGroup"), &[GROUP]));
        }
        if !kinds.contains(&text_of("kind")) {
            errors.push(FieldError::not_supported("roleRef.kind", text_of("kind"), kinds));
        }
        match text(reference, "name") {
            None => errors.push(FieldError::required("roleRef.name", "")),
            Some(name) => {
                let wrong = api_types::names::check_path_segment(name);
                super::rules::invalid_all(wrong, "roleRef.name", name, &mut errors);
            }
        }
        for (path, subject) in indexed(new, "", "subjects") {
            validate_subject(subject, &path, context.kind.is_namespaced(), &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        if new["roleRef"] != old["roleRef"] {
            errors.push(FieldError::invalid("roleRef", new["roleRef"].clone(), "cannot change roleRef"));
        }
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

fn validate_subject(subject: &Value, path: &str, is_namespaced: bool, errors: &mut Errors) {
    required(subject, path, "name", errors);
    let group = subject["apiGroup"].as_str().unwrap_or_default();
    match subject["kind"].as_str().unwrap_or_default() {
        "ServiceAccount" => {
            if let Some(name) = text(subject, "name") {
                let wrong = api_types::names::check_dns_subdomain(name);
                super::rules::invalid_all(wrong, &format!("{path}.name"), name, errors);
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(format!("{path}.apiGroup"), group, &[""]));
            }
            if !is_namespaced {
                required(subject, path, "namespace", errors);
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(FieldError::not_supported(format!("{path}.apiGroup"), group, &[GROUP]));
            }
        }
        other => errors.push(FieldError::not_supported(
            format!("{path}.kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        )),
    }
}
