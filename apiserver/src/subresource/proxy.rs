//! `proxy`: HTTP to a pod, service or node through the API server.
//!
//! Any method, body and protocol goes through; what comes back is passed on as it is, but for addresses
//! in `Location` and in HTML, which would lead around the server. A request that this server passed on
//! and that comes back to it is refused.

mod location;
mod rewrite;

use api_types::status::Status;
use axum::body::Body;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use http::{HeaderValue, Method, StatusCode, Uri, header};

use super::{Action, Param, Subresource};
use crate::backend;
use crate::rest::{Answer, Call, Response};

pub(super) struct Proxy;

impl Subresource for Proxy {
    const NAME: &'static str = "proxy";
    const ACTION: Action = Action::Connect { act: answer, params: &[Param::Text("path")] };
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    pass(call).boxed()
}

async fn pass(mut call: Call) -> Answer {
    let location = location::find(&call)?;
    if call.server.backends.is_loop(&call.headers) {
        return Err(Status::unexplained(508, "the request comes from this server's own proxy"));
    }
    let (prefix, path) = split_path(&call.info.path, if call.info.namespace.is_empty() { 5 } else { 7 });
    let (prefix, path) = (prefix.to_owned(), path.to_owned());
    let upgrade = call.connection.upgrade.take();
    if path.is_empty() && upgrade.is_none() && matches!(call.method, Method::GET | Method::HEAD) {
        return redirect(&call);
    }
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let body = call.connection.stream.get_mut().take().unwrap_or_default();
    let request = request(&call, &location, &prefix, &path, body, upgrade.is_some())?;
    let unreachable =
        |error: backend::DialError| Status::unavailable(format!("error trying to reach service: {error}"));
    let dialled = call.server.backends.dial(&location.host, location.port, location.security.clone()).await;
    let response = dialled.map_err(unreachable)?.exchange(request, upgrade).await.map_err(unreachable)?;
    Ok(returned(response, &location, &prefix, &call))
}

/// The path up to and with `segments` segments, and what follows, as it was sent.
fn split_path(path: &str, segments: usize) -> (&str, &str) {
    let mut seen = 0;
    let mut inside = false;
    for (at, letter) in path.char_indices() {
        if letter == '/' {
            if inside && seen == segments {
                return path.split_at(at);
            }
            inside = false;
        } else if !inside {
            inside = true;
            seen += 1;
        }
    }
    (path, "")
}

/// Relative links of the backend's root work only below a path that ends with a slash.
fn redirect(call: &Call) -> Answer {
    let query = call.connection.raw_query.as_deref().map(|q| format!("?{q}")).unwrap_or_default();
    let target = format!("{}/{query}", call.info.path);
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let target = HeaderValue::from_str(&target).map_err(Status::internal)?;
    response.headers_mut().insert(header::LOCATION, target);
    Ok(response)
}

fn request(
    call: &Call,
    location: &location::Location,
    prefix: &str,
    path: &str,
    body: Body,
    upgrades: bool,
) -> Result<http::Request<Body>, Status> {
    let target = match &call.connection.raw_query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut request = http::Request::new(if upgrades { Body::empty() } else { body });
    *request.method_mut() = call.method.clone();
    *request.uri_mut() =
        target.parse::<Uri>().map_err(|e| Status::bad_request(format!("the path makes no URL: {e}")))?;
    let mut headers = call.headers.clone();
    backend::drop_hop_by_hop(&mut headers, upgrades);
    backend::drop_credentials(&mut headers);
    if let Ok(forwarded) = HeaderValue::from_str(&format!("{prefix}{path}")) {
        headers.insert("x-forwarded-uri", forwarded);
    }
    if let Some(peer) = call.connection.peer
        && let Ok(value) = HeaderValue::from_str(&forwarded_for(&headers, &peer.ip().to_string()))
    {
        headers.insert("x-forwarded-for", value);
    }
    if !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&location.authority())
    {
        headers.insert(header::HOST, host);
    }
    call.server.backends.mark(&mut headers);
    *request.headers_mut() = headers;
    Ok(request)
}

fn forwarded_for(headers: &http::HeaderMap, peer: &str) -> String {
    let before = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok());
    before.chain([peer]).collect::<Vec<_>>().join(", ")
}

fn returned(mut response: Response, location: &location::Location, prefix: &str, call: &Call) -> Response {
    let upgrades = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    backend::drop_hop_by_hop(headers, upgrades);
    let cors: Vec<_> =
        headers.keys().filter(|n| n.as_str().starts_with("access-control-")).cloned().collect();
    for name in cors {
        headers.remove(name);
    }
    let asked = call.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let links =
        rewrite::Links { prefix: prefix.to_owned(), hosts: vec![location.authority(), asked.to_owned()] };
    if let Some(target) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) {
        if let Ok(target) = HeaderValue::from_str(&links.rewrite(target)) {
            headers.insert(header::LOCATION, target);
        }
        return response;
    }
    match rewrite::Encoding::of_html(headers) {
        Some(encoding) if call.method != Method::HEAD => {
            headers.remove(header::CONTENT_LENGTH);
            let rewriter = rewrite::Html::new(links, encoding);
            response.map(|body| rewritten(body, rewriter))
        }
        _ => response,
    }
}

/// The body with its links rewritten as it passes.
fn rewritten(body: Body, html: rewrite::Html) -> Body {
    let chunks = body.into_data_stream().map(Some).chain(futures::stream::iter([None]));
    let out = chunks.scan(Some(html), |state, chunk| {
        let result = match (chunk, state.as_mut()) {
            (Some(Ok(bytes)), Some(html)) => html.feed(&bytes).map_err(axum::Error::new),
            (Some(Err(error)), _) => Err(error),
            (None, Some(_)) => {
                state.take().map_or(Ok(Vec::new()), |html| html.finish().map_err(axum::Error::new))
            }
            (_, None) => return futures::future::ready(None),
        };
        futures::future::ready(Some(result))
    });
    Body::from_stream(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_subresource_is_kept_as_sent() {
        let path = "/api/v1/namespaces/n/pods/http:p:80/proxy/a%2Fb//c/";
        assert_eq!(split_path(path, 7), ("/api/v1/namespaces/n/pods/http:p:80/proxy", "/a%2Fb//c/"));
        assert_eq!(split_path("/api/v1/nodes/n/proxy", 5), ("/api/v1/nodes/n/proxy", ""));
        assert_eq!(split_path("/api/v1/nodes/n/proxy/", 5), ("/api/v1/nodes/n/proxy", "/"));
    }
}
