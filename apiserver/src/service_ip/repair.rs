//! Keeps IPAddresses and services in step: an address whose object was deleted gets it back, and one that the
//! allocator made for a service that is gone is deleted. Both happen only where somebody meddled with them, or
//! when a server starts over objects that an older one wrote.

use std::sync::Arc;
use std::time::Duration;

use api_types::status::Status;
use futures::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use tracing::debug;

use super::objects::{self, ADDRESSES};
use crate::cache::{WatchEvent, WatchSpec};
use crate::server::{Loopback, Server, send};
use crate::view::View;

/// Looked at this often even if no address was deleted.
const INTERVAL: Duration = Duration::from_secs(180);
const ROOT: &str = "/apis/networking.k8s.io/v1/ipaddresses";

/// Works until it is dropped.
pub(crate) async fn keep(server: Arc<Server>, loopback: Loopback) {
    loop {
        let seen = server.objects.revision();
        look(&server, &loopback).await;
        drop(tokio::time::timeout(INTERVAL, missed(&server, seen)).await);
    }
}

/// Puts right what is wrong now.
pub(crate) async fn look(server: &Server, loopback: &Loopback) {
    for step in plan(&*server.view) {
        let done = match &step {
            Step::Create(object) => send_json(loopback, Method::POST, ROOT, object).await,
            Step::Delete { name, uid } => {
                let options =
                    json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": uid } });
                send_json(loopback, Method::DELETE, &format!("{ROOT}/{name}"), &options).await
            }
        };
        if let Err(status) = done {
            debug!(?step, why = status.message, "an address of a service was not put right");
        }
    }
}

async fn send_json(loopback: &Loopback, method: Method, path: &str, body: &Value) -> Result<(), Status> {
    send(loopback.clone(), method, path, "application/json", body).await
}

/// One write.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Value),
    Delete { name: String, uid: Value },
}

fn plan(view: &dyn View) -> Vec<Step> {
    // Services are looked at later than addresses, so that none is taken for abandoned that was just given.
    let addresses = view.objects(ADDRESSES, None);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let abandoned =
        addresses.iter().filter(|one| objects::is_of_allocator(one) && !objects::is_in_use(view, one));
    let mut steps: Vec<Step> = abandoned
        .map(|one| Step::Delete { name: text(&one["metadata"]["name"]), uid: one["metadata"]["uid"].clone() })
        .collect();
    for service in view.objects("services", None) {
        let objects = objects::of_service(&service).into_iter();
        let missing = objects.filter(|o| view.object(ADDRESSES, "", &text(&o["metadata"]["name"])).is_none());
        steps.extend(missing.map(Step::Create));
    }
    steps
}

/// Waits until an address is deleted that its service still has.
async fn missed(server: &Server, seen: u64) {
    let spec = WatchSpec {
        resource: ADDRESSES.to_owned(),
        namespace: None,
        name: None,
        node: None,
        matches: Arc::new(|_| true),
        from: seen,
    };
    let Ok(mut events) = server.objects.watch(spec) else { return };
    while let Some(event) = events.next().await {
        match event {
            WatchEvent::Deleted(gone) if objects::is_in_use(&*server.view, &gone.value()) => return,
            WatchEvent::Overflow => return,
            _ => {}
        }
    }
    // The server ends its watches when it stops; this task ends with it.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::fixture::Fixture;

    #[test]
    fn missing_addresses_are_made_and_abandoned_ones_deleted() {
        let service = |name: &str, address: &str| json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"clusterIP": address}});
        let of = |name: &str, address: &str| {
            let mut object = objects::of_service(&service(name, address)).remove(0);
            object["metadata"]["uid"] = json!(format!("uid of {address}"));
            object
        };
        let world = Fixture::default()
            .with("services", service("a", "10.0.0.1"))
            .with("services", service("b", "10.0.0.2"))
            .with("services", service("c", "None"))
            .with(ADDRESSES, of("a", "10.0.0.1"))
            .with(ADDRESSES, of("gone", "10.0.0.3"))
            .with(ADDRESSES, of("a", "10.0.0.4"))
            .with(
                ADDRESSES,
                json!({"metadata": {"name": "10.0.0.5"}, "spec": {"parentRef": {"resource": "services"}}}),
            );
        let delete =
            |name: &str| Step::Delete { name: name.to_owned(), uid: json!(format!("uid of {name}")) };
        let missing = objects::of_service(&service("b", "10.0.0.2")).remove(0);
        assert_eq!(plan(&world), [delete("10.0.0.3"), delete("10.0.0.4"), Step::Create(missing)]);
    }
}
