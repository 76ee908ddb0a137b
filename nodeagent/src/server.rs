//! The agent's own server: logs, exec, attach and port-forward, on the kubelet's paths, over TLS.
//!
//! Only the API server is meant to come here. With a client authority configured, everybody else is turned
//! away in the TLS handshake.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use component_base::supervise::Tasks;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

pub(crate) use logs::parse_line;
pub(crate) use stats::Readings;

use crate::agent::Agent;
use crate::config::{Config, Pem};
use crate::runtime::{Container, ContainerFilter, ExecRequest, RuntimeError, Streams, labels};

mod logs;
mod port_forward;
mod remote_command;
mod spdy;
mod stats;
mod streams;
mod tunnel;
mod upgrade;

use upgrade::Asked;

/// How long a client may take for its TLS handshake.
const HANDSHAKE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// A socket that is open and not yet served.
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
}

impl Listener {
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Opens the port and reads the certificates.
pub(crate) async fn listen(config: &Config) -> anyhow::Result<Listener> {
    component_base::client::install_crypto_provider();
    let at = SocketAddr::new(config.address, config.port);
    let tcp = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
    let address = tcp.local_addr().context("the listener has no address")?;
    Ok(Listener { tcp, address, tls: TlsAcceptor::from(Arc::new(tls_config(config)?)) })
}

fn tls_config(config: &Config) -> anyhow::Result<rustls::ServerConfig> {
    let (chain, key) = match &config.tls {
        Some(given) => {
            let chain = certificates(&given.certificate).context("the serving certificate")?;
            let key = read(&given.key).context("the serving key")?;
            (chain, PrivateKeyDer::from_pem_slice(&key).context("the serving key is not PEM")?)
        }
        None => own_certificate(config)?,
    };
    let builder = rustls::ServerConfig::builder();
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(authority).context("the client authority")? {
                roots.add(certificate).context("the client authority")?;
            }
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build().context("the client authority")?)
        }
    };
    let mut tls = builder.with_single_cert(chain, key).context("the certificate and key do not fit")?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn read(pem: &Pem) -> anyhow::Result<Vec<u8>> {
    match pem {
        Pem::File(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        Pem::Text(text) => Ok(text.clone().into_bytes()),
    }
}

fn certificates(pem: &Pem) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(pem)?).collect();
    parsed.context("a certificate is not PEM")
}

fn own_certificate(
    config: &Config,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let names = vec![config.node_name.clone(), config.address.to_string()];
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Ok((vec![made.cert.der().clone()], key))
}

/// Serves until the tasks are told to stop; open streams end then too.
pub(crate) fn serve(listener: Listener, agent: Arc<Agent>, connections_max: usize, tasks: &Tasks) {
    let router = router(agent);
    let open = Arc::new(Semaphore::new(connections_max));
    let connections = tasks.clone();
    tasks.spawn_until_shutdown("node-server", async move {
        loop {
            let Ok(turn) = open.clone().acquire_owned().await else { return };
            let (stream, peer) = match listener.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "accepting a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (tls, router) = (listener.tls.clone(), router.clone());
            connections.spawn_until_shutdown("node-connection", async move {
                let _turn = turn;
                let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => return debug!(%peer, "TLS handshake took too long"),
                };
                let service = TowerToHyperService::new(router);
                let builder = auto::Builder::new(TokioExecutor::new());
                let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                if let Err(error) = served {
                    debug!(%peer, %error, "connection ended");
                }
            });
        }
    });
}

/// What `/statusz` names.
const SERVED: &[&str] = &["/flagz", "/healthz", "/metrics", "/pods", "/stats/summary", "/statusz"];

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/flagz", get(|State(agent): State<Arc<Agent>>| async move { agent.zpages.flagz() }))
        .route("/statusz", get(|State(agent): State<Arc<Agent>>| async move { agent.zpages.statusz(SERVED) }))
        .route("/metrics", get(metrics))
        .route("/pods", get(pods))
        .route("/stats/summary", get(stats::summary))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", get(exec).post(exec))
        .route("/attach/{namespace}/{pod}/{container}", get(attach).post(attach))
        .route("/portForward/{namespace}/{pod}", get(port_forward).post(port_forward))
        .with_state(agent)
}

async fn metrics(State(agent): State<Arc<Agent>>) -> String {
    agent.metrics.encode()
}

/// Why a request cannot be served; the API server passes code and text on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("pod {namespace:?}/{pod:?} is not on this node")]
    NoPod { namespace: String, pod: String },
    #[error("container {container:?} in pod {pod:?} is not there")]
    NoContainer { pod: String, container: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting { pod: String, container: String, reason: String },
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious { pod: String, container: String },
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    #[error("cannot encode the answer")]
    Encode(#[source] serde_json::Error),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match &self {
            Self::NoPod { .. } | Self::NoContainer { .. } => StatusCode::NOT_FOUND,
            Self::Waiting { .. } | Self::NoPrevious { .. } | Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Runtime(error) if error.is_not_found() => StatusCode::NOT_FOUND,
            Self::Runtime(_) | Self::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, self.to_string()).into_response()
    }
}

async fn pods(State(agent): State<Arc<Agent>>) -> Result<Response, Refusal> {
    let items = agent.pods().iter().map(|pod| Pod::clone(pod)).collect();
    json(&List::<Pod> { items, ..List::default() })
}

fn json(answer: &impl serde::Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string(answer).map_err(Refusal::Encode)?;
    Ok(([("content-type", "application/json")], text).into_response())
}

/// The runs of a container, the latest first.
pub(super) async fn runs(
    agent: &Agent,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(Arc<Pod>, Vec<Container>), Refusal> {
    let no_pod = || Refusal::NoPod { namespace: namespace.to_owned(), pod: pod.to_owned() };
    let found = agent.find_pod(namespace, pod).ok_or_else(no_pod)?;
    if crate::pod::worker::find_spec(&found, container).is_none() {
        return Err(Refusal::NoContainer { pod: pod.to_owned(), container: container.to_owned() });
    }
    let uid = found.metadata.uid.clone().unwrap_or_default();
    let labels =
        [(labels::POD_UID.to_owned(), uid), (labels::CONTAINER_NAME.to_owned(), container.to_owned())];
    let filter = ContainerFilter { sandbox: None, labels: labels.into() };
    let mut runs = agent.runtime.list_containers(&filter).await?;
    runs.sort_by_key(|run| std::cmp::Reverse((run.attempt, run.created_at)));
    Ok((found, runs))
}

async fn latest(agent: &Agent, namespace: &str, pod: &str, container: &str) -> Result<Container, Refusal> {
    let (_, runs) = runs(agent, namespace, pod, container).await?;
    let waiting = || Refusal::Waiting {
        pod: pod.to_owned(),
        container: container.to_owned(),
        reason: "ContainerCreating".to_owned(),
    };
    runs.into_iter().next().ok_or_else(waiting)
}

/// Query parameters of exec and attach, by the kubelet's names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StreamQuery {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl StreamQuery {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let pairs: Vec<(String, String)> = Query::try_from_uri(
            &format!("/?{query}")
                .parse()
                .map_err(|_| Refusal::BadRequest("the query is not valid".to_owned()))?,
        )
        .map_err(|error| Refusal::BadRequest(error.to_string()))?
        .0;
        let mut parsed = Self::default();
        for (key, value) in pairs {
            let yes = matches!(value.as_str(), "1" | "true");
            match key.as_str() {
                "command" => parsed.command.push(value),
                "input" | "stdin" => parsed.stdin = yes,
                "output" | "stdout" => parsed.stdout = yes,
                "error" | "stderr" => parsed.stderr = yes,
                "tty" => parsed.tty = yes,
                _ => {}
            }
        }
        if !(parsed.stdin || parsed.stdout || parsed.stderr) {
            let text = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(Refusal::BadRequest(text.to_owned()));
        }
        // A terminal has one output.
        parsed.stderr = parsed.stderr && !parsed.tty;
        Ok(parsed)
    }
}

async fn exec(
    State(agent): State<Arc<Agent>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    asked: Asked,
) -> Result<Response, Refusal> {
    let query = StreamQuery::parse(&query.unwrap_or_default())?;
    if query.command.is_empty() {
        return Err(Refusal::BadRequest(
            "you must specify at least one command for the container".to_owned(),
        ));
    }
    let run = latest(&agent, &namespace, &pod, &container).await?;
    let request = ExecRequest { command: query.command.clone(), tty: query.tty };
    Ok(answer_streams(asked, query, move |streams| async move {
        agent.runtime.exec(&run.id, &request, streams).await
    }))
}

async fn attach(
    State(agent): State<Arc<Agent>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    asked: Asked,
) -> Result<Response, Refusal> {
    let query = StreamQuery::parse(&query.unwrap_or_default())?;
    let run = latest(&agent, &namespace, &pod, &container).await?;
    Ok(answer_streams(asked, query, move |streams| async move {
        agent.runtime.attach(&run.id, streams).await.map(|()| 0)
    }))
}

/// Runs `command` on the streams of the protocol that the client asked for.
fn answer_streams<F, Done>(asked: Asked, query: StreamQuery, command: F) -> Response
where
    F: FnOnce(Streams) -> Done + Send + 'static,
    Done: Future<Output = Result<i32, RuntimeError>> + Send + 'static,
{
    match asked {
        Asked::WebSocket(upgrade) => streams::upgrade(upgrade, query, command),
        Asked::Spdy(upgrade) => remote_command::upgrade(upgrade, query, command),
    }
}

async fn port_forward(
    State(agent): State<Arc<Agent>>,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    asked: Asked,
) -> Result<Response, Refusal> {
    let no_pod = || Refusal::NoPod { namespace: namespace.clone(), pod: pod.clone() };
    let found = agent.find_pod(&namespace, &pod).ok_or_else(no_pod)?;
    let uid = found.metadata.uid.clone();
    let filter = crate::runtime::SandboxFilter { pod_uid: uid, ..Default::default() };
    let mut sandboxes = agent.runtime.list_sandboxes(&filter).await?;
    sandboxes.sort_by_key(|it| std::cmp::Reverse(it.attempt));
    let sandbox = sandboxes.into_iter().next().ok_or_else(no_pod)?;
    let upgrade = match asked {
        Asked::Spdy(upgrade) => return Ok(tunnel::upgrade(upgrade, agent, sandbox.id)),
        Asked::WebSocket(upgrade) => {
            let [newest, oldest] = port_forward::PROTOCOLS;
            upgrade.protocols([tunnel::TUNNEL, newest, oldest])
        }
    };
    if upgrade.selected_protocol().is_some_and(|it| it == tunnel::TUNNEL) {
        return Ok(tunnel::upgrade_tunnel(upgrade, agent, sandbox.id));
    }
    let ports = port_forward::parse_ports(&query.unwrap_or_default())?;
    Ok(port_forward::upgrade(upgrade, agent, sandbox.id, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_gives_command_and_streams() {
        let query = StreamQuery::parse("command=ls&command=-l%20a&output=1&error=1&tty=1").unwrap();
        assert_eq!(query.command, ["ls", "-l a"]);
        assert!(query.stdout && query.tty && !query.stderr && !query.stdin);
    }

    #[test]
    fn no_stream_at_all_is_refused() {
        assert!(StreamQuery::parse("command=ls").is_err());
    }
}
