//! Which protocol a client asks to change to: WebSocket, or SPDY of clients that do not know it.

use std::sync::Arc;

use axum::extract::{FromRequestParts, WebSocketUpgrade};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use component_base::supervise::Tasks;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tracing::debug;

use crate::agent::Agent;

const SPDY: &str = "SPDY/3.1";
/// Where a client lists the protocols it can speak within SPDY, and the server names the one it chose.
const OFFERED: &str = "x-stream-protocol-version";
const ACCEPTED: &str = "x-accepted-stream-protocol-versions";

/// The change of protocol that a request asks for.
pub(super) enum Asked {
    WebSocket(WebSocketUpgrade),
    Spdy(SpdyUpgrade),
}

impl FromRequestParts<Arc<Agent>> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, agent: &Arc<Agent>) -> Result<Self, Response> {
        let wanted = parts.headers.get(header::UPGRADE).and_then(|it| it.to_str().ok()).unwrap_or_default();
        if !wanted.eq_ignore_ascii_case(SPDY) {
            let upgrade = WebSocketUpgrade::from_request_parts(parts, agent).await;
            return upgrade.map(Self::WebSocket).map_err(IntoResponse::into_response);
        }
        let missing =
            || (StatusCode::BAD_REQUEST, "the connection cannot change its protocol").into_response();
        let connection = parts.extensions.remove::<OnUpgrade>().ok_or_else(missing)?;
        let values = parts.headers.get_all(OFFERED).iter().filter_map(|it| it.to_str().ok());
        let offered = values.flat_map(|it| it.split(',')).map(|it| it.trim().to_owned()).collect();
        Ok(Self::Spdy(SpdyUpgrade { connection, offered, tasks: agent.tasks.clone() }))
    }
}

/// A connection that can become one of SPDY.
pub(super) struct SpdyUpgrade {
    connection: OnUpgrade,
    offered: Vec<String>,
    tasks: Tasks,
}

impl SpdyUpgrade {
    /// Answers with the first protocol on the client's list that is `known`, and runs `work` on the connection.
    /// A client that lists none gets the last one known, the oldest.
    pub(super) fn accept<W>(
        self,
        known: &[&'static str],
        work: impl FnOnce(&'static str, TokioIo<Upgraded>) -> W + Send + 'static,
    ) -> Response
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let Some(protocol) = choose(&self.offered, known) else {
            let text = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {:?}, server accepts {known:?}",
                self.offered
            );
            let accepted = known.iter().map(|it| (ACCEPTED, *it)).next_back().unwrap_or((ACCEPTED, ""));
            return (StatusCode::FORBIDDEN, [accepted], text).into_response();
        };
        let connection = self.connection;
        self.tasks.spawn_until_shutdown("spdy-connection", async move {
            match connection.await {
                Ok(upgraded) => work(protocol, TokioIo::new(upgraded)).await,
                Err(error) => debug!(%error, "a change to SPDY did not come about"),
            }
        });
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
        headers.insert(OFFERED, HeaderValue::from_static(protocol));
        response
    }
}

fn choose(offered: &[String], known: &[&'static str]) -> Option<&'static str> {
    if offered.is_empty() {
        return known.last().copied();
    }
    offered.iter().find_map(|wanted| known.iter().find(|it| *it == wanted)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_protocol_that_both_know_is_chosen() {
        let known = ["v4.channel.k8s.io", "v2.channel.k8s.io"];
        let offered = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let newest = offered(&["v5.channel.k8s.io", "v4.channel.k8s.io", "v2.channel.k8s.io"]);
        assert_eq!(choose(&newest, &known), Some("v4.channel.k8s.io"));
        assert_eq!(choose(&offered(&[]), &known), Some("v2.channel.k8s.io"));
        assert_eq!(choose(&offered(&["v9"]), &known), None);
    }
}
