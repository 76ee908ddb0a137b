//! Autoscalers of version 1 know one metric, the processor's; what else there is they keep in annotations.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// An autoscaler of whatever version in the form in which it is stored.
pub(crate) fn stored(object: &Value) -> Cow<'_, Value> {
    if object["apiVersion"] != "autoscaling/v1" {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    store_version_1(&mut object);
    Cow::Owned(object)
}

pub(super) fn show_version_1(object: &mut Value) {
    let mut kept = Map::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = list(spec.shift_remove("metrics"));
        let (processor, others): (Vec<_>, Vec<_>) = metrics.into_iter().partition(is_processor);
        if let Some(metric) = processor.first() {
            let percent = metric["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
        }
        if !others.is_empty() {
            kept.insert(METRICS.to_owned(), text_of(others.iter().map(old_metric)));
        }
        if let Some(behavior) = spec.shift_remove("behavior").filter(Value::is_object) {
            kept.insert(BEHAVIOR.to_owned(), go_behavior(&behavior).to_string().into());
        }
    }
    show_status(object, &mut kept);
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if !kept.is_empty() {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations.as_object_mut().into_iter().for_each(|all| all.extend(kept.clone()));
    }
}

fn show_status(object: &mut Value, kept: &mut Map<String, Value>) {
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    let current = list(status.shift_remove("currentMetrics"));
    let utilization = current.iter().find_map(|metric| {
        let cpu = metric["resource"]["name"] == "cpu";
        cpu.then(|| metric["resource"]["current"]["averageUtilization"].as_i64()).flatten()
    });
    if let Some(percent) = utilization {
        status.insert("currentCPUUtilizationPercentage".to_owned(), percent.into());
    }
    if !current.is_empty() {
        kept.insert(CURRENT.to_owned(), text_of(current.iter().map(old_current)));
    }
    let conditions = list(status.shift_remove("conditions"));
    if !conditions.is_empty() {
        kept.insert(CONDITIONS.to_owned(), text_of(conditions.into_iter()));
    }
    status.entry("currentReplicas").or_insert_with(|| json!(0));
    status.entry("desiredReplicas").or_insert_with(|| json!(0));
}

pub(super) fn store_version_1(object: &mut Value) {
    let mut kept = |name: &str| take_annotation(object, name);
    let (metrics, current) = (kept(METRICS), kept(CURRENT));
    let (conditions, behavior) = (kept(CONDITIONS), kept(BEHAVIOR));
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics: Vec<_> = list(metrics).iter().map(new_metric).collect();
        if let Some(percent) = spec.shift_remove("targetCPUUtilizationPercentage").filter(Value::is_number) {
            metrics.push(processor(percent));
        }
        if metrics.is_empty() {
            metrics.push(processor(json!(DEFAULT_PERCENT)));
        }
        spec.insert("metrics".to_owned(), metrics.into());
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), plain_behavior(&behavior));
        }
    }
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    let percent = status.shift_remove("currentCPUUtilizationPercentage").filter(Value::is_number);
    let current = match (list(current), percent) {
        (current, None) if current.is_empty() => Value::Null,
        (current, Some(percent)) if current.is_empty() => json!([{ "type": "Resource",
            "resource": { "name": "cpu", "current": { "averageUtilization": percent } } }]),
        (current, _) => current.iter().map(new_current).collect(),
    };
    status.insert("currentMetrics".to_owned(), current);
    if let Some(conditions) = conditions {
        status.insert("conditions".to_owned(), conditions);
    }
}

/// The first beta has all there is, and names it as version 1's annotations do.
pub(super) fn show_first_beta(object: &mut Value) {
    turn(object, "/spec/metrics", old_metric);
    turn(object, "/status/currentMetrics", old_current);
}

pub(super) fn store_first_beta(object: &mut Value) {
    turn(object, "/spec/metrics", new_metric);
    turn(object, "/status/currentMetrics", new_current);
}

fn turn(object: &mut Value, pointer: &str, each: fn(&Value) -> Value) {
    let items = object.pointer_mut(pointer).and_then(Value::as_array_mut);
    items.into_iter().flatten().for_each(|item| *item = each(item));
}

const DEFAULT_PERCENT: i32 = 80;

fn processor(percent: Value) -> Value {
    let target = json!({ "type": "Utilization", "averageUtilization": percent });
    json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } })
}

fn is_processor(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_number()
}

fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut)?;
    let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut)?;
    let text = annotations.shift_remove(name)?;
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn text_of(items: impl Iterator<Item = Value>) -> Value {
    Value::Array(items.collect()).to_string().into()
}

/// A JSON object of the fields that say something, in this order.
fn object<const N: usize>(fields: [(&str, &Value); N]) -> Value {
    let said = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value.clone())).collect())
}

/// How the parts of a metric's source are called in the old versions; a part without a name there is left out.
struct Names {
    value: &'static str,
    average: &'static str,
    utilization: &'static str,
}

const TARGET: Names =
    Names { value: "targetValue", average: "targetAverageValue", utilization: "targetAverageUtilization" };
const SEEN: Names =
    Names { value: "currentValue", average: "currentAverageValue", utilization: "currentAverageUtilization" };

/// A metric's specification as version 1 and the first beta write it.
fn old_metric(metric: &Value) -> Value {
    old(metric, "target", &TARGET)
}

/// A metric's current value likewise.
fn old_current(metric: &Value) -> Value {
    old(metric, "current", &SEEN)
}

fn old(metric: &Value, amount: &str, names: &Names) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), metric["type"].clone());
    for (field, source) in metric.as_object().into_iter().flatten().filter(|(_, v)| v.is_object()) {
        let (amount, name) = (&source[amount], &source["metric"]["name"]);
        let selector = &source["metric"]["selector"];
        let zero = json!("0");
        let plain = if amount["value"].is_null() { &zero } else { &amount["value"] };
        let old = match field.as_str() {
            "object" => object([
                ("target", &source["describedObject"]),
                ("metricName", name),
                (names.value, plain),
                ("selector", selector),
                ("averageValue", &amount["averageValue"]),
            ]),
            "pods" => object([
                ("metricName", name),
                (names.average, &amount["averageValue"]),
                ("selector", selector),
            ]),
            "external" => object([
                ("metricName", name),
                ("metricSelector", selector),
                (names.value, &amount["value"]),
                (names.average, &amount["averageValue"]),
            ]),
            _ => object([
                ("name", &source["name"]),
                (names.utilization, &amount["averageUtilization"]),
                (names.average, &amount["averageValue"]),
                ("container", &source["container"]),
            ]),
        };
        out.insert(field.clone(), old);
    }
    Value::Object(out)
}

/// The stored form of a metric's specification.
fn new_metric(metric: &Value) -> Value {
    new(metric, "target", &TARGET)
}

/// The stored form of a metric's current value.
fn new_current(metric: &Value) -> Value {
    new(metric, "current", &SEEN)
}

fn new(metric: &Value, amount: &str, names: &Names) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), metric["type"].clone());
    for (field, source) in metric.as_object().into_iter().flatten().filter(|(_, v)| v.is_object()) {
        let selector = if field == "external" { &source["metricSelector"] } else { &source["selector"] };
        let identity = object([("name", &source["metricName"]), ("selector", selector)]);
        let average = if field == "object" { &source["averageValue"] } else { &source[names.average] };
        let plain = if average.is_null() { &source[names.value] } else { &Value::Null };
        let utilization = &source[names.utilization];
        let mut amounts =
            object([("averageUtilization", utilization), ("averageValue", average), ("value", plain)]);
        if amount == "target" {
            amounts["type"] = match (utilization.is_null(), average.is_null()) {
                (false, _) => "Utilization",
                (_, false) => "AverageValue",
                _ => "Value",
            }
            .into();
        }
        let new = match field.as_str() {
            "object" => {
                object([("describedObject", &source["target"]), ("metric", &identity), (amount, &amounts)])
            }
            "pods" | "external" => object([("metric", &identity), (amount, &amounts)]),
            _ => object([("name", &source["name"]), ("container", &source["container"]), (amount, &amounts)]),
        };
        out.insert(field.clone(), new);
    }
    Value::Object(out)
}

/// Fields of a behavior, as the API and as Go's own encoding of the type name them, in Go's order.
const RULES: &[(&str, &str)] = &[
    ("stabilizationWindowSeconds", "StabilizationWindowSeconds"),
    ("selectPolicy", "SelectPolicy"),
    ("policies", "Policies"),
    ("tolerance", "Tolerance"),
];
const DIRECTIONS: &[(&str, &str)] = &[("scaleUp", "ScaleUp"), ("scaleDown", "ScaleDown")];
const POLICY: &[(&str, &str)] = &[("type", "Type"), ("value", "Value"), ("periodSeconds", "PeriodSeconds")];

fn go_behavior(behavior: &Value) -> Value {
    go_names(behavior, DIRECTIONS, |rules| {
        let mut rules = go_names(rules, RULES, Value::clone);
        if let Some(policies) = rules.get_mut("Policies").and_then(Value::as_array_mut) {
            policies.iter_mut().for_each(|policy| *policy = go_names(policy, POLICY, Value::clone));
        }
        rules
    })
}

fn go_names(object: &Value, names: &[(&str, &str)], below: impl Fn(&Value) -> Value) -> Value {
    if !object.is_object() {
        return Value::Null;
    }
    Value::Object(names.iter().map(|(plain, go)| ((*go).to_owned(), below(&object[*plain]))).collect())
}

fn plain_behavior(behavior: &Value) -> Value {
    plain_names(behavior, DIRECTIONS, |rules| {
        let mut rules = plain_names(rules, RULES, Value::clone);
        if let Some(policies) = rules.get_mut("policies").and_then(Value::as_array_mut) {
            policies.iter_mut().for_each(|policy| *policy = plain_names(policy, POLICY, Value::clone));
        }
        rules
    })
}

fn plain_names(object: &Value, names: &[(&str, &str)], below: impl Fn(&Value) -> Value) -> Value {
    let said = names.iter().filter(|(_, go)| !object[*go].is_null());
    Value::Object(said.map(|(plain, go)| ((*plain).to_owned(), below(&object[*go]))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Value {
        json!({ "metadata": { "name": "k" }, "spec": {
            "maxReplicas": 3,
            "metrics": [
                { "type": "Pods", "pods": { "metric": { "name": "hits" },
                    "target": { "averageValue": "10", "type": "AverageValue" } } },
                { "type": "Resource", "resource": { "name": "cpu",
                    "target": { "type": "Utilization", "averageUtilization": 60 } } },
            ],
            "behavior": { "scaleDown": { "selectPolicy": "Disabled",
                "policies": [{ "type": "Percent", "value": 100, "periodSeconds": 15 }] } },
        } })
    }

    #[test]
    fn what_version_1_cannot_say_is_kept_in_annotations() {
        let mut object = stored();
        show_version_1(&mut object);
        assert_eq!(object["spec"], json!({ "maxReplicas": 3, "targetCPUUtilizationPercentage": 60 }));
        let annotations = &object["metadata"]["annotations"];
        let metrics = r#"[{"type":"Pods","pods":{"metricName":"hits","targetAverageValue":"10"}}]"#;
        assert_eq!(annotations[METRICS], metrics);
        let behavior = concat!(
            r#"{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Disabled","#,
            r#""Policies":[{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":null}}"#
        );
        assert_eq!(annotations[BEHAVIOR], behavior);
    }

    #[test]
    fn there_and_back_nothing_is_lost() {
        let mut object = stored();
        show_version_1(&mut object);
        store_version_1(&mut object);
        assert_eq!(object, stored());
    }

    #[test]
    fn without_a_target_it_is_eighty_percent() {
        let mut object = json!({ "spec": { "maxReplicas": 1 } });
        store_version_1(&mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    }
}
