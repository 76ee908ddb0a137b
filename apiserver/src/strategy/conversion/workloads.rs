//! Workloads and budgets of the betas: selectors that were taken from the template, fields that are gone, and
//! defaults that were other ones.

use serde_json::{Map, Value, json};

pub(super) fn unchanged(_object: &mut Value) {}

fn spec(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("spec").and_then(Value::as_object_mut)
}

/// Without a selector, the labels of the template were one.
fn select_template(object: &mut Value) {
    let labels =
        object.pointer("/spec/template/metadata/labels").filter(|labels| labels.is_object()).cloned();
    let (Some(spec), Some(labels)) = (spec(object), labels) else { return };
    if spec.get("selector").is_none_or(|s| s.is_null() || *s == json!({})) {
        spec.insert("selector".to_owned(), json!({ "matchLabels": labels }));
    }
}

fn default(fields: &mut Map<String, Value>, name: &str, value: Value) {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value);
    }
}

/// Of a Deployment, those whose old default differs: how many pods may be missing and more, and how many old
/// revisions stay.
fn store_deployment(object: &mut Value, step: Value, revisions: i32) {
    select_template(object);
    let Some(spec) = spec(object) else { return };
    spec.shift_remove("rollbackTo");
    default(spec, "revisionHistoryLimit", revisions.into());
    default(spec, "strategy", json!({}));
    let Some(strategy) = spec.get_mut("strategy").and_then(Value::as_object_mut) else { return };
    if strategy.get("type").is_none_or(|kind| kind.is_null() || kind == "RollingUpdate") {
        default(strategy, "rollingUpdate", json!({}));
        let rolling = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut);
        if let Some(rolling) = rolling {
            default(rolling, "maxSurge", step.clone());
            default(rolling, "maxUnavailable", step);
        }
    }
}

pub(super) fn store_first_deployment(object: &mut Value) {
    store_deployment(object, json!(1), i32::MAX);
    if let Some(spec) = spec(object) {
        default(spec, "progressDeadlineSeconds", i32::MAX.into());
    }
}

pub(super) fn store_beta_deployment(object: &mut Value) {
    const REVISIONS: i32 = 2;
    store_deployment(object, json!("25%"), REVISIONS);
}

pub(super) fn store_selecting(object: &mut Value) {
    select_template(object);
}

/// Pods of the first beta's daemons and stateful sets were replaced only when somebody deleted them.
pub(super) fn store_on_delete(object: &mut Value) {
    select_template(object);
    let Some(spec) = spec(object) else { return };
    spec.shift_remove("templateGeneration");
    default(spec, "updateStrategy", json!({ "type": "OnDelete" }));
}

/// An empty selector selected nothing in the beta and selects everything now: a term that no pod meets says so.
const NOTHING: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

pub(super) fn store_budget(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    if spec.get("selector") == Some(&json!({})) {
        let term = json!({ "key": NOTHING, "operator": "Exists" });
        spec.insert("selector".to_owned(), json!({ "matchExpressions": [term] }));
    }
}

pub(super) fn show_budget(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    let nothing = spec.get("selector").is_some_and(|s| s["matchExpressions"][0]["key"] == NOTHING);
    if nothing {
        spec.insert("selector".to_owned(), json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_deployment_is_selected_by_its_template_and_replaced_one_by_one() {
        let template = json!({ "metadata": { "labels": { "app": "x" } } });
        let mut object = json!({ "spec": { "template": template, "rollbackTo": { "revision": 1 } } });
        store_first_deployment(&mut object);
        let spec = &object["spec"];
        assert_eq!(spec["selector"], json!({ "matchLabels": { "app": "x" } }));
        assert_eq!(spec["strategy"]["rollingUpdate"], json!({ "maxSurge": 1, "maxUnavailable": 1 }));
        assert!(spec.get("rollbackTo").is_none());
    }

    #[test]
    fn an_empty_selector_of_the_beta_still_selects_nothing() {
        let mut budget = json!({ "spec": { "selector": {} } });
        store_budget(&mut budget);
        assert_eq!(budget["spec"]["selector"]["matchExpressions"][0]["key"], NOTHING);
        show_budget(&mut budget);
        assert_eq!(budget["spec"]["selector"], json!({}));
    }
}
