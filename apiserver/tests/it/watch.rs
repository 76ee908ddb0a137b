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

#[tokio::test]
async fn parameters_that_do_not_go_together_are_all_told() {
    let client = Client::start().await;
    let check = async |query: &str, code: u16, fields: &[&str]| {
        let (got, status) = client.get(&format!("{MAPS}?{query}")).await;
        let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
        let named: Vec<_> = causes.iter().map(|c| c["field"].as_str().unwrap_or_default()).collect();
        assert_eq!((got, named.as_slice()), (code, fields), "{query}: {status}");
    };
    let matching = "resourceVersionMatch";
    check("resourceVersionMatch=Exact", 422, &[matching]).await;
    check("resourceVersionMatch=Exact&resourceVersion=0", 422, &[matching]).await;
    check("resourceVersionMatch=Perhaps&resourceVersion=5", 422, &[matching]).await;
    check("resourceVersionMatch=Exact&continue=x", 422, &[matching, matching]).await;
    check("sendInitialEvents=true", 422, &["sendInitialEvents"]).await;
    check("watch=true&sendInitialEvents=true", 422, &[matching]).await;
    check("watch=true&resourceVersionMatch=NotOlderThan", 422, &[matching]).await;
    check("watch=true&sendInitialEvents=true&resourceVersionMatch=Exact", 422, &[matching]).await;
    check("watch=true&limit=abc", 400, &[]).await;
    check("limit=abc", 400, &[]).await;
    check("resourceVersion=abc", 400, &[]).await;
    check("continue=nonsense", 400, &[]).await;
    check("resourceVersion=999999", 504, &[""]).await;
    check("resourceVersion=999999&resourceVersionMatch=Exact", 504, &[""]).await;
    check("watch=true&resourceVersion=999999", 504, &[""]).await;
    let initial = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    check(&format!("{initial}&resourceVersion=999999"), 504, &[""]).await;
    client.stop().await;
}

#[tokio::test]
async fn each_way_to_name_a_revision_gives_the_state_it_means() {
    let client = Client::start().await;
    let one = client.post(MAPS, &map("one")).await.1;
    client.post(MAPS, &map("two")).await;
    let then = one["metadata"]["resourceVersion"].as_str().unwrap();
    let count = async |query: &str| {
        let list = client.get(&format!("{MAPS}?{query}")).await.1;
        list["items"].as_array().unwrap_or_else(|| panic!("{query}: {list}")).len()
    };
    assert_eq!(count("").await, 2);
    assert_eq!(count("resourceVersion=0").await, 2);
    assert_eq!(count("resourceVersion=0&limit=1").await, 2);
    assert_eq!(count(&format!("resourceVersion={then}")).await, 2);
    assert_eq!(count(&format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan&limit=1")).await, 1);
    assert_eq!(count(&format!("resourceVersion={then}&resourceVersionMatch=Exact")).await, 1);
    // With a limit, an unqualified revision is an exact one.
    let page = client.get(&format!("{MAPS}?resourceVersion={then}&limit=5")).await.1;
    assert_eq!(page["metadata"]["resourceVersion"], then);
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    client.stop().await;
}

#[tokio::test]
async fn a_token_that_is_too_old_can_be_traded_for_an_inconsistent_list() {
    let config = apiserver::Config {
        limits: apiserver::Limits { continue_age_max: std::time::Duration::ZERO, ..Default::default() },
        ..Default::default()
    };
    let client = Client::start_with(config).await;
    for name in ["a", "b", "c", "d"] {
        client.post(MAPS, &map(name)).await;
    }
    let first = client.get(&format!("{MAPS}?limit=2")).await.1;
    client.post(MAPS, &map("bb")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let mut expired = client.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    while expired.0 == 200 {
        // Within the same millisecond.
        tokio::task::yield_now().await;
        expired = client.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    }
    assert_eq!((expired.0, &expired.1["reason"]), (410, &json!("Expired")), "{}", expired.1);
    let token = expired.1["metadata"]["continue"].as_str().unwrap();
    let next = client.get(&format!("{MAPS}?limit=2&continue={token}")).await.1;
    let names: Vec<_> =
        next["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bb", "c"]);
    assert_eq!(next["metadata"]["remainingItemCount"], 1);
    assert_ne!(next["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    client.stop().await;
}

#[tokio::test]
async fn a_watch_ends_when_its_client_said_so() {
    let client = Client::start().await;
    let mut events = client.watch(&format!("{MAPS}?watch=true&timeoutSeconds=1")).await;
    assert!(events.next().await.is_none());
    client.stop().await;
}

#[tokio::test]
async fn a_watch_gets_a_last_bookmark_two_seconds_before_its_end_if_it_wants_any() {
    let client = Client::start().await;
    let (_, made) = client.post(MAPS, &json!({"metadata": {"name": "a"}})).await;
    let now = made["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=true&resourceVersion={now}");
    let mut events = client.watch(&format!("{path}&allowWatchBookmarks=true&timeoutSeconds=2")).await;
    let last = events.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    let revision = |text: &serde_json::Value| text.as_str().unwrap().parse::<u64>().unwrap();
    assert!(revision(&last["object"]["metadata"]["resourceVersion"]) >= now.parse().unwrap());
    assert!(last["object"]["metadata"].get("annotations").is_none());
    let mut short = client.watch(&format!("{path}&allowWatchBookmarks=true&timeoutSeconds=1")).await;
    assert!(short.next().await.is_none());
    client.stop().await;
}
