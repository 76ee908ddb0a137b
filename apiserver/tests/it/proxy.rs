//! Proxying: a small HTTP server stands for the pod, on the loopback, which only this test's servers allow.

use apiserver::{Config, Limits};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use component_base::Shutdown;
use component_base::supervise::Tasks;
use http::{StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Client;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// What the pod's server answers: what it was asked, and a few pages.
async fn backend(State(tasks): State<Tasks>, mut request: Request) -> Response {
    match request.uri().path() {
        "/moved" => (StatusCode::FOUND, [(header::LOCATION, "/target?x=1")]).into_response(),
        "/page" => ([(header::CONTENT_TYPE, "text/html")], "<a href=\"/next\">next</a>").into_response(),
        "/echo" if request.headers().contains_key(header::UPGRADE) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tasks.spawn_until_shutdown("echo", async move {
                let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
                let mut said = [0; 5];
                stream.read_exact(&mut said).await.unwrap();
                stream.write_all(&said).await.unwrap();
            });
            let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "echo")];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        _ => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let header =
                |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let said = json!({
                "method": parts.method.as_str(), "uri": parts.uri.to_string(), "bytes": body.len(),
                "authorization": header("authorization"), "forwarded": header("x-forwarded-uri"),
            });
            said.to_string().into_response()
        }
    }
}

struct World {
    client: Client,
    tasks: Tasks,
    port: u16,
}

impl World {
    /// A server with the pod `p`, whose address is that of a small HTTP server.
    async fn start() -> Self {
        let limits = Limits { proxy_to_loopback: true, ..Limits::default() };
        let client = Client::start_with(Config { limits, ..Config::default() }).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tasks = Tasks::new(Shutdown::new());
        let router = axum::Router::new().fallback(backend).with_state(tasks.clone());
        tasks.spawn_until_shutdown("backend", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
                drop(serving.with_upgrades().await);
            }
        });
        let world = Self { client, tasks, port };
        world.make_pod().await;
        world
    }

    async fn make_pod(&self) {
        let account = json!({ "metadata": { "name": "default" } });
        self.client.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
        let pod = json!({
            "metadata": { "name": "p" },
            "spec": { "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": self.port }] }] },
        });
        assert_eq!(self.client.post(PODS, &pod).await.0, 201);
        let address = json!({ "status": { "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }] } });
        assert_eq!(self.client.merge(&format!("{PODS}/p/status"), &address).await.0, 200);
    }

    async fn stop(self) {
        self.tasks.shutdown().cancel();
        self.client.stop().await;
    }
}

#[tokio::test]
async fn any_method_path_and_body_reach_the_pod() {
    let world = World::start().await;
    let body = Body::from(vec![b'x'; 5 * 1024 * 1024]);
    let path = format!("{PODS}/p/proxy/a%2Fb/c/?q=1&r=%20");
    let response = world.client.send("POST", &path, "text/plain", body).await;
    assert_eq!(response.status(), 200);
    let said: Value =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((said["method"].as_str(), said["uri"].as_str()), (Some("POST"), Some("/a%2Fb/c/?q=1&r=%20")));
    assert_eq!(said["bytes"], 5 * 1024 * 1024);
    assert_eq!(said["forwarded"], format!("{PODS}/p/proxy/a%2Fb/c/"));
    let by_port = world.client.get(&format!("{PODS}/http:p:{}/proxy/x", world.port)).await;
    assert_eq!((by_port.0, by_port.1["uri"].as_str()), (200, Some("/x")));
    world.stop().await;
}

#[tokio::test]
async fn links_and_redirects_lead_back_through_the_proxy() {
    let world = World::start().await;
    let get = |path: String| world.client.send("GET", Box::leak(path.into_boxed_str()), "", Body::empty());
    let root = get(format!("{PODS}/p/proxy?a=b")).await;
    assert_eq!(root.status(), 301);
    assert_eq!(root.headers()[header::LOCATION], format!("{PODS}/p/proxy/?a=b"));
    let moved = get(format!("{PODS}/p/proxy/moved")).await;
    assert_eq!(moved.headers()[header::LOCATION], format!("{PODS}/p/proxy/target?x=1"));
    let page = get(format!("{PODS}/p/proxy/page")).await.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(page, format!("<a href=\"{PODS}/p/proxy/next\">next</a>"));
    world.stop().await;
}

#[tokio::test]
async fn a_changed_protocol_goes_through_to_the_pod_within_the_process() {
    let world = World::start().await;
    let request = http::Request::get(format!("{PODS}/p/proxy/echo"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "echo")
        .body(Body::empty())
        .unwrap();
    let mut response = world.client.respond(request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    let mut stream = hyper_util::rt::TokioIo::new(upgraded);
    stream.write_all(b"hello").await.unwrap();
    let mut said = [0; 5];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    drop(stream);
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let client = Client::start().await;
    let service =
        json!({ "metadata": { "name": "s" }, "spec": { "ports": [{ "name": "web", "port": 80 }] } });
    assert_eq!(client.post("/api/v1/namespaces/default/services", &service).await.0, 201);
    let get = |path: &'static str| client.get(path);
    for path in
        ["/api/v1/namespaces/default/services/s/proxy/", "/api/v1/namespaces/default/services/s:80/proxy/"]
    {
        let (code, status) = get(path).await;
        assert_eq!(
            (code, status["message"].as_str()),
            (503, Some("no endpoints available for service \"s\""))
        );
    }
    let (code, status) = get("/api/v1/namespaces/default/services/s:81/proxy/").await;
    assert_eq!((code, status["message"].as_str()), (503, Some("no service port 81 found for service \"s\"")));
    let (code, status) = get("/api/v1/namespaces/default/services/ftp:s:81/proxy/").await;
    assert_eq!((code, status["message"].as_str()), (400, Some("invalid service request \"ftp:s:81\"")));
    assert_eq!(get("/api/v1/namespaces/default/pods/none/proxy/").await.0, 404);
    client.stop().await;
}

/// A WebSocket asks with GET, and what it opens is made all the same.
#[tokio::test]
async fn a_stream_into_a_pod_needs_the_right_to_create_it() {
    let client = Client::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = |verbs: &[&str]| json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": verbs}]});
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "eve"}]});
    assert_eq!(client.post(&format!("{roles}/roles"), &role(&["get"])).await.0, 201);
    assert_eq!(client.post(&format!("{roles}/rolebindings"), &binding).await.0, 201);
    let eve = client.acting_as(apiserver::UserInfo { name: "eve".into(), ..Default::default() });
    let open = || {
        let request = http::Request::get(format!("{PODS}/p/exec?command=sh"));
        let request = request.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "websocket");
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(eve.respond(open()).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(client.put(&format!("{roles}/roles/r"), &role(&["get", "create"])).await.0, 200);
    assert_eq!(eve.respond(open()).await.status(), StatusCode::NOT_FOUND);
}
