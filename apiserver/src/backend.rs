//! HTTP/1.1 to what stands behind the server: node agents, pods and services that are proxied, extension API
//! servers. Dials, passes a request on, and joins the two connections when the protocol changes.

use std::sync::Arc;
use std::time::Duration;

use api_types::kinds;
use axum::body::Body;
use component_base::supervise::Tasks;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::cache::Objects;
use crate::store::Key;

/// Dials backends and owns the tasks of their connections.
pub(crate) struct Backends {
    /// To node agents, with this server's client certificate.
    nodes: TlsConnector,
    /// To pods and services that ask for TLS: whose certificate it is nobody can know.
    unverified: TlsConnector,
    dial_timeout: Duration,
    tasks: Tasks,
    /// Names this server in `Via`, so that a request that comes back is noticed.
    via: HeaderValue,
}

/// Where to connect, and what to say in front of HTTP.
#[derive(Clone)]
pub(crate) enum Security {
    Plain,
    /// TLS as the cluster's nodes speak it.
    Node,
    /// TLS with any certificate.
    Unverified,
    /// TLS that the caller configured, for this server name.
    Verified(Arc<rustls::ClientConfig>, String),
}

/// Why a backend did not answer. The text goes to the client: it names the address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("dial tcp {address}: {}", reason(.source))]
    Connect { address: String, source: std::io::Error },
    #[error("dial tcp {address}: i/o timeout")]
    Timeout { address: String },
    #[error("the address {address} is not one")]
    Address { address: String },
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// A connection's failure in the words that clients know.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        std::io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
    }
}

/// A connection to a backend that takes one request.
pub(crate) struct Backend<'a> {
    sender: http1::SendRequest<Body>,
    tasks: &'a Tasks,
}

impl Backends {
    pub(crate) fn new(
        nodes: &rustls::ClientConfig,
        unverified: &rustls::ClientConfig,
        dial_timeout: Duration,
        tasks: Tasks,
    ) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self {
            nodes: connector(nodes),
            unverified: connector(unverified),
            dial_timeout,
            tasks,
            via: HeaderValue::from_str(&format!("1.1 coxswain-{id}")).expect("hexadecimal digits are text"),
        }
    }

    /// The same, whose connections are served by other tasks.
    pub(crate) fn with_tasks(&self, tasks: Tasks) -> Self {
        Self {
            nodes: self.nodes.clone(),
            unverified: self.unverified.clone(),
            dial_timeout: self.dial_timeout,
            tasks,
            via: self.via.clone(),
        }
    }

    /// Connects within the limit.
    pub(crate) async fn dial(
        &self,
        host: &str,
        port: u16,
        security: Security,
    ) -> Result<Backend<'_>, DialError> {
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let connect = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            self.secure(stream, host, security).await
        };
        let stream = match tokio::time::timeout(self.dial_timeout, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) if source.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(DialError::Address { address });
            }
            Ok(Err(source)) => return Err(DialError::Connect { address, source }),
            Err(_) => return Err(DialError::Timeout { address }),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn_until_shutdown("backend connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "connection to a backend ended with an error");
            }
        });
        Ok(Backend { sender, tasks: &self.tasks })
    }

    async fn secure(
        &self,
        stream: TcpStream,
        host: &str,
        security: Security,
    ) -> std::io::Result<Box<dyn Wire>> {
        let (connector, name) = match security {
            Security::Plain => return Ok(Box::new(stream)),
            Security::Node => (self.nodes.clone(), host.to_owned()),
            Security::Unverified => (self.unverified.clone(), host.to_owned()),
            Security::Verified(config, name) => (connector(&config), name),
        };
        let name = ServerName::try_from(name)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    /// Whether a request came through this server before.
    pub(crate) fn is_loop(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::VIA).iter().any(|via| *via == self.via)
    }

    /// Marks a request as passed on by this server.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        headers.append(header::VIA, self.via.clone());
    }
}

fn connector(config: &rustls::ClientConfig) -> TlsConnector {
    // Upgrades are a matter of HTTP/1.1.
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// A connection's bytes, in the clear or within TLS.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Backend<'_> {
    /// Sends the request. When the backend changes the protocol, `client` is joined with it.
    pub(crate) async fn exchange(
        mut self,
        request: http::Request<Body>,
        client: Option<OnUpgrade>,
    ) -> Result<http::Response<Body>, DialError> {
        let mut response = self.sender.send_request(request).await?;
        let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), client) else {
            return Ok(response.map(Body::new));
        };
        let backend = hyper::upgrade::on(&mut response);
        self.tasks.spawn_until_shutdown("stream to a backend", pipe(client, backend));
        Ok(response.map(|_| Body::empty()))
    }
}

async fn pipe(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return debug!(%error, "a stream to a backend did not come about"),
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        debug!(%error, "a stream to a backend ended with an error");
    }
}

/// Headers that are between two neighbours and not passed on; `Connection` may name more.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// Takes out what concerns only one connection; a change of protocol stays when `upgrades`.
pub(crate) fn drop_hop_by_hop(headers: &mut HeaderMap, upgrades: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let protocol = headers.get(header::UPGRADE).cloned();
    for name in named.iter().chain(&HOP_BY_HOP).chain([&header::UPGRADE]) {
        headers.remove(name);
    }
    if let Some(protocol) = protocol.filter(|_| upgrades) {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// Takes out what only this server may see: who the client is, and as whom it acts.
pub(crate) fn drop_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let private: Vec<_> =
        headers.keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
    for name in private {
        headers.remove(name);
    }
}

/// Ready addresses of a service, each with the number that its port of this name has there.
pub(crate) fn endpoints(
    objects: &Objects,
    namespace: &str,
    service: &str,
    port_name: &str,
) -> Vec<(String, u16)> {
    let stored = kinds::find_kind("", "v1", "Endpoints")
        .and_then(|kind| objects.get(&Key::new(&kind.storage, namespace, service)));
    let Some(object) = stored.map(|s| s.value().clone()) else { return Vec::new() };
    let mut found = Vec::new();
    for subset in object["subsets"].as_array().into_iter().flatten() {
        let mut ports = subset["ports"].as_array().into_iter().flatten();
        let port = ports.find(|p| p["name"].as_str().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|p| u16::try_from(p["port"].as_u64()?).ok()) else { continue };
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        found.extend(addresses.filter_map(|a| Some((a["ip"].as_str()?.to_owned(), port))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_names_stays_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "x-mine, Upgrade"), ("x-mine", "1"), ("upgrade", "websocket"), ("a", "b")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut plain = headers.clone();
        drop_hop_by_hop(&mut plain, false);
        assert_eq!(plain.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["a"]);
        drop_hop_by_hop(&mut headers, true);
        assert_eq!(headers["connection"], "Upgrade");
        assert_eq!(headers["upgrade"], "websocket");
        assert!(!headers.contains_key("x-mine"));
    }
}
