//! Custom kinds from their definition to their end.

use serde_json::{Value, json};

use crate::client::Client;
use crate::webhooks::Served;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LAMPS: &str = "/apis/example.com/v1/namespaces/default/lamps";

fn version(name: &str, spec: Value) -> Value {
    json!({
        "name": name, "served": true, "storage": name == "v1", "subresources": { "status": {} },
        "schema": { "openAPIV3Schema": { "type": "object", "properties": {
            "spec": { "type": "object", "properties": spec }, "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        } } },
    })
}

fn definition(versions: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "lamps.example.com" },
        "spec": { "group": "example.com", "scope": "Namespaced", "names": { "plural": "lamps", "kind": "Lamp" }, "versions": versions },
    })
}

fn lamp(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Lamp", "metadata": { "name": name }, "spec": spec })
}

async fn define(client: &Client, versions: Value) {
    let (code, answer) = client.post(DEFINITIONS, &definition(versions)).await;
    assert_eq!(code, 201, "{answer}");
}

#[tokio::test]
async fn a_kind_is_served_as_soon_as_its_definition_is_acknowledged() {
    let client = Client::start().await;
    let spec = json!({ "watts": { "type": "integer", "maximum": 100 }, "colour": { "type": "string", "default": "warm" } });
    define(&client, json!([version("v1", spec)])).await;
    let (code, made) = client.post(LAMPS, &lamp("a", json!({ "watts": 40, "odd": 1 }))).await;
    assert_eq!((code, &made["spec"]), (201, &json!({ "watts": 40, "colour": "warm" })));
    let (code, refused) = client.post(LAMPS, &lamp("b", json!({ "watts": 101 }))).await;
    assert_eq!((code, refused["details"]["causes"][0]["field"].as_str()), (422, Some("spec.watts")));
    let typed = |field: &str, said: &str| {
        let mut other = lamp("b", json!({}));
        other[field] = json!(said);
        other
    };
    let (code, refused) = client.post(LAMPS, &typed("kind", "Torch")).await;
    assert_eq!(
        (code, refused["details"]["causes"][0]["message"].as_str()),
        (422, Some("Invalid value: \"Torch\": must be Lamp"))
    );
    let (code, refused) = client.post(LAMPS, &typed("apiVersion", "example.com/v2")).await;
    let why = "the API version in the data (example.com/v2) does not match the expected API version (example.com/v1)";
    assert_eq!((code, refused["message"].as_str()), (400, Some(why)));
    let (_, group) = client.get("/apis/example.com/v1").await;
    assert_eq!(group["resources"][0]["name"], "lamps");
    let (_, published) = client.get("/openapi/v3/apis/example.com/v1").await;
    let schema = &published["components"]["schemas"]["com.example.v1.Lamp"];
    assert_eq!(schema["properties"]["spec"]["properties"]["watts"]["maximum"], 100);
    let mut events = client.watch(&format!("{DEFINITIONS}?watch=true")).await;
    loop {
        let event = events.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            break;
        }
    }
    client.stop().await;
}

#[tokio::test]
async fn rules_in_cel_hold_for_objects_and_bad_ones_are_refused_with_their_definition() {
    let client = Client::start().await;
    let rule = |rule: &str| json!({ "watts": { "type": "integer", "x-kubernetes-validations": [{ "rule": rule }] } });
    let (code, refused) = client.post(DEFINITIONS, &definition(json!([version("v1", rule("self +"))]))).await;
    assert_eq!(code, 422, "{refused}");
    define(&client, json!([version("v1", rule("self > 5"))])).await;
    assert_eq!(client.post(LAMPS, &lamp("a", json!({ "watts": 6 }))).await.0, 201);
    let (_, refused) = client.post(LAMPS, &lamp("b", json!({ "watts": 5 }))).await;
    let why = "Lamp.example.com \"b\" is invalid: spec.watts: Invalid value: 5: failed rule: self > 5";
    assert_eq!(refused["message"], why);
    client.stop().await;
}

#[tokio::test]
async fn what_an_old_object_lacks_is_filled_in_when_it_is_read() {
    let client = Client::start().await;
    define(&client, json!([version("v1", json!({ "watts": { "type": "integer" } }))])).await;
    assert_eq!(client.post(LAMPS, &lamp("a", json!({ "watts": 6 }))).await.0, 201);
    let spec = json!({ "colour": { "type": "string", "default": "cold" } });
    let change = json!({ "spec": { "versions": [version("v1", spec)] } });
    let (code, answer) = client.merge(&format!("{DEFINITIONS}/lamps.example.com"), &change).await;
    assert_eq!(code, 200, "{answer}");
    let (_, read) = client.get(&format!("{LAMPS}/a")).await;
    assert_eq!(read["spec"], json!({ "colour": "cold" }));
    let (_, list) = client.get(LAMPS).await;
    assert_eq!(list["items"][0]["spec"], json!({ "colour": "cold" }));
    client.stop().await;
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let client = Client::start().await;
    define(&client, json!([version("v1", json!({}))])).await;
    assert_eq!(client.post(LAMPS, &lamp("a", json!({}))).await.0, 201);
    let mut events = client.watch(&format!("{DEFINITIONS}?watch=true")).await;
    let (code, marked) = client.delete(&format!("{DEFINITIONS}/lamps.example.com")).await;
    assert_eq!(
        (code, marked["metadata"]["finalizers"][0].as_str()),
        (200, Some("customresourcecleanup.apiextensions.k8s.io"))
    );
    while events.next().await.unwrap()["type"] != "DELETED" {}
    assert_eq!(client.get(LAMPS).await.0, 404);
    define(&client, json!([version("v1", json!({}))])).await;
    assert_eq!(client.get(LAMPS).await.1["items"], json!([]));
    client.stop().await;
}

/// Lamps in two versions, between which a webhook converts: `watts` in the one are `power` in the other.
async fn define_converted(client: &Client, served: &Served) {
    let (one, two) = (json!({ "watts": { "type": "integer" } }), json!({ "power": { "type": "integer" } }));
    let mut body = definition(json!([version("v1", one), version("v2", two)]));
    body["spec"]["conversion"] = json!({ "strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"],
        "clientConfig": { "url": format!("{}/convert", served.url), "caBundle": served.ca_bundle },
    } });
    let (code, answer) = client.post(DEFINITIONS, &body).await;
    assert_eq!(code, 201, "{answer}");
}

async fn apply(client: &Client, query: &str, version: &str, spec: Value) -> (u16, Value) {
    let mut config = lamp("a", spec);
    config["apiVersion"] = json!(format!("example.com/{version}"));
    let path = format!("{}/a?{query}", LAMPS.replace("/v1/", &format!("/{version}/")));
    client.call("PATCH", &path, "application/apply-patch+yaml", &config).await
}

fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let owner = |e: &Value| format!("{} {} {}", e["manager"], e["apiVersion"], e["fieldsV1"]["f:spec"]);
    let mut owners: Vec<_> = entries.iter().map(owner).collect();
    owners.sort();
    owners
}

#[tokio::test]
async fn owners_in_different_versions_conflict_and_yield_as_the_webhook_converts() {
    let (client, served) = (Client::start().await, Served::start().await);
    define_converted(&client, &served).await;
    let (code, made) = apply(&client, "fieldManager=x", "v2", json!({ "power": 6 })).await;
    assert_eq!(code, 201, "{made}");
    let (code, shared) = apply(&client, "fieldManager=y", "v1", json!({ "watts": 6 })).await;
    let both = [r#""x" "example.com/v2" {"f:power":{}}"#, r#""y" "example.com/v1" {"f:watts":{}}"#]
        .map(str::to_owned);
    assert_eq!((code, owners(&shared)), (200, both.to_vec()), "the same value is no conflict");
    let (code, refused) = apply(&client, "fieldManager=y", "v1", json!({ "watts": 7 })).await;
    assert_eq!(code, 409, "{refused}");
    assert_eq!(refused["message"], r#"Apply failed with 1 conflict: conflict with "x": .spec.power"#);
    let (code, taken) = apply(&client, "fieldManager=y&force=true", "v1", json!({ "watts": 7 })).await;
    assert_eq!((code, owners(&taken)), (200, both[1..].to_vec()), "{taken}");
    let (code, moved) = apply(&client, "fieldManager=y", "v2", json!({ "power": 8 })).await;
    let moved_to = vec![r#""y" "example.com/v2" {"f:power":{}}"#.to_owned()];
    assert_eq!((code, owners(&moved)), (200, moved_to), "who applies may change the version: {moved}");
    let (code, emptied) = apply(&client, "fieldManager=y", "v1", json!({})).await;
    assert_eq!((code, &emptied["spec"]), (200, &Value::Null), "what was applied in the other version goes");
    served.stop().await;
    client.stop().await;
}

#[tokio::test]
async fn an_update_takes_fields_from_an_owner_in_another_version() {
    let (client, served) = (Client::start().await, Served::start().await);
    define_converted(&client, &served).await;
    assert_eq!(apply(&client, "fieldManager=x", "v2", json!({ "power": 6 })).await.0, 201);
    let (code, changed) = client.merge(&format!("{LAMPS}/a"), &json!({ "spec": { "watts": 7 } })).await;
    assert_eq!(code, 200, "{changed}");
    assert!(!owners(&changed).iter().any(|owner| owner.contains("power")), "{changed}");
    served.stop().await;
    let path = format!("{LAMPS}/a?fieldManager=z&force=true");
    let mut config = lamp("a", json!({ "watts": 8 }));
    config["metadata"]["managedFields"] = Value::Null;
    let (code, alone) = client.call("PATCH", &path, "application/apply-patch+yaml", &config).await;
    assert_eq!(code, 200, "nobody is left in the other version, so nobody has to be asked: {alone}");
    client.stop().await;
}

#[tokio::test]
async fn a_webhook_converts_what_is_read_listed_watched_and_written() {
    let (client, served) = (Client::start().await, Served::start().await);
    define_converted(&client, &served).await;
    let second = LAMPS.replace("/v1/", "/v2/");
    for name in ["a", "b"] {
        assert_eq!(client.post(LAMPS, &lamp(name, json!({ "watts": 6 }))).await.0, 201);
    }
    assert_eq!(served.asked(), 0);
    let (_, list) = client.get(&second).await;
    assert_eq!((served.asked(), &list["items"][1]["spec"]), (1, &json!({ "power": 6 })));
    let (code, changed) = client.merge(&format!("{second}/a"), &json!({ "spec": { "power": 7 } })).await;
    assert_eq!((code, &changed["spec"]), (200, &json!({ "power": 7 })), "{changed}");
    assert_eq!(client.get(&format!("{LAMPS}/a")).await.1["spec"], json!({ "watts": 7 }));
    let mut events = client.watch(&format!("{second}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["object"]["spec"], json!({ "power": 7 }));
    served.stop().await;
    let (code, refused) = client.get(&format!("{second}/a")).await;
    assert_eq!(code, 500);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .starts_with("conversion webhook for example.com/v1, Kind=Lamp failed: Post")
    );
    client.stop().await;
}

#[tokio::test]
async fn unknown_fields_of_a_custom_object_are_told_with_their_paths() {
    let client = Client::start().await;
    let item = json!({ "type": "object", "properties": { "name": { "type": "string" } } });
    let spec = json!({
        "bulbs": { "type": "array", "items": item }, "rooms": { "type": "object", "additionalProperties": item },
        "notes": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
    });
    define(&client, json!([version("v1", spec)])).await;
    let mut odd = lamp(
        "a",
        json!({
            "rooms": { "hall": { "odd": 1 } }, "bulbs": [{ "name": "x" }, { "odd": 1 }], "notes": { "odd": 1 }, "odd": 1,
        }),
    );
    odd["metadata"]["odd"] = json!(1);
    let expected = ["metadata.odd", "spec.bulbs[1].odd", "spec.odd", "spec.rooms.hall.odd"];
    let told = expected.map(|path| format!("unknown field {path:?}")).join(", ");
    let (code, refused) = client.post(&format!("{LAMPS}?fieldValidation=Strict"), &odd).await;
    let message = refused["message"].as_str().unwrap();
    assert!(code == 400 && message.ends_with(&format!("strict decoding error: {told}")), "{message}");
    let body = axum::body::Body::from(odd.to_string());
    let made = client.send("POST", LAMPS, "application/json", body).await;
    assert_eq!(made.status(), 201);
    let warnings: Vec<_> =
        made.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    assert_eq!(warnings, expected.map(|path| format!("299 - \"unknown field \\\"{path}\\\"\"")));
    client.stop().await;
}
