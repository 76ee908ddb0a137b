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

const PING: (&str, Check) = ("ping", |_| None);
const STORE: (&str, Check) = ("etcd", |s| s.objects.is_failing().then_some("writes do not reach the store"));

static LIVE: &[(&str, Check)] = &[PING, STORE];
static READY: &[(&str, Check)] = &[
    PING,
    STORE,
    ("poststarthook/rbac/bootstrap-roles", |s| (!s.ready.load(Ordering::Acquire)).then_some("not finished")),
    ("shutdown", |s| s.shutdown.is_cancelled().then_some("process is shutting down")),
];

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Excluded,
    Failed(&'static str),
}

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
    let excluded: Vec<_> = info.query.get_all("exclude").filter(|name| !name.is_empty()).collect();
    let outcome = |name: &str, check: Check| match (excluded.contains(&name), check(server)) {
        (true, _) => Outcome::Excluded,
        (false, None) => Outcome::Passed,
        (false, Some(problem)) => Outcome::Failed(problem),
    };
    let chosen: Vec<_> = checks
        .iter()
        .filter(|(name, _)| one.is_none_or(|o| o == *name))
        .map(|(name, check)| (*name, outcome(name, *check)))
        .collect();
    if one.is_some() && chosen.is_empty() {
        return Some(Ok(plain_text(StatusCode::NOT_FOUND, "404 page not found\n".into())));
    }
    let failed = chosen.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    let unknown: Vec<_> =
        excluded.into_iter().filter(|name| checks.iter().all(|(known, _)| known != name)).collect();
    let text = match (failed, info.query.has("verbose")) {
        (false, false) => "ok".to_owned(),
        (_, _) => listing(endpoint, &chosen, &unknown),
    };
    let code = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let mut response = plain_text(code, text);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Some(Ok(response))
}

fn listing(endpoint: &str, checks: &[(&str, Outcome)], unknown: &[&str]) -> String {
    let mut text = String::new();
    for (name, outcome) in checks {
        match outcome {
            Outcome::Passed => text.push_str(&format!("[+]{name} ok\n")),
            Outcome::Excluded => text.push_str(&format!("[+]{name} excluded: ok\n")),
            Outcome::Failed(problem) => text.push_str(&format!("[-]{name} failed: {problem}\n")),
        }
    }
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    let failed = checks.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_and_what_is_left_out_is_listed() {
        let checks =
            [("ping", Outcome::Passed), ("etcd", Outcome::Failed("gone")), ("shutdown", Outcome::Excluded)];
        let text = listing("readyz", &checks, &["other"]);
        let expected = "[+]ping ok\n[-]etcd failed: gone\n[+]shutdown excluded: ok\n\
            warn: some health checks cannot be excluded: no matches for \"other\"\nreadyz check failed\n";
        assert_eq!(text, expected);
    }
}
