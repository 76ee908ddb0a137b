//! GET of an object with `history=true`: what happened to it, revision by revision, with who asked for it,
//! through what, acting on which revision, and what admission changed. An extension of ours; authorized as
//! `get` of the object, whose fields it shows.

use api_types::patch::changes::changes;
use api_types::status::Status;
use chrono::{DateTime, SecondsFormat};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, Call, Verb, convert, past, typed};
use crate::store::{Committed, Did, Event, Key, Revision};

const REVISIONS_DEFAULT: usize = 100;
const REVISIONS_MAX: usize = 1000;

pub(super) struct History;

impl Verb for History {
    const NAME: &'static str = "history";

    async fn answer(call: Call) -> Answer {
        let limit = number(&call, "limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let limit = limit.unwrap_or(REVISIONS_DEFAULT).min(REVISIONS_MAX);
        let since: Revision = number(&call, "since")?.unwrap_or_default();
        let (objects, key) = (&call.server.objects, call.key());
        // One more than is shown: the state that the oldest one changed.
        let commits = objects.history(Some(&key), since, limit + 1).await.map_err(|e| past::refused(&e))?;
        if commits.is_empty() && objects.get(&key).is_none() {
            return Err(Status::not_found(&call.kind, &call.info.name));
        }
        let items = tell(&call, &key, &commits, limit).await?;
        call.plain(
            StatusCode::OK,
            &json!({
                "kind": "ObjectHistory", "apiVersion": "coxswain.dev/v1",
                "metadata": { "resourceVersion": objects.revision().to_string() },
                "items": items,
            }),
        )
    }
}

fn number(call: &Call, parameter: &str) -> Result<Option<u64>, Status> {
    let text = call.info.query.get(parameter);
    text.map(str::parse).transpose().map_err(|_| {
        let text = text.unwrap_or_default();
        Status::bad_request(format!("{parameter}: Invalid value: {text:?}: must be a number"))
    })
}

async fn tell(call: &Call, key: &Key, commits: &[Committed], limit: usize) -> Result<Vec<Value>, Status> {
    let shown = commits.len().saturating_sub(limit);
    let mut before = None;
    if shown == 0
        && let Some(oldest) = commits.first()
    {
        // Its beginning may be forgotten; then its fields are not told.
        before = past::value(call, oldest.revision - 1).await.unwrap_or_default();
    }
    let mut items = Vec::new();
    for (index, committed) in commits.iter().enumerate() {
        let Some((place, event)) = committed.events.iter().enumerate().find(|(_, e)| e.key == *key) else {
            continue;
        };
        let after = match event.did {
            Did::Put => match serde_json::from_slice(&event.bytes) {
                Ok(value) => Some(convert::read(&call.server, &call.kind, value).await?),
                Err(_) => None,
            },
            Did::Delete => None,
        };
        if index >= shown {
            items.push(item(call, committed, event, place, before.as_ref(), after.as_ref()));
        }
        before = after;
    }
    Ok(items)
}

fn item(
    call: &Call,
    committed: &Committed,
    event: &Event,
    place: usize,
    before: Option<&Value>,
    after: Option<&Value>,
) -> Value {
    let change = match (event.did, event.previous) {
        (Did::Delete, _) => "Deleted",
        (Did::Put, None) => "Created",
        (Did::Put, Some(_)) => "Updated",
    };
    let time = i64::try_from(committed.at_ms).ok().and_then(DateTime::from_timestamp_millis);
    let cause = &committed.cause;
    let mut out = Map::new();
    out.insert("revision".into(), committed.revision.to_string().into());
    out.insert("time".into(), time.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true).into());
    out.insert("change".into(), change.into());
    for (name, text) in [
        ("user", &cause.user),
        ("manager", &cause.manager),
        ("request", &cause.call),
        ("auditID", &cause.request),
    ] {
        if !text.is_empty() {
            out.insert(name.into(), text.as_str().into());
        }
    }
    if let Some(revision) = cause.acted_on {
        out.insert("actedOn".into(), revision.to_string().into());
    }
    if let (Some(before), Some(after)) = (before, after) {
        let fields = changes(&typed::of(&call.kind), before, after);
        out.insert("fields".into(), fields.iter().map(|field| field.to_value()).collect());
    }
    let admitted = cause.admitted.get(place).and_then(|text| serde_json::from_str(text).ok());
    if let Some(admitted) = admitted {
        out.insert("admission".into(), admitted);
    }
    let together: Vec<_> =
        committed.events.iter().filter(|e| e.key != event.key).map(|e| e.key.to_string()).collect();
    if !together.is_empty() {
        out.insert("together".into(), together.into());
    }
    Value::Object(out)
}
