//! Manifests of versions that Kubernetes no longer serves are taken as what they say today.

use api_types::kinds;
use axum::body::Body;
use serde_json::{Value, json};

use crate::client::Client;
use crate::objects::{collection, name_of, object};

const INGRESSES: &str = "/apis/extensions/v1beta1/namespaces/default/ingresses";

fn ingress(port: Value) -> Value {
    json!({
        "apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": { "name": "web" },
        "spec": { "rules": [{ "host": "a.example.com", "http": { "paths": [
            { "path": "/", "backend": { "serviceName": "web", "servicePort": port } },
        ] } }] },
    })
}

#[tokio::test]
async fn an_old_ingress_is_kept_as_one_of_today_and_shown_as_it_was_written() {
    let client = Client::start().await;
    let body = Body::from(ingress(json!(80)).to_string());
    let response = client.send("POST", INGRESSES, "application/json", body).await;
    assert_eq!(response.status().as_u16(), 201);
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("unavailable in v1.22+; use networking.k8s.io/v1 Ingress"), "{warning}");

    let (_, today) = client.get("/apis/networking.k8s.io/v1/namespaces/default/ingresses/web").await;
    let path = &today["spec"]["rules"][0]["http"]["paths"][0];
    assert_eq!(path["backend"], json!({ "service": { "name": "web", "port": { "number": 80 } } }));
    assert_eq!(path["pathType"], "ImplementationSpecific");

    let (_, shown) = client.get(&format!("{INGRESSES}/web")).await;
    assert_eq!(
        (&shown["apiVersion"], &shown["spec"]),
        (&json!("extensions/v1beta1"), &ingress(json!(80))["spec"])
    );
    let (_, list) = client.get(INGRESSES).await;
    assert_eq!(list["apiVersion"], "extensions/v1beta1");
    assert_eq!(list["items"][0]["spec"], shown["spec"]);

    let patch = json!({ "spec": ingress(json!("http"))["spec"] });
    let (code, patched) = client.merge(&format!("{INGRESSES}/web"), &patch).await;
    assert_eq!((code, &patched["spec"]), (200, &patch["spec"]));
    client.stop().await;
}

#[tokio::test]
async fn every_retired_version_takes_what_the_current_one_takes() {
    let client = Client::start().await;
    let mut failures = Vec::new();
    for retired in kinds::retired() {
        let (old, current) = (&retired.shown, &retired.current);
        let mut shown = object(current, "old");
        shown["apiVersion"] = json!(old.api_version());
        let (code, made) = client.post(&collection(old), &shown).await;
        if code != 201 || made["apiVersion"] != json!(old.api_version()) {
            failures.push(format!("{} {}: {code} {}", old.api_version(), old.kind, made["message"]));
        }
        let path = format!("{}/{}", collection(current), name_of(current, "old"));
        let (code, read) = client.get(&path).await;
        if code != 200 || read["apiVersion"] != json!(current.api_version()) {
            failures.push(format!("{} {} is read as {read}", old.api_version(), old.kind));
        }
        client.delete(&format!("{path}?gracePeriodSeconds=0")).await;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    client.stop().await;
}
