//! The streams of exec and attach over CRI: a WebSocket at the address that the runtime names.
//!
//! Every message begins with its channel, as between kubectl and the node agent. Runtimes that speak only
//! `v4.channel.k8s.io` (containerd 1) cannot be told that stdin has ended; those with v5 are.

use futures::{Sink, SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::runtime::{BoxRead, BoxWrite, Result, RuntimeError, Streams, TerminalSize};

const PROTOCOL_HEADER: &str = "sec-websocket-protocol";
const PROTOCOLS: HeaderValue = HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io");
/// The protocol in which channels can be closed one by one.
const CLOSING_PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const READ_BYTES: usize = 16 * 1024;

fn broken(error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Failed { doing: "talking to the runtime's streams".to_owned(), message: error.to_string() }
}

/// Copies until the process has ended, and returns its exit code.
pub(super) async fn converse(url: &str, streams: Streams) -> Result<i32> {
    let address = url.strip_prefix("http").map_or_else(|| url.to_owned(), |rest| format!("ws{rest}"));
    let mut request = address.into_client_request().map_err(broken)?;
    request.headers_mut().insert(PROTOCOL_HEADER, PROTOCOLS);
    let (socket, answer) = tokio_tungstenite::connect_async(request).await.map_err(broken)?;
    let closes = answer.headers().get(PROTOCOL_HEADER).is_some_and(|it| it == CLOSING_PROTOCOL);
    let (to_runtime, from_runtime) = socket.split();
    let Streams { stdin, stdout, stderr, resize } = streams;
    let (mut stdout, mut stderr) = (stdout, stderr);
    let outcome = tokio::select! {
        outcome = drain(from_runtime, &mut stdout, &mut stderr) => outcome,
        never = feed(to_runtime, stdin, resize, closes) => match never {},
    };
    for mut output in [stdout, stderr].into_iter().flatten() {
        // A receiver that has gone needs no end.
        drop(output.shutdown().await);
    }
    outcome
}

async fn drain<E: std::fmt::Display>(
    mut from_runtime: impl Stream<Item = Result<Message, E>> + Unpin,
    stdout: &mut Option<BoxWrite>,
    stderr: &mut Option<BoxWrite>,
) -> Result<i32> {
    while let Some(message) = from_runtime.next().await {
        let bytes = match message.map_err(broken)? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => break,
            _ => continue,
        };
        match bytes.split_first() {
            // Each channel is opened with an empty message.
            Some((_, [])) | None => {}
            Some((&STDOUT, data)) => forward(stdout, data).await,
            Some((&STDERR, data)) => forward(stderr, data).await,
            Some((&STATUS, data)) => return exit_code(data),
            Some(_) => {}
        }
    }
    // The end of an attach has no status.
    Ok(0)
}

/// A receiver that has gone is no error of the process.
async fn forward(to: &mut Option<BoxWrite>, bytes: &[u8]) {
    let Some(stream) = to else { return };
    let sent = match stream.write_all(bytes).await {
        Ok(()) => stream.flush().await,
        Err(error) => Err(error),
    };
    if sent.is_err() {
        *to = None;
    }
}

/// What the `Status` that ends a stream says.
fn exit_code(status: &[u8]) -> Result<i32> {
    let status: Value = serde_json::from_slice(status).map_err(broken)?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let mut codes = causes.filter(|it| it["reason"] == "ExitCode").filter_map(|it| it["message"].as_str());
    let message = || status["message"].as_str().unwrap_or("it gave no reason").to_owned();
    let code = codes.next().and_then(|code| code.parse().ok());
    code.ok_or_else(|| RuntimeError::Failed { doing: "exec".to_owned(), message: message() })
}

/// Never ends, so that the conversation goes on until the process has ended.
async fn feed(
    mut to_runtime: impl Sink<Message> + Unpin,
    mut stdin: Option<BoxRead>,
    mut resize: Option<tokio::sync::mpsc::Receiver<TerminalSize>>,
    closes: bool,
) -> std::convert::Infallible {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let message = tokio::select! {
            size = next_size(&mut resize) => {
                let size = serde_json::json!({"Width": size.width, "Height": size.height});
                framed(RESIZE, size.to_string().as_bytes())
            }
            count = next_bytes(&mut stdin, &mut buffer) => match count {
                0 => {
                    stdin = None;
                    if !closes {
                        continue;
                    }
                    framed(CLOSE, &[STDIN])
                }
                count => framed(STDIN, &buffer[..count]),
            },
        };
        if to_runtime.send(message).await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn framed(channel: u8, data: &[u8]) -> Message {
    Message::Binary([&[channel], data].concat().into())
}

async fn next_size(resize: &mut Option<tokio::sync::mpsc::Receiver<TerminalSize>>) -> TerminalSize {
    if let Some(receiver) = resize {
        if let Some(size) = receiver.recv().await {
            return size;
        }
        *resize = None;
    }
    std::future::pending().await
}

/// An error of the caller's stream is its end.
async fn next_bytes(stdin: &mut Option<BoxRead>, buffer: &mut [u8]) -> usize {
    match stdin {
        Some(stream) => stream.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_an_exit_code_or_what_went_wrong() {
        assert_eq!(exit_code(br#"{"status": "Success"}"#).unwrap(), 0);
        let causes = r#"{"causes": [{"reason": "ExitCode", "message": "7"}]}"#;
        let ended = format!(r#"{{"status": "Failure", "details": {causes}}}"#);
        assert_eq!(exit_code(ended.as_bytes()).unwrap(), 7);
        let failed = exit_code(br#"{"status": "Failure", "message": "no such file"}"#).unwrap_err();
        assert!(failed.to_string().contains("no such file"), "{failed}");
    }
}
