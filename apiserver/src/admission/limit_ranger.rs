//! LimitRanger: containers that name no requests or limits get those of their namespace's LimitRanges, and
//! what is outside of the ranges is refused.

use std::collections::BTreeMap;

use api_types::pods;
use api_types::quantity::Quantity;
use api_types::status::Status;
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::{Operation, Plugin, Review};

pub(crate) struct LimitRanger;

/// On pods: what the plugin has filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Lists of containers that ranges hold for, with the words for one.
const LISTS: &[(&str, &str)] = &[("containers", "container"), ("initContainers", "init container")];

impl Plugin for LimitRanger {
    const NAME: &'static str = "LimitRanger";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        if !concerns(review) || review.kind.storage != "pods" {
            return Ok(());
        }
        let ranges = review.view.objects("limitranges", Some(review.namespace));
        let Some(pod) = review.new.as_deref_mut() else { return Ok(()) };
        ranges.iter().for_each(|range| fill(pod, range));
        Ok(())
    }

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        if !concerns(review) {
            return Ok(());
        }
        let ranges = review.view.objects("limitranges", Some(review.namespace));
        let Some(object) = review.new.as_deref() else { return Ok(()) };
        for range in &ranges {
            let mut problems = Vec::new();
            for limit in range["spec"]["limits"].as_array().into_iter().flatten() {
                match review.kind.storage.as_str() {
                    "pods" => check_pod(limit, object, &mut problems),
                    _ => check_claim(limit, object, &mut problems),
                }
            }
            let mut seen = std::collections::HashSet::new();
            problems.retain(|problem| seen.insert(problem.clone()));
            match problems.as_slice() {
                [] => {}
                [one] => return Err(review.forbidden(one)),
                many => return Err(review.forbidden(&format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Containers of a pod that runs only change by a resize; what is going has no limits any more.
fn concerns(review: &Review<'_>) -> bool {
    let going = review.old.is_some_and(|old| old["metadata"]["deletionTimestamp"].is_string());
    let part = (review.kind.storage.as_str(), review.subresource, review.operation);
    let ranged = matches!(
        part,
        ("pods", "", Operation::Create)
            | ("pods", "resize", Operation::Update)
            | ("persistentvolumeclaims", "", Operation::Create | Operation::Update)
    );
    ranged && !going
}

/// Adds what containers do not name, and says so in an annotation.
fn fill(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    let items = range["spec"]["limits"].as_array().into_iter().flatten();
    for item in items.filter(|item| item["type"] == "Container") {
        requests.extend(item["defaultRequest"].as_object().cloned().unwrap_or_default());
        limits.extend(item["default"].as_object().cloned().unwrap_or_default());
    }
    let mut said = Vec::new();
    for (list, word) in LISTS {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (part, singular, defaults) in
                [("requests", "request", &requests), ("limits", "limit", &limits)]
            {
                let added = add_missing(container, part, defaults);
                if !added.is_empty() {
                    said.push(format!("{} {singular} for {word} {name}", added.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() && pod["metadata"].is_object() {
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] =
            json!(format!("LimitRanger plugin set: {}", said.join("; ")));
    }
}

/// The names of what was added, sorted.
fn add_missing(container: &mut Value, part: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let lacks = |name: &&String| container["resources"][part].get(name.as_str()).is_none();
    let mut missing: Vec<String> = defaults.keys().filter(lacks).cloned().collect();
    missing.sort();
    for name in &missing {
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        if !container["resources"][part].is_object() {
            container["resources"][part] = json!({});
        }
        container["resources"][part][name] = defaults[name].clone();
    }
    missing
}

type Amounts = BTreeMap<String, Quantity>;

fn amounts(value: &Value) -> Amounts {
    let read = |(name, text): (&String, &Value)| {
        let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
        (name.clone(), Quantity::parse_or_zero(&text))
    };
    value.as_object().into_iter().flatten().map(read).collect()
}

fn check_pod(limit: &Value, pod: &Value, problems: &mut Vec<String>) {
    match limit["type"].as_str() {
        Some("Container") => {
            for (list, _) in LISTS {
                for container in pod["spec"][*list].as_array().into_iter().flatten() {
                    let resources = &container["resources"];
                    let (requests, limits) = (amounts(&resources["requests"]), amounts(&resources["limits"]));
                    check(limit, "Container", &requests, &limits, problems);
                }
            }
        }
        Some("Pod") => {
            // What running it costs besides is not the author's to limit.
            let mut spec = pod["spec"].clone();
            spec.as_object_mut().map(|fields| fields.shift_remove("overhead"));
            let Ok(spec) = PodSpec::deserialize(spec) else { return };
            check(limit, "Pod", &pods::requests(&spec), &pods::limits(&spec), problems);
        }
        _ => {}
    }
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    for (name, bound) in amounts(&limit["min"]) {
        problems.extend(below(kind, &name, bound, requests.get(&name), limits.get(&name)));
    }
    for (name, bound) in amounts(&limit["max"]) {
        problems.extend(above(kind, &name, bound, requests.get(&name), limits.get(&name)));
    }
    for (name, bound) in amounts(&limit["maxLimitRequestRatio"]) {
        problems.extend(burst(kind, &name, bound, requests.get(&name), limits.get(&name)));
    }
}

/// A claim knows requests only.
fn check_claim(limit: &Value, claim: &Value, problems: &mut Vec<String>) {
    const KIND: &str = "PersistentVolumeClaim";
    if limit["type"] != KIND {
        return;
    }
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    for (name, bound) in amounts(&limit["min"]) {
        problems.extend(below(KIND, &name, bound, requests.get(&name), None));
    }
    for (name, bound) in amounts(&limit["max"]) {
        let prefix = format!("maximum {name} usage per {KIND} is {bound}");
        match requests.get(&name) {
            None => problems.push(format!("{prefix}.  No request is specified")),
            Some(request) if *request > bound => problems.push(format!("{prefix}, but request is {request}")),
            Some(_) => {}
        }
    }
}

type Amount<'a> = Option<&'a Quantity>;

fn below(kind: &str, name: &str, bound: Quantity, request: Amount<'_>, limit: Amount<'_>) -> Option<String> {
    let prefix = format!("minimum {name} usage per {kind} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{prefix}.  No request is specified")),
        (Some(request), _) if *request < bound => Some(format!("{prefix}, but request is {request}")),
        (_, Some(limit)) if *limit < bound => Some(format!("{prefix}, but limit is {limit}")),
        _ => None,
    }
}

fn above(kind: &str, name: &str, bound: Quantity, request: Amount<'_>, limit: Amount<'_>) -> Option<String> {
    let prefix = format!("maximum {name} usage per {kind} is {bound}");
    match (limit, request) {
        (None, _) => Some(format!("{prefix}.  No limit is specified")),
        (Some(limit), _) if *limit > bound => Some(format!("{prefix}, but limit is {limit}")),
        (_, Some(request)) if *request > bound => Some(format!("{prefix}, but request is {request}")),
        _ => None,
    }
}

fn burst(kind: &str, name: &str, bound: Quantity, request: Amount<'_>, limit: Amount<'_>) -> Option<String> {
    let prefix = format!("{name} max limit to request ratio per {kind} is {bound}");
    let given = |amount: Amount<'_>| amount.filter(|amount| !amount.is_zero()).copied();
    let (Some(request), Some(limit)) = (given(request), given(limit)) else {
        let lacking = if given(request).is_none() { "request" } else { "limit" };
        return Some(format!("{prefix}, but no {lacking} is specified or {lacking} is 0"));
    };
    let ratio = limit.milli() as f64 / request.milli().max(1) as f64;
    let is_over = ratio * 1000.0 > bound.milli() as f64;
    is_over.then(|| format!("{prefix}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;
    use crate::admission::fixture::{admit, review};
    use crate::view::fixture::Fixture;

    fn world(limits: Value) -> Fixture {
        let range = json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": {"limits": limits}});
        Fixture::default().with("limitranges", range)
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [
            {"name": "a", "resources": resources}]}})
    }

    fn refusal(limits: Value, storage: &str, object: Value) -> String {
        let (world, user) = (world(limits), UserInfo::admin());
        review(&world, &user, Operation::Create, storage, "", None, Some(object), |review| {
            LimitRanger::validate(review).err().map(|status| status.message).unwrap_or_default()
        })
    }

    #[test]
    fn a_container_gets_what_it_does_not_name() {
        let limits = json!([{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"}}]);
        let pod =
            admit::<LimitRanger>(world(limits), "pods", pod(json!({"requests": {"cpu": "2m"}}))).unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "2m", "memory": "1Mi"}, "limits": {"cpu": "1"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory request for container a; cpu limit for container a"
        );
    }

    #[test]
    fn what_is_outside_of_the_range_is_refused_with_all_that_is_wrong() {
        let limits = json!([
            {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}, "maxLimitRequestRatio": {"cpu": "4"}},
            {"type": "Pod", "max": {"cpu": "1500m"}}]);
        let said = |requests: &str, limit: &str| {
            let pod = pod(json!({"requests": {"cpu": requests}, "limits": {"cpu": limit}}));
            refusal(limits.clone(), "pods", pod).replace("pods \"p\" is forbidden: ", "")
        };
        assert_eq!(said("500m", "1"), "");
        assert_eq!(
            said("2", "2"),
            "[maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per Pod is 1500m, but limit is 2]"
        );
        assert_eq!(said("50m", "150m"), "minimum cpu usage per Container is 100m, but request is 50m");
        assert_eq!(
            said("100m", "900m"),
            "cpu max limit to request ratio per Container is 4, but provided ratio is 9.000000"
        );
    }

    #[test]
    fn a_claim_is_measured_by_its_request() {
        let limits = json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]);
        let claim = json!({"metadata": {"name": "c", "namespace": "ns"},
            "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        assert_eq!(
            refusal(limits, "persistentvolumeclaims", claim),
            "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
        );
    }
}
