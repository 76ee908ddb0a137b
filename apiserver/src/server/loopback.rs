//! The server as a service in the same process: no socket, no TLS, the same layers.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use api_types::status::Status;
use axum::body::Body;
use bytes::Bytes;
use component_base::supervise::Tasks;
use http::header;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tower::{Service, ServiceExt as _};
use tracing::debug;

use super::Layers;
use crate::{UserInfo, negotiate};

/// Bytes that wait in each direction of a stream before the faster side is held up.
const BUFFER_BYTES: usize = 64 * 1024;

/// A tower service that acts as one user. `kube::Client::new(loopback, "default")` makes a client of it.
#[derive(Clone)]
pub struct Loopback {
    layers: Layers,
    user: UserInfo,
    tasks: Tasks,
}

impl Loopback {
    pub(super) fn new(layers: Layers, user: UserInfo, tasks: Tasks) -> Self {
        Self { layers, user, tasks }
    }

    /// A change of protocol needs a connection: HTTP/1.1 over a pipe within the process.
    async fn upgrade(self, request: http::Request<Body>) -> Result<http::Response<Body>, hyper::Error> {
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        let user = self.user;
        let service = self.layers.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(user.clone());
            request.map(Body::new)
        });
        let serving = server::Builder::new()
            .serve_connection(TokioIo::new(theirs), TowerToHyperService::new(service))
            .with_upgrades();
        self.tasks.spawn_until_shutdown("loopback stream", async move {
            if let Err(error) = serving.await {
                debug!(%error, "a stream within the process ended with an error");
            }
        });
        let (mut sender, connection) = client::handshake(TokioIo::new(ours)).await?;
        self.tasks.spawn_until_shutdown("loopback client", async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "a stream within the process ended with an error");
            }
        });
        sender.send_request(request).await.map(|response| response.map(Body::new))
    }
}

impl<B> Service<http::Request<B>> for Loopback
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        if request.headers().contains_key(header::UPGRADE) {
            let upgrading = self.clone().upgrade(request);
            return Box::pin(async move {
                let answered = upgrading.await;
                Ok(answered.unwrap_or_else(|error| negotiate::answer_status(&Status::internal(error))))
            });
        }
        request.extensions_mut().insert(self.user.clone());
        self.layers.call(request)
    }
}
