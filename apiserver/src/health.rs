//! `/livez`, `/readyz`, `/healthz` and their named checks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api_types::status::Status;
use axum::body::Body;
use http::{HeaderValue, StatusCode, header};

use crate::request_info::RequestInfo;
use crate::server::Server;

/// Named checks, in the order in which `?verbose` lists them; `None` passes.
type Check = fn(&Server) -> Option<&'static str>;

static LIVE: &[(&str, Check)] = &[("ping", |_| None)];
static READY: &[(&str, Check)] = &[
    ("ping", |_| None),
    ("poststarthook/rbac/bootstrap-roles", |s| (!s.ready.load(Ordering::Acquire)).then_some("not finished")),
    ("shutdown", |s| s.shutdown.is_cancelled().then_some("process is shutting down")),
];

/// The answer at a health path.
pub(crate) fn answer(
    server: &Arc<Server>,
    info: &RequestInfo,
) -> Option<Result<http::Response<Body>, Status>> {
    let mut segments = info.path.trim_matches('/').splitn(2, '/');
    let endpoint = segments.next()?;
    let checks = match endpoint {
        "livez" => LIVE,
        "readyz" | "healthz" => READY,
        _ => return None,
    };
    let one = segments.next();
    let excluded: Vec<_> = info.query.get_all("exclude").collect();
    let chosen: Vec<_> = checks
        .iter()
        .filter(|(name, _)| one.is_none_or(|o| o == *name) && !excluded.contains(name))
        .map(|(name, check)| (*name, check(server)))
        .collect();
    if one.is_some() && chosen.is_empty() {
        return Some(Err(Status::unknown_resource()));
    }
    let failed = chosen.iter().any(|(_, problem)| problem.is_some());
    let text = match (failed, info.query.has("verbose")) {
        (false, false) => "ok".to_owned(),
        (_, _) => listing(endpoint, &chosen, failed),
    };
    let code = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    Some(Ok(plain_text(code, text)))
}

fn listing(endpoint: &str, checks: &[(&str, Option<&str>)], failed: bool) -> String {
    let mut text = String::new();
    for (name, problem) in checks {
        match problem {
            None => text.push_str(&format!("[+]{name} ok\n")),
            Some(problem) => text.push_str(&format!("[-]{name} failed: {problem}\n")),
        }
    }
    text.push_str(&format!("{endpoint} check {}\n", if failed { "failed" } else { "passed" }));
    text
}

/// A text answer.
pub(crate) fn plain_text(code: StatusCode, text: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::from(text));
    *response.status_mut() = code;
    let media = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}
