//! What this server can beyond Kubernetes: reads of the past, an object's history, undo, transactions.

use apiserver::UserInfo;
use axum::body::Body;
use serde_json::{Value, json};

use crate::client::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TRANSACTIONS: &str = "/coxswain/v1/transactions";

fn map(name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_object_and_a_list_are_read_as_they_were() {
    let client = Client::start().await;
    let first = client.post(MAPS, &map("a", json!({ "k": "1" }))).await.1;
    client.merge(&format!("{MAPS}/a"), &json!({ "data": { "k": "2" } })).await;
    client.post(MAPS, &map("b", json!({}))).await;
    client.delete(&format!("{MAPS}/a")).await;
    let then = revision(&first);
    assert_eq!(client.get(&format!("{MAPS}/a?at={then}")).await, (200, first));
    let list = client.get(&format!("{MAPS}?at={then}")).await.1;
    assert_eq!((names(&list), revision(&list)), (vec!["a"], then.clone()));
    let exact = client.get(&format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await.1;
    assert_eq!(exact, list);
    assert_eq!(client.get(&format!("{MAPS}/b?at={then}")).await.0, 404);
    assert_eq!(client.get(&format!("{MAPS}/a?at=999999")).await.0, 504);
    assert_eq!(client.get(&format!("{MAPS}/a?at=yesterday")).await.0, 400);
    assert_eq!(client.get(&format!("{MAPS}/a?at=2999-01-02T15:04:05Z")).await.0, 400);
    assert_eq!(client.get(&format!("{MAPS}?at={then}&resourceVersion=1")).await.0, 400);
    // Before the beginning there was nothing.
    let list = client.get(&format!("{MAPS}?at=2001-01-02T15:04:05Z")).await.1;
    assert!(names(&list).is_empty(), "{list}");
    client.stop().await;
}

async fn patch_acting_on(client: &Client, path: &str, revision: &str, patch: &Value) -> Value {
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .header("user-agent", "robot/2")
        .header("x-coxswain-acted-on", revision)
        .body(Body::from(patch.to_string()))
        .unwrap();
    client.raw(request).await
}

#[tokio::test]
async fn the_history_tells_who_changed_which_field_through_what_and_why() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    let created = client.post(MAPS, &map("a", json!({ "k": "1", "same": "x" }))).await.1;
    let acted_on = revision(&created);
    let patched =
        patch_acting_on(&client, &path, &acted_on, &json!({ "data": { "k": "2", "n": "3" } })).await;
    client.delete(&path).await;
    let (code, history) = client.get(&format!("{path}?history=true")).await;
    assert_eq!((code, &history["kind"]), (200, &json!("ObjectHistory")));
    let items = history["items"].as_array().unwrap();
    let told: Vec<_> = items.iter().map(|i| i["change"].as_str().unwrap()).collect();
    assert_eq!(told, ["Created", "Updated", "Deleted"]);
    let update = &items[1];
    assert_eq!(update["revision"], revision(&patched));
    assert_eq!(update["manager"], "robot");
    assert_eq!(update["user"], "kubernetes-admin");
    assert_eq!(update["request"], format!("PATCH {path}"));
    assert_eq!(update["actedOn"], acted_on);
    assert!(update["time"].is_string() && update["auditID"].is_string(), "{update}");
    let fields = json!([
        { "path": ".data.k", "from": "1", "to": "2" },
        { "path": ".data.n", "to": "3" },
    ]);
    assert_eq!(update["fields"], fields);
    let newest = client.get(&format!("{path}?history=true&limit=1")).await.1;
    assert_eq!(newest["items"].as_array().unwrap().len(), 1);
    assert_eq!(newest["items"][0]["change"], "Deleted");
    let since = client.get(&format!("{path}?history=true&since={acted_on}")).await.1;
    assert_eq!(since["items"].as_array().unwrap().len(), 2);
    assert_eq!(since["items"][0]["fields"], fields);
    assert_eq!(client.get(&format!("{MAPS}/never?history=true")).await.0, 404);
    let bob = client.acting_as(UserInfo::new("bob", &["system:authenticated"]));
    assert_eq!(bob.get(&format!("{path}?history=true")).await.0, 403);
    client.stop().await;
}

#[tokio::test]
async fn the_history_says_what_admission_changed() {
    let client = Client::start().await;
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    client.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    assert_eq!(client.post(pods, &pod).await.0, 201);
    let history = client.get(&format!("{pods}/p?history=true")).await.1;
    let admitted = history["items"][0]["admission"].as_array().unwrap();
    let account = json!({ "path": ".spec.serviceAccountName", "to": "default" });
    assert!(admitted.contains(&account), "{admitted:?}");
    client.stop().await;
}

async fn undo(client: &Client, path: &str, revision: &str, more: &str) -> (u16, Value) {
    client.merge(&format!("{path}?undo={revision}{more}"), &json!({})).await
}

#[tokio::test]
async fn one_change_is_taken_back_and_later_ones_stay() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    client.post(MAPS, &map("a", json!({ "k": "1" }))).await;
    let bad = client.merge(&path, &json!({ "data": { "k": "2", "new": "x" } })).await.1;
    client.merge(&path, &json!({ "data": { "later": "3" } })).await;
    let tried = undo(&client, &path, &revision(&bad), "&dryRun=All").await;
    assert_eq!((tried.0, &tried.1["data"]), (200, &json!({ "k": "1", "later": "3" })));
    assert_eq!(client.get(&path).await.1["data"]["k"], "2");
    let undone = undo(&client, &path, &revision(&bad), "").await.1;
    assert_eq!(undone["data"], json!({ "k": "1", "later": "3" }));
    assert_eq!(undo(&client, &path, "2", "").await.0, 400);
    client.stop().await;
}

#[tokio::test]
async fn undoing_what_was_changed_since_conflicts_field_by_field_until_forced() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    client.post(MAPS, &map("a", json!({ "k": "1", "l": "1" }))).await;
    let bad = client.merge(&path, &json!({ "data": { "k": "2", "l": "2" } })).await.1;
    client.merge(&path, &json!({ "data": { "k": "3" } })).await;
    let (code, status) = undo(&client, &path, &revision(&bad), "").await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let causes = status["details"]["causes"].as_array().unwrap();
    assert_eq!((causes.len(), &causes[0]["field"]), (1, &json!(".data.k")));
    assert_eq!(causes[0]["message"], "the change left \"2\", and now it is \"3\"");
    let forced = undo(&client, &path, &revision(&bad), "&force=true").await.1;
    assert_eq!(forced["data"], json!({ "k": "1", "l": "1" }));
    client.stop().await;
}

#[tokio::test]
async fn a_deletion_and_a_creation_are_taken_back_by_who_may() {
    let client = Client::start().await;
    let path = format!("{MAPS}/a");
    let created = client.post(MAPS, &map("a", json!({ "k": "1" }))).await.1;
    client.delete(&path).await;
    let history = client.get(&format!("{path}?history=true")).await.1;
    let deletion = history["items"][1]["revision"].as_str().unwrap().to_owned();
    let (code, again) = undo(&client, &path, &deletion, "").await;
    assert_eq!((code, &again["data"]), (201, &json!({ "k": "1" })));
    assert_ne!(again["metadata"]["uid"], created["metadata"]["uid"]);
    assert_eq!(undo(&client, &path, &revision(&again), "").await.0, 200);
    assert_eq!(client.get(&path).await.0, 404);
    client.stop().await;
}

fn operation(method: &str, path: &str, body: Value) -> Value {
    json!({ "method": method, "path": path, "body": body })
}

fn transaction(operations: Vec<Value>) -> Value {
    json!({ "operations": operations })
}

#[tokio::test]
async fn a_transaction_happens_in_one_revision_and_sees_its_own_writes() {
    let client = Client::start().await;
    client.post(MAPS, &map("old", json!({ "k": "1" }))).await;
    let apply = json!({
        "method": "PATCH", "path": "/api/v1/namespaces/fresh/configmaps/x?fieldManager=t",
        "contentType": "application/apply-patch+yaml", "body": map("x", json!({ "a": "b" })),
    });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "fresh" } });
    let operations = vec![
        operation("POST", "/api/v1/namespaces", namespace),
        apply,
        json!({
            "method": "PATCH", "path": format!("{MAPS}/old"),
            "contentType": "application/merge-patch+json", "body": { "data": { "k": "2" } },
        }),
    ];
    let dry = client.post(&format!("{TRANSACTIONS}?dryRun=All"), &transaction(operations.clone())).await;
    assert_eq!((dry.0, &dry.1["dryRun"]), (200, &json!(true)), "{}", dry.1);
    assert_eq!(dry.1["changes"][2]["fields"], json!([{ "path": ".data.k", "from": "1", "to": "2" }]));
    assert_eq!(client.get("/api/v1/namespaces/fresh").await.0, 404);
    let (code, done) = client.post(TRANSACTIONS, &transaction(operations)).await;
    assert_eq!(code, 200, "{done}");
    assert_eq!(done["changes"], dry.1["changes"]);
    let at = revision(&done);
    for path in [
        "/api/v1/namespaces/fresh".to_owned(),
        "/api/v1/namespaces/fresh/configmaps/x".to_owned(),
        format!("{MAPS}/old"),
    ] {
        assert_eq!(revision(&client.get(&path).await.1), at, "{path}");
    }
    let codes: Vec<_> = done["results"].as_array().unwrap().iter().map(|r| r["code"].clone()).collect();
    assert_eq!(codes, [201, 201, 200]);
    assert_eq!(revision(&done["results"][1]["object"]), at);
    let history = client.get(&format!("{MAPS}/old?history=true")).await.1;
    assert_eq!(history["items"][1]["request"], format!("POST {TRANSACTIONS}"));
    assert_eq!(history["items"][1]["together"].as_array().unwrap().len(), 2);
    client.stop().await;
}

#[tokio::test]
async fn a_transaction_with_one_wrong_part_changes_nothing_and_tells_all_that_is_wrong() {
    let client = Client::start().await;
    let before = client.post(MAPS, &map("taken", json!({}))).await.1;
    let operations = vec![
        operation("POST", MAPS, map("good", json!({}))),
        operation("POST", MAPS, map("taken", json!({}))),
        operation("POST", MAPS, map("Bad Name", json!({}))),
    ];
    let (code, status) = client.post(TRANSACTIONS, &transaction(operations)).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")), "{status}");
    let fields: Vec<_> =
        status["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].clone()).collect();
    assert_eq!(fields, ["operations[1]", "operations[2]"]);
    assert_eq!(client.get(&format!("{MAPS}/good")).await.0, 404);
    assert_eq!(revision(&client.get(&format!("{MAPS}/taken")).await.1), revision(&before));
    client.stop().await;
}

#[tokio::test]
async fn a_transaction_keeps_preconditions_of_what_it_writes_and_of_what_it_only_relies_on() {
    let client = Client::start().await;
    let relied = client.post(MAPS, &map("relied", json!({}))).await.1;
    let with = |revision: &str| {
        let mut body = transaction(vec![operation("POST", MAPS, map("a", json!({})))]);
        body["preconditions"] = json!([{ "path": format!("{MAPS}/relied"), "resourceVersion": revision }]);
        body
    };
    assert_eq!(client.post(TRANSACTIONS, &with("1")).await.0, 409);
    assert_eq!(client.post(TRANSACTIONS, &with("")).await.0, 409);
    assert_eq!(client.post(TRANSACTIONS, &with(&revision(&relied))).await.0, 200);
    let mut stale = map("a", json!({ "k": "v" }));
    stale["metadata"]["resourceVersion"] = json!("1");
    let put = transaction(vec![operation("PUT", &format!("{MAPS}/a"), stale)]);
    assert_eq!(client.post(TRANSACTIONS, &put).await.0, 409);
    client.stop().await;
}

#[tokio::test]
async fn each_part_of_a_transaction_is_authorized_by_itself() {
    let client = Client::start().await;
    let bob = client.acting_as(UserInfo::new("bob", &["system:authenticated"]));
    let body = transaction(vec![operation("POST", MAPS, map("a", json!({})))]);
    let (code, status) = bob.post(TRANSACTIONS, &body).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("cannot create resource"), "{status}");
    for refused in [
        operation("GET", MAPS, Value::Null),
        operation("DELETE", MAPS, Value::Null),
        operation("POST", "/api/v1/nothings", json!({})),
    ] {
        let code = client.post(TRANSACTIONS, &transaction(vec![refused])).await.0;
        assert!((400..500).contains(&code), "{code}");
    }
    assert_eq!(client.post(TRANSACTIONS, &json!({ "operations": [] })).await.0, 400);
    client.stop().await;
}

#[tokio::test]
async fn a_transaction_creates_changes_and_deletes_the_same_object() {
    let client = Client::start().await;
    let patch = |data: Value| {
        json!({
            "method": "PATCH", "path": format!("{MAPS}/a"),
            "contentType": "application/merge-patch+json", "body": { "data": data },
        })
    };
    let twice = transaction(vec![operation("POST", MAPS, map("a", json!({}))), patch(json!({ "k": "v" }))]);
    let done = client.post(TRANSACTIONS, &twice).await.1;
    assert_eq!(done["changes"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(client.get(&format!("{MAPS}/a")).await.1["data"], json!({ "k": "v" }));
    let gone = transaction(vec![
        operation("POST", MAPS, map("b", json!({}))),
        operation("DELETE", &format!("{MAPS}/b"), Value::Null),
        operation("DELETE", &format!("{MAPS}/a"), Value::Null),
    ]);
    let done = client.post(TRANSACTIONS, &gone).await.1;
    assert_eq!(done["changes"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(client.get(&format!("{MAPS}/a")).await.0, 404);
    client.stop().await;
}
