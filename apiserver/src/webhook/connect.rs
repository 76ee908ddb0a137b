//! How a connection to a webhook comes about: its address, TCP, TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Address, Target};
use crate::tls;
use crate::view::View;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("unable to load root certificates: {0}")]
    Authority(String),
    #[error("unsupported protocol scheme {0:?}")]
    Scheme(String),
    #[error("no Host in request URL")]
    NoHost,
    #[error("service {0:?} not found")]
    NoService(String),
    #[error("no service port {port} found for service {service:?}")]
    NoPort { service: String, port: u16 },
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
    #[error("dial tcp {address}: {}", go_text(.source))]
    Connect { address: String, source: io::Error },
    #[error("{}", tls_text(.0))]
    Tls(io::Error),
}

/// Connects to one target.
#[derive(Clone)]
pub(super) struct Connector {
    address: Address,
    tls: TlsConnector,
    view: Arc<dyn View>,
}

impl Connector {
    pub(super) fn new(target: &Target, view: Arc<dyn View>) -> Result<Self, DialError> {
        let bundle = base64::engine::general_purpose::STANDARD.decode(&target.ca_bundle);
        let bundle = bundle.map_err(|e| DialError::Authority(e.to_string()))?;
        let config = tls::webhook_client_config(&bundle);
        let config = config.map_err(|e| DialError::Authority(e.to_string()))?;
        Ok(Self { address: target.address.clone(), tls: TlsConnector::from(config), view })
    }

    async fn dial(self, uri: Uri) -> Result<Stream, DialError> {
        if uri.scheme_str() != Some("https") {
            return Err(DialError::Scheme(uri.scheme_str().unwrap_or_default().to_owned()));
        }
        let name = uri.host().ok_or(DialError::NoHost)?.trim_matches(['[', ']']).to_owned();
        let (host, port) = match &self.address {
            Address::Url(_) => (name.clone(), uri.port_u16().unwrap_or(443)),
            Address::Service { namespace, name, port, .. } => endpoint(&*self.view, namespace, name, *port)?,
        };
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let stream = TcpStream::connect((host.as_str(), port)).await;
        let stream = stream.map_err(|source| DialError::Connect { address, source })?;
        stream.set_nodelay(true).map_err(DialError::Tls)?;
        let name = ServerName::try_from(name).map_err(|_| DialError::NoHost)?;
        let stream = self.tls.connect(name, stream).await.map_err(DialError::Tls)?;
        Ok(Stream(TokioIo::new(stream)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Stream, DialError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// Host and port at which one of the service's ready endpoints listens.
pub(super) fn endpoint(
    view: &dyn View,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), DialError> {
    let service = view.object("services", namespace, name);
    let service = service.ok_or_else(|| DialError::NoService(name.to_owned()))?;
    if service["spec"]["type"] == "ExternalName" {
        return Ok((service["spec"]["externalName"].as_str().unwrap_or_default().to_owned(), port));
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.find(|p| p["port"].as_u64() == Some(u64::from(port)));
    let found = found.ok_or_else(|| DialError::NoPort { service: name.to_owned(), port })?;
    let port_name = found["name"].as_str().unwrap_or_default();
    let slices = view.objects("discovery.k8s.io/endpointslices", Some(namespace));
    let of_service = |slice: &&Arc<Value>| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name;
    let ready = slices.iter().filter(of_service).find_map(|slice| ready_in_slice(slice, port_name));
    let ready = ready.or_else(|| {
        let endpoints = view.object("endpoints", namespace, name)?;
        let mut subsets = endpoints["subsets"].as_array().into_iter().flatten();
        subsets.find_map(|subset| pick(&subset["addresses"][0]["ip"], &subset["ports"], port_name))
    });
    ready.ok_or_else(|| DialError::NoEndpoints(name.to_owned()))
}

fn ready_in_slice(slice: &Value, port_name: &str) -> Option<(String, u16)> {
    let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.find(|e| e["conditions"]["ready"].as_bool().unwrap_or(true))?;
    pick(&ready["addresses"][0], &slice["ports"], port_name)
}

fn pick(address: &Value, ports: &Value, port_name: &str) -> Option<(String, u16)> {
    let mut ports = ports.as_array().into_iter().flatten();
    let port = ports.find(|p| p["name"].as_str().unwrap_or_default() == port_name)?["port"].as_u64()?;
    Some((address.as_str()?.to_owned(), u16::try_from(port).ok()?))
}

/// An error of the operating system as Go prints it.
fn go_text(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => "connect: connection refused".to_owned(),
        Kind::HostUnreachable => "connect: no route to host".to_owned(),
        Kind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        Kind::ConnectionReset => "connect: connection reset by peer".to_owned(),
        Kind::TimedOut => "connect: connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// A failed handshake as Go prints it.
fn tls_text(error: &io::Error) -> String {
    use rustls::CertificateError as Bad;
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer)) => {
            "certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            "certificate has expired or is not yet valid".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(other)) => other.to_string(),
        _ => {
            return if error.kind() == io::ErrorKind::UnexpectedEof {
                "EOF".into()
            } else {
                error.to_string()
            };
        }
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// An encrypted connection that knows which HTTP was agreed on.
pub(super) struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let (_, session) = self.0.inner().get_ref();
        match session.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::fixture::Fixture;

    fn world(ready: bool) -> Fixture {
        let service = json!({"metadata": {"name": "s", "namespace": "n"},
            "spec": {"ports": [{"name": "https", "port": 443}]}});
        let slice = json!({
            "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "https", "port": 9443}],
            "endpoints": [{"addresses": ["10.1.1.1"], "conditions": {"ready": false}},
                {"addresses": ["10.1.1.2"], "conditions": {"ready": ready}}]});
        Fixture::default().with("services", service).with("discovery.k8s.io/endpointslices", slice)
    }

    fn text(world: &Fixture, name: &str, port: u16) -> String {
        match endpoint(world, "n", name, port) {
            Ok((host, port)) => format!("{host}:{port}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_service_is_reached_at_a_ready_endpoint() {
        assert_eq!(text(&world(true), "s", 443), "10.1.1.2:9443");
        assert_eq!(text(&world(false), "s", 443), r#"no endpoints available for service "s""#);
        assert_eq!(text(&world(true), "s", 80), r#"no service port 80 found for service "s""#);
        assert_eq!(text(&world(true), "x", 443), r#"service "x" not found"#);
    }
}
