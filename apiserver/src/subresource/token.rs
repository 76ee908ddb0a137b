//! `token`: a TokenRequest for a service account, answered with a signed token and never stored.

use api_types::kinds::{self, Kind};
use api_types::status::{Details, FieldError, Reason, Status};
use chrono::SecondsFormat;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Action, Subresource, check_name};
use crate::admission::{Operation, Options};
use crate::authn::service_account::{Bound, Claims, ISSUER, Reference, Tokens};
use crate::rest::{Answer, Call, WriteOptions, admit_body, decode, media_type, typed};
use crate::view::View;

pub(super) struct Token;

impl Subresource for Token {
    const NAME: &'static str = "token";
    const ACTION: Action = Action::Do(request);
}

fn request(call: Call) -> BoxFuture<'static, Answer> {
    async move {
        let options = WriteOptions::parse(&call.info.query, &call.headers, "CreateOptions")?;
        let kind = call.kind.body_of(Token::NAME).ok_or_else(Status::unknown_resource)?;
        let decoded = decode(media_type(&call.headers), &call.body, "TokenRequest")?;
        let mut body = typed::read_part(&call, decoded, "", options.field_validation)?;
        if body["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty()) {
            check_name(&call, &body)?;
        }
        default(&kind, &mut body);
        typed::track_body(&call, &kind, &mut body, &options.manager);
        let account = call.value_of(&*call.stored()?);
        admit_body(&call, Operation::Create, Options::Write(&options), &mut body).await?;
        let answer = issue(&call.server.tokens, &*call.server.view, &account, body)?;
        call.plain(StatusCode::CREATED, &answer)
    }
    .boxed()
}

/// Bounds of a token's life.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_USUAL: i64 = 3600;
/// What node agents ask for; such a token is good for a year, because old clients read it only once, and
/// is reported as stale after the hour.
const SECONDS_OF_NODE_AGENTS: i64 = 3607;
const YEAR_SECONDS: i64 = 365 * 24 * 3600;

fn default(kind: &Kind, body: &mut Value) {
    body["apiVersion"] = kind.api_version().into();
    body["kind"] = kind.kind.as_str().into();
    for field in ["metadata", "spec"] {
        if !body[field].is_object() {
            body[field] = json!({});
        }
    }
    if body["spec"]["expirationSeconds"].is_null() {
        body["spec"]["expirationSeconds"] = SECONDS_USUAL.into();
    }
}

/// The answered request for `account`.
fn issue(tokens: &Tokens, view: &dyn View, account: &Value, mut body: Value) -> Result<Value, Status> {
    let text = |path: &str| account.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name, uid) = (text("/metadata/namespace"), text("/metadata/name"), text("/metadata/uid"));
    let seconds = seconds(&name, &body["spec"])?;
    let audiences: Vec<String> = body["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let is_ours = audiences.is_empty() || audiences.iter().any(|a| a == ISSUER);
    let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
    let now = tokens.clock().now();
    let bound_to_pod = body["spec"]["boundObjectRef"]["kind"] == "Pod";
    let (life, warnafter) = match (seconds, is_ours && bound_to_pod) {
        (SECONDS_OF_NODE_AGENTS, true) => (YEAR_SECONDS, Some(now.timestamp() + seconds)),
        _ => (seconds, None),
    };
    let mut bound = Bound { namespace: namespace.clone(), warnafter, ..Bound::default() };
    bound.serviceaccount = Reference { name: name.clone(), uid };
    bind(&mut bound, view, &body["spec"]["boundObjectRef"], &name)?;
    let expires = now + chrono::Duration::seconds(life);
    let claims = Claims {
        aud: audiences.clone(),
        exp: expires.timestamp(),
        iat: now.timestamp(),
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound,
        nbf: now.timestamp(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let token = tokens.sign(&claims).map_err(Status::internal)?;
    let owned = body["metadata"]["managedFields"].take();
    body["metadata"] = json!({"name": name, "namespace": namespace, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now.to_rfc3339_opts(SecondsFormat::Secs, true)});
    if !owned.is_null() {
        body["metadata"]["managedFields"] = owned;
    }
    body["spec"]["audiences"] = json!(audiences);
    body["spec"]["expirationSeconds"] = json!(seconds);
    if body["spec"].get("boundObjectRef").is_none() {
        body["spec"]["boundObjectRef"] = Value::Null;
    }
    body["status"] = json!({
        "expirationTimestamp": expires.to_rfc3339_opts(SecondsFormat::Secs, true),
        "token": token,
    });
    Ok(body)
}

fn seconds(name: &str, spec: &Value) -> Result<i64, Status> {
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(SECONDS_USUAL);
    let wrong = |why: &str| {
        let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
        Err(Status::invalid_kind("authentication.k8s.io", "TokenRequest", name, vec![error]))
    };
    match seconds {
        ..SECONDS_MIN => wrong("may not specify a duration less than 10 minutes"),
        s if s > SECONDS_MAX => wrong("may not specify a duration larger than 2^32 seconds"),
        _ => Ok(seconds),
    }
}

/// Adds what the token shall end with.
fn bind(bound: &mut Bound, view: &dyn View, wanted: &Value, account: &str) -> Result<(), Status> {
    if wanted.is_null() {
        return Ok(());
    }
    let text = |field: &str| wanted[field].as_str().unwrap_or_default();
    let (kind, name) = (text("kind"), text("name"));
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        _ => return Err(cannot_bind(account, wanted)),
    };
    let row = kinds::find_resource("", "v1", plural).ok_or_else(Status::unknown_resource)?;
    if wanted["apiVersion"].as_str().is_some_and(|version| !version.is_empty() && version != "v1") {
        return Err(cannot_bind(account, wanted));
    }
    let namespace = if plural == "nodes" { "" } else { bound.namespace.as_str() };
    let object = view.object(plural, namespace, name).ok_or_else(|| Status::not_found(row, name))?;
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(expected) = wanted["uid"].as_str().filter(|u| !u.is_empty() && *u != uid) {
        let why = format!(
            "the UID in the bound object reference ({expected}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        // The kind as the request has it, where other conflicts name the resource.
        let details = Details { name: name.to_owned(), kind: kind.to_owned(), ..Details::default() };
        let message = format!("Operation cannot be fulfilled on {kind} {name:?}: {why}");
        return Err(Status::new(Reason::Conflict, message).with_details(details));
    }
    let reference = Some(Reference { name: name.to_owned(), uid: uid.to_owned() });
    match plural {
        "pods" => {
            bind_pod(bound, view, &object, account)?;
            bound.pod = reference;
        }
        "secrets" => bound.secret = reference,
        _ => bound.node = reference,
    }
    Ok(())
}

fn cannot_bind(account: &str, wanted: &Value) -> Status {
    let text = |field: &str| wanted[field].as_str().unwrap_or_default();
    let version = match text("apiVersion").rsplit_once('/') {
        Some((group, version)) => format!("{group}/{version}"),
        None => format!("/{}", text("apiVersion")),
    };
    Status::bad_request(format!(
        "cannot bind token for serviceaccount {account:?} to object of type {version}, Kind={}",
        text("kind")
    ))
}

/// A pod's token says also which node the pod is on.
fn bind_pod(bound: &mut Bound, view: &dyn View, pod: &Value, account: &str) -> Result<(), Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if pod["spec"]["serviceAccountName"] != account {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        )));
    }
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty() && !name.is_empty())
    else {
        return Ok(());
    };
    if let Some(object) = view.object("nodes", "", node) {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        bound.node = Some(Reference { name: node.to_owned(), uid });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use component_base::clock::Clock;

    use super::*;
    use crate::view::fixture::Fixture;

    fn account() -> Value {
        json!({"metadata": {"name": "robot", "namespace": "ns", "uid": "u1"}})
    }

    fn tokens() -> Tokens {
        let clock = Clock::system();
        Tokens::new(&crate::Pki::ensure(None, clock, &[]).unwrap(), clock)
    }

    fn world() -> Fixture {
        Fixture::default()
            .with("pods", json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u2"}, "spec": {"serviceAccountName": "robot", "nodeName": "n1"}}))
            .with("nodes", json!({"metadata": {"name": "n1", "uid": "u3"}}))
    }

    #[tokio::test]
    async fn a_pods_token_names_its_account_pod_and_node() {
        let tokens = tokens();
        let body = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "name": "p", "uid": "u2"}}});
        let answer = issue(&tokens, &world(), &account(), body).unwrap();
        let claims = tokens.verify(answer["status"]["token"].as_str().unwrap()).unwrap();
        assert_eq!(claims.sub, "system:serviceaccount:ns:robot");
        assert_eq!(claims.bound.pod.unwrap().uid, "u2");
        assert_eq!(claims.bound.node.unwrap().uid, "u3");
        assert_eq!(claims.exp - claims.iat, YEAR_SECONDS);
        assert_eq!(claims.bound.warnafter, Some(claims.iat + 3607));
    }

    #[tokio::test]
    async fn what_cannot_be_bound_is_refused() {
        let cases = [
            (json!({"expirationSeconds": 60}), 422),
            (json!({"boundObjectRef": {"kind": "Pod", "name": "gone"}}), 404),
            (json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "old"}}), 409),
            (json!({"boundObjectRef": {"kind": "Service", "name": "p"}}), 400),
        ];
        for (spec, code) in cases {
            let error = issue(&tokens(), &world(), &account(), json!({"spec": spec.clone()})).unwrap_err();
            assert_eq!(error.code(), code, "{spec}");
        }
    }
}
