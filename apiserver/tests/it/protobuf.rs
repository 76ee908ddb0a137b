//! Bodies in protobuf, as Kubernetes' own components write them.

use serde_json::{Value, json};

use crate::client::Client;

const MEDIA: &str = "application/vnd.kubernetes.protobuf";
const CORE: &str = "/api/v1/namespaces/default/events";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [&varint(field << 3 | 2)[..], &varint(value.len() as u64), value].concat()
}

fn text(field: u64, value: &str) -> Vec<u8> {
    bytes(field, value.as_bytes())
}

fn time(field: u64, nanos: u64) -> Vec<u8> {
    bytes(field, &[number(1, 1_767_323_045), number(2, nanos)].concat())
}

fn body(api_version: &str, message: &[Vec<u8>]) -> Vec<u8> {
    let meta = [text(1, api_version), text(2, "Event")].concat();
    [b"k8s\0".to_vec(), bytes(1, &meta), bytes(2, &message.concat())].concat()
}

fn metadata(name: &str) -> Vec<u8> {
    bytes(1, &[text(1, name), text(3, "default")].concat())
}

fn pod() -> Vec<u8> {
    [text(1, "Pod"), text(2, "default"), text(3, "p")].concat()
}

fn core_event(name: &str, message: &str) -> Vec<u8> {
    let fields = [
        metadata(name),
        bytes(2, &pod()),
        text(3, "Pulled"),
        text(4, message),
        bytes(5, &[text(1, "kubelet"), text(2, "n1")].concat()),
        time(6, 0),
        time(7, 0),
        number(8, 3),
        text(9, "Normal"),
        text(14, "kubelet"),
        text(15, "n1"),
    ];
    body("v1", &fields)
}

fn new_event(name: &str, note: &str) -> Vec<u8> {
    let fields = [
        metadata(name),
        time(2, 123_456_000),
        bytes(3, &[number(1, 2), time(2, 654_321_000)].concat()),
        text(4, "a.b/scheduler"),
        text(5, "s-1"),
        text(6, "Binding"),
        text(7, "Scheduled"),
        bytes(8, &pod()),
        text(10, note),
        text(11, "Normal"),
    ];
    body("events.k8s.io/v1", &fields)
}

/// The object without what differs in every run.
fn shown(mut event: Value) -> Value {
    for field in ["metadata", "kind", "apiVersion"] {
        event.as_object_mut().unwrap().shift_remove(field);
    }
    event
}

async fn write(client: &Client, method: &str, path: &str, body: Vec<u8>) -> u16 {
    client.send(method, path, MEDIA, body.into()).await.status().as_u16()
}

#[tokio::test]
async fn an_event_of_the_core_group_in_protobuf_reads_in_its_own_group() {
    let client = Client::start().await;
    assert_eq!(write(&client, "POST", CORE, core_event("a", "pulled it")).await, 201);
    let regarding = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let expected = |note: &str| {
        json!({
            "eventTime": null, "regarding": regarding, "reason": "Pulled", "note": note, "type": "Normal",
            "reportingController": "kubelet", "reportingInstance": "n1", "deprecatedCount": 3,
            "deprecatedSource": {"component": "kubelet", "host": "n1"},
            "deprecatedFirstTimestamp": "2026-01-02T03:04:05Z", "deprecatedLastTimestamp": "2026-01-02T03:04:05Z",
        })
    };
    assert_eq!(shown(client.get(&format!("{EVENTS}/a")).await.1), expected("pulled it"));
    assert_eq!(write(&client, "PUT", &format!("{CORE}/a"), core_event("a", "again")).await, 200);
    assert_eq!(shown(client.get(&format!("{EVENTS}/a")).await.1), expected("again"));
    client.stop().await;
}

#[tokio::test]
async fn an_event_of_its_own_group_in_protobuf_reads_in_the_core_group() {
    let client = Client::start().await;
    assert_eq!(write(&client, "POST", EVENTS, new_event("b", "bound it")).await, 201);
    let object = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let expected = json!({
        "eventTime": "2026-01-02T03:04:05.123456Z", "involvedObject": object, "reason": "Scheduled",
        "message": "bound it", "type": "Normal", "action": "Binding",
        "reportingComponent": "a.b/scheduler", "reportingInstance": "s-1", "source": {},
        "firstTimestamp": null, "lastTimestamp": null,
        "series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:05.654321Z"},
    });
    assert_eq!(shown(client.get(&format!("{CORE}/b")).await.1), expected);
    let own = client.get(&format!("{EVENTS}/b")).await.1;
    assert_eq!(own["note"], "bound it");
    assert_eq!(own["deprecatedSource"], json!({}));
    assert_eq!(write(&client, "POST", CORE, core_event("b", "taken")).await, 409, "both are one resource");
    client.stop().await;
}
