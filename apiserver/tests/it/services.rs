//! Addresses of services: the objects that stand for them and the ranges that they come from.

use serde_json::{Value, json};

use crate::client::Client;

const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, address: &str) -> Value {
    let mut spec = json!({"ports": [{"port": 80}]});
    if !address.is_empty() {
        spec["clusterIP"] = json!(address);
    }
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec})
}

fn address(name: &str) -> Value {
    json!({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": name},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "later"}}})
}

#[tokio::test]
async fn an_address_has_an_object_from_the_revision_of_its_service_until_that_of_its_end() {
    let client = Client::start().await;
    let (_, made) = client.post(SERVICES, &service("web", "")).await;
    let name = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let (code, object) = client.get(&format!("{ADDRESSES}/{name}")).await;
    assert_eq!(code, 200);
    assert_eq!(object["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(
        object["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    let parent = json!({"resource": "services", "namespace": "default", "name": "web"});
    assert_eq!(object["spec"]["parentRef"], parent);
    assert_eq!(client.get(&format!("{ADDRESSES}/10.96.0.1")).await.0, 200, "of the service kubernetes");
    client.delete(&format!("{SERVICES}/web")).await;
    assert_eq!(client.get(&format!("{ADDRESSES}/{name}")).await.0, 404);
    client.stop().await;
}

#[tokio::test]
async fn an_address_goes_when_its_service_becomes_a_name() {
    let client = Client::start().await;
    let (_, made) = client.post(SERVICES, &service("web", "")).await;
    let path = format!("{ADDRESSES}/{}", made["spec"]["clusterIP"].as_str().unwrap());
    let change = json!({"spec": {"type": "ExternalName", "externalName": "x.example", "clusterIP": "", "clusterIPs": null}});
    let (code, changed) = client.merge(&format!("{SERVICES}/web"), &change).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(client.get(&path).await.0, 404);
    client.stop().await;
}

#[tokio::test]
async fn an_address_that_a_user_reserves_is_given_to_nobody() {
    let client = Client::start().await;
    assert_eq!(client.post(ADDRESSES, &address("10.96.0.77")).await.0, 201);
    let (code, refused) = client.post(SERVICES, &service("web", "10.96.0.77")).await;
    assert_eq!(code, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.ends_with("failed to allocate IP 10.96.0.77: provided IP is already allocated"),
        "{message}"
    );
    client.delete(&format!("{ADDRESSES}/10.96.0.77")).await;
    assert_eq!(client.post(SERVICES, &service("web", "10.96.0.77")).await.0, 201);
    client.stop().await;
}

#[tokio::test]
async fn a_new_range_gives_addresses_and_one_that_is_going_does_not() {
    let client = Client::start().await;
    let (_, refused) = client.post(SERVICES, &service("web", "10.222.0.9")).await;
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with("the provided network does not match the current range"), "{message}");
    let range = json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "more", "finalizers": ["example.com/keep"]}, "spec": {"cidrs": ["10.222.0.0/24"]}});
    assert_eq!(client.post(RANGES, &range).await.0, 201);
    assert_eq!(client.post(SERVICES, &service("web", "10.222.0.9")).await.0, 201);
    client.delete(&format!("{RANGES}/more")).await;
    assert_eq!(client.post(SERVICES, &service("other", "10.222.0.10")).await.0, 422);
    client.stop().await;
}

#[tokio::test]
async fn an_address_whose_object_is_deleted_gets_it_back() {
    let client = Client::start().await;
    let mut events =
        client.watch(&format!("{ADDRESSES}?watch=1&fieldSelector=metadata.name=10.96.0.1")).await;
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    client.delete(&format!("{ADDRESSES}/10.96.0.1")).await;
    assert_eq!(events.next().await.unwrap()["type"], "DELETED");
    let again = events.next().await.unwrap();
    assert_eq!(
        (&again["type"], &again["object"]["spec"]["parentRef"]["name"]),
        (&json!("ADDED"), &json!("kubernetes"))
    );
    client.stop().await;
}

#[tokio::test]
async fn a_transaction_gives_addresses_that_nobody_else_gets() {
    let client = Client::start().await;
    let create = |name: &str, address: &str| json!({"method": "POST", "path": SERVICES, "body": service(name, address)});
    let both = json!({"operations": [create("a", "10.96.0.50"), create("b", "10.96.0.50")]});
    assert_eq!(client.post("/coxswain/v1/transactions", &both).await.0, 422);
    assert_eq!(client.get(&format!("{ADDRESSES}/10.96.0.50")).await.0, 404);
    let one = json!({"operations": [create("a", "10.96.0.50"), create("b", "10.96.0.51")]});
    let (code, done) = client.post("/coxswain/v1/transactions", &one).await;
    assert_eq!(code, 200, "{done}");
    assert_eq!(client.get(&format!("{ADDRESSES}/10.96.0.50")).await.0, 200);
    client.stop().await;
}
