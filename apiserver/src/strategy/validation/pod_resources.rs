//! Resources of a pod as a whole: at least what its containers ask for together, and at most what none may exceed.

use api_types::k8s_openapi::api::core::v1::PodSpec;
use api_types::pods::container_requests;
use api_types::quantity::Quantity;
use api_types::status::FieldError;
use serde::Deserialize as _;
use serde_json::Value;

use super::containers::validate_promise;
use super::quantities::{amounts, check_pod_name, quantity, shown};
use crate::strategy::rules::{Errors, items};

/// `spec.resources`, which stand at `path`.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    let resources = &spec["resources"];
    if !resources["claims"].is_null() {
        let why = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(format!("{path}.claims"), why));
    }
    validate_promise(resources, check_pod_name, path, errors);
    let Ok(pod) = PodSpec::deserialize(spec) else { return };
    for (name, asked) in container_requests(&pod) {
        let whole = &resources["requests"][&name];
        if asked > quantity(whole).unwrap_or(Quantity::ZERO) {
            let why = format!("must be greater than or equal to aggregate container requests of {asked}");
            errors.push(FieldError::invalid(format!("{path}.requests[{name}]"), shown(whole), why));
        }
    }
    for (index, container) in items(&spec["containers"]).iter().enumerate() {
        for (_, name, limit) in amounts(&container["resources"]["limits"], "") {
            let whole = &resources["limits"][name];
            if let (Some(own), Some(most)) = (quantity(limit), quantity(whole))
                && own > most
            {
                let at = format!("{path}.containers[{index}][{name}].limits");
                let why = format!("must be less than or equal to pod limits of {}", shown(whole));
                errors.push(FieldError::invalid(at, shown(limit), why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&spec, "r", &mut errors);
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn a_pod_asks_for_as_much_as_its_containers_and_limits_each() {
        let container =
            |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}});
        let spec = |requests: &str, limits: &str| {
            json!({"resources": {"requests": {"cpu": requests}, "limits": {"cpu": limits}},
                "containers": [container("1"), container("500m")]})
        };
        assert!(paths(spec("1500m", "2")).is_empty());
        assert_eq!(paths(spec("1", "2")), ["r.requests[cpu]"]);
        assert_eq!(paths(spec("500m", "500m")), ["r.requests[cpu]", "r.containers[0][cpu].limits"]);
    }

    #[test]
    fn a_pod_as_a_whole_has_no_claims_and_few_resources() {
        assert_eq!(
            paths(
                json!({"containers": [], "resources": {"claims": [{"name": "c"}], "limits": {"ephemeral-storage": "1Gi"}}})
            ),
            ["r.claims", "r.limits[ephemeral-storage]"]
        );
    }
}
