//! Errors as clients see them: Kubernetes' `Status` with its reasons, codes, texts and causes. This is the one
//! place that knows them, so that the same failure reads the same wherever it happens.

mod field;

use crate::kinds::Kind;
use serde_json::{Map, Value, json};
use std::fmt;

pub use field::{FieldError, FieldReason};

/// Machine-readable cause of a failure, as in `metav1.StatusReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Kubernetes leaves the reason of some failures out.
    Unknown,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServerTimeout,
    ServiceUnavailable,
    Timeout,
}

impl Reason {
    const ALL: &[Reason] = &[
        Reason::BadRequest,
        Reason::Unauthorized,
        Reason::Forbidden,
        Reason::NotFound,
        Reason::MethodNotAllowed,
        Reason::NotAcceptable,
        Reason::AlreadyExists,
        Reason::Conflict,
        Reason::Gone,
        Reason::Expired,
        Reason::RequestEntityTooLarge,
        Reason::UnsupportedMediaType,
        Reason::Invalid,
        Reason::TooManyRequests,
        Reason::InternalError,
        Reason::ServerTimeout,
        Reason::ServiceUnavailable,
        Reason::Timeout,
    ];

    /// The text of the `reason` field; empty for `Unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unknown => "",
            Reason::BadRequest => "BadRequest",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Expired => "Expired",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::Invalid => "Invalid",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::InternalError => "InternalError",
            Reason::ServerTimeout => "ServerTimeout",
            Reason::ServiceUnavailable => "ServiceUnavailable",
            Reason::Timeout => "Timeout",
        }
    }

    fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::Unknown | Reason::InternalError | Reason::ServerTimeout => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}

/// One of several causes of a failure (`metav1.StatusCause`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// What a failure is about (`metav1.StatusDetails`). Empty fields are not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource, or for `Invalid` the kind.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub reason: Reason,
    pub message: String,
    code: u16,
    details: Option<Box<Details>>,
    /// A reason that somebody else gave and that is none of Kubernetes' own.
    foreign_reason: Option<Box<str>>,
    /// Where a list that cannot go on consistently could go on all the same.
    continues: Option<Box<str>>,
}

impl Status {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Status {
            reason,
            message: message.into(),
            code: reason.code(),
            details: None,
            foreign_reason: None,
            continues: None,
        }
    }

    /// A failure that Kubernetes gives a code and a text but no reason.
    pub fn unexplained(code: u16, message: impl Into<String>) -> Self {
        Status { code, ..Status::new(Reason::Unknown, message) }
    }

    /// A refusal that somebody else decided on and described as a `Status`, passed on with the message
    /// `message`. What is not an error's code becomes 400.
    pub fn relayed(given: &Value, message: impl Into<String>) -> Self {
        let code = given["code"].as_u64().and_then(|c| u16::try_from(c).ok());
        let code = code.filter(|c| (400..1000).contains(c)).unwrap_or(400);
        let reason = given["reason"].as_str().unwrap_or_default();
        let known = Reason::ALL.iter().copied().find(|r| r.as_str() == reason).unwrap_or(Reason::Unknown);
        let foreign = known == Reason::Unknown && !reason.is_empty();
        let details = given["details"].is_object().then(|| Box::new(Details::from_value(&given["details"])));
        Status {
            code,
            details,
            foreign_reason: foreign.then(|| reason.into()),
            ..Status::new(known, message)
        }
    }

    /// Offers a token with which a list can go on, inconsistently.
    pub fn with_continue(mut self, token: String) -> Self {
        self.continues = Some(token.into());
        self
    }

    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Adds the time after which a client may try again.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub fn code(&self) -> u16 {
        self.code
    }

    pub fn details(&self) -> Option<&Details> {
        self.details.as_deref()
    }

    fn about(reason: Reason, kind: &Kind, name: &str, message: String) -> Self {
        Self::new(reason, message).with_details(Details {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.plural.clone(),
            ..Details::default()
        })
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::about(Reason::NotFound, kind, name, format!("{} {name:?} not found", kind.group_resource()))
    }

    /// No such path, resource or version.
    pub fn unknown_resource() -> Self {
        Self::new(Reason::NotFound, "the server could not find the requested resource")
            .with_details(Details::default())
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.group_resource());
        Self::about(Reason::AlreadyExists, kind, name, message)
    }

    /// Two writers raced: the object is not the one that the client read.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub fn conflict(kind: &Kind, name: &str, why: impl fmt::Display) -> Self {
        let resource = kind.group_resource();
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::about(Reason::Conflict, kind, name, message)
    }

    /// Refused by authorization or admission. An empty name leaves the name out.
    pub fn forbidden(kind: &Kind, name: &str, why: impl fmt::Display) -> Self {
        let resource = kind.group_resource();
        let message = match name {
            "" => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Self::about(Reason::Forbidden, kind, name, message)
    }

    /// The object breaks rules of its kind.
    pub fn invalid(kind: &Kind, name: &str, errors: Vec<FieldError>) -> Self {
        Self::invalid_kind(&kind.group, &kind.kind, name, errors)
    }

    /// As `invalid`, for bodies that are no kind of the table (`PatchOptions.meta.k8s.io`).
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut texts: Vec<String> = Vec::new();
        for text in errors.iter().map(ToString::to_string) {
            // What several rules say alike is told once; the causes have it as often as it was found.
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self::new(Reason::Invalid, format!("{qualified} {name:?} is invalid: {text}")).with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes: errors.iter().map(FieldError::to_cause).collect(),
            ..Details::default()
        })
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// The body cannot be read as the kind: `Pod in version "v1" cannot be handled as a Pod: why`.
    pub fn undecodable(kind: &Kind, why: impl fmt::Display) -> Self {
        let (name, version) = (&kind.kind, &kind.version);
        Self::bad_request(format!("{name} in version {version:?} cannot be handled as a {name}: {why}"))
    }

    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
            .with_details(Details::default())
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let accepted = accepted.join(", ");
        Self::new(Reason::NotAcceptable, format!("only the following media types are accepted: {accepted}"))
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let accepted = accepted.join(", ");
        Self::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    /// The state that the client wants to continue from is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(Reason::Gone, message)
    }

    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit_bytes}"))
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(Reason::TooManyRequests, message).retry_after(retry_after_seconds)
    }

    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::new(Reason::Timeout, format!("Timeout: {message}")).with_details(Details::default())
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message)
    }

    pub fn internal(error: impl fmt::Display) -> Self {
        let message = error.to_string();
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}")).with_details(
            Details { causes: vec![Cause { message, ..Cause::default() }], ..Details::default() },
        )
    }

    /// The `Status` object of the answer.
    pub fn to_value(&self) -> Value {
        let mut status = Map::new();
        status.insert("kind".into(), "Status".into());
        status.insert("apiVersion".into(), "v1".into());
        let mut metadata = Map::new();
        put(&mut metadata, "continue", self.continues.as_deref().unwrap_or_default());
        status.insert("metadata".into(), metadata.into());
        status.insert("status".into(), "Failure".into());
        status.insert("message".into(), self.message.as_str().into());
        match &self.foreign_reason {
            Some(reason) => status.insert("reason".into(), reason.to_string().into()),
            None if self.reason != Reason::Unknown => {
                status.insert("reason".into(), self.reason.as_str().into())
            }
            None => None,
        };
        if let Some(details) = &self.details {
            status.insert("details".into(), details.to_value());
        }
        status.insert("code".into(), self.code.into());
        Value::Object(status)
    }
}

impl Details {
    fn from_value(given: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let causes = given["causes"].as_array().into_iter().flatten().map(|cause| Cause {
            reason: text(&cause["reason"]),
            message: text(&cause["message"]),
            field: text(&cause["field"]),
        });
        Details {
            name: text(&given["name"]),
            group: text(&given["group"]),
            kind: text(&given["kind"]),
            uid: text(&given["uid"]),
            causes: causes.collect(),
            retry_after_seconds: given["retryAfterSeconds"]
                .as_u64()
                .and_then(|s| u32::try_from(s).ok())
                .unwrap_or_default(),
        }
    }

    fn to_value(&self) -> Value {
        let mut details = Map::new();
        put(&mut details, "name", &self.name);
        put(&mut details, "group", &self.group);
        put(&mut details, "kind", &self.kind);
        put(&mut details, "uid", &self.uid);
        if !self.causes.is_empty() {
            details.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(details)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Map::new();
        put(&mut cause, "reason", &self.reason);
        put(&mut cause, "message", &self.message);
        put(&mut cause, "field", &self.field);
        Value::Object(cause)
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        map.insert(key.into(), value.into());
    }
}

/// The answer to a request that worked and has no object to show, such as a completed deletion.
pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: kind.group.clone(),
        kind: kind.plural.clone(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find_kind;
    use expect_test::{Expect, expect};

    fn deployment() -> &'static Kind {
        find_kind("apps", "v1", "Deployment").unwrap()
    }

    fn check(status: &Status, expect: Expect) {
        expect.assert_eq(&status.to_value().to_string());
    }

    #[test]
    fn a_missing_object_is_named_with_its_resource() {
        check(
            &Status::not_found(find_kind("", "v1", "Pod").unwrap(), "x"),
            expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#
            ]],
        );
    }

    #[test]
    fn a_stale_update_says_what_to_do() {
        check(
            &Status::modified(deployment(), "x"),
            expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Operation cannot be fulfilled on deployments.apps \"x\": the object has been modified; please apply your changes to the latest version and try again","reason":"Conflict","details":{"name":"x","group":"apps","kind":"deployments"},"code":409}"#
            ]],
        );
    }

    #[test]
    fn an_invalid_object_has_a_cause_for_each_field() {
        let errors = vec![
            FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0"),
            FieldError::not_supported("spec.strategy.type", "Fast", &["Recreate", "RollingUpdate"]),
            FieldError::required("spec.selector", ""),
        ];
        check(
            &Status::invalid(deployment(), "x", errors),
            expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Deployment.apps \"x\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0, spec.strategy.type: Unsupported value: \"Fast\": supported values: \"Recreate\", \"RollingUpdate\", spec.selector: Required value]","reason":"Invalid","details":{"name":"x","group":"apps","kind":"Deployment","causes":[{"reason":"FieldValueInvalid","message":"Invalid value: -1: must be greater than or equal to 0","field":"spec.replicas"},{"reason":"FieldValueNotSupported","message":"Unsupported value: \"Fast\": supported values: \"Recreate\", \"RollingUpdate\"","field":"spec.strategy.type"},{"reason":"FieldValueRequired","message":"Required value","field":"spec.selector"}]},"code":422}"#
            ]],
        );
    }

    #[test]
    fn a_single_error_stands_without_brackets() {
        let errors = vec![FieldError::duplicate("spec.ports[1]", json!({"port": 80}))];
        check(
            &Status::invalid(deployment(), "x", errors),
            expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Deployment.apps \"x\" is invalid: spec.ports[1]: Duplicate value: {\"port\":80}","reason":"Invalid","details":{"name":"x","group":"apps","kind":"Deployment","causes":[{"reason":"FieldValueDuplicate","message":"Duplicate value: {\"port\":80}","field":"spec.ports[1]"}]},"code":422}"#
            ]],
        );
    }

    #[test]
    fn an_internal_error_keeps_its_text_as_cause() {
        check(
            &Status::internal("disk on fire"),
            expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Internal error occurred: disk on fire","reason":"InternalError","details":{"causes":[{"message":"disk on fire"}]},"code":500}"#
            ]],
        );
    }

    #[test]
    fn a_failure_without_reason_keeps_its_code() {
        check(
            &Status::unexplained(500, "odd"),
            expect![[
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"odd","code":500}"#
            ]],
        );
    }
}
