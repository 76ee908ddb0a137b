//! Namespaces, nodes, events and the like.

use serde_json::{Value, json};

use super::{Printed, join, or_none};

pub(super) fn namespace(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), printed.cell("/status/phase"), printed.age()]
}

pub(super) fn node(printed: &Printed<'_>) -> Vec<Value> {
    let address = |kind: &str| {
        let found = printed.list("/status/addresses").iter().find(|address| address["type"] == kind);
        or_none(found.and_then(|address| address["address"].as_str()).unwrap_or_default())
    };
    let info = |field: &str| match printed.text(&format!("/status/nodeInfo/{field}")) {
        "" => json!("<unknown>"),
        text => json!(text),
    };
    vec![
        printed.name(),
        json!(node_status(printed)),
        json!(roles(printed)),
        printed.age(),
        printed.cell("/status/nodeInfo/kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn node_status(printed: &Printed<'_>) -> String {
    let ready = printed.list("/status/conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut words = vec![match ready.and_then(|condition| condition["status"].as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if printed.at("/spec/unschedulable").is_true() {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(printed: &Printed<'_>) -> String {
    let labels = printed.at("/metadata/labels");
    let mut roles: Vec<&str> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { join(roles.into_iter()) }
}

pub(super) fn event(printed: &Printed<'_>) -> Vec<Value> {
    // events.k8s.io names the same facts otherwise.
    let first_of = |pointers: &[&str]| {
        pointers
            .iter()
            .map(|pointer| printed.text(pointer))
            .find(|text| !text.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let since = |text: String| json!(printed.since(&text));
    let first = first_of(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let last = first_of(&[
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/firstTimestamp",
        "/deprecatedFirstTimestamp",
        "/eventTime",
    ]);
    let kind = first_of(&["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
    let name = first_of(&["/involvedObject/name", "/regarding/name"]);
    let host = first_of(&["/source/host", "/deprecatedSource/host", "/reportingInstance"]);
    let component = first_of(&[
        "/source/component",
        "/deprecatedSource/component",
        "/reportingComponent",
        "/reportingController",
    ]);
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    let count =
        ["/series/count", "/count", "/deprecatedCount"].iter().map(|p| printed.count(p)).find(|n| *n > 0);
    vec![
        since(last),
        json!(printed.text("/type")),
        json!(printed.text("/reason")),
        json!(if name.is_empty() { kind } else { format!("{kind}/{name}") }),
        json!(first_of(&["/involvedObject/fieldPath", "/regarding/fieldPath"])),
        json!(source),
        json!(first_of(&["/message", "/note"]).trim()),
        since(first),
        json!(count.unwrap_or(1)),
        printed.name(),
    ]
}

pub(super) fn lease(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), json!(printed.text("/spec/holderIdentity")), printed.age()]
}

pub(super) fn priority_class(printed: &Printed<'_>) -> Vec<Value> {
    vec![
        printed.name(),
        json!(printed.count("/value")),
        json!(printed.at("/globalDefault").is_true()),
        printed.age(),
        json!(printed.text("/preemptionPolicy")),
    ]
}

pub(super) fn runtime_class(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), json!(printed.text("/handler")), printed.age()]
}

pub(super) fn role_binding(printed: &Printed<'_>) -> Vec<Value> {
    let subjects = |kind: &str| {
        let named = printed.list("/subjects").iter().filter(|subject| subject["kind"] == kind);
        let names: Vec<String> = named
            .map(|subject| {
                let name = subject["name"].as_str().unwrap_or_default();
                match subject["namespace"].as_str() {
                    Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
                    _ => name.to_owned(),
                }
            })
            .collect();
        json!(names.join(", "))
    };
    let role = format!("{}/{}", printed.text("/roleRef/kind"), printed.text("/roleRef/name"));
    vec![
        printed.name(),
        json!(role),
        printed.age(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_cordoned_node_says_so() {
        let object = json!({"metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"node-role.kubernetes.io/worker": ""}}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let expected = [
            "n1",
            "Ready,SchedulingDisabled",
            "worker",
            "5m",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>",
        ];
        check(node, &object, &expected);
    }

    #[test]
    fn both_forms_of_an_event_print_alike() {
        let core = json!({"metadata": {"name": "e", "creationTimestamp": "2026-01-01T00:00:00Z"}, "type": "Normal",
            "reason": "Started", "message": "Started it", "count": 2, "involvedObject": {"kind": "Pod", "name": "web"},
            "source": {"component": "kubelet", "host": "n1"}, "lastTimestamp": "2026-01-01T00:04:00Z"});
        let expected =
            ["60s", "Normal", "Started", "pod/web", "", "kubelet, n1", "Started it", "<unknown>", "2", "e"];
        check(event, &core, &expected);
        let newer = json!({"metadata": {"name": "e", "creationTimestamp": "2026-01-01T00:00:00Z"}, "type": "Normal",
            "reason": "Started", "note": "Started it", "deprecatedCount": 2, "regarding": {"kind": "Pod", "name": "web"},
            "deprecatedSource": {"component": "kubelet", "host": "n1"}, "deprecatedLastTimestamp": "2026-01-01T00:04:00Z"});
        check(event, &newer, &expected);
    }
}
