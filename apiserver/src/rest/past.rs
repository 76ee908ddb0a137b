//! Reads of the past: which revision a request means, and objects as they were then.

use std::sync::Arc;

use api_types::status::Status;
use chrono::DateTime;
use serde_json::Value;

use super::{Call, list};
use crate::cache::{Snapshot, Stored};
use crate::store::{HistoryError, Revision};

/// The revision of the `at` parameter: a revision, or a time as RFC 3339 writes it.
pub(super) async fn asked(call: &Call) -> Result<Option<Revision>, Status> {
    let query = &call.info.query;
    let Some(text) = query.get("at") else { return Ok(None) };
    if query.has("resourceVersion") || query.has("continue") {
        return Err(Status::bad_request("at may not be combined with resourceVersion or continue"));
    }
    let revision = match text.parse::<Revision>() {
        Ok(revision) => revision,
        Err(_) => at_time(call, text).await?,
    };
    check_seen(call, revision)?;
    Ok(Some(revision))
}

async fn at_time(call: &Call, text: &str) -> Result<Revision, Status> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
        Status::bad_request(format!(
            "at: Invalid value: {text:?}: must be a revision or a time such as 2026-01-02T15:04:05Z"
        ))
    })?;
    if time > call.server.clock.now() {
        return Err(Status::bad_request(format!("at: Invalid value: {text:?}: is in the future")));
    }
    let ms = u64::try_from(time.timestamp_millis()).unwrap_or_default();
    call.server.objects.revision_at(ms).await.map_err(|error| refused(&error))
}

/// Refuses a revision that is yet to come.
pub(super) fn check_seen(call: &Call, revision: Revision) -> Result<(), Status> {
    let current = call.server.objects.revision();
    if revision > current { Err(list::too_new(revision, current)) } else { Ok(()) }
}

/// The request's collection as it was.
pub(super) async fn snapshot(call: &Call, revision: Revision) -> Result<Snapshot, Status> {
    let namespace = Some(call.namespace()).filter(|n| !n.is_empty());
    let past = call.server.objects.list_past(&call.kind.storage, namespace, revision).await;
    past.map_err(|error| refused(&error))
}

/// The object that the path names as it was; none if it was not there.
pub(super) async fn object(call: &Call, revision: Revision) -> Result<Option<Arc<Stored>>, Status> {
    Ok(snapshot(call, revision).await?.get(call.namespace(), &call.info.name).cloned())
}

/// As [`object`], in the request's version.
pub(super) async fn value(call: &Call, revision: Revision) -> Result<Option<Value>, Status> {
    match object(call, revision).await? {
        Some(stored) => call.read(&stored).await.map(Some),
        None => Ok(None),
    }
}

/// Why the past cannot be told.
pub(super) fn refused(error: &HistoryError) -> Status {
    match error {
        HistoryError::Compacted { .. } | HistoryError::Forgotten => Status::expired(error.to_string()),
        HistoryError::NotKept => Status::unexplained(501, error.to_string()),
        HistoryError::Etcd(_) => Status::unavailable(error.to_string()),
        HistoryError::ReadLog(source) => Status::internal(format_args!("{error}: {source}")),
    }
}
