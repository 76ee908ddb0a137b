//! Documents that clients find their way by.

use api_types::kinds;
use http_body_util::BodyExt as _;
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

#[tokio::test]
async fn version_2_has_the_definition_of_every_kind_and_refers_only_to_what_it_has() {
    let client = Client::start().await;
    let document = client.get("/openapi/v2").await.1;
    let definitions = document["definitions"].as_object().unwrap();
    for kind in kinds::builtin() {
        assert!(definitions.contains_key(&kind.definition), "{}", kind.definition);
    }
    let text = document.to_string();
    for reference in text.split("\"#/definitions/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(definitions.contains_key(reference), "{reference}");
    }
    client.stop().await;
}

#[tokio::test]
async fn the_range_of_service_addresses_is_ready_from_the_start() {
    let client = Client::start().await;
    let (code, range) = client.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert_eq!(code, 200);
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
    client.stop().await;
}

#[tokio::test]
async fn the_server_says_since_when_it_runs_and_with_which_flags() {
    let flags = vec![("listen".to_owned(), "127.0.0.1:6443".to_owned())];
    let client = Client::start_with(apiserver::Config { flags, ..Default::default() }).await;
    for (path, told) in [("/statusz", "kube-apiserver statusz"), ("/flagz", "listen=127.0.0.1:6443")] {
        let response = client.send("GET", path, "text/plain", axum::body::Body::empty()).await;
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains(told), "{path}");
    }
    client.stop().await;
}

#[tokio::test]
async fn openapi_is_not_sent_again_to_who_has_it() {
    let client = Client::start().await;
    for path in ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"] {
        let ask = |tag: &str| {
            let request = http::Request::get(path).header("if-none-match", tag);
            client.respond(request.body(axum::body::Body::empty()).unwrap())
        };
        let first = ask("").await;
        assert_eq!(first.status(), 200, "{path}");
        let again = ask(first.headers()["etag"].to_str().unwrap()).await;
        assert_eq!(again.status(), 304, "{path}");
        assert!(again.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
    client.stop().await;
}
