//! An answer that goes on, as WebSocket messages: watches and logs for clients, such as browsers, that have
//! nothing else.

use axum::extract::ws::{Message, WebSocket};
use axum::extract::{FromRequestParts as _, WebSocketUpgrade};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::{HeaderMap, Method, Version, header};
use hyper::upgrade::OnUpgrade;

use crate::rest::Response;

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// How the parts of an answer become messages, where the client does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Text,
    Binary,
    Base64,
}

/// Whether the client asks for WebSocket.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    let wanted = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    wanted.eq_ignore_ascii_case("websocket")
}

/// Answers the change of protocol and sends each part as one message, until either side ends it.
pub(crate) async fn answer<S>(
    headers: &HeaderMap,
    connection: OnUpgrade,
    framing: Framing,
    parts: S,
) -> Response
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    let mut request = http::Request::new(()).into_parts().0;
    request.method = Method::GET;
    request.version = Version::HTTP_11;
    request.headers = headers.clone();
    request.extensions.insert(connection);
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut request, &()).await {
        Ok(upgrade) => upgrade.protocols([BINARY, BASE64]),
        Err(refused) => return refused.into_response(),
    };
    let framing = match upgrade.selected_protocol().and_then(|p| p.to_str().ok()) {
        Some(BINARY) => Framing::Binary,
        Some(BASE64) => Framing::Base64,
        _ => framing,
    };
    upgrade.on_upgrade(move |socket| send(socket, framing, parts))
}

async fn send<S>(socket: WebSocket, framing: Framing, parts: S)
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    let (mut to_client, mut from_client) = socket.split();
    let mut parts = std::pin::pin!(parts);
    let sending = async {
        while let Some(part) = parts.next().await {
            if to_client.send(message(framing, part)).await.is_err() {
                return;
            }
        }
        // The client may have gone first; then there is nobody to tell.
        drop(to_client.close().await);
    };
    // What the client says is not listened to, only that it is there.
    let listening = async { while let Some(Ok(_)) = from_client.next().await {} };
    tokio::select! {
        () = sending => {}
        () = listening => {}
    }
}

fn message(framing: Framing, part: Bytes) -> Message {
    match framing {
        Framing::Text => Message::Text(String::from_utf8_lossy(&part).into_owned().into()),
        Framing::Binary => Message::Binary(part),
        Framing::Base64 => Message::Text(base64::engine::general_purpose::STANDARD.encode(&part).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_framed_as_agreed() {
        let part = Bytes::from_static(b"hi");
        assert_eq!(message(Framing::Text, part.clone()), Message::Text("hi".into()));
        assert_eq!(message(Framing::Binary, part.clone()), Message::Binary(part.clone()));
        assert_eq!(message(Framing::Base64, part), Message::Text("aGk=".into()));
    }
}
