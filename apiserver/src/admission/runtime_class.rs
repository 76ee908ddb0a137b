//! RuntimeClass: a pod has the overhead of its class and goes where the class can run.

use api_types::quantity::Quantity;
use api_types::status::Status;
use serde_json::{Value, json};

use super::{Plugin, Review};

pub(crate) struct RuntimeClass;

const CLASSES: &str = "node.k8s.io/runtimeclasses";

impl Plugin for RuntimeClass {
    const NAME: &'static str = "RuntimeClass";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        if !review.creates("pods") {
            return Ok(());
        }
        let Some(class) = class_of(review)? else { return Ok(()) };
        check_overhead(review, &class)?;
        let selector = merged_selector(review, &class["scheduling"]["nodeSelector"])?;
        let Some(pod) = review.new.as_deref_mut() else { return Ok(()) };
        if let Some(overhead) = class["overhead"]["podFixed"].as_object() {
            pod["spec"]["overhead"] = json!(overhead);
        }
        if let Some(selector) = selector {
            pod["spec"]["nodeSelector"] = selector;
        }
        if let Some(tolerations) = class["scheduling"]["tolerations"].as_array() {
            let own = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
            pod["spec"]["tolerations"] = merged_tolerations(own, tolerations).into();
        }
        Ok(())
    }

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        if !review.creates("pods") {
            return Ok(());
        }
        let given = overhead_of(review.new.as_deref());
        match class_of(review)? {
            Some(class) if class["overhead"].is_object() => {
                let fixed = &class["overhead"]["podFixed"];
                if given.is_some_and(|given| is_same(given, fixed)) {
                    return Ok(());
                }
                Err(review.forbidden(MISMATCH))
            }
            _ if given.is_some() => Err(review.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn class_of(review: &Review<'_>) -> Result<Option<std::sync::Arc<Value>>, Status> {
    let name = review.new.as_deref().and_then(|pod| pod["spec"]["runtimeClassName"].as_str());
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    match review.view.object(CLASSES, "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(review.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn overhead_of(pod: Option<&Value>) -> Option<&Value> {
    let overhead = &pod?["spec"]["overhead"];
    overhead.as_object().is_some_and(|fields| !fields.is_empty()).then_some(overhead)
}

/// Whether two lists of amounts say the same, however it is written.
fn is_same(a: &Value, b: &Value) -> bool {
    let read = |value: &Value| -> Vec<(String, Quantity)> {
        let amount = |text: &Value| Quantity::parse_or_zero(text.as_str().unwrap_or_default());
        let fields = value.as_object().into_iter().flatten();
        let mut amounts: Vec<_> = fields.map(|(name, text)| (name.clone(), amount(text))).collect();
        amounts.sort();
        amounts
    };
    read(a) == read(b)
}

fn check_overhead(review: &Review<'_>, class: &Value) -> Result<(), Status> {
    match overhead_of(review.new.as_deref()) {
        Some(given) if class["overhead"].is_object() && !is_same(given, &class["overhead"]["podFixed"]) => {
            Err(review.forbidden(MISMATCH))
        }
        _ => Ok(()),
    }
}

/// The pod's node selector with the class's; nothing when the class has none.
fn merged_selector(review: &Review<'_>, wanted: &Value) -> Result<Option<Value>, Status> {
    let Some(wanted) = wanted.as_object().filter(|fields| !fields.is_empty()) else { return Ok(None) };
    let own = review.new.as_deref().map_or(&Value::Null, |pod| &pod["spec"]["nodeSelector"]);
    let mut merged = own.as_object().cloned().unwrap_or_default();
    for (key, value) in wanted {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if let Some(other) = merged.insert(key.clone(), value.clone()).filter(|other| other != value) {
            let (wanted, other) = (text(value), text(&other));
            return Err(review.forbidden(&format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {other}"
            )));
        }
    }
    Ok(Some(Value::Object(merged)))
}

/// Both lists, without what another entry covers.
fn merged_tolerations(own: Vec<Value>, more: &[Value]) -> Vec<Value> {
    let all: Vec<Value> = own.into_iter().chain(more.iter().cloned()).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (place, toleration) in all.iter().enumerate() {
        let later = all[place + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !later && !merged.iter().any(|other| covers(other, toleration)) {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    let text = |toleration: &Value, field: &str| toleration[field].as_str().unwrap_or_default().to_owned();
    let exists = text(wide, "operator") == "Exists";
    let key = text(wide, "key") == text(narrow, "key") || (text(wide, "key").is_empty() && exists);
    let effect = text(wide, "effect") == text(narrow, "effect") || text(wide, "effect").is_empty();
    let seconds = match wide["tolerationSeconds"].as_i64().filter(|_| text(wide, "effect") == "NoExecute") {
        Some(seconds) => narrow["tolerationSeconds"].as_i64().is_some_and(|narrow| narrow <= seconds),
        None => true,
    };
    let equal = || text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value");
    wide == narrow || (key && effect && seconds && (exists || equal()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    fn create(spec: Value) -> Result<Value, Status> {
        let class = json!({"metadata": {"name": "light"}, "overhead": {"podFixed": {"cpu": "50m"}},
            "scheduling": {"nodeSelector": {"rt": "light"}, "tolerations": [{"key": "rt", "operator": "Exists"}]}});
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        admit::<RuntimeClass>(Fixture::default().with(CLASSES, class), "pods", pod)
            .map(|pod| pod["spec"].clone())
    }

    #[test]
    fn a_pod_has_the_overhead_and_the_place_of_its_class() {
        let narrow = json!({"key": "rt", "operator": "Equal", "value": "x", "effect": "NoSchedule"});
        let spec =
            create(json!({"runtimeClassName": "light", "nodeSelector": {"a": "b"}, "tolerations": [narrow]}))
                .unwrap();
        assert_eq!(spec["overhead"], json!({"cpu": "50m"}));
        assert_eq!(spec["nodeSelector"], json!({"a": "b", "rt": "light"}));
        assert_eq!(spec["tolerations"], json!([{"key": "rt", "operator": "Exists"}]));
    }

    #[test]
    fn what_contradicts_the_class_is_refused() {
        let refusal =
            |spec: Value| create(spec).unwrap_err().message.replace("pods \"p\" is forbidden: ", "");
        assert_eq!(refusal(json!({"runtimeClassName": "no"})), "pod rejected: RuntimeClass \"no\" not found");
        assert_eq!(refusal(json!({"runtimeClassName": "light", "overhead": {"cpu": "1"}})), MISMATCH);
        assert_eq!(
            refusal(json!({"runtimeClassName": "light", "nodeSelector": {"rt": "other"}})),
            "conflict: runtimeClass.scheduling.nodeSelector[rt] = light; pod.spec.nodeSelector[rt] = other"
        );
        assert!(create(json!({"runtimeClassName": "light", "overhead": {"cpu": "0.05"}})).is_ok());
    }
}
