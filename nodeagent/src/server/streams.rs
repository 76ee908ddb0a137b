//! Exec and attach over WebSocket: Kubernetes' `v5.channel.k8s.io` and the protocols before it.
//!
//! Every message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final status, 4 terminal size,
//! and in v5 255, which closes the channel that follows. Before v4 the status is a text, and only about failures.
//! In the `base64` protocols the channel is a digit, and what follows is base64.

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use tracing::debug;

use super::StreamQuery;
use crate::runtime::{Result, RuntimeError, Streams, TerminalSize};

const PROTOCOLS: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Bytes that wait in each direction before the faster side is held up.
const BUFFER_BYTES: usize = 32 * 1024;
pub(super) const SIZES_MAX: usize = 8;

/// Answers the upgrade and runs `command` on the streams that `query` wants.
pub(super) fn upgrade<F, Done>(upgrade: WebSocketUpgrade, query: StreamQuery, command: F) -> Response
where
    F: FnOnce(Streams) -> Done + Send + 'static,
    Done: Future<Output = Result<i32>> + Send + 'static,
{
    let upgrade = upgrade.protocols(PROTOCOLS);
    let chosen = upgrade.selected_protocol().and_then(|it| it.to_str().ok());
    let protocol = Protocol::named(chosen.unwrap_or_default());
    upgrade.on_upgrade(move |socket| run(socket, query, protocol, command))
}

/// How messages look in the protocol that both sides speak.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    base64: bool,
    /// Whether the last message is a `Status`.
    status: bool,
}

impl Protocol {
    /// A client that names none speaks the oldest.
    fn named(name: &str) -> Self {
        Self { base64: name.contains("base64."), status: name.starts_with("v4.") || name.starts_with("v5.") }
    }

    fn message(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            return Message::Text(format!("{channel}{}", BASE64_STANDARD.encode(data)).into());
        }
        let mut frame = Vec::with_capacity(data.len() + 1);
        frame.push(channel);
        frame.extend_from_slice(data);
        Message::Binary(frame.into())
    }

    /// The channel and the data of a message; nothing for one that is none of this protocol.
    fn parse(self, bytes: &Bytes) -> Option<(u8, Bytes)> {
        let (channel, data) = (*bytes.first()?, bytes.slice(1..));
        if !self.base64 {
            return Some((channel, data));
        }
        Some((channel.checked_sub(b'0')?, BASE64_STANDARD.decode(data).ok()?.into()))
    }
}

async fn run<F, Done>(socket: WebSocket, query: StreamQuery, protocol: Protocol, command: F)
where
    F: FnOnce(Streams) -> Done,
    Done: Future<Output = Result<i32>>,
{
    let (mut to_client, from_client) = socket.split();
    let pipe = |wanted: bool| wanted.then(|| tokio::io::duplex(BUFFER_BYTES)).unzip();
    let (stdin_write, stdin) = pipe(query.stdin);
    let (stdout_read, stdout) = pipe(query.stdout);
    let (stderr_read, stderr) = pipe(query.stderr);
    let (sizes, resize) = mpsc::channel(SIZES_MAX);
    let streams = Streams {
        stdin: stdin.map(|it| Box::new(it) as _),
        stdout: stdout.map(|it| Box::new(it) as _),
        stderr: stderr.map(|it| Box::new(it) as _),
        resize: query.tty.then_some(resize),
    };
    let work = async {
        let output = outgoing(&mut to_client, protocol, stdout_read, stderr_read);
        let (result, sent) = tokio::join!(command(streams), output);
        if let Err(error) = sent {
            debug!(%error, "sending output");
        }
        result
    };
    let result = tokio::select! {
        result = work => result,
        () = incoming(from_client, protocol, stdin_write, sizes) => return,
    };
    let last = report(&result, protocol.status);
    let last = (!last.is_empty()).then(|| protocol.message(STATUS, last.as_bytes()));
    let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    for message in last.into_iter().chain([close]) {
        if let Err(error) = to_client.send(message).await {
            return debug!(%error, "sending the status");
        }
    }
}

/// Reads what the client sends until it is gone.
async fn incoming(
    mut from_client: SplitStream<WebSocket>,
    protocol: Protocol,
    mut stdin: Option<DuplexStream>,
    sizes: mpsc::Sender<TerminalSize>,
) {
    while let Some(Ok(message)) = from_client.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match protocol.parse(&bytes) {
            Some((STDIN, data)) => {
                if let Some(open) = &mut stdin
                    && open.write_all(&data).await.is_err()
                {
                    // The process does not read any more; it may still write.
                    stdin = None;
                }
            }
            Some((RESIZE, data)) => {
                let size: std::result::Result<TerminalSize, _> = serde_json::from_slice(&data);
                if let Ok(size) = size
                    && sizes.try_send(size).is_err()
                {
                    debug!("a terminal size is dropped: the last ones are not applied yet");
                }
            }
            Some((CLOSE, data)) if data.first() == Some(&STDIN) => stdin = None,
            _ => {}
        }
    }
}

async fn outgoing(
    to_client: &mut SplitSink<WebSocket, Message>,
    protocol: Protocol,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
) -> std::result::Result<(), axum::Error> {
    let mut output = futures::stream::select(chunks(STDOUT, stdout), chunks(STDERR, stderr));
    while let Some((channel, chunk)) = output.next().await {
        to_client.send(protocol.message(channel, &chunk)).await?;
    }
    Ok(())
}

fn chunks(channel: u8, pipe: Option<DuplexStream>) -> impl Stream<Item = (u8, Bytes)> + Unpin {
    let chunks = futures::stream::iter(pipe).flat_map(|it| ReaderStream::with_capacity(it, BUFFER_BYTES));
    Box::pin(chunks.filter_map(move |chunk| async move { Some((channel, chunk.ok()?)) }))
}

/// What the last message says: a `Status` always, or in the old protocols a text if something is wrong.
pub(super) fn report(result: &Result<i32>, as_status: bool) -> String {
    let status = status_of(result);
    match (as_status, result) {
        (true, _) => status.to_string(),
        (false, Ok(0)) => String::new(),
        (false, _) => status["message"].as_str().unwrap_or_default().to_owned(),
    }
}

/// The `Status` that ends a stream: success, the exit code, or what went wrong.
fn status_of(result: &Result<i32, RuntimeError>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "message": error.to_string(),
            "reason": "InternalError",
            "code": 500,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_is_a_cause() {
        let status = status_of(&Ok(7));
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        assert_eq!(status_of(&Ok(0))["status"], "Success");
    }

    #[test]
    fn old_protocols_get_text_and_only_about_failures() {
        assert_eq!(report(&Ok(0), false), "");
        assert!(report(&Ok(3), false).ends_with("exit status 3"));
        assert!(report(&Ok(0), true).contains("Success"));
    }

    #[test]
    fn a_message_is_read_as_it_is_written_in_every_protocol() {
        for name in PROTOCOLS.iter().chain(&[""]) {
            let protocol = Protocol::named(name);
            let bytes: Bytes = match protocol.message(STDOUT, b"out\xff") {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                other => panic!("{other:?}"),
            };
            assert_eq!(protocol.parse(&bytes), Some((STDOUT, Bytes::from_static(b"out\xff"))), "{name}");
        }
        assert!(Protocol::named("v5.channel.k8s.io").status && !Protocol::named("channel.k8s.io").status);
        let base64 = Protocol::named("base64.channel.k8s.io");
        assert_eq!(base64.parse(&Bytes::from_static(b"0aGk=")), Some((STDIN, Bytes::from_static(b"hi"))));
        assert_eq!(base64.parse(&Bytes::from_static(b"0?")), None);
    }
}
