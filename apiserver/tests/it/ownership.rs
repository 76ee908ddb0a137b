//! Who owns which field after which write, and how objects go.

use serde_json::{Value, json};

use crate::client::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn apply(client: &Client, path: &str, query: &str, config: &Value) -> (u16, Value) {
    client.call("PATCH", &format!("{path}?{query}"), "application/apply-patch+yaml", config).await
}

/// `manager operation subresource`, sorted as they are written.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("-").to_owned();
    entries
        .iter()
        .map(|e| format!("{} {} {}", text(e, "manager"), text(e, "operation"), text(e, "subresource")))
        .collect()
}

fn deployment(replicas: Option<i64>) -> Value {
    let mut out = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": {
            "selector": { "matchLabels": { "a": "b" } },
            "template": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    });
    if let Some(replicas) = replicas {
        out["spec"]["replicas"] = json!(replicas);
    }
    out
}

#[tokio::test]
async fn an_applied_scale_owns_the_replicas_of_the_object_itself() {
    let client = Client::start().await;
    let (path, scale_path) = (format!("{DEPLOYMENTS}/d"), format!("{DEPLOYMENTS}/d/scale"));
    assert_eq!(apply(&client, &path, "fieldManager=alpha", &deployment(Some(2))).await.0, 201);
    let scale = |replicas: i64| {
        json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "d" },
            "spec": { "replicas": replicas },
        })
    };
    let (code, status) = apply(&client, &scale_path, "fieldManager=beta", &scale(5)).await;
    assert_eq!(code, 409, "{status}");
    let cause = &status["details"]["causes"][0];
    assert_eq!(
        cause,
        &json!({
            "reason": "FieldManagerConflict", "message": "conflict with \"alpha\"", "field": ".spec.replicas",
        })
    );
    let (code, shown) = apply(&client, &scale_path, "fieldManager=beta&force=true", &scale(5)).await;
    assert_eq!((code, &shown["kind"], &shown["spec"]["replicas"]), (200, &json!("Scale"), &json!(5)));
    let object = client.get(&path).await.1;
    assert_eq!(object["spec"]["replicas"], 5);
    assert_eq!(owners(&object), ["alpha Apply -", "beta Apply scale"]);
    let entry = &object["metadata"]["managedFields"][1];
    assert_eq!(entry["fieldsV1"], json!({ "f:spec": { "f:replicas": {} } }));
    assert_eq!(entry["apiVersion"], "apps/v1");
    // Who applies no replicas leaves them to the scaler.
    assert_eq!(apply(&client, &path, "fieldManager=alpha", &deployment(None)).await.1["spec"]["replicas"], 5);
    client.stop().await;
}

#[tokio::test]
async fn an_applied_status_is_owned_apart_from_the_spec() {
    let client = Client::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    apply(&client, &path, "fieldManager=alpha", &deployment(Some(1))).await;
    let mut config = deployment(Some(9));
    config["status"] = json!({ "replicas": 1 });
    let (code, object) = apply(&client, &format!("{path}/status"), "fieldManager=alpha", &config).await;
    assert_eq!((code, &object["status"]["replicas"]), (200, &json!(1)), "{object}");
    assert_eq!(object["spec"]["replicas"], 1);
    assert_eq!(owners(&object), ["alpha Apply -", "alpha Apply status"]);
    assert_eq!(
        object["metadata"]["managedFields"][1]["fieldsV1"],
        json!({ "f:status": { "f:replicas": {} } })
    );
    client.stop().await;
}

#[tokio::test]
async fn a_time_moves_only_with_a_change_and_one_empty_entry_resets_all() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "k": "1" },
    });
    let first = apply(&client, &path, "fieldManager=alpha", &config).await.1;
    let second = apply(&client, &path, "fieldManager=alpha", &config).await.1;
    assert_eq!(first, second);
    let reset = json!({ "metadata": { "managedFields": [{}] } });
    assert_eq!(owners(&client.merge(&path, &reset).await.1), Vec::<String>::new());
    let (_, again) = apply(&client, &path, "fieldManager=beta", &config).await;
    assert_eq!(owners(&again), ["beta Apply -", "before-first-apply Update -"]);
    let mut nonsense = again.clone();
    nonsense["metadata"]["managedFields"][0]["operation"] = json!("Whatever");
    assert!(client.put(&path, &nonsense).await.0 < 500);
    client.stop().await;
}

#[tokio::test]
async fn a_manager_that_owns_nothing_more_is_not_listed() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    let config = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "k": value } });
    apply(&client, &path, "fieldManager=alpha", &config("1")).await;
    let taken = apply(&client, &path, "fieldManager=beta&force=true", &config("2")).await.1;
    assert_eq!(owners(&taken), ["beta Apply -"]);
    client.stop().await;
}

#[tokio::test]
async fn deletion_options_come_by_body_or_query_and_must_go_together() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" } });
    client.post(MAPS, &map).await;
    let refused = async |options: Value, fields: usize| {
        let (code, status) = client.call("DELETE", &path, "application/json", &options).await;
        let causes = status["details"]["causes"].as_array().map_or(0, Vec::len);
        assert_eq!((code, causes), (422, fields), "{status}");
    };
    refused(json!({ "orphanDependents": true, "propagationPolicy": "Orphan" }), 1).await;
    refused(json!({ "propagationPolicy": "Sideways" }), 1).await;
    let unsafely = "ignoreStoreReadErrorWithClusterBreakingPotential";
    refused(json!({ unsafely: true, "gracePeriodSeconds": 0, "preconditions": { "uid": "x" } }), 2).await;
    assert_eq!(client.delete(&format!("{path}?dryRun=All")).await.0, 200);
    assert_eq!(client.get(&path).await.0, 200);
    let marked = client.delete(&format!("{path}?propagationPolicy=Foreground")).await.1;
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let orphaned = client.delete(&format!("{path}?orphanDependents=true")).await.1;
    assert_eq!(orphaned["metadata"]["finalizers"], json!(["orphan"]));
    client.merge(&path, &json!({ "metadata": { "finalizers": null } })).await;
    assert_eq!(client.get(&path).await.0, 404);
    client.stop().await;
}

#[tokio::test]
async fn kinds_older_than_the_garbage_collector_orphan_unless_told_otherwise() {
    let client = Client::start().await;
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let make = async |name: &str, finalizers: Value| {
        let meta = json!({ "name": name, "finalizers": finalizers });
        let spec = json!({ "selector": { "a": "b" }, "template": template });
        let body =
            json!({ "apiVersion": "v1", "kind": "ReplicationController", "metadata": meta, "spec": spec });
        assert_eq!(client.post(path, &body).await.0, 201);
    };
    for (name, finalizers, query, left) in [
        ("silent", json!([]), "", Some(json!(["orphan"]))),
        ("told", json!([]), "?propagationPolicy=Background", None),
        ("decided", json!(["foregroundDeletion"]), "", Some(json!(["foregroundDeletion"]))),
    ] {
        make(name, finalizers).await;
        assert_eq!(client.delete(&format!("{path}/{name}{query}")).await.0, 200);
        let (code, object) = client.get(&format!("{path}/{name}")).await;
        match left {
            Some(finalizers) => assert_eq!(object["metadata"]["finalizers"], finalizers, "{name}"),
            None => assert_eq!(code, 404, "{name}"),
        }
    }
    client.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector_and_the_rest_stays() {
    let client = Client::start().await;
    for index in 0..30 {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": format!("m{index}"), "labels": { "odd": (index % 2 == 1).to_string() } },
        });
        client.post(MAPS, &map).await;
    }
    let gone = client.delete(&format!("{MAPS}?labelSelector=odd%3Dtrue&limit=4")).await.1;
    assert_eq!(gone["items"].as_array().unwrap().len(), 15);
    assert_eq!(client.get(MAPS).await.1["items"].as_array().unwrap().len(), 15);
    client.stop().await;
}

#[tokio::test]
async fn a_patch_that_cannot_be_applied_says_so_and_changes_nothing() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "k": "1" },
    });
    let before = client.post(MAPS, &map).await.1;
    let json_patch = "application/json-patch+json";
    let test = json!([{ "op": "test", "path": "/data/k", "value": "2" }]);
    assert_eq!(client.call("PATCH", &path, json_patch, &test).await.0, 422);
    let missing = json!([{ "op": "remove", "path": "/data/none" }]);
    assert_eq!(client.call("PATCH", &path, json_patch, &missing).await.0, 422);
    let many: Vec<_> =
        (0..10_001).map(|_| json!({ "op": "test", "path": "/data/k", "value": "1" })).collect();
    assert_eq!(client.call("PATCH", &path, json_patch, &Value::from(many)).await.0, 413);
    let strategic = "application/strategic-merge-patch+json";
    let directive = json!({ "data": { "$patch": "perhaps" } });
    assert!(client.call("PATCH", &path, strategic, &directive).await.0 >= 400);
    assert_eq!(client.call("PATCH", &path, "application/cbor", &json!({})).await.0, 415);
    assert_eq!(client.get(&path).await.1, before);
    client.stop().await;
}
