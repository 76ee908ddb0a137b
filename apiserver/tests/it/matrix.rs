//! Every kind of the table, every verb it names.

use api_types::kinds;
use axum::body::Body;
use serde_json::{Value, json};

use crate::client::Client;
use crate::objects::{collection, name_of, object};

#[tokio::test]
async fn every_kind_answers_every_verb_that_its_row_names() {
    let client = Client::start().await;
    client.post("/api/v1/namespaces/default/serviceaccounts", &account()).await;
    let mut failures = Vec::new();
    for kind in kinds::builtin().iter().filter(|k| !k.storage.is_empty()) {
        if let Err(problem) = check(&client, kind).await {
            failures.push(format!("{} {}: {problem}", kind.api_version(), kind.kind));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    client.stop().await;
}

fn account() -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } })
}

async fn check(client: &Client, kind: &kinds::Kind) -> Result<(), String> {
    let base = collection(kind);
    let name = name_of(kind, "sample");
    let item = format!("{base}/{name}");
    let made = expect("create", 201, client.post(&base, &object(kind, "sample")).await)?;
    expect("create again", 409, client.post(&base, &object(kind, "sample")).await)?;
    let read = expect("get", 200, client.get(&item).await)?;
    same("get shows what create answered", &made, &read)?;
    let list = expect("list", 200, client.get(&base).await)?;
    same("list kind", &list["kind"], &json!(kind.list_kind))?;
    let listed = list["items"].as_array().into_iter().flatten().any(|o| o["metadata"]["name"] == name);
    if !listed {
        return Err("the list does not have it".into());
    }
    let mut changed = read.clone();
    changed["metadata"]["labels"] = json!({ "changed": "yes" });
    let updated = expect("update", 200, client.put(&item, &changed).await)?;
    expect("a stale update", 409, client.put(&item, &with_label(&read, "stale")).await)?;
    let again = expect("update to the same", 200, client.put(&item, &updated).await)?;
    same("an update that changes nothing keeps the revision", &updated["metadata"], &again["metadata"])?;
    let patch = json!({ "metadata": { "annotations": { "a": "b" } } });
    let patched = expect("patch", 200, client.merge(&item, &patch).await)?;
    same("patched", &patched["metadata"]["annotations"]["a"], &json!("b"))?;
    let path = format!("{item}?fieldManager=tester&force=true");
    let mut config = object(kind, "sample");
    config["metadata"]["labels"] = json!({ "applied": "yes" });
    let applied = client.call("PATCH", &path, "application/apply-patch+yaml", &config).await;
    let applied = expect("apply", 200, applied)?;
    same("applied", &applied["metadata"]["labels"]["applied"], &json!("yes"))?;
    tables(client, kind, &item).await?;
    expect(
        "dry run",
        200,
        client.call("DELETE", &format!("{item}?dryRun=All"), "application/json", &Value::Null).await,
    )?;
    expect("still there", 200, client.get(&item).await)?;
    let path = format!("{item}?gracePeriodSeconds=0");
    expect("delete", 200, client.delete(&path).await)?;
    let_go(client, &item).await;
    if kind.verbs.iter().any(|v| v == "deletecollection") {
        expect("gone", 404, client.get(&item).await)?;
        expect("create", 201, client.post(&base, &object(kind, "other")).await)?;
        let other = name_of(kind, "other");
        let path = format!("{base}?fieldSelector=metadata.name%3D{other}&gracePeriodSeconds=0");
        expect("delete the collection", 200, client.delete(&path).await)?;
        let_go(client, &format!("{base}/{other}")).await;
        expect("all gone", 404, client.get(&format!("{base}/{other}")).await)?;
    }
    Ok(())
}

/// Does what the controllers of finalizers do.
async fn let_go(client: &Client, item: &str) {
    client.merge(item, &json!({ "metadata": { "finalizers": null } })).await;
}

fn with_label(object: &Value, label: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["labels"] = json!({ label: "yes" });
    object
}

/// A Table has as many cells as columns.
async fn tables(client: &Client, kind: &kinds::Kind, item: &str) -> Result<(), String> {
    let request = http::Request::get(item)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(Body::empty())
        .map_err(|e| e.to_string())?;
    let table = client.raw(request).await;
    let columns = table["columnDefinitions"].as_array().map(Vec::len);
    let cells = table["rows"][0]["cells"].as_array().map(Vec::len);
    if table["kind"] != "Table" || columns != cells || columns.is_none() {
        return Err(format!("a table of {columns:?} columns and {cells:?} cells ({})", kind.kind));
    }
    Ok(())
}

fn expect(what: &str, code: u16, (found, body): (u16, Value)) -> Result<Value, String> {
    if found == code {
        Ok(body)
    } else {
        Err(format!("{what}: {found} instead of {code}: {}", body["message"]))
    }
}

fn same(what: &str, a: &Value, b: &Value) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what}: {a} and {b}")) }
}
