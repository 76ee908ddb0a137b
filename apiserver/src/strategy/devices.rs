//! Claims on devices: administrators' access to them, and what is told of devices that are given back.

use api_types::status::FieldError;
use serde_json::Value;

use super::rules::items;
use super::{Context, Strategy, isolate, validation};

pub(super) struct Claims;
pub(super) struct ClaimTemplates;

/// The label of namespaces in which devices can be had for administration, though others use them.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";

impl Strategy for Claims {
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        if context.subresource == "status" {
            forget_deallocated(new, old);
        }
    }

    fn validate_create(&self, context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let requests = &new["spec"]["devices"]["requests"];
        with_leave(context, new, asked(requests), None)
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let given = |claim: &Value| granted(&claim["status"]["allocation"]["devices"]["results"]);
        let wanted = match context.subresource {
            "status" if given(old).is_none() => given(new),
            // The spec does not change.
            _ => None,
        };
        with_leave(context, new, wanted, Some(old))
    }
}

impl Strategy for ClaimTemplates {
    fn validate_create(&self, context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let requests = &new["spec"]["spec"]["devices"]["requests"];
        with_leave(context, new, asked(requests), None)
    }
}

/// What is wrong, the want of leave for administrative access among it. `wanted` is where that is asked for.
fn with_leave(
    context: &Context<'_>,
    new: &Value,
    wanted: Option<String>,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let namespace = new["metadata"]["namespace"].as_str().unwrap_or_default();
    let is_open = || {
        let namespace = context.view.object("namespaces", "", namespace);
        namespace.is_some_and(|namespace| namespace["metadata"]["labels"][ADMIN_LABEL] == "true")
    };
    let mut errors = Vec::new();
    if let Some(path) = wanted.filter(|_| !is_open()) {
        let why = format!(
            "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
        );
        errors.push(FieldError::forbidden(path, why));
    }
    let Context { kind, subresource, .. } = *context;
    errors.append(&mut validation::validate(&validation::Check { kind, subresource, new, old }));
    errors
}

fn asked(requests: &Value) -> Option<String> {
    let at = items(requests).iter().position(|request| request["exactly"]["adminAccess"] == true)?;
    Some(format!("spec.devices.requests[{at}].adminAccess"))
}

fn granted(results: &Value) -> Option<String> {
    let at = items(results).iter().position(|result| result["adminAccess"] == true)?;
    Some(format!("status.allocation.devices.results[{at}].adminAccess"))
}

/// What drivers told of devices goes with their allocation.
fn forget_deallocated(new: &mut Value, old: &Value) {
    let id = |device: &Value| ["driver", "pool", "device"].map(|part| device[part].clone());
    let allocated = |claim: &Value| -> Vec<_> {
        items(&claim["status"]["allocation"]["devices"]["results"]).iter().map(id).collect()
    };
    let (before, after) = (allocated(old), allocated(new));
    let Some(devices) = new.pointer_mut("/status/devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| !before.contains(&id(device)) || after.contains(&id(device)));
    if devices.is_empty()
        && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
    {
        status.shift_remove("devices");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::service_ip::{ServiceAddresses, ServiceCidr};
    use crate::view::fixture::Fixture;

    fn namespaces() -> Fixture {
        let labels = json!({ ADMIN_LABEL: "true" });
        Fixture::default()
            .with("namespaces", json!({"metadata": {"name": "plain"}}))
            .with("namespaces", json!({"metadata": {"name": "admin", "labels": labels}}))
    }

    fn paths(plural: &str, subresource: &'static str, new: &Value, old: Option<&Value>) -> Vec<String> {
        let kind = api_types::kinds::find_resource("resource.k8s.io", "v1", plural).unwrap();
        let (services, view) = (ServiceAddresses::new(ServiceCidr::usual()), namespaces());
        let context = Context { subresource, view: &view, ..Context::fixture(kind, &services) };
        let strategy = super::super::find(kind);
        let errors = match old {
            None => strategy.validate_create(&context, new),
            Some(old) => strategy.validate_update(&context, new, old),
        };
        errors.into_iter().map(|error| error.path).collect()
    }

    fn devices() -> Value {
        let exactly = json!({"deviceClassName": "g", "count": 1, "adminAccess": true});
        json!({"requests": [{"name": "g", "exactly": exactly}]})
    }

    #[test]
    fn administrative_access_is_asked_for_in_namespaces_that_allow_it() {
        let claim = |namespace| {
            let metadata = json!({"name": "c", "namespace": namespace});
            json!({"metadata": metadata, "spec": {"devices": devices()}})
        };
        let template = |namespace| {
            let metadata = json!({"name": "c", "namespace": namespace});
            json!({"metadata": metadata, "spec": {"spec": {"devices": devices()}}})
        };
        let at = "spec.devices.requests[0].adminAccess";
        assert!(paths("resourceclaims", "", &claim("admin"), None).is_empty());
        assert_eq!(paths("resourceclaims", "", &claim("plain"), None), [at]);
        assert!(paths("resourceclaimtemplates", "", &template("admin"), None).is_empty());
        assert_eq!(paths("resourceclaimtemplates", "", &template("plain"), None), [at]);
    }

    fn allocated(admin: bool, devices: &[&str]) -> Value {
        let device = |name: &&str| json!({"request": "g", "driver": "a.b", "pool": "p", "device": name});
        let results: Vec<Value> = devices
            .iter()
            .map(device)
            .map(|mut result| {
                result["adminAccess"] = json!(admin);
                result
            })
            .collect();
        json!({
            "metadata": {"name": "c", "namespace": "plain"},
            "spec": {"devices": self::devices()},
            "status": {"allocation": {"devices": {"results": results}}},
        })
    }

    #[test]
    fn administrative_access_is_given_in_namespaces_that_allow_it() {
        let none = json!({"metadata": {}, "spec": {"devices": devices()}});
        let given = allocated(true, &["d"]);
        assert_eq!(
            paths("resourceclaims", "status", &given, Some(&none)),
            ["status.allocation.devices.results[0].adminAccess"]
        );
        assert!(paths("resourceclaims", "status", &given, Some(&given)).is_empty());
        assert!(paths("resourceclaims", "status", &allocated(false, &["d"]), Some(&none)).is_empty());
    }

    #[test]
    fn what_is_told_of_a_device_goes_with_its_allocation() {
        let told = |name: &str| json!({"driver": "a.b", "pool": "p", "device": name});
        let mut old = allocated(false, &["d", "e"]);
        old["status"]["devices"] = json!([told("d"), told("e")]);
        let mut new = old.clone();
        new["status"]["allocation"] = allocated(false, &["e"])["status"]["allocation"].clone();
        forget_deallocated(&mut new, &old);
        assert_eq!(new["status"]["devices"], json!([told("e")]));
        let mut new = old.clone();
        new["status"].as_object_mut().unwrap().shift_remove("allocation");
        forget_deallocated(&mut new, &old);
        assert_eq!(new["status"], json!({}));
    }
}
