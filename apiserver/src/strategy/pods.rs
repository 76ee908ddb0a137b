//! Pods: what a new one starts with, how it is deleted with grace, and the few parts of its spec that may change.

use api_types::k8s_openapi::api::core::v1::PodSpec;
use api_types::pods::qos;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::rules::items;
use super::{Context, Strategy, isolate};

pub(super) struct Pods;

impl Strategy for Pods {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        new["status"] = json!({"phase": "Pending"});
        if !items(&new["spec"]["schedulingGates"]).is_empty() {
            let now = context.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": now,
            });
            new["status"]["conditions"] = json!([condition]);
        }
        set_qos(new);
        select_by_own_labels(new);
        confine_as_annotated(new);
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        if context.subresource == "status" {
            keep_observed(new, old);
        }
        // Whoever writes a status anew need not know the class.
        let class = &old["status"]["qosClass"];
        if context.subresource == "status"
            && new["status"].is_object()
            && new["status"]["qosClass"].as_str().is_none_or(str::is_empty)
            && class.is_string()
        {
            new["status"]["qosClass"] = class.clone();
        }
    }

    fn grace(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let is_terminal = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() || is_terminal {
            return Some(0);
        }
        let of_spec = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
        let period = requested.or(of_spec).unwrap_or(30);
        Some(if period < 0 { 1 } else { period })
    }
}

const TERMS: &[&str] =
    &["requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"];

/// Terms that compare pods by keys of labels get the values that this pod has.
fn select_by_own_labels(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    for affinity in ["podAffinity", "podAntiAffinity"] {
        for list in TERMS {
            let terms = pod.pointer_mut(&format!("/spec/affinity/{affinity}/{list}"));
            for term in terms.and_then(Value::as_array_mut).into_iter().flatten() {
                let term = match term.get("podAffinityTerm") {
                    Some(_) => &mut term["podAffinityTerm"],
                    None => term,
                };
                add_values(term, &labels);
            }
        }
    }
    let constraints = pod.pointer_mut("/spec/topologySpreadConstraints").and_then(Value::as_array_mut);
    constraints.into_iter().flatten().for_each(|constraint| add_values(constraint, &labels));
}

fn add_values(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in items(&term[field]).iter().filter_map(Value::as_str) {
            if let Some(value) = labels[key].as_str() {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    // A preparation that is repeated adds nothing.
    added.retain(|requirement| !items(&term["labelSelector"]["matchExpressions"]).contains(requirement));
    let selector = term.get_mut("labelSelector").and_then(Value::as_object_mut);
    let Some(selector) = selector.filter(|_| !added.is_empty()) else { return };
    match selector.entry("matchExpressions").or_insert_with(|| json!([])) {
        Value::Array(expressions) => expressions.extend(added),
        absent => *absent = added.into(),
    }
}

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations from before there was a field for the profile of a container become that field.
fn confine_as_annotated(pod: &mut Value) {
    let annotations = pod["metadata"]["annotations"].clone();
    if pod["spec"]["os"]["name"] == "windows" || !annotations.is_object() {
        return;
    }
    let whole = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|container| container.is_object()) {
            let name = container["name"].as_str().unwrap_or_default();
            let profile = annotations[format!("{APP_ARMOR}{name}")].as_str().and_then(profile_of);
            let has_own = !container["securityContext"]["appArmorProfile"].is_null();
            if let Some(profile) = profile.filter(|profile| !has_own && *profile != whole) {
                match &mut container["securityContext"] {
                    Value::Object(context) => drop(context.insert("appArmorProfile".to_owned(), profile)),
                    absent => *absent = json!({ "appArmorProfile": profile }),
                }
            }
        }
    }
}

/// The profile that an annotation means; none for what cannot be one.
fn profile_of(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let place = other.strip_prefix("localhost/")?;
            let is_good = !place.is_empty() && place.trim() == place;
            is_good.then(|| json!({"type": "Localhost", "localhostProfile": place}))
        }
    }
}

/// Whoever writes a status anew need not know of which generation of the spec the last one spoke.
fn keep_observed(new: &mut Value, old: &Value) {
    const OBSERVED: &str = "observedGeneration";
    let is_absent = |owner: &Value| owner[OBSERVED].as_i64().unwrap_or_default() == 0;
    let (Some(status), was) = (new.get_mut("status").filter(|status| status.is_object()), &old["status"])
    else {
        return;
    };
    if is_absent(status) && !is_absent(was) {
        status[OBSERVED] = was[OBSERVED].clone();
    }
    let mut before: Vec<&Value> = items(&was["conditions"]).iter().collect();
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter(|condition| condition.is_object()) {
        let same = before.iter().position(|was| was["type"] == condition["type"]);
        let Some(was) = same.map(|index| before.remove(index)) else { continue };
        if is_absent(condition) && !is_absent(was) {
            condition[OBSERVED] = was[OBSERVED].clone();
        }
    }
}

/// The class of service, as the spec has it. A spec that cannot be read gets none: the schema check says why.
fn set_qos(pod: &mut Value) {
    if let Ok(spec) = PodSpec::deserialize(&pod["spec"]) {
        pod["status"]["qosClass"] = qos(&spec).as_str().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_select_by_the_labels_of_the_pod() {
        let term = json!({"labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["b", "none"]});
        let mut pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {
            "affinity": {"podAffinity": {TERMS[0]: [term], TERMS[1]: [{"podAffinityTerm": term}]}},
            "topologySpreadConstraints": [{"matchLabelKeys": ["a"]}]}});
        select_by_own_labels(&mut pod);
        let once = pod.clone();
        select_by_own_labels(&mut pod);
        assert_eq!(pod, once);
        let expected = json!([
            {"key": "a", "operator": "In", "values": ["1"]},
            {"key": "b", "operator": "NotIn", "values": ["2"]}
        ]);
        let terms = &pod["spec"]["affinity"]["podAffinity"];
        assert_eq!(terms[TERMS[0]][0]["labelSelector"]["matchExpressions"], expected);
        assert_eq!(terms[TERMS[1]][0]["podAffinityTerm"]["labelSelector"]["matchExpressions"], expected);
        assert!(pod["spec"]["topologySpreadConstraints"][0].get("labelSelector").is_none());
    }

    #[test]
    fn annotated_profiles_become_fields_where_the_pod_says_otherwise() {
        let annotations =
            json!({format!("{APP_ARMOR}a"): "localhost/p", format!("{APP_ARMOR}b"): "unconfined"});
        let mut pod = json!({"metadata": {"annotations": annotations}, "spec": {
            "securityContext": {"appArmorProfile": {"type": "Unconfined"}},
            "containers": [{"name": "a"}, {"name": "b"}]}});
        confine_as_annotated(&mut pod);
        let profile = json!({"type": "Localhost", "localhostProfile": "p"});
        assert_eq!(pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"], profile);
        assert!(pod["spec"]["containers"][1]["securityContext"].is_null());
    }

    #[test]
    fn observed_generations_stay_where_a_status_does_not_name_them() {
        let condition = |generation: i64| json!({"type": "Ready", "observedGeneration": generation});
        let old = json!({"status": {"observedGeneration": 2, "conditions": [condition(2)]}});
        let mut new = json!({"status": {"conditions": [{"type": "Ready"}, condition(1)]}});
        keep_observed(&mut new, &old);
        assert_eq!(new["status"]["observedGeneration"], 2);
        assert_eq!(new["status"]["conditions"], json!([condition(2), condition(1)]));
    }

    #[test]
    fn grace_is_that_of_the_request_then_of_the_spec_and_none_where_nothing_runs() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 12}, "status": {"phase": phase}});
        let cases = [
            (pod("n", "Running"), None, 12),
            (pod("n", "Running"), Some(3), 3),
            (pod("n", "Running"), Some(-4), 1),
            (pod("", "Pending"), Some(30), 0),
            (pod("n", "Succeeded"), None, 0),
            (pod("n", "Failed"), Some(9), 0),
        ];
        for (pod, requested, expected) in cases {
            assert_eq!(Pods.grace(&pod, requested), Some(expected), "{pod} {requested:?}");
        }
    }
}
