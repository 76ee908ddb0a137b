//! The server as a service in the same process: no socket, no TLS, the same layers.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use tower::{Service, ServiceExt as _};

use crate::UserInfo;

/// A tower service that acts as one user. `kube::Client::new(loopback, "default")` makes a client of it.
#[derive(Clone)]
pub struct Loopback {
    layers: axum::Router,
    user: UserInfo,
}

impl Loopback {
    pub(super) fn new(layers: axum::Router, user: UserInfo) -> Self {
        Self { layers, user }
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
        request.extensions_mut().insert(self.user.clone());
        Box::pin(self.layers.clone().oneshot(request))
    }
}
