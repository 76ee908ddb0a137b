//! Admission webhooks: one is served here over TLS on the loopback, and asked about kinds of all sorts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use base64::Engine as _;
use component_base::Shutdown;
use component_base::supervise::Tasks;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::client::Client;

/// A webhook that labels at `/label`, refuses names that end in `bad` at `/judge`, and never answers at
/// `/sleep`. At `/convert` it converts custom objects: `spec.watts` is `spec.power` in version 2.
pub(crate) struct Served {
    pub(crate) url: String,
    pub(crate) ca_bundle: String,
    asked: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Served {
    pub(crate) async fn start() -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let ca_bundle = base64::engine::general_purpose::STANDARD.encode(certified.cert.pem());
        let (tasks, asked) = (Tasks::new(Shutdown::new()), Arc::new(AtomicUsize::new(0)));
        let (connections, counter) = (tasks.clone(), asked.clone());
        tasks.spawn_until_shutdown("webhook", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, counter) = (acceptor.clone(), counter.clone());
                connections.spawn_until_shutdown("connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        counter.fetch_add(1, Ordering::Relaxed);
                        answer(request)
                    });
                    let serving = hyper::server::conn::http1::Builder::new();
                    drop(serving.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { url, ca_bundle, asked, tasks }
    }

    fn hook(&self, path: &str, more: &Value) -> Value {
        let mut hook = json!({
            "name": format!("{}.example.com", path.trim_matches('/')), "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "url": format!("{}{path}", self.url), "caBundle": self.ca_bundle },
            "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"] }],
        });
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hook
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) async fn stop(self) {
        self.tasks.shutdown().cancel();
        self.tasks.join().await;
    }
}

async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Body>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let question: Value = serde_json::from_slice(&body).unwrap();
    let request = &question["request"];
    if path == "/convert" {
        return Ok(http::Response::new(Body::from(convert(request).to_string())));
    }
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    match path.as_str() {
        "/sleep" => std::future::pending().await,
        "/label" if request["object"]["metadata"].is_object() => {
            let labels = json!({ "seen": request["resource"]["resource"] });
            let patch = json!([{ "op": "add", "path": "/metadata/labels", "value": labels }]);
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(base64::engine::general_purpose::STANDARD.encode(patch.to_string()));
        }
        "/judge" if request["name"].as_str().is_some_and(|name| name.ends_with("bad")) => {
            response["allowed"] = json!(false);
            let why = format!("{} {}", request["operation"].as_str().unwrap(), request["subResource"]);
            response["status"] = json!({ "code": 403, "reason": "Forbidden", "message": why });
            response["warnings"] = json!(["think again"]);
        }
        _ => {}
    }
    let review =
        json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response });
    Ok(http::Response::new(Body::from(review.to_string())))
}

fn convert(request: &Value) -> Value {
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let (from, to) = if wanted.ends_with("/v2") { ("watts", "power") } else { ("power", "watts") };
    let mut objects = request["objects"].clone();
    for object in objects.as_array_mut().unwrap() {
        object["apiVersion"] = json!(wanted);
        let fields = object.get_mut("spec").and_then(Value::as_object_mut);
        if let Some(fields) = fields
            && let Some(value) = fields.shift_remove(from)
        {
            fields.insert(to.to_owned(), value);
        }
    }
    json!({
        "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
        "response": { "uid": request["uid"], "result": { "status": "Success" }, "convertedObjects": objects },
    })
}

async fn configure(client: &Client, sort: &str, name: &str, hooks: &[Value]) {
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{sort}WebhookConfiguration"),
        "metadata": { "name": name }, "webhooks": hooks,
    });
    let path = format!("{CONFIGURATIONS}/{}webhookconfigurations", sort.to_lowercase());
    let (code, answer) = client.post(&path, &body).await;
    assert_eq!(code, 201, "{answer}");
}

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// Paths and bodies of objects of kinds that have nothing in common.
fn of_all_sorts(name: &str) -> Vec<(&'static str, Value)> {
    let object = |api_version: &str, kind: &str, more: Value| {
        let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name } });
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    };
    vec![
        ("/api/v1/namespaces/default/configmaps", object("v1", "ConfigMap", json!({}))),
        ("/api/v1/namespaces/default/secrets", object("v1", "Secret", json!({}))),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            object("coordination.k8s.io/v1", "Lease", json!({})),
        ),
        ("/api/v1/namespaces", object("v1", "Namespace", json!({}))),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            object("rbac.authorization.k8s.io/v1", "ClusterRole", json!({})),
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            object("scheduling.k8s.io/v1", "PriorityClass", json!({ "value": 1 })),
        ),
    ]
}

#[tokio::test]
async fn every_kind_is_labelled_and_judged_by_the_webhooks_that_say_so() {
    let (client, served) = (Client::start().await, Served::start().await);
    configure(&client, "Mutating", "label", &[served.hook("/label", &json!({}))]).await;
    configure(&client, "Validating", "judge", &[served.hook("/judge", &json!({}))]).await;
    for (path, body) in of_all_sorts("good") {
        let (code, made) = client.post(path, &body).await;
        assert_eq!(code, 201, "{made}");
        let resource = path.rsplit('/').next().unwrap();
        assert_eq!(made["metadata"]["labels"]["seen"], resource, "{made}");
    }
    for (path, body) in of_all_sorts("bad") {
        let (code, refused) = client.post(path, &body).await;
        assert_eq!(code, 403, "{refused}");
        assert_eq!(
            refused["message"],
            r#"admission webhook "judge.example.com" denied the request: CREATE null"#
        );
        assert_eq!(client.get(&format!("{path}/bad")).await.0, 404);
    }
    client.stop().await;
    served.stop().await;
}

#[tokio::test]
async fn updates_deletions_subresources_and_connections_are_judged_too() {
    let (client, served) = (Client::start().await, Served::start().await);
    let path = "/api/v1/namespaces/default/configmaps";
    for (path, body) in of_all_sorts("bad").into_iter().filter(|(p, _)| *p == path) {
        assert_eq!(client.post(path, &body).await.0, 201);
    }
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "bad" } });
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(client.post(accounts, &account).await.0, 201);
    configure(&client, "Validating", "judge", &[served.hook("/judge", &json!({}))]).await;
    let said = |(code, status): (u16, Value)| {
        assert_eq!(code, 403, "{status}");
        status["message"].as_str().unwrap().rsplit(": ").next().unwrap().to_owned()
    };
    let one = format!("{path}/bad");
    assert_eq!(said(client.merge(&one, &json!({ "data": { "a": "b" } })).await), "UPDATE null");
    assert_eq!(said(client.delete(&one).await), "DELETE null");
    assert_eq!(said(client.delete(path).await), "DELETE null");
    let token = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    assert_eq!(said(client.post(&format!("{accounts}/bad/token"), &token).await), "CREATE \"token\"");
    let exec = client.call("POST", "/api/v1/namespaces/default/pods/bad/exec?command=sh", "", &Value::Null);
    assert_eq!(said(exec.await), "CONNECT \"exec\"");
    let refused = client.send("DELETE", &one, "application/json", Body::empty()).await;
    assert_eq!(refused.headers()["warning"], "299 - \"think again\"");
    client.stop().await;
    served.stop().await;
}

#[tokio::test]
async fn a_webhook_that_is_down_stops_every_kind_unless_it_may_be_ignored() {
    let client = Client::start().await;
    let hook = |policy: &str| {
        json!({
            "name": "down.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": policy, "timeoutSeconds": 2, "clientConfig": { "url": "https://127.0.0.1:1/x" },
            "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"] }],
        })
    };
    configure(&client, "Validating", "down", &[hook("Fail")]).await;
    for (path, body) in of_all_sorts("a") {
        let (code, refused) = client.post(path, &body).await;
        assert_eq!(code, 500, "{refused}");
        assert_eq!(
            refused["message"],
            "Internal error occurred: failed calling webhook \"down.example.com\": failed to call webhook: \
             Post \"https://127.0.0.1:1/x?timeout=2s\": dial tcp 127.0.0.1:1: connect: connection refused"
        );
    }
    let path = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/down");
    let ignored = json!({ "webhooks": [hook("Ignore")] });
    assert_eq!(client.merge(&path, &ignored).await.0, 200, "what configures webhooks is not theirs");
    for (path, body) in of_all_sorts("a") {
        assert_eq!(client.post(path, &body).await.0, 201);
    }
    client.stop().await;
}

#[tokio::test]
async fn a_webhook_has_only_so_much_time_and_must_be_who_it_says() {
    let (client, served) = (Client::start().await, Served::start().await);
    let only = json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }]);
    let slow = served.hook("/sleep", &json!({ "timeoutSeconds": 1, "rules": only }));
    configure(&client, "Mutating", "slow", &[slow]).await;
    let (path, body) = of_all_sorts("a").remove(0);
    let (code, refused) = client.post(path, &body).await;
    assert_eq!(code, 500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with("/sleep?timeout=1s\": context deadline exceeded"), "{message}");
    let (path_of_secrets, secret) = of_all_sorts("a").remove(1);
    assert_eq!(client.post(path_of_secrets, &secret).await.0, 201, "its rules name no secrets");
    client.delete(&format!("{CONFIGURATIONS}/mutatingwebhookconfigurations/slow")).await;
    let other = Served::start().await;
    let config = json!({ "url": format!("{}/label", served.url), "caBundle": other.ca_bundle });
    let impostor = served.hook("/label", &json!({ "clientConfig": config, "rules": only }));
    configure(&client, "Mutating", "impostor", &[impostor]).await;
    let message = client.post(path, &body).await.1["message"].as_str().unwrap().to_owned();
    assert!(message.contains("tls: failed to verify certificate: x509"), "{message}");
    client.stop().await;
    other.stop().await;
    served.stop().await;
}

#[tokio::test]
async fn match_conditions_decide_who_is_asked() {
    let (client, served) = (Client::start().await, Served::start().await);
    let condition =
        |expression: &str| json!({ "matchConditions": [{ "name": "c", "expression": expression }] });
    let careful = condition("request.operation == 'CREATE' && object.metadata.name.startsWith('very')");
    configure(&client, "Validating", "judge", &[served.hook("/judge", &careful)]).await;
    let (path, body) = of_all_sorts("bad").remove(0);
    assert_eq!(client.post(path, &body).await.0, 201);
    let (path, body) = of_all_sorts("verybad").remove(0);
    assert_eq!(client.post(path, &body).await.0, 403);
    let broken = served.hook("/judge", &condition("object.metadata.labels.none == 'x'"));
    let judge = format!("{CONFIGURATIONS}/validatingwebhookconfigurations/judge");
    assert_eq!(client.merge(&judge, &json!({ "webhooks": [broken] })).await.0, 200);
    let (path, body) = of_all_sorts("good").remove(0);
    let (code, refused) = client.post(path, &body).await;
    assert_eq!(code, 403, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("no such key"), "{refused}");
    client.stop().await;
    served.stop().await;
}

#[tokio::test]
async fn a_webhook_that_cares_is_asked_again_after_later_changes() {
    let (client, served) = (Client::start().await, Served::start().await);
    let only = json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }]);
    // The server writes ConfigMaps of its own into other namespaces.
    let here = json!({ "matchLabels": { "kubernetes.io/metadata.name": "default" } });
    let attentive = json!({ "reinvocationPolicy": "IfNeeded", "rules": only, "namespaceSelector": here });
    let attentive = served.hook("/judge", &attentive);
    let late = served.hook("/label", &json!({ "rules": only, "namespaceSelector": here }));
    configure(&client, "Mutating", "a", &[attentive]).await;
    configure(&client, "Mutating", "b", &[late]).await;
    let (path, body) = of_all_sorts("a").remove(0);
    assert_eq!(client.post(path, &body).await.0, 201);
    assert_eq!(served.asked(), 3, "the first, the second that changes something, and the first again");
    client.stop().await;
    served.stop().await;
}

#[tokio::test]
async fn selectors_decide_who_is_asked() {
    let (client, served) = (Client::start().await, Served::start().await);
    let only = json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"] }]);
    let selective = json!({ "rules": only, "objectSelector": { "matchLabels": { "ask": "yes" } } });
    let hook = served.hook("/judge", &selective);
    let nowhere = json!({ "rules": only, "namespaceSelector": { "matchLabels": { "no": "where" } } });
    let mut elsewhere = served.hook("/judge", &nowhere);
    elsewhere["name"] = json!("elsewhere.example.com");
    configure(&client, "Validating", "judge", &[hook, elsewhere]).await;
    let (path, mut body) = of_all_sorts("a").remove(0);
    assert_eq!(client.post(path, &body).await.0, 201);
    assert_eq!(served.asked(), 0);
    body["metadata"] = json!({ "name": "b", "labels": { "ask": "yes" } });
    assert_eq!(client.post(&format!("{path}?dryRun=All"), &body).await.0, 201);
    assert_eq!(served.asked(), 1, "a dry run is judged as well");
    assert_eq!(client.post(path, &body).await.0, 201);
    assert_eq!(served.asked(), 2);
    // A label that goes away is still the old object's.
    let gone = json!({ "metadata": { "labels": null } });
    assert_eq!(client.merge(&format!("{path}/b"), &gone).await.0, 200);
    assert_eq!(served.asked(), 3);
    client.stop().await;
    served.stop().await;
}
