//! LimitRanger: defaults from a namespace's LimitRanges for containers that name no requests or limits.
//!
//! Deliberately not here yet: minimum, maximum and ratio checks.

use api_types::status::Status;
use serde_json::{Value, json};

use super::{Plugin, Review};

pub(crate) struct LimitRanger;

impl Plugin for LimitRanger {
    const NAME: &'static str = "LimitRanger";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        if !review.creates("pods") {
            return Ok(());
        }
        let ranges = review.view.objects("limitranges", Some(review.namespace));
        let Some(pod) = review.new.as_deref_mut() else { return Ok(()) };
        let items = ranges.iter().flat_map(|range| range["spec"]["limits"].as_array().into_iter().flatten());
        for item in items.filter(|item| item["type"] == "Container") {
            for list in ["initContainers", "containers"] {
                let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
                for container in containers.into_iter().flatten() {
                    fill(container, "limits", &item["default"]);
                    fill(container, "requests", &item["defaultRequest"]);
                }
            }
        }
        Ok(())
    }
}

/// Adds what the container does not name.
fn fill(container: &mut Value, part: &str, defaults: &Value) {
    for (resource, quantity) in defaults.as_object().into_iter().flatten() {
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        if !container["resources"][part].is_object() {
            container["resources"][part] = json!({});
        }
        let named = &mut container["resources"][part][resource];
        if named.is_null() {
            *named = quantity.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    #[test]
    fn a_container_gets_what_it_does_not_name() {
        let range = json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}]}});
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "2m"}}}]}});
        let pod = admit::<LimitRanger>(Fixture::default().with("limitranges", range), "pods", pod).unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "2m"}, "limits": {"cpu": "1"}})
        );
    }
}
