//! What the controllers and the scheduler tell about their work, asked of whoever leads when somebody asks here.
//!
//! Each says in its Lease where it listens, so that one address and one way of authorization do for all of them,
//! in one process and in several.

use std::sync::Arc;
use std::time::Duration;

use api_types::kinds;
use api_types::status::Status;
use axum::body::Body;
use axum::response::Response;
use component_base::leader::DEBUG_ADDRESS;
use http::{HeaderValue, Method, Uri, header};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::backend::Security;
use crate::request_info::RequestInfo;
use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// One page, and who has it.
#[derive(Debug)]
pub(crate) struct Page {
    path: &'static str,
    /// The Lease in `kube-system` of who is asked.
    lease: &'static str,
    asked: &'static str,
}

static PAGES: &[Page] = &[
    Page { path: "/coxswain/v1/why", lease: "kube-controller-manager", asked: "/debug/why" },
    Page { path: "/coxswain/v1/decisions", lease: "kube-scheduler", asked: "/debug/decisions" },
];

/// The page at this path.
pub(crate) fn find(info: &RequestInfo) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.path == info.path)
}

/// The page, as who leads tells it.
pub(crate) async fn answer(
    server: &Arc<Server>,
    page: &Page,
    (method, uri): (Method, Uri),
) -> Result<Response, Status> {
    if method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    let lease = kinds::find_kind("coordination.k8s.io", "v1", "Lease")
        .and_then(|kind| server.view.object(&kind.storage, "kube-system", page.lease));
    let Some((host, port)) = lease.as_deref().and_then(address) else {
        return Err(Status::unavailable(format!(
            "{} does not say where it can be asked; it does when it is started with --healthz-bind-address",
            page.lease
        )));
    };
    let asked = tokio::time::timeout(PATIENCE, ask(server, page, (host, port), uri.query()));
    let problem = match asked.await {
        Ok(Ok(body)) => return Ok(json(body)),
        Ok(Err(problem)) => problem,
        Err(_) => "it did not answer in time".to_owned(),
    };
    Err(Status::unavailable(format!("{} cannot be asked at {host}:{port}: {problem}", page.lease)))
}

/// Where the Lease says that its holder listens.
fn address(lease: &Value) -> Option<(&str, u16)> {
    let (host, port) = lease["metadata"]["annotations"][DEBUG_ADDRESS].as_str()?.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

async fn ask(
    server: &Server,
    page: &Page,
    (host, port): (&str, u16),
    query: Option<&str>,
) -> Result<bytes::Bytes, String> {
    let uri = query.map_or_else(|| page.asked.to_owned(), |query| format!("{}?{query}", page.asked));
    let request = http::Request::get(uri)
        .header(header::HOST, format!("{host}:{port}"))
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let backend = server.backends.dial(host, port, Security::Plain).await;
    let backend = backend.map_err(|error| error.to_string())?;
    let response = backend.exchange(request, None).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answered {}", response.status()));
    }
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| error.to_string())?.to_bytes())
}

fn json(body: bytes::Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lease_says_where_its_holder_listens() {
        let told = |address: &str| json!({"metadata": {"annotations": {DEBUG_ADDRESS: address}}});
        assert_eq!(address(&told("127.0.0.1:10257")), Some(("127.0.0.1", 10257)));
        assert_eq!(address(&told("[::1]:10257")), Some(("::1", 10257)));
        assert_eq!(address(&told("nowhere")), None);
        assert_eq!(address(&json!({"metadata": {}})), None);
    }
}
