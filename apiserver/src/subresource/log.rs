//! `log`: what a container wrote, from the agent of its node.

use api_types::status::{FieldError, Status};
use chrono::DateTime;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Action, Subresource};
use crate::node_proxy;
use crate::request_info::Query;
use crate::rest::{self, Answer, Call};

pub(super) struct Log;

impl Subresource for Log {
    const NAME: &'static str = "log";
    const ACTION: Action = Action::Do(answer);
}

fn answer(call: Call) -> BoxFuture<'static, Answer> {
    match check(&call.info.query, &call.info.name) {
        Ok(()) => ask(call),
        Err(status) => futures::future::ready(Err(status)).boxed(),
    }
}

/// Options that make no sense are refused before anybody looks for the pod.
fn check(query: &Query, pod: &str) -> Result<(), Status> {
    let number = |name: &str| rest::number(query, name);
    let (tail, limit, since) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let since_time = query.get("sinceTime");
    if let Some(time) = since_time.filter(|time| DateTime::parse_from_rfc3339(time).is_err()) {
        let why = format!(
            "parsing time {time:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {time:?} as \"2006\""
        );
        return Err(Status::bad_request(why));
    }
    let mut errors = Vec::new();
    if let Some(tail) = tail.filter(|lines| *lines < 0) {
        errors.push(FieldError::invalid("tailLines", tail, "must be greater than or equal to 0"));
    }
    if let Some(limit) = limit.filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid("limitBytes", limit, "must be greater than 0"));
    }
    match (since, since_time) {
        (Some(_), Some(_)) => {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("", why));
        }
        (Some(seconds), None) if seconds < 1 => {
            errors.push(FieldError::invalid("sinceSeconds", seconds, "must be greater than 0"));
        }
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid_kind("", "PodLogOptions", pod, errors)) }
}

fn ask(call: Call) -> BoxFuture<'static, Answer> {
    node_proxy::container(
        call,
        "containerLogs",
        &[
            "follow",
            "previous",
            "timestamps",
            "sinceSeconds",
            "sinceTime",
            "tailLines",
            "limitBytes",
            "stream",
        ],
    )
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> Option<(u16, Vec<String>)> {
        let status = check(&Query::parse(query), "p").err()?;
        let causes = status.details().into_iter().flat_map(|details| &details.causes);
        Some((status.code(), causes.map(|cause| cause.field.clone()).collect()))
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for good in ["", "tailLines=0", "limitBytes=1&sinceSeconds=5", "sinceTime=2026-01-02T03:04:05Z"] {
            assert_eq!(refused(good), None, "{good}");
        }
        for (bad, field) in [
            ("tailLines=-1", "tailLines"),
            ("limitBytes=0", "limitBytes"),
            ("sinceSeconds=0", "sinceSeconds"),
        ] {
            assert_eq!(refused(bad), Some((422, vec![field.to_owned()])), "{bad}");
        }
        assert_eq!(refused("sinceSeconds=5&sinceTime=2026-01-02T03:04:05Z").map(|(code, _)| code), Some(422));
        for unreadable in ["tailLines=x", "sinceTime=yesterday"] {
            assert_eq!(refused(unreadable).map(|(code, _)| code), Some(400), "{unreadable}");
        }
    }
}
