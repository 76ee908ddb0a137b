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
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Excluded,
    Failed(String),
}

/// The checks of an endpoint, and what is wrong by each.
fn problems(server: &Server, checks: &[(&'static str, Check)]) -> Vec<(String, Option<String>)> {
    let own = checks.iter().map(|(name, check)| ((*name).to_owned(), check(server).map(str::to_owned)));
    own.chain(key_services(server.objects.key_services(), server.reloads_keys)).collect()
}

/// A check for each key management service; where their configuration may change one for all.
fn key_services(services: Vec<Option<String>>, is_one: bool) -> Vec<(String, Option<String>)> {
    if is_one && !services.is_empty() {
        return vec![("kms-providers".to_owned(), services.into_iter().flatten().next())];
    }
    let named = services.into_iter().enumerate();
    named.map(|(index, problem)| (format!("kms-provider-{index}"), problem)).collect()
}

/// The answer at a health path.
pub(crate) fn answer(
    server: &Arc<Server>,
    info: &RequestInfo,
) -> Option<Result<http::Response<Body>, Status>> {
    let mut segments = info.path.trim_matches('/').splitn(2, '/');
    let endpoint = segments.next()?;
    let checks = match endpoint {
        "livez" => problems(server, LIVE),
        "readyz" | "healthz" => problems(server, READY),
        _ => return None,
    };
    let one = segments.next();
    let excluded: Vec<_> = info.query.get_all("exclude").filter(|name| !name.is_empty()).collect();
    let unknown: Vec<_> =
        excluded.iter().copied().filter(|name| checks.iter().all(|(known, _)| known != name)).collect();
    let outcome = |name: &str, problem: Option<String>| match (excluded.contains(&name), problem) {
        (true, _) => Outcome::Excluded,
        (false, None) => Outcome::Passed,
        (false, Some(problem)) => Outcome::Failed(problem),
    };
    let chosen: Vec<_> = checks
        .into_iter()
        .filter(|(name, _)| one.is_none_or(|o| o == *name))
        .map(|(name, problem)| (name.clone(), outcome(&name, problem)))
        .collect();
    if one.is_some() && chosen.is_empty() {
        return Some(Ok(plain_text(StatusCode::NOT_FOUND, "404 page not found\n".into())));
    }
    let failed = chosen.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
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

fn listing(endpoint: &str, checks: &[(String, Outcome)], unknown: &[&str]) -> String {
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
        let checks = [
            ("ping".to_owned(), Outcome::Passed),
            ("etcd".to_owned(), Outcome::Failed("gone".to_owned())),
            ("shutdown".to_owned(), Outcome::Excluded),
        ];
        let text = listing("readyz", &checks, &["other"]);
        let expected = "[+]ping ok\n[-]etcd failed: gone\n[+]shutdown excluded: ok\n\
            warn: some health checks cannot be excluded: no matches for \"other\"\nreadyz check failed\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn each_key_service_has_a_check_or_all_have_one() {
        let services = || vec![None, Some("it sleeps".to_owned())];
        let names = |is_one| -> Vec<_> {
            key_services(services(), is_one).into_iter().map(|(name, why)| (name, why.is_some())).collect()
        };
        assert_eq!(names(false), [("kms-provider-0".to_owned(), false), ("kms-provider-1".to_owned(), true)]);
        assert_eq!(names(true), [("kms-providers".to_owned(), true)]);
        assert!(key_services(Vec::new(), true).is_empty());
    }
}
