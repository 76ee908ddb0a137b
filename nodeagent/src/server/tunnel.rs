//! Port-forward over SPDY, on a connection of its own or tunnelled through a WebSocket.
//!
//! For each connection that it forwards the client opens two streams with the same request id, one for the
//! bytes and one for an error.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tracing::debug;

use super::spdy::{self, Opened};
use super::upgrade::SpdyUpgrade;
use crate::agent::Agent;

/// The WebSocket protocol whose messages are the bytes of a SPDY connection.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOL: &str = "portforward.k8s.io";
const BUFFER_BYTES: usize = 32 * 1024;
/// Streams whose partner has not come yet; more are closed.
const WAITING_MAX: usize = 64;

/// Answers a change to SPDY.
pub(super) fn upgrade(upgrade: SpdyUpgrade, agent: Arc<Agent>, sandbox: String) -> Response {
    upgrade
        .accept(&[PROTOCOL], move |_, io| spdy::serve(io, move |opened| forward_all(opened, agent, sandbox)))
}

/// Answers a change to WebSocket with SPDY inside.
pub(super) fn upgrade_tunnel(upgrade: WebSocketUpgrade, agent: Arc<Agent>, sandbox: String) -> Response {
    upgrade.on_upgrade(move |socket| run_tunnel(socket, agent, sandbox))
}

async fn run_tunnel(socket: WebSocket, agent: Arc<Agent>, sandbox: String) {
    let (mut to_client, mut from_client) = socket.split();
    let (outer, inner) = tokio::io::duplex(BUFFER_BYTES);
    let (mut read, mut write) = tokio::io::split(outer);
    let incoming = async {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(bytes) = message else { continue };
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The client has gone: the session sees the end of its connection.
        drop(write.shutdown().await);
    };
    let outgoing = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let message = Message::Binary(bytes::Bytes::copy_from_slice(&buffer[..count]));
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        // The client may have gone first; then there is nobody to tell.
        drop(to_client.close().await);
    };
    let session = spdy::serve(inner, |opened| forward_all(opened, agent, sandbox));
    tokio::select! {
        // A session that has ended has nothing more to read, whatever the client still sends.
        ((), ()) = async { tokio::join!(outgoing, session) } => {}
        () = async { incoming.await; std::future::pending().await } => {}
    }
}

/// The streams of one forwarded connection, as far as they are there.
#[derive(Default)]
struct Pair {
    data: Option<(u16, DuplexStream)>,
    error: Option<DuplexStream>,
}

async fn forward_all(mut opened: mpsc::Receiver<Opened>, agent: Arc<Agent>, sandbox: String) {
    let mut waiting: HashMap<String, Pair> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let stream = tokio::select! {
            stream = opened.recv() => stream,
            Some(()) = running.next() => continue,
        };
        let Some(stream) = stream else { return };
        let Some((id, port, is_error)) = describe(&stream) else { continue };
        if waiting.len() >= WAITING_MAX && !waiting.contains_key(&id) {
            debug!("too many streams without their partner; one is closed");
            continue;
        }
        let pair = waiting.entry(id.clone()).or_default();
        match is_error {
            true => pair.error = Some(stream.io),
            false => pair.data = Some((port, stream.io)),
        }
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some(Pair { data: Some((port, data)), error: Some(error) }) = waiting.remove(&id)
        {
            running.push(forward(agent.clone(), sandbox.clone(), port, data, error).boxed());
        }
    }
}

/// The request that a stream belongs to, its port, and whether it is the one for errors.
fn describe(stream: &Opened) -> Option<(String, u16, bool)> {
    let is_error = match stream.headers.get("streamtype")? {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    let port = stream.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    // Without an id the stream for errors is the one opened just before the other.
    let first = if is_error { stream.id } else { stream.id.saturating_sub(2) };
    let id = stream.headers.get("requestid").map_or_else(|| first.to_string(), str::to_owned);
    Some((id, port, is_error))
}

async fn forward(agent: Arc<Agent>, sandbox: String, port: u16, data: DuplexStream, mut error: DuplexStream) {
    let Err(failed) = agent.runtime.port_forward(&sandbox, port, Box::new(data)).await else { return };
    let text = format!("error forwarding port {port} to pod {sandbox}: {failed}");
    if let Err(error) = error.write_all(text.as_bytes()).await {
        debug!(%error, "telling about a port that cannot be forwarded");
    }
}
