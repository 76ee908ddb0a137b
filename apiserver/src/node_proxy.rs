//! Requests that a node's agent answers: logs, exec, attach, port-forward.
//!
//! The agent is found through the pod's node, asked over TLS with the server's own certificate, and its
//! answer passed on. When the protocol changes, the connection becomes a pipe of bytes: the server does not
//! look into it.

use api_types::kinds;
use api_types::status::Status;
use axum::body::Body;
use futures::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use crate::backend::{self, DialError, Security};
use crate::health::plain_text;
use crate::rest::{Answer, Call};
use crate::store::Key;
use crate::websocket::{self, Framing};

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
    let is_log = call.info.subresource == "log";
    let connection = call.connection.upgrade.take();
    // A log is plain HTTP to the agent, whatever the client speaks.
    let (socket, upgrade) = if is_log { (connection, None) } else { (None, connection) };
    if upgrade.is_none() && !is_log {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let target = format!("{path}?{}", agent_query(&call, params));
    let mut request = http::Request::new(Body::empty());
    *request.method_mut() = if upgrade.is_some() { call.method.clone() } else { http::Method::GET };
    *request.uri_mut() =
        target.parse().map_err(|e| Status::bad_request(format!("the parameters make no URL: {e}")))?;
    *request.headers_mut() = forwarded(&call.headers, &host, port, upgrade.is_some());
    let failed = |error: DialError| Status::internal(format!("error dialing backend: {error}"));
    let backend = call.server.backends.dial(&host, port, Security::Node).await.map_err(failed)?;
    let response = backend.exchange(request, upgrade).await.map_err(failed)?;
    if response.status().is_client_error() || response.status().is_server_error() {
        return Err(refused(response).await);
    }
    if let Some(connection) = socket.filter(|_| websocket::is_asked(&call.headers)) {
        let parts = response.into_body().into_data_stream().filter_map(|part| std::future::ready(part.ok()));
        return Ok(websocket::answer(&call.headers, connection, Framing::Binary, parts).await);
    }
    Ok(response)
}

/// The agent's refusal, as a `Status` with its text.
async fn refused(response: http::Response<Body>) -> Status {
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

/// Where the node's agent listens, as its status says.
pub(crate) fn address_of(call: &Call, node: &str) -> Result<(String, u16), Status> {
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
    let mut out = headers.clone();
    backend::drop_hop_by_hop(&mut out, upgrades);
    backend::drop_credentials(&mut out);
    out.remove(header::CONTENT_LENGTH);
    if let Ok(value) = format!("{host}:{port}").parse() {
        out.insert(header::HOST, value);
    }
    out
}
