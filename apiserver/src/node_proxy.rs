//! Requests that a node's agent answers: logs, exec, attach, port-forward.
//!
//! The agent is found through the pod's node, asked over TLS with the server's own certificate, and its
//! answer passed on. When the protocol changes, the connection becomes a pipe of bytes: the server does not
//! look into it.

use std::sync::Arc;
use std::time::Duration;

use api_types::kinds;
use api_types::status::Status;
use axum::body::Body;
use component_base::supervise::Tasks;
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::health::plain_text;
use crate::rest::{Answer, Call};
use crate::store::Key;

/// How long an agent may take to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to node agents.
pub(crate) struct NodeDialer {
    tls: TlsConnector,
    tasks: Tasks,
}

/// Why an agent was not reached. The chain goes to the client: it names the node's address.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("error dialing backend: dial tcp {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("error dialing backend: dial tcp {address}: i/o timeout")]
    Timeout { address: String },
    #[error("error dialing backend: the address {address} is not one")]
    Address { address: String },
    #[error("error dialing backend: {0}")]
    Http(#[from] hyper::Error),
}

impl NodeDialer {
    pub(crate) fn new(tls: Arc<rustls::ClientConfig>, tasks: Tasks) -> Self {
        // Upgrades are a matter of HTTP/1.1.
        let mut tls = (*tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: TlsConnector::from(Arc::new(tls)), tasks }
    }

    async fn dial(
        &self,
        host: &str,
        port: u16,
    ) -> Result<http1::SendRequest<Empty<bytes::Bytes>>, DialError> {
        let address = format!("{host}:{port}");
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| DialError::Address { address: address.clone() })?;
        let connect = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            self.tls.connect(name, stream).await
        };
        let stream = match tokio::time::timeout(DIAL_TIMEOUT, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(DialError::Connect { address, source }),
            Err(_) => return Err(DialError::Timeout { address }),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn_until_shutdown("node connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "connection to a node agent ended with an error");
            }
        });
        Ok(sender)
    }
}

/// Asks the agent about one container of the pod that the path names; `params` are passed on.
pub(crate) async fn container(call: Call, endpoint: &str, params: &[&str]) -> Answer {
    let pod = call.value_of(&*call.stored()?);
    let name = container_name(&call, &pod)?;
    if node_of(&pod).is_empty() && call.info.subresource == "log" {
        return Ok(plain_text(StatusCode::OK, String::new()));
    }
    let path = format!("/{endpoint}/{}/{}/{name}", call.namespace(), call.info.name);
    ask(call, &pod, &path, params).await
}

/// Asks the agent about the pod that the path names.
pub(crate) async fn pod(call: Call, endpoint: &str, params: &[&str]) -> Answer {
    let pod = call.value_of(&*call.stored()?);
    let path = format!("/{endpoint}/{}/{}", call.namespace(), call.info.name);
    ask(call, &pod, &path, params).await
}

/// What this server does not do yet.
pub(crate) async fn unsupported(call: Call) -> Answer {
    Err(Status::unexplained(501, format!("{} is not served", call.info.subresource)))
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// The container that the request names, or the only one there is.
fn container_name(call: &Call, pod: &Value) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let main = names("containers");
    let (init, ephemeral) = (names("initContainers"), names("ephemeralContainers"));
    let pod_name = &call.info.name;
    match call.info.query.get("container") {
        Some(wanted) if [&main, &init, &ephemeral].iter().any(|l| l.iter().any(|n| n == wanted)) => {
            Ok(wanted.to_owned())
        }
        Some(wanted) => {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {pod_name}")))
        }
        None if main.len() == 1 => Ok(main[0].clone()),
        None => {
            let mut message = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

async fn ask(mut call: Call, pod: &Value, path: &str, params: &[&str]) -> Answer {
    let node = node_of(pod).to_owned();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.info.name)));
    }
    let (host, port) = address_of(&call, &node)?;
    let upgrade = call.upgrade.take();
    if upgrade.is_none() && call.info.subresource != "log" {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let target = format!("{path}?{}", agent_query(&call, params));
    let mut request = http::Request::new(Empty::new());
    *request.method_mut() = if upgrade.is_some() { call.method.clone() } else { http::Method::GET };
    *request.uri_mut() =
        target.parse().map_err(|e| Status::bad_request(format!("the parameters make no URL: {e}")))?;
    *request.headers_mut() = forwarded(&call.headers, &host, port, upgrade.is_some());
    let mut sender = call.server.nodes.dial(&host, port).await.map_err(Status::internal)?;
    let response = sender.send_request(request).await;
    let mut response = response.map_err(|e| Status::internal(DialError::Http(e)))?;
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), upgrade) {
        let agent = hyper::upgrade::on(&mut response);
        call.server.nodes.tasks.spawn_until_shutdown("stream to a node", pipe(client, agent));
        let (parts, _) = response.into_parts();
        return Ok(http::Response::from_parts(parts, Body::empty()));
    }
    if response.status().is_client_error() || response.status().is_server_error() {
        return Err(refused(response).await);
    }
    Ok(response.map(Body::new))
}

/// The agent's refusal, as a `Status` with its text.
async fn refused(response: http::Response<hyper::body::Incoming>) -> Status {
    use http_body_util::BodyExt as _;
    const TEXT_BYTES_MAX: usize = 64 * 1024;
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), TEXT_BYTES_MAX).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    match code {
        400 => Status::bad_request(text),
        404 => Status::new(api_types::status::Reason::NotFound, text),
        500 => Status::internal(text),
        _ => Status::unexplained(code, text),
    }
}

async fn pipe(client: OnUpgrade, agent: OnUpgrade) {
    let (client, agent) = match tokio::try_join!(client, agent) {
        Ok(both) => both,
        Err(error) => return debug!(%error, "a stream to a node did not come about"),
    };
    let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut agent).await {
        debug!(%error, "a stream to a node ended with an error");
    }
}

/// Where the node's agent listens, as its status says.
fn address_of(call: &Call, node: &str) -> Result<(String, u16), Status> {
    let kind = kinds::find_kind("", "v1", "Node").ok_or_else(|| Status::internal("nodes are not served"))?;
    let stored = call.server.objects.get(&Key::new(&kind.storage, "", node));
    let object = stored.ok_or_else(|| Status::not_found(kind, node))?.value();
    let addresses = object["status"]["addresses"].as_array();
    let of_type = |wanted: &str| {
        let found = addresses.into_iter().flatten().find(|a| a["type"] == wanted);
        found.and_then(|a| a["address"].as_str()).map(str::to_owned)
    };
    let host = of_type("InternalIP").or_else(|| of_type("Hostname"));
    let host = host.ok_or_else(|| {
        Status::internal(format!("no preferred addresses found; known addresses: [] of node {node}"))
    })?;
    let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(10250);
    Ok((host, u16::try_from(port).unwrap_or(10250)))
}

/// Kubernetes' parameters in the words of the kubelet's own API.
fn agent_query(call: &Call, params: &[&str]) -> String {
    let mut pairs = Vec::new();
    for param in params {
        let name = match *param {
            "stdin" => "input",
            "stdout" => "output",
            "stderr" => "error",
            "ports" => "port",
            other => other,
        };
        for value in call.info.query.get_all(param) {
            let is_stream = matches!(*param, "stdin" | "stdout" | "stderr" | "tty");
            match (is_stream, value) {
                (true, "true" | "1") => pairs.push(format!("{name}=1")),
                (true, _) => {}
                (false, value) => pairs.push(format!("{name}={}", encode(value))),
            }
        }
    }
    pairs.join("&")
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The client's headers without what is between it and this server.
fn forwarded(headers: &HeaderMap, host: &str, port: u16, upgrades: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    let dropped = |name: &HeaderName| {
        let hop = [header::CONNECTION, header::UPGRADE].contains(name) && !upgrades;
        let private =
            [header::AUTHORIZATION, header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        hop || private.contains(name) || name.as_str().starts_with("impersonate-")
    };
    for (name, value) in headers.iter().filter(|(name, _)| !dropped(name)) {
        out.append(name.clone(), value.clone());
    }
    if let Ok(value) = format!("{host}:{port}").parse() {
        out.insert(header::HOST, value);
    }
    out
}
