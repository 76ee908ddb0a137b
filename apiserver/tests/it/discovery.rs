//! Documents that clients find their way by.

use api_types::kinds;
use serde_json::json;

use crate::client::Client;

#[tokio::test]
async fn every_group_version_has_a_document_whose_paths_say_that_the_server_validates() {
    let client = Client::start().await;
    let root = client.get("/openapi/v3").await.1;
    for kind in kinds::builtin().iter().filter(|k| !k.storage.is_empty()) {
        let name =
            if kind.group.is_empty() { "api/v1".to_owned() } else { format!("apis/{}", kind.api_version()) };
        let url = root["paths"][&name]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("{name}"));
        let document = client.get(url).await.1;
        let named = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
        let paths = document["paths"].as_object().unwrap();
        let patch =
            paths.values().map(|p| &p["patch"]).find(|o| o["x-kubernetes-group-version-kind"] == named);
        let validates = |o: &serde_json::Value| o["parameters"].to_string().contains("fieldValidation");
        assert!(patch.is_some_and(validates), "{name} {}", kind.kind);
        let schema = &document["components"]["schemas"][&kind.definition];
        assert!(schema["properties"].is_object(), "{}", kind.definition);
    }
    client.stop().await;
}

#[tokio::test]
async fn health_and_version_are_there() {
    let client = Client::start().await;
    assert_eq!(client.get("/readyz").await.0, 200);
    assert_eq!(client.get("/livez/ping").await.0, 200);
    assert_eq!(client.get("/version").await.1["minor"], "36");
    assert_eq!(client.get("/nothing").await.0, 404);
    client.stop().await;
}
