//! Watches: nothing lost, nothing twice, nothing made up.

use serde_json::{Value, json};

use crate::client::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "a": "b" } } })
}

fn name_of(event: &Value) -> &str {
    event["object"]["metadata"]["name"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_watch_begins_with_all_of_601_objects_and_the_mark_of_their_end() {
    let client = Client::start().await;
    for index in 0..601 {
        assert_eq!(client.post(MAPS, &map(&format!("m{index:03}"))).await.0, 201);
    }
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = client.watch(&format!("{MAPS}?{query}")).await;
    for index in 0..601 {
        let event = events.next().await.unwrap();
        assert_eq!(
            (event["type"].as_str().unwrap(), name_of(&event)),
            ("ADDED", format!("m{index:03}").as_str())
        );
    }
    let mark = events.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    client.stop().await;
}

#[tokio::test]
async fn what_is_written_after_a_list_is_in_the_watch_from_its_revision() {
    let client = Client::start().await;
    client.post(MAPS, &map("before")).await;
    let list = client.get(MAPS).await.1;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for index in 0..50 {
        client.post(MAPS, &map(&format!("m{index:02}"))).await;
    }
    let mut events = client.watch(&format!("{MAPS}?watch=true&resourceVersion={revision}")).await;
    for index in 0..50 {
        assert_eq!(name_of(&events.next().await.unwrap()), format!("m{index:02}"));
    }
    client.merge(&format!("{MAPS}/before"), &json!({ "data": { "x": "y" } })).await;
    assert_eq!(events.next().await.unwrap()["type"], "MODIFIED");
    client.delete(&format!("{MAPS}/before")).await;
    let gone = events.next().await.unwrap();
    assert_eq!((gone["type"].as_str(), name_of(&gone)), (Some("DELETED"), "before"));
    client.stop().await;
}

#[tokio::test]
async fn an_object_that_leaves_a_selector_is_deleted_for_its_watcher() {
    let client = Client::start().await;
    let mut events = client.watch(&format!("{MAPS}?watch=true&labelSelector=a%3Db")).await;
    client.post(MAPS, &map("one")).await;
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    client.merge(&format!("{MAPS}/one"), &json!({ "metadata": { "labels": { "a": "c" } } })).await;
    assert_eq!(events.next().await.unwrap()["type"], "DELETED");
    client.merge(&format!("{MAPS}/one"), &json!({ "metadata": { "labels": { "a": "b" } } })).await;
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    client.stop().await;
}

#[tokio::test]
async fn pages_show_one_revision_whatever_is_written_between_them() {
    let client = Client::start().await;
    for index in 0..10 {
        client.post(MAPS, &map(&format!("m{index}"))).await;
    }
    let first = client.get(&format!("{MAPS}?limit=4")).await.1;
    assert_eq!(first["items"].as_array().unwrap().len(), 4);
    assert_eq!(first["metadata"]["remainingItemCount"], 6);
    client.delete(&format!("{MAPS}/m5")).await;
    client.post(MAPS, &map("m4a")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = client.get(&format!("{MAPS}?limit=100&continue={token}")).await.1;
    let names: Vec<_> =
        rest["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m4", "m5", "m6", "m7", "m8", "m9"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    client.stop().await;
}

#[tokio::test]
async fn shutdown_ends_watches() {
    let client = Client::start().await;
    let mut events = client.watch(&format!("{MAPS}?watch=true")).await;
    client.stop().await;
    assert!(events.next().await.is_none());
}
