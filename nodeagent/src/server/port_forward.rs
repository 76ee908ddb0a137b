//! Port-forward over WebSocket: for each port a channel of data and a channel of errors.
//!
//! Channels 2n and 2n+1 belong to the n-th port; the first message on each is the port, two bytes, little
//! endian. Kubectl instead tunnels SPDY inside WebSocket: `tunnel.rs`.

use std::sync::Arc;

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tracing::debug;

use super::Refusal;
use crate::agent::Agent;

pub(super) const PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "portforward.k8s.io"];
const BUFFER_BYTES: usize = 32 * 1024;
/// Messages that wait for a slow client before the pods are held up.
const MESSAGES_MAX: usize = 32;
const PORTS_MAX: usize = 64;

/// The ports of `port=` and `ports=`, each possibly a list with commas.
pub(super) fn parse_ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(key, _)| matches!(*key, "port" | "ports")).map(|(_, value)| value);
    let texts = values.flat_map(|value| value.split([',']).flat_map(|it| it.split("%2C")));
    let wrong = |text: &str| Refusal::BadRequest(format!("unable to parse {text:?} as a port"));
    let ports: Vec<u16> = texts
        .map(|text| text.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong(text)))
        .collect::<Result<_, _>>()?;
    match ports.len() {
        0 => Err(Refusal::BadRequest("query parameter \"port\" is required".to_owned())),
        1..=PORTS_MAX => Ok(ports),
        _ => Err(Refusal::BadRequest(format!("at most {PORTS_MAX} ports are forwarded together"))),
    }
}

pub(super) fn upgrade(
    upgrade: WebSocketUpgrade,
    agent: Arc<Agent>,
    sandbox: String,
    ports: Vec<u16>,
) -> Response {
    upgrade.on_upgrade(move |socket| run(socket, agent, sandbox, ports))
}

async fn run(socket: WebSocket, agent: Arc<Agent>, sandbox: String, ports: Vec<u16>) {
    let (mut to_client, mut from_client) = socket.split();
    let (frames, mut queue) = mpsc::channel::<Bytes>(MESSAGES_MAX);
    let mut inputs: Vec<WriteHalf<DuplexStream>> = Vec::new();
    let mut forwards = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        let (read, write) = tokio::io::split(ours);
        inputs.push(write);
        let channel = u8::try_from(index * 2).unwrap_or(u8::MAX);
        forwards.push(forward(agent.clone(), sandbox.clone(), port, theirs, read, channel, frames.clone()));
    }
    drop(frames);
    let incoming = async {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(bytes) = message else { continue };
            let Some((channel, data)) = bytes.split_first() else { continue };
            if channel % 2 == 0
                && let Some(input) = inputs.get_mut(usize::from(channel / 2))
                && let Err(error) = input.write_all(data).await
            {
                debug!(%error, "the forwarded port reads no more");
            }
        }
    };
    let outgoing = async {
        while let Some(frame) = queue.recv().await {
            if to_client.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
    };
    let work = futures::future::join_all(forwards);
    tokio::select! {
        () = incoming => {}
        _ = async { tokio::join!(work, outgoing) } => {}
    }
    // The client may have gone first; then there is nobody to tell.
    drop(to_client.close().await);
}

async fn forward(
    agent: Arc<Agent>,
    sandbox: String,
    port: u16,
    theirs: DuplexStream,
    mut read: ReadHalf<DuplexStream>,
    channel: u8,
    frames: mpsc::Sender<Bytes>,
) {
    let frame = |channel: u8, data: &[u8]| Bytes::from([&[channel], data].concat());
    for channel in [channel, channel + 1] {
        if frames.send(frame(channel, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    let output = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count) = read.read(&mut buffer).await {
            if count == 0 || frames.send(frame(channel, &buffer[..count])).await.is_err() {
                return;
            }
        }
    };
    let work = agent.runtime.port_forward(&sandbox, port, Box::new(theirs));
    let (result, ()) = tokio::join!(work, output);
    if let Err(error) = result {
        let text = format!("error forwarding port {port} to pod {sandbox}: {error}");
        // A client that has gone does not want to know.
        drop(frames.send(frame(channel + 1, text.as_bytes())).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_one_by_one_or_as_a_list() {
        assert_eq!(parse_ports("port=80&port=443").unwrap(), [80, 443]);
        assert_eq!(parse_ports("ports=80%2C443").unwrap(), [80, 443]);
        assert!(parse_ports("").is_err());
        assert!(parse_ports("port=x").unwrap_err().to_string().contains("\"x\""));
    }
}
