//! Rules that hold for writes of every kind.

use apiserver::UserInfo;
use axum::body::Body;
use serde_json::{Value, json};

use crate::client::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

#[tokio::test]
async fn an_unknown_field_is_refused_warned_of_or_dropped() {
    let client = Client::start().await;
    let mut body = map("a");
    body["dota"] = json!({});
    let (code, status) = client.post(&format!("{MAPS}?fieldValidation=Strict"), &body).await;
    assert_eq!(code, 400);
    assert!(status["message"].as_str().unwrap().contains("unknown field \"dota\""), "{status}");
    let response = client.send("POST", MAPS, "application/json", Body::from(body.to_string())).await;
    assert_eq!(response.status().as_u16(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"dota\\\"\"");
    assert!(client.get(&format!("{MAPS}/a")).await.1.get("dota").is_none());
    client.stop().await;
}

#[tokio::test]
async fn a_syntax_error_names_line_and_column_and_writes_nothing() {
    let client = Client::start().await;
    let response = client.send("POST", MAPS, "application/json", Body::from("{\n \"kind\": }")).await;
    assert_eq!(response.status().as_u16(), 400);
    let response =
        client.send("POST", MAPS, "application/json", Body::from("x".repeat(4 * 1024 * 1024))).await;
    assert_eq!(response.status().as_u16(), 413);
    client.stop().await;
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let client = Client::start().await;
    let mut body = map("held");
    body["metadata"]["finalizers"] = json!(["example.com/wait"]);
    client.post(MAPS, &body).await;
    let path = format!("{MAPS}/held");
    let marked = client.delete(&path).await.1;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(client.get(&path).await.0, 200);
    client.merge(&path, &json!({ "metadata": { "finalizers": null } })).await;
    assert_eq!(client.get(&path).await.0, 404);
    client.stop().await;
}

#[tokio::test]
async fn deletion_preconditions_are_kept() {
    let client = Client::start().await;
    client.post(MAPS, &map("a")).await;
    let wrong = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": "other" } });
    let path = format!("{MAPS}/a");
    assert_eq!(client.call("DELETE", &path, "application/json", &wrong).await.0, 409);
    assert_eq!(client.get(&path).await.0, 200);
    client.stop().await;
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let client = Client::start().await;
    assert_eq!(client.post(&format!("{MAPS}?dryRun=All"), &map("dry")).await.0, 201);
    assert_eq!(client.get(&format!("{MAPS}/dry")).await.0, 404);
    client.stop().await;
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let client = Client::start().await;
    client.post(MAPS, &map("a")).await;
    let path = format!("{MAPS}/a");
    let writes = (0..10).map(|index| {
        let (client, path) = (&client, &path);
        async move { client.merge(path, &json!({ "data": { format!("k{index}"): "v" } })).await.0 }
    });
    let codes = futures::future::join_all(writes).await;
    assert!(codes.iter().all(|c| *c == 200), "{codes:?}");
    assert_eq!(client.get(&path).await.1["data"].as_object().unwrap().len(), 10);
    client.stop().await;
}

#[tokio::test]
async fn generated_names_differ() {
    let client = Client::start().await;
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "generateName": "x-" } });
    let one = client.post(MAPS, &body).await.1["metadata"]["name"].clone();
    let two = client.post(MAPS, &body).await.1["metadata"]["name"].clone();
    assert_ne!(one, two);
    assert!(one.as_str().unwrap().starts_with("x-"));
    client.stop().await;
}

#[tokio::test]
async fn who_may_not_is_told_so_and_unknown_namespaces_take_nothing() {
    let client = Client::start().await;
    let bob = client.acting_as(UserInfo::new("bob", &["system:authenticated"]));
    let (code, status) = bob.get(MAPS).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("User \"bob\" cannot list resource \"configmaps\""));
    assert_eq!(client.post("/api/v1/namespaces/nowhere/configmaps", &map("a")).await.0, 404);
    assert_eq!(client.get("/apis/example.com/v1/things").await.0, 404);
    client.stop().await;
}

#[tokio::test]
async fn an_event_reads_in_both_of_its_groups() {
    let client = Client::start().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "e" }, "reason": "r", "message": "said",
        "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" },
    });
    assert_eq!(client.post("/api/v1/namespaces/default/events", &event).await.0, 201);
    let (code, read) = client.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((code, &read["note"], &read["regarding"]["name"]), (200, &json!("said"), &json!("p")));
    let path = "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=regarding.name%3Dp";
    assert_eq!(client.get(path).await.1["items"].as_array().unwrap().len(), 1);
    client.stop().await;
}

#[tokio::test]
async fn a_binding_sets_node_and_condition_once() {
    let client = Client::start().await;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    client.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    assert_eq!(client.post(pods, &pod).await.0, 201);
    let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n" } });
    assert_eq!(client.post(&format!("{pods}/p/binding"), &binding).await.0, 201);
    let bound = client.get(&format!("{pods}/p")).await.1;
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(client.post(&format!("{pods}/p/binding"), &binding).await.0, 409);
    client.stop().await;
}

#[tokio::test]
async fn an_evicted_pod_says_why_it_ends() {
    let client = Client::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "finalizers": ["example.com/keep"] },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    let revision = client.post(pods, &pod).await.1["metadata"]["resourceVersion"].clone();
    let evict = async |options: Value| {
        let body = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "a" }, "deleteOptions": options });
        client.post(&format!("{pods}/a/eviction"), &body).await.0
    };
    assert_eq!(evict(json!({ "preconditions": { "resourceVersion": "1" } })).await, 409);
    assert_eq!(evict(json!({ "dryRun": ["All"] })).await, 201);
    assert_eq!(client.get(&format!("{pods}/a")).await.1["metadata"]["resourceVersion"], revision);
    assert_eq!(evict(json!({ "preconditions": { "resourceVersion": revision } })).await, 201);
    let evicted = client.get(&format!("{pods}/a")).await.1;
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
    client.stop().await;
}

#[tokio::test]
async fn a_pods_class_is_that_of_what_admission_made_of_it() {
    let client = Client::start().await;
    let item = json!({ "type": "Container", "default": { "cpu": "1" }, "defaultRequest": { "cpu": "100m" } });
    let range = json!({ "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "r" },
        "spec": { "limits": [item] } });
    client.post("/api/v1/namespaces/default/limitranges", &range).await;
    client.post("/api/v1/namespaces/default/serviceaccounts", &account()).await;
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let (code, made) = client.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!((code, &made["status"]["qosClass"]), (201, &json!("Burstable")), "{made}");
    client.stop().await;
}

fn account() -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })
}

#[tokio::test]
async fn an_events_source_is_found_in_either_form() {
    let client = Client::start().await;
    let event = |name: &str, own: &Value| {
        let mut event = json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "name": name },
            "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" } });
        event.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        event
    };
    let events = "/api/v1/namespaces/default/events";
    client.post(events, &event("old", &json!({ "source": { "component": "a" } }))).await;
    client.post(events, &event("new", &json!({ "reportingComponent": "a" }))).await;
    client
        .post(events, &event("other", &json!({ "source": { "component": "b" }, "reportingComponent": "a" })))
        .await;
    let found = client.get(&format!("{events}?fieldSelector=source%3Da")).await.1;
    let names: Vec<_> = found["items"].as_array().unwrap().iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["new", "old"]);
    client.stop().await;
}

#[tokio::test]
async fn a_pod_waits_for_the_default_account_of_its_new_namespace() {
    let client = Client::start().await;
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "new" } });
    client.post("/api/v1/namespaces", &namespace).await;
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let account = account();
    let (pod, account) = tokio::join!(
        client.post("/api/v1/namespaces/new/pods", &pod),
        client.post("/api/v1/namespaces/new/serviceaccounts", &account),
    );
    assert_eq!((pod.0, account.0), (201, 201), "{pod:?}");
    assert_eq!(pod.1["spec"]["serviceAccountName"], "default");
    client.stop().await;
}
