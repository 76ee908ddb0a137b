//! Resources of a pod as a whole: at least what its containers ask for together, and at most what none may exceed.

use std::collections::BTreeMap;

use api_types::quantity::Quantity;
use api_types::status::FieldError;
use serde_json::Value;

use super::containers::validate_promise;
use super::quantities::{amounts, check_pod_name, quantity, shown};
use crate::strategy::rules::{Errors, indexed, items};

/// `spec.resources`, which stand at `path`.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    let resources = &spec["resources"];
    if !resources["claims"].is_null() {
        let why = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(format!("{path}.claims"), why));
    }
    validate_promise(resources, check_pod_name, path, errors);
    for (name, asked) in asked_together(spec) {
        let whole = &resources["requests"][&name];
        if asked > quantity(whole).map_or(0, |whole| whole.milli()) {
            let why = format!(
                "must be greater than or equal to aggregate container requests of {}",
                Quantity::from_milli(asked)
            );
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

type Amounts = BTreeMap<String, i64>;

/// What the containers ask for when most of them run: all that go on running, or one that runs before them.
fn asked_together(spec: &Value) -> Amounts {
    let requests = |container: &Value| -> Amounts {
        amounts(&container["resources"]["requests"], "")
            .filter_map(|(_, name, value)| Some((name.to_owned(), quantity(value)?.milli())))
            .collect()
    };
    let mut running = Amounts::new();
    for container in items(&spec["containers"]) {
        add(&mut running, &requests(container));
    }
    let (mut beside, mut before) = (Amounts::new(), Amounts::new());
    for (_, container) in indexed(spec, "", "initContainers") {
        let mut own = requests(container);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &own);
            add(&mut beside, &own);
            own.clone_from(&beside);
        } else {
            add(&mut own, &beside);
        }
        for (name, amount) in own {
            let most = before.entry(name).or_default();
            *most = amount.max(*most);
        }
    }
    for (name, amount) in before {
        let most = running.entry(name).or_default();
        *most = amount.max(*most);
    }
    running
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = sum.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
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
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}});
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
            paths(json!({"resources": {"claims": [{"name": "c"}], "limits": {"ephemeral-storage": "1Gi"}}})),
            ["r.claims", "r.limits[ephemeral-storage]"]
        );
    }

    #[test]
    fn one_container_before_the_others_may_ask_for_most() {
        let init = |cpu: &str, policy: Value| json!({"restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        let spec = json!({
            "initContainers": [init("1", json!("Always")), init("3", Value::Null)],
            "containers": [init("2", Value::Null)],
        });
        assert_eq!(asked_together(&spec)["cpu"], 4000);
    }
}
