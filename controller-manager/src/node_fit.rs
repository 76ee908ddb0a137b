//! Whether a node takes a pod for good: selectors, affinity, taints. Not resources; those are the scheduler's.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::owners::name_of;

/// What a node is to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It may start there.
    Run,
    /// It may stay but not start.
    Stay,
    /// It must not be there.
    No,
}

/// What `node` is to a pod of `spec` with these tolerations besides its own.
pub(crate) fn fit(spec: &PodSpec, extra: &[Toleration], node: &Node) -> Fit {
    let pinned_elsewhere = spec.node_name.as_deref().is_some_and(|name| name != name_of(&node.metadata));
    if pinned_elsewhere || !selects(spec, node) {
        return Fit::No;
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let own = spec.tolerations.as_deref().unwrap_or_default();
    let refuses = |effect: &str| {
        let mut of_effect = taints.iter().filter(|taint| taint.effect == effect);
        of_effect.any(|taint| !own.iter().chain(extra).any(|one| tolerates(one, taint)))
    };
    match (refuses("NoExecute"), refuses("NoSchedule")) {
        (true, _) => Fit::No,
        (false, true) => Fit::Stay,
        (false, false) => Fit::Run,
    }
}

/// Whether the toleration covers the taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value =
        || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    let value_matches = match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && value(),
        Some(_) => false,
    };
    (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && value_matches
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let exact = spec.node_selector.iter().flatten();
    let mut exact = exact.map(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value));
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
    exact.all(|matches| matches) && required.is_none_or(|selector| selector_matches(selector, node))
}

fn selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (labels, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    if labels.unwrap_or_default().is_empty() && fields.unwrap_or_default().is_empty() {
        return false;
    }
    let label =
        |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let field = |name: &str| (name == "metadata.name").then(|| name_of(&node.metadata));
    labels.into_iter().flatten().all(|one| requirement_matches(one, label(&one.key)))
        && fields.into_iter().flatten().all(|one| requirement_matches(one, field(&one.key)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let number =
        || value.and_then(|value| value.parse::<i64>().ok()).zip(values.first()?.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().is_some_and(|(value, bound)| value > bound),
        "Lt" => number().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, taints: serde_json::Value, expected: Fit) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let spec = serde_json::from_value(spec).unwrap();
        let node = json!({"metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
        assert_eq!(fit(&spec, &[], &serde_json::from_value(node).unwrap()), expected);
    }

    #[test]
    fn node_selector_must_match() {
        check(json!({"nodeSelector": {"disk": "ssd"}}), json!([]), Fit::Run);
        check(json!({"nodeSelector": {"disk": "hdd"}}), json!([]), Fit::No);
    }

    #[test]
    fn an_untolerated_taint_keeps_off_or_drives_away() {
        check(json!({}), json!([{"key": "k", "effect": "NoSchedule"}]), Fit::Stay);
        check(json!({}), json!([{"key": "k", "effect": "NoExecute"}]), Fit::No);
        let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
        check(tolerant, json!([{"key": "k", "effect": "NoExecute"}]), Fit::Run);
    }

    #[test]
    fn affinity_to_the_name_pins() {
        let pinned = |name: &str| {
            let terms =
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        check(pinned("n1"), json!([]), Fit::Run);
        check(pinned("n2"), json!([]), Fit::No);
    }
}
