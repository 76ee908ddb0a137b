//! Admission policies, over requests of all sorts.

use serde_json::{Value, json};

use crate::client::Client;

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Puts a policy in force for everything that `rule` narrows down to.
async fn put_in_force(client: &Client, sort: &str, rule: Value, spec: Value) {
    let mut rules = json!({ "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"], "scope": "*" });
    rules.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    let api_version = "admissionregistration.k8s.io/v1";
    let mut policy = json!({
        "apiVersion": api_version, "kind": format!("{sort}AdmissionPolicy"), "metadata": { "name": "p" },
        "spec": { "matchConstraints": { "resourceRules": [rules] } },
    });
    policy["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut binding = json!({
        "apiVersion": api_version, "kind": format!("{sort}AdmissionPolicyBinding"), "metadata": { "name": "b" },
        "spec": { "policyName": "p" },
    });
    if sort == "Validating" {
        binding["spec"]["validationActions"] = json!(["Deny"]);
    }
    let plural = sort.to_lowercase();
    for (resource, body) in [("policies", policy), ("policybindings", binding)] {
        let (code, answer) = client.post(&format!("{ADMISSION}/{plural}admission{resource}"), &body).await;
        assert_eq!(code, 201, "{answer}");
    }
}

fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "1" } })
}

fn deployment(replicas: i64) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" }, "spec": {
        "replicas": replicas, "selector": { "matchLabels": { "a": "b" } }, "template": {
            "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } } } })
}

#[tokio::test]
async fn a_policy_judges_creations_updates_and_deletions() {
    let client = Client::start().await;
    let rules = json!({ "validations": [
        { "expression": "request.operation != 'CREATE' || !object.metadata.name.endsWith('bad')", "message": "bad name" },
        { "expression": "request.operation != 'UPDATE' || object.data.a == oldObject.data.a", "message": "a is fixed" },
        { "expression": "request.operation != 'DELETE' || oldObject.metadata.name != 'kept'", "message": "kept",
          "reason": "Forbidden" },
    ] });
    put_in_force(&client, "Validating", json!({ "resources": ["configmaps"] }), rules).await;
    let (code, answer) = client.post(MAPS, &config_map("bad")).await;
    assert_eq!(
        (code, answer["message"].as_str().unwrap()),
        (
            422,
            "configmaps \"bad\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: bad name"
        )
    );
    assert_eq!(client.post(MAPS, &config_map("kept")).await.0, 201);
    let (code, _) = client.merge(&format!("{MAPS}/kept"), &json!({ "data": { "a": "2" } })).await;
    assert_eq!(code, 422);
    assert_eq!(client.merge(&format!("{MAPS}/kept"), &json!({ "data": { "b": "2" } })).await.0, 200);
    assert_eq!(client.delete(&format!("{MAPS}/kept")).await.0, 403);
    client.stop().await;
}

#[tokio::test]
async fn a_policy_judges_subresources() {
    let client = Client::start().await;
    let rules = json!({ "validations": [{ "expression": "object.spec.replicas <= 5" }] });
    put_in_force(&client, "Validating", json!({ "resources": ["deployments", "deployments/scale"] }), rules)
        .await;
    assert_eq!(client.post(DEPLOYMENTS, &deployment(6)).await.0, 422);
    assert_eq!(client.post(DEPLOYMENTS, &deployment(1)).await.0, 201);
    let scale = format!("{DEPLOYMENTS}/d/scale");
    assert_eq!(client.merge(&scale, &json!({ "spec": { "replicas": 6 } })).await.0, 422);
    assert_eq!(client.merge(&scale, &json!({ "spec": { "replicas": 5 } })).await.0, 200);
    client.stop().await;
}

#[tokio::test]
async fn a_policy_that_refuses_everything_can_still_be_removed() {
    let client = Client::start().await;
    put_in_force(&client, "Validating", json!({}), json!({ "validations": [{ "expression": "false" }] }))
        .await;
    assert_eq!(client.post(MAPS, &config_map("c")).await.0, 422);
    assert_eq!(client.delete(&format!("{ADMISSION}/validatingadmissionpolicybindings/b")).await.0, 200);
    assert_eq!(client.post(MAPS, &config_map("c")).await.0, 201);
    client.stop().await;
}

#[tokio::test]
async fn a_mutating_policy_changes_what_is_written() {
    let client = Client::start().await;
    let spec = json!({ "reinvocationPolicy": "Never", "mutations": [
        { "patchType": "ApplyConfiguration", "applyConfiguration": {
            "expression": "Object{metadata: Object.metadata{labels: {'seen': object.metadata.name}}}" } },
        { "patchType": "JSONPatch", "jsonPatch": {
            "expression": "[JSONPatch{op: 'test', path: '/metadata/name', value: 'c'}, JSONPatch{op: 'add', path: '/metadata/annotations', value: {'n': string(object.metadata.labels.size())}}]" } },
    ] });
    let rule = json!({ "operations": ["CREATE"], "resources": ["configmaps", "secrets"] });
    put_in_force(&client, "Mutating", rule, spec).await;
    let (code, created) = client.post(MAPS, &config_map("c")).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["metadata"]["labels"], json!({ "seen": "c" }));
    assert_eq!(created["metadata"]["annotations"], json!({ "n": "1" }));
    let (code, refused) = client.post(MAPS, &config_map("other")).await;
    assert_eq!((code, refused["reason"].as_str()), (422, Some("Invalid")), "{refused}");
    client.stop().await;
}

#[tokio::test]
async fn what_admission_adds_counts_as_if_it_had_come_with_the_request() {
    let client = Client::start().await;
    let gated = "[JSONPatch{op: 'add', path: '/spec/schedulingGates', value: [{'name': 'a.b/c'}]}, JSONPatch{op: 'add', path: '/status/phase', value: 'Running'}]";
    let later = "[JSONPatch{op: 'add', path: '/spec/minReadySeconds', value: 7}]";
    let expression = format!("object.kind == 'Pod' ? {gated} : request.operation == 'UPDATE' ? {later} : []");
    let spec = json!({ "reinvocationPolicy": "Never", "mutations": [
        { "patchType": "JSONPatch", "jsonPatch": { "expression": expression } },
    ] });
    put_in_force(&client, "Mutating", json!({ "resources": ["pods", "deployments"] }), spec).await;
    // A plugin adds a finalizer to it.
    let volume = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "c" }, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    let (code, volume) = client.post("/api/v1/namespaces/default/persistentvolumeclaims", &volume).await;
    assert_eq!((code, &volume["status"]), (201, &json!({ "phase": "Pending" })), "{volume}");
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let (code, pod) = client.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!((code, pod["status"]["phase"].as_str()), (201, Some("Pending")), "{pod}");
    assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    let (_, mut made) = client.post(DEPLOYMENTS, &deployment(1)).await;
    assert_eq!(made["metadata"]["generation"], 1);
    made["metadata"]["labels"] = json!({ "only": "this" });
    let (code, changed) = client.put(&format!("{DEPLOYMENTS}/d"), &made).await;
    assert_eq!((code, changed["spec"]["minReadySeconds"].as_i64()), (200, Some(7)), "{changed}");
    assert_eq!(changed["metadata"]["generation"], 2);
    client.stop().await;
}

#[tokio::test]
async fn expressions_that_do_not_compile_are_refused_when_written() {
    let client = Client::start().await;
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": "p" },
        "spec": {
            "matchConstraints": { "resourceRules": [
                { "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"] } ] },
            "validations": [{ "expression": "nothing" }],
        },
    });
    let (code, answer) = client.post(&format!("{ADMISSION}/validatingadmissionpolicies"), &policy).await;
    assert_eq!(code, 422);
    assert_eq!(
        answer["details"]["causes"][0]["message"],
        "Invalid value: \"nothing\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')\n | nothing\n | ^"
    );
    client.stop().await;
}
