//! Health, metrics, and clients that mean no good or cannot do better.

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::{StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::client::Client;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How long a refusal may take.
const LIMIT: Duration = Duration::from_secs(10);

async fn text(client: &Client, path: &str) -> (u16, String) {
    let response = client.send("GET", path, "application/json", Body::empty()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn health_names_its_checks_and_leaves_out_what_is_not_wanted() {
    let client = Client::start().await;
    assert_eq!(text(&client, "/livez").await, (200, "ok".into()));
    let (code, all) = text(&client, "/readyz?verbose&exclude=etcd").await;
    assert_eq!(code, 200);
    assert!(all.contains("[+]etcd excluded: ok\n") && all.ends_with("readyz check passed\n"), "{all}");
    assert_eq!(text(&client, "/livez/ping").await, (200, "ok".into()));
    assert_eq!(text(&client, "/livez/none").await.0, 404);
    client.stop().await;
}

#[tokio::test]
async fn open_watches_and_their_events_are_counted() {
    let client = Client::start().await;
    let mut events = client.watch(&format!("{MAPS}?watch=true")).await;
    client.post(MAPS, &json!({ "metadata": { "name": "m" } })).await;
    events.next().await.unwrap();
    let (_, metrics) = text(&client, "/metrics").await;
    let open =
        "apiserver_longrunning_requests{verb=\"WATCH\",group=\"\",version=\"v1\",resource=\"configmaps\"";
    let line = metrics.lines().find(|line| line.starts_with(open)).unwrap_or_else(|| panic!("{metrics}"));
    assert!(line.ends_with(" 1"), "{line}");
    assert!(metrics.contains("apiserver_watch_events_total{group=\"\",version=\"v1\",kind=\"ConfigMap\"} 1"));
    drop(events);
    client.stop().await;
}

#[tokio::test]
async fn bodies_that_would_take_all_memory_or_stack_are_refused_soon() {
    let client = Client::start().await;
    let deep_json = format!("{}{}", "{\"a\":".repeat(10_000), "1".to_owned() + &"}".repeat(10_000));
    let deep_yaml = format!("a: {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", ")));
    }
    let bodies =
        [("application/json", deep_json), ("application/yaml", deep_yaml), ("application/yaml", bomb)];
    for (media, body) in bodies {
        let refused = client.send("POST", MAPS, media, Body::from(body));
        let response = tokio::time::timeout(LIMIT, refused).await.expect("an answer in time");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{media}");
    }
    let large = Body::from(vec![b' '; 3 * 1024 * 1024 + 1]);
    let response = client.send("POST", MAPS, "application/json", large).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let selector = format!("{MAPS}?labelSelector=a+in+({})", "x,".repeat(20_000));
    let asked = client.send("GET", &selector, "", Body::empty());
    let response = tokio::time::timeout(LIMIT, asked).await.expect("an answer in time");
    assert!(response.status().is_success() || response.status().is_client_error());
    client.stop().await;
}

#[tokio::test]
async fn a_watch_over_websocket_sends_an_event_a_message() {
    let client = Client::start().await;
    let request = http::Request::get(format!("{MAPS}?watch=true"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Body::empty())
        .unwrap();
    let mut response = client.respond(request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    client.post(MAPS, &json!({ "metadata": { "name": "m" } })).await;
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut bytes = tokio_util::io::ReaderStream::new(hyper_util::rt::TokioIo::new(upgraded));
    let mut seen = Vec::new();
    let event = async {
        // A short frame of text: two bytes of head and two of length, then the event.
        while !seen.ends_with(b"}\n") {
            seen.extend_from_slice(&bytes.next().await.unwrap().unwrap());
        }
    };
    tokio::time::timeout(LIMIT, event).await.expect("an event in time");
    assert_eq!(seen[0], 0x81, "a whole message of text");
    let event: Value = serde_json::from_slice(&seen[4..]).unwrap();
    assert_eq!(
        (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
        (Some("ADDED"), Some("m"))
    );
    drop(bytes);
    client.stop().await;
}
