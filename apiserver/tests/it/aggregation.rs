//! Groups of another API server: a small one stands for it, over TLS on the loopback.

use std::sync::Arc;

use apiserver::Config;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use component_base::Shutdown;
use component_base::supervise::Tasks;
use http::StatusCode;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::client::Client;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// What the other server answers: its discovery, and who asked.
async fn extension(request: Request) -> Response {
    let said = match request.uri().path() {
        "/apis/lab.example.org/v1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "lab.example.org/v1",
            "resources": [{
                "name": "flasks", "singularName": "flask", "namespaced": true, "kind": "Flask", "verbs": ["get", "list"],
            }],
        }),
        "/openapi/v2" => json!({
            "swagger": "2.0", "paths": { "/apis/lab.example.org/v1/flasks": { "get": {} }, "/healthz": {} },
            "definitions": { "org.example.lab.v1.Flask": { "type": "object" } },
        }),
        "/apis/lab.example.org/v1/namespaces/default/flasks" => {
            let header = |name: &str| {
                let all = request.headers().get_all(name).iter();
                all.map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            json!({
                "query": request.uri().query(), "user": header("x-remote-user"), "groups": header("x-remote-group"),
                "authorization": header("authorization"),
            })
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    said.to_string().into_response()
}

/// Serves [`extension`]; gives its port and its certificate, PEM.
async fn serve(tasks: &Tasks) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(vec!["flasks.default.svc".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = axum::Router::new().fallback(extension);
    tasks.spawn_until_shutdown("extension", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let io = hyper_util::rt::TokioIo::new(stream);
            drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
        }
    });
    (port, made.cert.pem())
}

async fn condition(client: &Client, name: &str, reason: &str) -> Value {
    let find = |object: &Value| {
        let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
        all.find(|condition| condition["reason"] == reason).cloned()
    };
    let object = client.wait_for(&format!("{SERVICES}/{name}"), |object| find(object).is_some()).await;
    find(&object).unwrap()
}

fn registered(authority: &str, port: u16) -> Value {
    use base64::Engine as _;
    let bundle = base64::engine::general_purpose::STANDARD.encode(authority);
    json!({
        "metadata": { "name": "v1.lab.example.org" },
        "spec": {
            "group": "lab.example.org", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 15,
            "caBundle": bundle, "service": { "name": "flasks", "namespace": "default", "port": port },
        },
    })
}

#[tokio::test]
async fn own_groups_are_local_and_whom_to_trust_is_published() {
    let client = Client::start_with(Config::default()).await;
    assert_eq!(condition(&client, "v1.apps", "Local").await["status"], "True");
    condition(&client, "v1.", "Local").await;
    let published = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = client.get(published).await.1;
    assert_eq!(map["data"]["requestheader-username-headers"], "[\"X-Remote-User\"]");
    client.stop().await;
}

#[tokio::test]
async fn a_group_of_another_server_is_passed_on_with_who_asks() {
    let client = Client::start_with(Config::default()).await;
    let tasks = Tasks::new(Shutdown::new());
    let (port, authority) = serve(&tasks).await;
    assert_eq!(client.post(SERVICES, &registered(&authority, port)).await.0, 201);
    let missing = condition(&client, "v1.lab.example.org", "ServiceNotFound").await;
    assert_eq!(missing["message"], "service/flasks in \"default\" is not present");
    let flasks = "/apis/lab.example.org/v1/namespaces/default/flasks?limit=3";
    assert_eq!(client.get(flasks).await.0, 503);
    let service = json!({
        "metadata": { "name": "flasks" }, "spec": { "type": "ExternalName", "externalName": "localhost" },
    });
    assert_eq!(client.post("/api/v1/namespaces/default/services", &service).await.0, 201);
    condition(&client, "v1.lab.example.org", "Passed").await;
    let (code, said) = client.get(flasks).await;
    assert_eq!((code, said["query"].as_str()), (200, Some("limit=3")));
    assert_eq!(said["user"], json!(["kubernetes-admin"]));
    assert!(said["groups"].as_array().unwrap().contains(&json!("system:masters")));
    let groups = client.get("/apis").await.1;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "lab.example.org"));
    assert_eq!(client.get("/apis/lab.example.org").await.1["preferredVersion"]["version"], "v1");
    assert_eq!(client.get("/apis/lab.example.org/v1").await.1["resources"][0]["name"], "flasks");
    let openapi = client.get("/openapi/v2").await.1;
    assert!(openapi["paths"]["/apis/lab.example.org/v1/flasks"].is_object());
    assert!(openapi["paths"].get("/healthz").is_none_or(|own| own != &json!({})), "only of its group");
    assert!(openapi["definitions"]["org.example.lab.v1.Flask"].is_object());
    a_document_that_the_client_has_is_not_sent_again(&client).await;
    tasks.shutdown().cancel();
    client.stop().await;
}

async fn a_document_that_the_client_has_is_not_sent_again(client: &Client) {
    const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    const GROUPS: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let ask = |path: &str, accept: &str, tag: &str| {
        let request = http::Request::get(path).header("accept", accept).header("if-none-match", tag);
        client.respond(request.body(axum::body::Body::empty()).unwrap())
    };
    for (path, accept) in
        [("/apis", "application/json"), ("/apis", GROUPS), ("/openapi/v2", GNOSTIC), ("/openapi/v3", "*/*")]
    {
        let first = ask(path, accept, "\"none\"").await;
        assert_eq!(first.status(), 200, "{path} {accept}");
        let tag = first.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(ask(path, accept, &tag).await.status(), 304, "{path} {accept}");
    }
    let media = ask("/openapi/v2", GNOSTIC, "").await.headers()["content-type"].clone();
    assert!(media.to_str().unwrap().ends_with("+protobuf"));
}
