//! Objects that the server keeps beside others: written and deleted in the revision that changes what they
//! stand for, so that no reader ever sees one without the other.

use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::status::Status;
use serde_json::Value;

use super::{Call, metadata, typed};
use crate::store::{Body, Change, Key, Precondition, Transaction};
use crate::strategy;

/// Who owns their fields.
const MANAGER: &str = "kube-apiserver";

/// What stands beside an object; nothing beside none.
pub(super) fn of(call: &Call, object: Option<&Value>) -> Vec<Value> {
    object.map(|object| strategy::find(&call.kind).companions(object)).unwrap_or_default()
}

/// Adds to `transaction` what comes and goes with the change of an object, which had `before` beside it and has
/// `after` from now on.
pub(super) fn join(
    call: &Call,
    transaction: &mut Transaction,
    before: &[Value],
    after: Vec<Value>,
) -> Result<(), Status> {
    for gone in before.iter().filter(|one| !after.contains(one)) {
        let (key, _) = locate(call, gone)?;
        // Somebody else may have deleted it.
        if let Some(stored) = call.current(&key) {
            transaction.preconditions.push(Precondition::Revision(key.clone(), stored.revision));
            transaction.changes.push(Change::Delete { key, last: Body::encode(&stored.value()) });
        }
    }
    for mut made in after.into_iter().filter(|one| !before.contains(one)) {
        let (key, kind) = locate(call, &made)?;
        metadata::stamp(&kind, &mut made, call.server.clock.now(), &call.server.random)?;
        typed::track_body(call, &kind, &mut made, MANAGER);
        typed::default(&kind, &mut made);
        transaction.preconditions.push(Precondition::Absent(key.clone()));
        transaction.changes.push(Change::Put { key, body: Body::encode(&made) });
    }
    Ok(())
}

fn locate(call: &Call, object: &Value) -> Result<(Key, Arc<Kind>), Status> {
    let table = call.server.registry.table();
    let kind = table.of_object(object).ok_or_else(Status::unknown_resource)?.clone();
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    Ok((Key::new(&kind.storage, text("namespace"), text("name")), kind))
}
