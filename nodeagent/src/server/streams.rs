//! Exec and attach over WebSocket: Kubernetes' `v4.channel.k8s.io` and `v5.channel.k8s.io`.
//!
//! Every message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final status, 4 terminal size,
//! and in v5 255, which closes the channel that follows.

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::response::Response;
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

pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
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
    upgrade.protocols(PROTOCOLS).on_upgrade(move |socket| run(socket, query, command))
}

async fn run<F, Done>(socket: WebSocket, query: StreamQuery, command: F)
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
        let output = outgoing(&mut to_client, stdout_read, stderr_read);
        let (result, sent) = tokio::join!(command(streams), output);
        if let Err(error) = sent {
            debug!(%error, "sending output");
        }
        result
    };
    let result = tokio::select! {
        result = work => result,
        () = incoming(from_client, stdin_write, sizes) => return,
    };
    let status = serde_json::to_vec(&status_of(&result)).unwrap_or_default();
    let mut last = vec![STATUS];
    last.extend(status);
    let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    for message in [Message::Binary(last.into()), close] {
        if let Err(error) = to_client.send(message).await {
            return debug!(%error, "sending the status");
        }
    }
}

/// Reads what the client sends until it is gone.
async fn incoming(
    mut from_client: SplitStream<WebSocket>,
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
        match (bytes.first(), bytes.get(1..)) {
            (Some(&STDIN), Some(data)) => {
                if let Some(open) = &mut stdin
                    && open.write_all(data).await.is_err()
                {
                    // The process does not read any more; it may still write.
                    stdin = None;
                }
            }
            (Some(&RESIZE), Some(data)) => {
                let size: std::result::Result<TerminalSize, _> = serde_json::from_slice(data);
                if let Ok(size) = size
                    && sizes.try_send(size).is_err()
                {
                    debug!("a terminal size is dropped: the last ones are not applied yet");
                }
            }
            (Some(&CLOSE), Some([STDIN, ..])) => stdin = None,
            _ => {}
        }
    }
}

async fn outgoing(
    to_client: &mut SplitSink<WebSocket, Message>,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
) -> std::result::Result<(), axum::Error> {
    let mut output = futures::stream::select(frames(STDOUT, stdout), frames(STDERR, stderr));
    while let Some(frame) = output.next().await {
        to_client.send(Message::Binary(frame)).await?;
    }
    Ok(())
}

fn frames(channel: u8, pipe: Option<DuplexStream>) -> impl Stream<Item = Bytes> + Unpin {
    let chunks = futures::stream::iter(pipe).flat_map(|it| ReaderStream::with_capacity(it, BUFFER_BYTES));
    Box::pin(chunks.filter_map(move |chunk| async move {
        let chunk = chunk.ok()?;
        let mut frame = Vec::with_capacity(chunk.len() + 1);
        frame.push(channel);
        frame.extend_from_slice(&chunk);
        Some(Bytes::from(frame))
    }))
}

/// The `Status` that ends a stream: success, the exit code, or what went wrong.
pub(super) fn status_of(result: &Result<i32, RuntimeError>) -> Value {
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
}
