//! `POST /coxswain/v1/transactions`: several writes in one revision, or none of them. An extension of ours.
//!
//! Each operation is a request of its own, authorized, decoded, admitted and validated like any other; only
//! its commit is held back, and the store takes all of them as one. The path itself needs no permission.

use std::sync::Arc;

use api_types::patch::changes::changes;
use api_types::schema;
use api_types::status::{Cause as StatusCause, Details, Status};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::UserInfo;
use crate::authz::Attributes;
use crate::negotiate::{self, Accept};
use crate::request_info::{self, RequestInfo};
use crate::rest::{self, Call, Connection, Difference, Staging, Translations};
use crate::server::Server;
use crate::store::{Cause, CommitError, Key, Precondition, Revision};

/// Where transactions are posted.
pub(crate) const PATH: &str = "/coxswain/v1/transactions";
const OPERATIONS_MAX: usize = 1000;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    #[expect(dead_code, reason = "clients may say what they send")]
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "clients may say what they send")]
    api_version: String,
    operations: Vec<Operation>,
    /// What must hold of objects that the transaction does not write.
    #[serde(default)]
    preconditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Operation {
    method: String,
    /// With the query: `/api/v1/namespaces/a/configmaps?fieldManager=me`.
    path: String,
    #[serde(default = "json_media")]
    content_type: String,
    #[serde(default)]
    body: Value,
}

fn json_media() -> String {
    "application/json".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Condition {
    path: String,
    /// The object is as it was at this revision; empty: there is none.
    resource_version: String,
}

/// A request for a transaction.
pub(crate) struct Request {
    pub(crate) user: UserInfo,
    pub(crate) headers: HeaderMap,
    pub(crate) info: Arc<RequestInfo>,
    pub(crate) audit_id: String,
    pub(crate) body: bytes::Bytes,
}

/// Does the transaction, or says why not.
pub(crate) async fn answer(server: &Arc<Server>, request: Request) -> Result<Value, Status> {
    let asked: Asked = serde_json::from_slice(&request.body)
        .map_err(|error| Status::bad_request(format!("the body is not a transaction: {error}")))?;
    if asked.operations.is_empty() || asked.operations.len() > OPERATIONS_MAX {
        return Err(Status::bad_request(format!("a transaction has 1 to {OPERATIONS_MAX} operations")));
    }
    let dry_run = match request.info.query.get("dryRun") {
        None => false,
        Some("All") => true,
        Some(other) => return Err(Status::bad_request(format!("dryRun: Unsupported value: {other:?}"))),
    };
    for _ in 0..server.limits.write_attempts_max {
        let preconditions = check_conditions(server, &request, &asked.preconditions).await?;
        let staging = Arc::new(Staging::new(server.objects.clone()));
        let results = run_all(server, &request, &asked.operations, &staging).await?;
        let differences = staging.differences();
        if dry_run {
            return Ok(told(server, &results, &differences, None));
        }
        let transaction = staging.transaction(preconditions, cause(&request));
        match server.objects.commit(transaction).await {
            Ok(revision) => {
                staging.settle(&server.services);
                return Ok(told(server, &results, &differences, Some(revision)));
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(rest::commit_status(&error)),
        }
    }
    Err(Status::timeout("other writers were faster each time"))
}

fn cause(request: &Request) -> Cause {
    Cause {
        user: request.user.name.clone(),
        request: request.audit_id.clone(),
        call: format!("POST {PATH}"),
        acted_on: rest::acted_on(&request.headers),
        ..Cause::default()
    }
}

/// What an operation has answered.
struct Outcome {
    code: u16,
    body: Value,
    warnings: Vec<String>,
    /// Whether it has written anything.
    wrote: bool,
}

/// Runs all operations; every one that is refused is told, not only the first.
async fn run_all(
    server: &Arc<Server>,
    request: &Request,
    operations: &[Operation],
    staging: &Arc<Staging>,
) -> Result<Vec<Outcome>, Status> {
    let (mut outcomes, mut refused) = (Vec::new(), Vec::new());
    for (index, operation) in operations.iter().enumerate() {
        match run(server, request, operation, staging).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(status) => refused.push((index, status)),
        }
    }
    if refused.is_empty() { Ok(outcomes) } else { Err(refusal(operations, &refused)) }
}

/// The first refusal, with all of them as causes.
fn refusal(operations: &[Operation], refused: &[(usize, Status)]) -> Status {
    let tell = |(index, status): &(usize, Status)| {
        let Operation { method, path, .. } = &operations[*index];
        format!("operations[{index}] ({method} {path}): {}", status.message)
    };
    let causes = refused.iter().map(|one| StatusCause {
        reason: one.1.reason.as_str().to_owned(),
        message: tell(one),
        field: format!("operations[{}]", one.0),
    });
    let mut status = refused[0].1.clone();
    status.message =
        format!("nothing was changed: {}", refused.iter().map(tell).collect::<Vec<_>>().join("; "));
    status.with_details(Details { causes: causes.collect(), ..Details::default() })
}

async fn run(
    server: &Arc<Server>,
    request: &Request,
    operation: &Operation,
    staging: &Arc<Staging>,
) -> Result<Outcome, Status> {
    let call = call(server, request, operation, staging).await?;
    let before = staging.writes();
    let response = rest::answer(call).await?;
    let code = response.status().as_u16();
    let warnings = response.headers().get_all(header::WARNING).iter();
    let warnings = warnings.filter_map(|w| Some(w.to_str().ok()?.to_owned())).collect();
    let bytes = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if code >= 400 {
        let message = body["message"].as_str().unwrap_or_default();
        return Err(Status::unexplained(code, message));
    }
    Ok(Outcome { code, body, warnings, wrote: staging.writes() > before })
}

/// An operation as the request that it would be by itself, authorized.
async fn call(
    server: &Arc<Server>,
    request: &Request,
    operation: &Operation,
    staging: &Arc<Staging>,
) -> Result<Call, Status> {
    let method = match operation.method.as_str() {
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        other => {
            let why = "only POST, PUT, PATCH and DELETE are";
            return Err(Status::bad_request(format!("{other} is no part of a transaction; {why}")));
        }
    };
    let info = parse(&method, &operation.path);
    server.authorizers.check(&Attributes::of(&request.user, &info)).await?;
    let found = server.registry.find(&info.group, &info.version, &info.resource);
    let kind = found.filter(|_| info.is_resource).ok_or_else(Status::unknown_resource)?;
    if info.verb == "deletecollection" || kind.storage.is_empty() || !rest::is_view(&info.subresource) {
        return Err(Status::bad_request("a transaction writes single objects and what shows them"));
    }
    if info.query.has("dryRun") {
        return Err(Status::bad_request("a transaction is a dry run as a whole or not at all"));
    }
    let mut headers = request.headers.clone();
    headers.remove(header::ACCEPT);
    let media = HeaderValue::from_str(&operation.content_type)
        .map_err(|_| Status::bad_request("contentType is no media type"))?;
    headers.insert(header::CONTENT_TYPE, media);
    let body = match &operation.body {
        Value::Null => bytes::Bytes::new(),
        // YAML, as it stands.
        Value::String(text) => text.clone().into(),
        body => negotiate::encode(body),
    };
    Ok(Call {
        server: server.clone(),
        info: Arc::new(info),
        kind,
        user: request.user.clone(),
        method,
        headers,
        accept: Accept::default(),
        body,
        audit_id: request.audit_id.clone(),
        notes: Arc::default(),
        staging: Some(staging.clone()),
        connection: Connection::default(),
        translations: Translations::default(),
    })
}

fn parse(method: &Method, path: &str) -> RequestInfo {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    request_info::parse(method, path, query)
}

/// What must hold of other objects holds now, and is to hold when the store takes the transaction.
async fn check_conditions(
    server: &Arc<Server>,
    request: &Request,
    conditions: &[Condition],
) -> Result<Vec<Precondition>, Status> {
    for condition in conditions {
        let info = parse(&Method::GET, &condition.path);
        server.authorizers.check(&Attributes::of(&request.user, &info)).await?;
    }
    let check = |condition: &Condition| {
        let info = parse(&Method::GET, &condition.path);
        let kind = server.registry.find(&info.group, &info.version, &info.resource);
        let kind = kind.filter(|_| !info.name.is_empty()).ok_or_else(Status::unknown_resource)?;
        let namespace = if kind.is_namespaced() { info.namespace.as_str() } else { "" };
        let key = Key::new(&kind.storage, namespace, &info.name);
        let current = server.objects.get(&key).map(|stored| stored.revision);
        let precondition = match condition.resource_version.as_str() {
            "" => Precondition::Absent(key),
            text => Precondition::Revision(
                key,
                text.parse().map_err(|_| Status::bad_request("resourceVersion must be a revision"))?,
            ),
        };
        if precondition.holds(current) { Ok(precondition) } else { Err(Status::modified(&kind, &info.name)) }
    };
    conditions.iter().map(check).collect()
}

/// The answer: what each operation has answered, and what is different now, or would be.
fn told(
    server: &Server,
    outcomes: &[Outcome],
    differences: &[Difference],
    revision: Option<Revision>,
) -> Value {
    let results = outcomes.iter().map(|outcome| {
        let mut body = outcome.body.clone();
        if outcome.wrote
            && let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut)
            && metadata.contains_key("resourceVersion")
        {
            match revision {
                Some(revision) => {
                    drop(metadata.insert("resourceVersion".into(), revision.to_string().into()))
                }
                None => drop(metadata.shift_remove("resourceVersion")),
            }
        }
        let mut result = json!({ "code": outcome.code, "object": body });
        if !outcome.warnings.is_empty() {
            result["warnings"] = json!(outcome.warnings);
        }
        result
    });
    let mut out = json!({
        "kind": "TransactionResult", "apiVersion": "coxswain.dev/v1", "metadata": {},
        "results": results.collect::<Vec<_>>(),
        "changes": differences.iter().map(|one| difference(server, one)).collect::<Vec<_>>(),
    });
    match revision {
        Some(revision) => out["metadata"]["resourceVersion"] = json!(revision.to_string()),
        None => out["dryRun"] = json!(true),
    }
    out
}

fn difference(server: &Server, one: &Difference) -> Value {
    let change = match (&one.before, &one.after) {
        (None, _) => "Created",
        (Some(_), Some(_)) => "Updated",
        (Some(_), None) => "Deleted",
    };
    let mut out = json!({ "resource": &*one.key.resource, "name": &*one.key.name, "change": change });
    if !one.key.namespace.is_empty() {
        out["namespace"] = json!(&*one.key.namespace);
    }
    if let (Some(before), Some(after)) = (&one.before, &one.after) {
        let table = server.registry.table();
        let kind = table.rows().iter().find(|kind| *kind.storage == *one.key.resource);
        let schema = kind.map_or_else(|| Arc::new(schema::Schema::open()), |kind| rest::schema_of(kind));
        let after: Value = serde_json::from_slice(&after.at(0)).unwrap_or_default();
        let fields = changes(&schema, &before.value(), &after);
        out["fields"] = fields.iter().map(|field| field.to_value()).collect();
    }
    out
}

/// The answer as it is sent.
pub(crate) fn response(value: &Value) -> Result<rest::Response, Status> {
    negotiate::answer_value(StatusCode::OK, value, &Accept::default())
}
