//! The request path, body × content type × path × query, on a whole server in memory: every answer comes in
//! time, is no 5xx that means a fault of the server's, and an error is a `Status`.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use apiserver::{Config, Loopback, Running, UserInfo};
use arbitrary::Arbitrary;
use component_base::Shutdown;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A request of words that mean something, with some that do not.
#[derive(Arbitrary, Debug)]
struct Input<'a> {
    method: u8,
    path: [u8; 6],
    name: &'a str,
    query: [(u8, u8); 3],
    text: &'a str,
    content_type: u8,
    accept: u8,
    template: u8,
    body: &'a [u8],
}

const METHODS: &[Method] =
    &[Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
const WORDS: &[&str] = &[
    "",
    "api",
    "apis",
    "v1",
    "apps",
    "batch",
    "namespaces",
    "default",
    "pods",
    "services",
    "configmaps",
    "deployments",
    "jobs",
    "secrets",
    "nodes",
    "status",
    "scale",
    "binding",
    "eviction",
    "token",
    "log",
    "exec",
    "proxy",
    "finalize",
    "openapi",
    "v2",
    "v3",
    "version",
    "healthz",
    "metrics",
    "rbac.authorization.k8s.io",
    "clusterroles",
    "apiextensions.k8s.io",
    "customresourcedefinitions",
    "authorization.k8s.io",
    "selfsubjectaccessreviews",
    "events",
    "watch",
    "..",
    "%2e",
    "%zz",
    "NAME",
];
const KEYS: &[&str] = &[
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "labelSelector",
    "fieldSelector",
    "dryRun",
    "fieldManager",
    "fieldValidation",
    "force",
    "pretty",
    "timeoutSeconds",
    "gracePeriodSeconds",
    "propagationPolicy",
    "orphanDependents",
    "command",
    "container",
    "includeObject",
    "sendInitialEvents",
    "at",
];
const VALUES: &[&str] = &[
    "",
    "1",
    "0",
    "-1",
    "true",
    "a=b",
    "a in (b)",
    "metadata.name=x",
    "All",
    "Strict",
    "fuzz",
    "NotOlderThan",
    "Exact",
    "Foreground",
    "99999999999999999999",
    "TEXT",
];
const TYPES: &[&str] = &[
    "",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "text/plain",
    "a/b;c=d,",
    "application/cbor",
    "application/json;as=Table;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
];
const TEMPLATES: &[&str] = &[
    "",
    r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}"#,
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
    r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
    r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}"#,
    r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"as.b.c"},"spec":{"group":"b.c","scope":"Namespaced","names":{"plural":"as","kind":"A"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}"#,
    r#"[{"op":"replace","path":"/data/k","value":1}]"#,
    r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#,
];

struct Served {
    runtime: Runtime,
    service: Loopback,
    _running: Running,
}

static SERVER: LazyLock<Served> = LazyLock::new(|| {
    component_base::client::install_crypto_provider();
    let runtime = Runtime::new().expect("a runtime");
    let started = runtime.block_on(apiserver::start(Config::default(), Shutdown::new()));
    let running = started.expect("a server in memory starts");
    Served { runtime, service: running.loopback(UserInfo::admin()), _running: running }
});

fn pick<'a>(from: &[&'a str], choice: u8) -> &'a str {
    from[usize::from(choice) % from.len()]
}

fn uri(input: &Input<'_>) -> String {
    let mut uri = String::new();
    for choice in input.path {
        let word = pick(WORDS, choice);
        if !word.is_empty() {
            uri.push('/');
            uri.push_str(if word == "NAME" { input.name } else { word });
        }
    }
    uri.push('?');
    for (key, value) in input.query {
        let value = pick(VALUES, value);
        let value = if value == "TEXT" { input.text } else { value };
        uri.push_str(&format!("{}={value}&", pick(KEYS, key)));
    }
    uri
}

/// The body: a template into which the given bytes are put over its middle, or those alone.
fn body(input: &Input<'_>) -> Vec<u8> {
    let template = pick(TEMPLATES, input.template).as_bytes();
    if template.is_empty() || input.body.is_empty() {
        return if template.is_empty() { input.body.to_vec() } else { template.to_vec() };
    }
    let at = usize::from(input.body[0]) * template.len() / 256;
    let end = (at + input.body.len() - 1).min(template.len());
    [&template[..at], &input.body[1..], &template[end..]].concat()
}

fuzz_target!(|input: Input<'_>| {
    let method = &METHODS[usize::from(input.method) % METHODS.len()];
    let mut request = Request::builder().method(method).uri(uri(&input));
    for (name, choice) in [(header::CONTENT_TYPE, input.content_type), (header::ACCEPT, input.accept)] {
        let value = pick(TYPES, choice);
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let Ok(request) = request.body(Full::new(bytes::Bytes::from(body(&input)))) else { return };
    let described = format!("{} {}", request.method(), request.uri());
    let answered = SERVER.runtime.block_on(async {
        let served = async {
            let response = SERVER.service.clone().oneshot(request).await.expect("the service never fails");
            let (head, body) = response.into_parts();
            let body = if head.status.is_success() { None } else { body.collect().await.ok() };
            (head.status, body.map(|it| it.to_bytes()))
        };
        tokio::time::timeout(Duration::from_secs(5), served).await
    });
    let (status, body) = answered.unwrap_or_else(|_| panic!("{described}: no answer"));
    let said = body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let meant = [501, 503, 504].contains(&status.as_u16());
    assert!(!status.is_server_error() || meant, "{described}: {status} {said}");
});
