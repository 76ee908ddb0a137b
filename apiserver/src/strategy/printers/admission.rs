//! Kinds that extend what the server does: webhooks, admission policies and their bindings, API services.

use serde_json::{Value, json};

use super::{Node, Printed};

pub(super) fn webhooks(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), json!(printed.list("/webhooks").len()), printed.age()]
}

pub(super) fn validating_policy(printed: &Printed<'_>) -> Vec<Value> {
    let validations = printed.list("/spec/validations").len();
    vec![printed.name(), json!(validations), json!(parameter_kind(printed)), printed.age()]
}

pub(super) fn mutating_policy(printed: &Printed<'_>) -> Vec<Value> {
    let mutations = printed.list("/spec/mutations").len();
    vec![printed.name(), json!(mutations), json!(parameter_kind(printed)), printed.age()]
}

fn parameter_kind(printed: &Printed<'_>) -> String {
    match printed.object.pointer("/spec/paramKind") {
        Some(kind) if kind.is_object() => {
            let part = |field: &str| kind[field].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", part("apiVersion"), part("kind"))
        }
        _ => "<unset>".to_owned(),
    }
}

pub(super) fn policy_binding(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), printed.cell("/spec/policyName"), json!(parameters(printed)), printed.age()]
}

/// The parameters of a binding: one object, or a selector as Go prints it.
fn parameters(printed: &Printed<'_>) -> String {
    let (namespace, name) = (printed.text("/spec/paramRef/namespace"), printed.text("/spec/paramRef/name"));
    match (namespace, name) {
        ("", "") => match printed.object.pointer("/spec/paramRef/selector") {
            Some(selector) => go_selector(selector),
            None => "<unset>".to_owned(),
        },
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn go_selector(selector: &Node<'_>) -> String {
    let text = |value: &Node<'_>| value.as_str().unwrap_or_default().to_owned();
    let labels = super::sorted(&selector["matchLabels"]).into_iter();
    let labels: String = labels.map(|(key, value)| format!("{key}: {},", text(value))).collect();
    let terms = selector["matchExpressions"].as_array().into_iter().flatten();
    let terms: String = terms
        .map(|term| {
            let values: Vec<_> = term["values"].as_array().into_iter().flatten().map(text).collect();
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
                text(&term["key"]),
                text(&term["operator"]),
                values.join(" ")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )
}

pub(super) fn api_service(printed: &Printed<'_>) -> Vec<Value> {
    let service = match printed.object.pointer("/spec/service") {
        Some(service) if service.is_object() => {
            format!("{}/{}", printed.text("/spec/service/namespace"), printed.text("/spec/service/name"))
        }
        _ => "Local".to_owned(),
    };
    let available = match printed.list("/status/conditions").iter().find(|c| c["type"] == "Available") {
        None => "Unknown".to_owned(),
        Some(condition) => {
            let part = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            match part("status").as_str() {
                "True" => "True".to_owned(),
                status => format!("{status} ({})", part("reason")),
            }
        }
    };
    vec![printed.name(), json!(service), json!(available), printed.age()]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    const MADE: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn an_api_service_says_where_it_is_and_why_it_is_not_there() {
        let mut object = json!({"metadata": {"name": "v1.x", "creationTimestamp": MADE}, "spec": {}});
        check(api_service, &object, &["v1.x", "Local", "Unknown", "5m"]);
        object["spec"]["service"] = json!({"namespace": "n", "name": "s"});
        object["status"] =
            json!({"conditions": [{"type": "Available", "status": "False", "reason": "Gone"}]});
        check(api_service, &object, &["v1.x", "n/s", "False (Gone)", "5m"]);
    }

    #[test]
    fn a_binding_names_its_parameters() {
        let mut object =
            json!({"metadata": {"name": "b", "creationTimestamp": MADE}, "spec": {"policyName": "p"}});
        check(policy_binding, &object, &["b", "p", "<unset>", "5m"]);
        object["spec"]["paramRef"] = json!({"namespace": "n", "name": "c"});
        check(policy_binding, &object, &["b", "p", "n/c", "5m"]);
        object["spec"]["paramRef"] = json!({"selector": {"matchLabels": {"a": "b"}}});
        let selector = "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}";
        check(policy_binding, &object, &["b", "p", selector, "5m"]);
    }
}
