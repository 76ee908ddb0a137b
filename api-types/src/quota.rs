//! What a ResourceQuota counts: how much an object uses of what, and which quotas it is counted in.
//!
//! The API server charges with it when objects come, the quota controller counts with it again when they go,
//! so both always mean the same.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::Value;

use crate::pods::{self, Qos};
use crate::quantity::Quantity;
use crate::selectors::LabelSelector;

/// Amounts by the name that a quota has for them.
pub type Usage = BTreeMap<String, Quantity>;

/// Resources that quotas have short names for besides `count/…`.
pub const SHORT_NAMES: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// What each container must name when a quota limits it.
const DEMANDED: &[&str] =
    &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";

/// `deployments.apps`, `pods`.
fn group_resource(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// Whether the quota's name speaks of objects of this resource.
pub fn is_about(group: &str, plural: &str, name: &str) -> bool {
    if name.strip_prefix("count/").is_some_and(|counted| counted == group_resource(group, plural)) {
        return true;
    }
    if !group.is_empty() {
        return false;
    }
    match plural {
        "pods" => name == "pods" || is_compute(name),
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            matches!(name, "persistentvolumeclaims" | "requests.storage") || name.contains(CLASS_INFIX)
        }
        other => SHORT_NAMES.contains(&other) && name == other,
    }
}

/// Whether the name is of what pods ask for.
fn is_compute(name: &str) -> bool {
    let request = name.strip_prefix("requests.");
    let plain = request.or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    COMPUTE.contains(&plain)
        || plain.starts_with("hugepages-")
        || request.is_some_and(|request| request.contains('/') && !name.contains(CLASS_INFIX))
}

/// All that the object uses.
pub fn usage(group: &str, plural: &str, object: &Value) -> Usage {
    let one = Quantity::from_units(1);
    let mut used = Usage::from([(format!("count/{}", group_resource(group, plural)), one)]);
    match (group, plural) {
        ("", "pods") => used.extend(pod_usage(object)),
        ("", "services") => used.extend(service_usage(&object["spec"])),
        ("", "persistentvolumeclaims") => used.extend(claim_usage(object)),
        ("", other) if SHORT_NAMES.contains(&other) => {
            used.insert(other.to_owned(), one);
        }
        _ => {}
    }
    used
}

/// A pod that has ended uses nothing.
fn pod_usage(pod: &Value) -> Usage {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return Usage::new();
    }
    let Ok(spec) = PodSpec::deserialize(&pod["spec"]) else { return Usage::new() };
    let mut used = compute_usage(pods::requests(&spec), pods::limits(&spec));
    used.insert("pods".to_owned(), Quantity::from_units(1));
    used
}

fn compute_usage(requests: pods::Resources, limits: pods::Resources) -> Usage {
    let mut used = Usage::new();
    for (name, amount) in requests {
        let is_plain = COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-");
        used.insert(format!("requests.{name}"), amount);
        if is_plain {
            used.insert(name, amount);
        }
    }
    let limited = limits.into_iter().filter(|(name, _)| COMPUTE.contains(&name.as_str()));
    used.extend(limited.map(|(name, amount)| (format!("limits.{name}"), amount)));
    used
}

fn service_usage(spec: &Value) -> Usage {
    let kind = spec["type"].as_str().unwrap_or_default();
    let ports = spec["ports"].as_array().map_or(0, Vec::len) as i64;
    let balanced = kind == "LoadBalancer";
    let has_node_ports = kind == "NodePort" || (balanced && spec["allocateLoadBalancerNodePorts"] != false);
    Usage::from([
        ("services".to_owned(), Quantity::from_units(1)),
        ("services.loadbalancers".to_owned(), Quantity::from_units(i64::from(balanced))),
        ("services.nodeports".to_owned(), Quantity::from_units(if has_node_ports { ports } else { 0 })),
    ])
}

fn claim_usage(claim: &Value) -> Usage {
    let amount = |path: &str| {
        let text = claim.pointer(path).and_then(Value::as_str).unwrap_or_default();
        Quantity::parse_or_zero(text)
    };
    let storage =
        amount("/spec/resources/requests/storage").max(amount("/status/allocatedResources/storage"));
    let one = Quantity::from_units(1);
    let mut used =
        Usage::from([("persistentvolumeclaims".to_owned(), one), ("requests.storage".to_owned(), storage)]);
    let old_field = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    let class = claim["spec"]["storageClassName"].as_str().or(old_field.as_str()).unwrap_or_default();
    if !class.is_empty() {
        used.insert(format!("{class}{CLASS_INFIX}persistentvolumeclaims"), one);
        used.insert(format!("{class}{CLASS_INFIX}requests.storage"), storage);
    }
    used
}

/// Whether the quota's scopes select the object. Scopes speak of pods, but for the class of a claim's volume.
pub fn is_in_scope(quota_spec: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let plain = quota_spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut plain = plain.map(|scope| (scope, "Exists", &Value::Null));
    let expressions = quota_spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let mut selected = expressions.map(|term| {
        let text = |field: &str| term[field].as_str().unwrap_or_default();
        (text("scopeName"), text("operator"), &term["values"])
    });
    let spec = || PodSpec::deserialize(&object["spec"]).ok();
    let spec = if (group, plural) == ("", "pods") { spec() } else { None };
    let is_claim = (group, plural) == ("", "persistentvolumeclaims");
    let holds = |(scope, operator, values): (&str, &str, &Value)| match &spec {
        Some(spec) => scope_holds(scope, operator, values, spec),
        None if is_claim && scope == "VolumeAttributesClass" => {
            claim_classes(object).any(|class| is_listed(scope, operator, values, class))
        }
        None => false,
    };
    plain.all(holds) && selected.all(holds)
}

fn scope_holds(scope: &str, operator: &str, values: &Value, pod: &PodSpec) -> bool {
    match scope {
        "Terminating" => pod.active_deadline_seconds.is_some_and(|seconds| seconds >= 0),
        "NotTerminating" => pod.active_deadline_seconds.is_none(),
        "BestEffort" => pods::qos(pod) == Qos::BestEffort,
        "NotBestEffort" => pods::qos(pod) != Qos::BestEffort,
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        "PriorityClass" => {
            is_listed(scope, operator, values, pod.priority_class_name.as_deref().unwrap_or_default())
        }
        _ => false,
    }
}

/// Whether the term of a scope selects a class; no class at all is written empty.
fn is_listed(scope: &str, operator: &str, values: &Value, class: &str) -> bool {
    let term = serde_json::json!({ "key": scope, "operator": operator, "values": values });
    let selector = serde_json::json!({ "matchExpressions": [term] });
    let class = Some(class).filter(|name| !name.is_empty());
    let labels = class.map(|name| (scope.to_owned(), name.to_owned())).into_iter().collect();
    LabelSelector::from_value(&selector).is_ok_and(|selector| selector.matches(&labels))
}

/// The classes of a claim's volume attributes: asked for, in force, and on the way.
fn claim_classes(claim: &Value) -> impl Iterator<Item = &str> {
    let paths = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    let mut classes: Vec<&str> =
        paths.iter().filter_map(|path| claim.pointer(path).and_then(Value::as_str)).collect();
    if classes.is_empty() {
        classes.push("");
    }
    classes.into_iter()
}

fn reaches_other_namespaces(pod: &PodSpec) -> bool {
    let Some(affinity) = &pod.affinity else { return false };
    let (together, apart) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = together
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()));
    let preferred = together
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()));
    let preferred = preferred.flatten().map(|weighted| &weighted.pod_affinity_term);
    required.flatten().chain(preferred).any(|term| {
        term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some()
    })
}

/// What the quota limits and some container does not name: `requests.cpu for: a,b; limits.cpu for: a`.
pub fn undeclared<'a>(
    group: &str,
    plural: &str,
    limited: impl IntoIterator<Item = &'a str>,
    object: &Value,
) -> Option<String> {
    if (group, plural) != ("", "pods") {
        return None;
    }
    let limited: BTreeSet<&str> = limited.into_iter().filter(|name| DEMANDED.contains(name)).collect();
    let names = |part: &Value| -> BTreeSet<String> {
        let named = |list: &str| -> pods::Resources {
            let fields = part[list].as_object().into_iter().flatten();
            fields.map(|(name, _)| (name.clone(), Quantity::ZERO)).collect()
        };
        compute_usage(named("requests"), named("limits")).into_keys().collect()
    };
    let whole = names(&object["spec"]["resources"]);
    let mut missing: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for list in ["containers", "initContainers"] {
        for container in object["spec"][list].as_array().into_iter().flatten() {
            let has = names(&container["resources"]);
            let name = container["name"].as_str().unwrap_or_default();
            for wanted in limited.iter().filter(|wanted| !has.contains(**wanted) && !whole.contains(**wanted))
            {
                missing.entry(wanted).or_default().insert(name.to_owned());
            }
        }
    }
    let texts: Vec<String> = missing
        .into_iter()
        .map(|(what, whose)| format!("{what} for: {}", whose.into_iter().collect::<Vec<_>>().join(",")))
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// Reads amounts of an object of the API (`spec.hard`, `status.used`).
pub fn read(amounts: &Value) -> Usage {
    let parse = |(name, text): (&String, &Value)| {
        let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
        (name.clone(), Quantity::parse_or_zero(&text))
    };
    amounts.as_object().into_iter().flatten().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(used: &Usage) -> String {
        used.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_pod_uses_what_it_asks_for_until_it_has_ended() {
        let pod = |phase: &str| {
            json!({"status": {"phase": phase}, "spec": {"containers": [{"name": "a", "resources":
                {"requests": {"cpu": "100m", "example.com/gpu": "1"}, "limits": {"memory": "1Gi"}}}]}})
        };
        assert_eq!(
            text(&usage("", "pods", &pod("Running"))),
            "count/pods=1,cpu=100m,limits.memory=1Gi,pods=1,requests.cpu=100m,requests.example.com/gpu=1"
        );
        assert_eq!(text(&usage("", "pods", &pod("Failed"))), "count/pods=1");
    }

    #[test]
    fn services_and_claims_are_counted_by_what_they_take() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            text(&usage("", "services", &service)),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "d", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            text(&usage("", "persistentvolumeclaims", &claim)),
            "count/persistentvolumeclaims=1,d.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             d.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
        );
        assert_eq!(text(&usage("apps", "deployments", &json!({}))), "count/deployments.apps=1");
    }

    #[test]
    fn names_are_of_one_resource_each() {
        let about = |name: &str| -> Vec<&str> {
            let all = ["pods", "services", "persistentvolumeclaims", "secrets"];
            all.into_iter().filter(|plural| is_about("", plural, name)).collect()
        };
        assert_eq!(about("requests.cpu"), ["pods"]);
        assert_eq!(about("requests.example.com/gpu"), ["pods"]);
        assert_eq!(about("requests.storage"), ["persistentvolumeclaims"]);
        assert_eq!(about("d.storageclass.storage.k8s.io/requests.storage"), ["persistentvolumeclaims"]);
        assert_eq!(about("count/secrets"), ["secrets"]);
        assert!(is_about("apps", "deployments", "count/deployments.apps"));
    }

    #[test]
    fn scopes_select_pods() {
        let pod = json!({"spec": {"priorityClassName": "high", "containers": [{"name": "a"}]}});
        let holds = |spec: Value| is_in_scope(&spec, "", "pods", &pod);
        assert!(holds(json!({})));
        assert!(holds(json!({"scopes": ["BestEffort", "NotTerminating", "PriorityClass"]})));
        assert!(!holds(json!({"scopes": ["NotBestEffort"]})));
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        assert!(holds(class("In", json!(["high"]))));
        assert!(!holds(class("NotIn", json!(["high"]))));
        assert!(!is_in_scope(&json!({"scopes": ["BestEffort"]}), "", "secrets", &json!({})));
    }

    #[test]
    fn a_claim_is_in_scope_by_the_class_of_its_volume() {
        let claim = json!({"spec": {"volumeAttributesClassName": "fast"},
            "status": {"currentVolumeAttributesClassName": "slow"}});
        let holds = |operator: &str, values: Value| {
            let spec = json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "VolumeAttributesClass", "operator": operator, "values": values}]}});
            is_in_scope(&spec, "", "persistentvolumeclaims", &claim)
        };
        assert!(holds("In", json!(["slow"])) && holds("In", json!(["fast"])) && holds("Exists", Value::Null));
        assert!(!holds("In", json!(["other"])) && !holds("DoesNotExist", Value::Null));
        let pods_only = json!({"scopes": ["BestEffort"]});
        assert!(!is_in_scope(&pods_only, "", "persistentvolumeclaims", &claim));
    }

    #[test]
    fn each_container_must_name_what_is_limited() {
        let pod = json!({"spec": {"containers": [
            {"name": "b", "resources": {"requests": {"cpu": "1"}}}, {"name": "a"}]}});
        assert_eq!(
            undeclared("", "pods", ["requests.cpu", "limits.memory", "pods"], &pod).unwrap(),
            "limits.memory for: a,b; requests.cpu for: a"
        );
        assert_eq!(undeclared("", "pods", ["pods"], &pod), None);
    }
}
