//! One `audit.k8s.io/v1` Event, and how a request becomes one.

use std::collections::BTreeMap;

use axum::extract::Request;
use chrono::{DateTime, SecondsFormat, Utc};
use http::header;
use serde::Serialize;
use serde_json::{Value, json};

use super::policy::{Level, Stage};
use crate::UserInfo;
use crate::authn::PeerAddress;
use crate::authn::impersonation::Impersonated;
use crate::authz::review::user_value;
use crate::request_info::RequestInfo;

/// What is known of a request so far. The order of fields is that of Kubernetes' events.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    kind: &'static str,
    api_version: &'static str,
    level: Level,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: Option<Stage>,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<Value>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

/// A longer user agent is cut, as in Kubernetes.
const USER_AGENT_BYTES_MAX: usize = 1024;

impl Event {
    pub(super) fn new(
        level: Level,
        id: &str,
        request: &Request,
        info: &RequestInfo,
        user: &UserInfo,
        now: DateTime<Utc>,
    ) -> Self {
        let uri = request.uri().path_and_query().map_or(info.path.as_str(), |uri| uri.as_str());
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level,
            audit_id: id.to_owned(),
            stage: None,
            request_uri: uri.to_owned(),
            verb: info.verb.clone(),
            user: if user.name.is_empty() { json!({}) } else { user_value(user) },
            impersonated_user: None,
            authentication_metadata: None,
            source_ips: source_ips(request),
            user_agent: user_agent(request),
            object_ref: info.is_resource.then(|| Reference::of(info)),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: micros(now),
            stage_timestamp: String::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// The event at a stage, as a line of JSON.
    pub(super) fn line(&mut self, stage: Stage, now: DateTime<Utc>) -> Vec<u8> {
        self.stage = Some(stage);
        self.stage_timestamp = micros(now);
        let mut line = serde_json::to_vec(self).expect("an event always encodes into memory");
        line.push(b'\n');
        line
    }

    pub(super) fn set_impersonated(&mut self, impersonated: &Impersonated) {
        self.impersonated_user = Some(user_value(&impersonated.user));
        if !impersonated.constraint.is_empty() {
            self.authentication_metadata = Some(json!({"impersonationConstraint": impersonated.constraint}));
        }
    }

    pub(super) fn set_code(&mut self, code: u16) {
        self.response_status = Some(json!({"metadata": {}, "code": code}));
    }

    pub(super) fn set_refused(&mut self, code: u16, message: &str) {
        self.response_status =
            Some(json!({"metadata": {}, "status": "Failure", "message": message, "code": code}));
    }

    /// Takes over what a `Status` says.
    pub(super) fn set_failure(&mut self, status: &Value) {
        if status["kind"] != "Status" {
            return;
        }
        let mut kept = json!({"metadata": {}});
        for field in ["status", "message", "reason", "details", "code"] {
            if let Some(value) = status.get(field) {
                kept[field] = value.clone();
            }
        }
        self.response_status = Some(kept);
    }

    /// Fills in what only the body says of the object.
    pub(super) fn complete_reference(&mut self, body: &Value) {
        let Some(reference) = &mut self.object_ref else { return };
        let fill = |into: &mut String, field: &str| {
            if into.is_empty() {
                body["metadata"][field].as_str().unwrap_or_default().clone_into(into);
            }
        };
        fill(&mut reference.namespace, "namespace");
        fill(&mut reference.name, "name");
        fill(&mut reference.uid, "uid");
        fill(&mut reference.resource_version, "resourceVersion");
    }
}

impl Reference {
    fn of(info: &RequestInfo) -> Self {
        Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            uid: String::new(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            resource_version: String::new(),
            subresource: info.subresource.clone(),
        }
    }
}

fn micros(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Forwarded addresses first, the connection's own last.
fn source_ips(request: &Request) -> Vec<String> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let named = header("x-forwarded-for").split(',').chain([header("x-real-ip")]).map(str::trim);
    let mut ips: Vec<String> =
        named.filter(|text| text.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect();
    let own = request.extensions().get::<PeerAddress>();
    ips.push(own.map_or_else(|| "127.0.0.1".to_owned(), |peer| peer.0.ip().to_string()));
    ips.dedup();
    ips
}

fn user_agent(request: &Request) -> String {
    let text = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text.len() > USER_AGENT_BYTES_MAX {
        true => format!("{}...TRUNCATED", text.chars().take(USER_AGENT_BYTES_MAX).collect::<String>()),
        false => text.to_owned(),
    }
}
