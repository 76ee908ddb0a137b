//! Priority: a pod's priority is that of its class, or of the class that is the cluster's default.

use api_types::status::Status;
use serde_json::{Value, json};

use super::{Plugin, Review};

pub(crate) struct Priority;

const CLASSES: &str = "scheduling.k8s.io/priorityclasses";

impl Plugin for Priority {
    const NAME: &'static str = "Priority";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        if !review.creates("pods") {
            return Ok(());
        }
        let spec = review.new.as_deref().map_or(&Value::Null, |pod| &pod["spec"]);
        let named = spec["priorityClassName"].as_str().filter(|n| !n.is_empty()).map(str::to_owned);
        let (given, given_policy) =
            (spec["priority"].as_i64(), spec["preemptionPolicy"].as_str().map(str::to_owned));
        let class =
            match &named {
                Some(name) => Some(review.view.object(CLASSES, "", name).ok_or_else(|| {
                    review.forbidden(&format!("no PriorityClass with name {name} was found"))
                })?),
                None => review
                    .view
                    .objects(CLASSES, None)
                    .into_iter()
                    .filter(|c| c["globalDefault"] == true)
                    .min_by_key(|c| c["value"].as_i64()),
            };
        let value = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
        let policy =
            class.as_ref().and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
        if let Some(given) = given.filter(|given| *given != value) {
            return Err(review.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            )));
        }
        if let Some(given) = given_policy.filter(|given| given != policy) {
            return Err(review.forbidden(&format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        let Some(pod) = review.new.as_deref_mut().filter(|pod| pod["spec"].is_object()) else {
            return Ok(());
        };
        if let Some(name) = class.as_ref().and_then(|c| c["metadata"]["name"].as_str()) {
            pod["spec"]["priorityClassName"] = name.into();
        }
        pod["spec"]["priority"] = json!(value);
        pod["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let Some(class) = review.new.as_deref().filter(|_| review.is_of(CLASSES)) else { return Ok(()) };
        if class["globalDefault"] != true {
            return Ok(());
        }
        let name = &class["metadata"]["name"];
        let others = review.view.objects(CLASSES, None);
        match others.iter().find(|c| c["globalDefault"] == true && c["metadata"]["name"] != *name) {
            Some(other) => Err(review.forbidden(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other["metadata"]["name"].as_str().unwrap_or_default()
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    fn world() -> Fixture {
        Fixture::default()
            .with(CLASSES, json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}))
            .with(CLASSES, json!({"metadata": {"name": "usual"}, "value": 10, "globalDefault": true}))
    }

    fn create(spec: Value) -> Result<Value, Status> {
        admit::<Priority>(
            world(),
            "pods",
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}),
        )
    }

    #[test]
    fn the_class_gives_the_priority() {
        let high = create(json!({"priorityClassName": "high"})).unwrap();
        assert_eq!(
            high["spec"],
            json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})
        );
        let usual = create(json!({})).unwrap();
        assert_eq!(
            (usual["spec"]["priority"].as_i64(), &usual["spec"]["priorityClassName"]),
            (Some(10), &json!("usual"))
        );
    }

    #[test]
    fn a_number_of_ones_own_or_an_unknown_class_is_refused() {
        assert_eq!(create(json!({"priority": 7})).unwrap_err().code(), 403);
        let unknown = create(json!({"priorityClassName": "none"})).unwrap_err();
        assert_eq!(unknown.message, r#"pods "p" is forbidden: no PriorityClass with name none was found"#);
    }
}
