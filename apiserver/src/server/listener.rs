//! Accepts connections, speaks TLS and HTTP/1.1 or HTTP/2 on them, and hands requests to the layers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::supervise::Tasks;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::Layers;
use crate::authn::{PeerAddress, PeerCertificates};
use crate::config::Limits;

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of `accept` (too many open files), the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Headers and URL of a request over HTTP/2; HTTP/1.1 has a limit of its own.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;

/// The parts of a listener.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) tls: Arc<rustls::ServerConfig>,
    pub(super) layers: Layers,
    pub(super) limits: Limits,
}

impl Listener {
    /// Serves until `shutdown`, then lets open requests finish within the drain's limit.
    pub(super) async fn serve(self, tasks: Tasks, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(self.limits.connections_max));
        let acceptor = TlsAcceptor::from(self.tls);
        let graceful = Arc::new(parking_lot::Mutex::new(Some(GracefulShutdown::new())));
        while let Some((stream, peer, slot)) = accept(&self.socket, &slots, &shutdown).await {
            let connection = Connection {
                acceptor: acceptor.clone(),
                layers: self.layers.clone(),
                limits: self.limits.clone(),
                graceful: graceful.clone(),
            };
            tasks.spawn("connection", async move {
                connection.serve(stream, peer).await;
                drop(slot);
            });
        }
        let open = graceful.lock().take();
        if let Some(open) = open
            && tokio::time::timeout(self.limits.drain_timeout, open.shutdown()).await.is_err()
        {
            warn!("some connections did not end in time and are cut off");
        }
    }
}

async fn accept(
    socket: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &Shutdown,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    loop {
        let slot = shutdown.run_until_cancelled(slots.clone().acquire_owned()).await?.ok()?;
        match shutdown.run_until_cancelled(socket.accept()).await? {
            Ok((stream, peer)) => return Some((stream, peer, slot)),
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                shutdown.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
            }
        }
    }
}

struct Connection {
    acceptor: TlsAcceptor,
    layers: Layers,
    limits: Limits,
    graceful: Arc<parking_lot::Mutex<Option<GracefulShutdown>>>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return debug!(%peer, "TLS handshake took too long"),
        };
        let certificates = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|c| PeerCertificates::new(c.iter().map(|c| c.clone().into_owned()).collect()));
        let service = self.layers.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(PeerAddress(peer));
            if let Some(certificates) = &certificates {
                request.extensions_mut().insert(certificates.clone());
            }
            request.map(axum::body::Body::new)
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.limits.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.limits.keep_alive_interval)
            .keep_alive_timeout(self.limits.keep_alive_interval)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_concurrent_streams(1000);
        let connection =
            builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
        // The lock is held only to register; the connection itself is driven without it.
        let watched = self.graceful.lock().as_ref().map(|g| g.watcher());
        let ended = match watched {
            Some(watcher) => watcher.watch(connection.into_owned()).await,
            None => return,
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "connection ended with an error");
        }
    }
}
