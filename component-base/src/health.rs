//! A small HTTP server for `/livez`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::metrics::Metrics;
use crate::supervise::Tasks;

/// Connections served at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 32;

const PLAIN: &str = "text/plain; charset=utf-8";

/// The named checks and the metrics of one component.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Arc<Mutex<Vec<Check>>>,
    pages: Arc<Mutex<Vec<Page>>>,
    metrics: Metrics,
}

/// Makes a page of a query.
type Content = Arc<dyn Fn(Option<&str>) -> String + Send + Sync>;

/// A component's own page.
#[derive(Clone)]
struct Page {
    path: &'static str,
    media: &'static str,
    content: Content,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Check {
    name: String,
    problem: Arc<Mutex<Option<String>>>,
}

/// The handle of one readiness check; its owner says whether it passes.
#[derive(Clone, Debug)]
pub struct Readiness {
    problem: Arc<Mutex<Option<String>>>,
}

impl Readiness {
    /// The check passes from now on.
    pub fn pass(&self) {
        *self.problem.lock() = None;
    }

    /// The check fails from now on, because of `problem`.
    pub fn fail(&self, problem: impl Into<String>) {
        *self.problem.lock() = Some(problem.into());
    }
}

/// How others reach what listens on `bound`: by the machine's name when it listens on all addresses.
pub fn reached_at(bound: SocketAddr) -> String {
    if !bound.ip().is_unspecified() {
        return bound.to_string();
    }
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    format!("{host}:{}", bound.port())
}

/// Why health cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for health and metrics")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl Health {
    /// No checks yet; `/metrics` shows `metrics`.
    pub fn new(metrics: Metrics) -> Self {
        Self { checks: Arc::default(), pages: Arc::default(), metrics }
    }

    /// The metrics that are served.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Adds a readiness check that fails until its handle says otherwise.
    pub fn readiness(&self, name: impl Into<String>) -> Readiness {
        let problem = Arc::new(Mutex::new(Some("not started".to_owned())));
        self.checks.lock().push(Check { name: name.into(), problem: problem.clone() });
        Readiness { problem }
    }

    /// Serves the JSON that `content` makes of a query at `path` (for what a component tells about itself).
    pub fn page(&self, path: &'static str, content: impl Fn(Option<&str>) -> String + Send + Sync + 'static) {
        self.pages.lock().push(Page { path, media: "application/json", content: Arc::new(content) });
    }

    /// As `page`, of plain text.
    pub fn text_page(
        &self,
        path: &'static str,
        content: impl Fn(Option<&str>) -> String + Send + Sync + 'static,
    ) {
        self.pages.lock().push(Page { path, media: PLAIN, content: Arc::new(content) });
    }

    /// Whether all checks pass.
    pub fn is_ready(&self) -> bool {
        self.checks.lock().iter().all(|check| check.problem.lock().is_none())
    }

    /// Listens on `address` and serves until the tasks' shutdown. Returns the bound address.
    pub async fn serve(&self, address: SocketAddr, tasks: &Tasks) -> Result<SocketAddr, ListenError> {
        let fail = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        let (health, owner) = (self.clone(), tasks.clone());
        tasks.spawn_until_shutdown("health-listener", async move { health.accept(listener, owner).await });
        Ok(bound)
    }

    async fn accept(self, listener: TcpListener, tasks: Tasks) {
        let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Ok(permit) = limit.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let health = self.clone();
            tasks.spawn_until_shutdown("health-connection", async move {
                health.serve_connection(stream).await;
                drop(permit);
            });
        }
    }

    async fn serve_connection(self, stream: TcpStream) {
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let answer = self.answer(request.uri().path(), request.uri().query());
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            debug!(%error, "health connection ended");
        }
    }

    /// The answer to a request, without a socket.
    pub fn answer(&self, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        let verbose = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
        match path {
            "/livez" | "/healthz" => text(StatusCode::OK, "ok".to_owned()),
            "/readyz" => self.ready(verbose),
            "/metrics" => text(StatusCode::OK, self.metrics.encode()),
            other => self.own_page(other, query),
        }
    }

    fn own_page(&self, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        let pages = self.pages.lock().clone();
        if let Some(page) = pages.iter().find(|page| page.path == path) {
            let mut response = text(StatusCode::OK, (page.content)(query));
            let media = http::HeaderValue::from_static(page.media);
            response.headers_mut().insert(http::header::CONTENT_TYPE, media);
            return response;
        }
        let own: String = pages.iter().map(|page| format!(", {}", page.path)).collect();
        text(StatusCode::NOT_FOUND, format!("only /livez, /readyz, /metrics{own} are served here\n"))
    }

    fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let mut lines = String::new();
        let mut ready = true;
        for check in self.checks.lock().iter() {
            match check.problem.lock().as_deref() {
                None => lines.push_str(&format!("[+]{} ok\n", check.name)),
                Some(problem) => {
                    ready = false;
                    lines.push_str(&format!("[-]{} failed: {problem}\n", check.name));
                }
            }
        }
        match (ready, verbose) {
            (true, false) => text(StatusCode::OK, "ok".to_owned()),
            (true, true) => text(StatusCode::OK, lines + "readyz check passed\n"),
            (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, lines + "readyz check failed\n"),
        }
    }
}

fn text(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let plain = http::HeaderValue::from_static(PLAIN);
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_check_passes() {
        let health = Health::default();
        let (one, two) = (health.readiness("informers"), health.readiness("leader"));
        one.pass();
        assert_eq!(health.answer("/readyz", None).status(), StatusCode::SERVICE_UNAVAILABLE);
        two.pass();
        assert_eq!(health.answer("/readyz", None).status(), StatusCode::OK);
    }

    #[test]
    fn a_component_may_serve_a_page_of_its_own() {
        let health = Health::default();
        health.page("/debug/x", |query| format!("{{\"query\":{query:?}}}"));
        assert_eq!(health.answer("/debug/x", Some("a=b")).status(), StatusCode::OK);
    }

    #[test]
    fn unknown_path_is_not_found() {
        assert_eq!(Health::default().answer("/secrets", None).status(), StatusCode::NOT_FOUND);
    }
}
