//! PATCH with `undo=REVISION`: takes back what one revision did to an object, as an ordinary write. What was
//! changed since in the same fields is a conflict, told field by field, unless `force`. An extension of ours.

use api_types::patch::changes::{UndoConflict, changes, undo};
use api_types::status::{Cause, Details, Reason, Status};
use serde_json::Value;

use super::write::{Manage, Proposal, create_object, update_object};
use super::{Answer, Call, DeleteOptions, Reviewed, Verb, Whole, WriteOptions, past, remove, typed};
use crate::store::Revision;

pub(super) struct Undo;

impl Verb for Undo {
    const NAME: &'static str = "undo";

    async fn answer(call: Call) -> Answer {
        let options = WriteOptions::parse(&call.info.query, &call.headers, "PatchOptions")?;
        let text = call.info.query.get("undo").unwrap_or_default();
        let revision: Revision = text.parse().ok().filter(|r| *r > 1).ok_or_else(|| {
            Status::bad_request(format!("undo: Invalid value: {text:?}: must be a revision"))
        })?;
        past::check_seen(&call, revision)?;
        let after = past::object(&call, revision).await?.filter(|stored| stored.revision == revision);
        let after = match after {
            Some(stored) => Some(call.read(&stored).await?),
            None => None,
        };
        let before = past::value(&call, revision - 1).await?;
        let still_there = after.is_none() && past::object(&call, revision).await?.is_some();
        match (before, after) {
            (Some(before), Some(after)) => undo_update(&call, &options, &before, &after).await,
            (None, Some(after)) => undo_create(&call, &options, &after).await,
            (Some(before), None) if !still_there => undo_delete(&call, &options, before).await,
            _ => Err(Status::bad_request(format!(
                "revision {revision} did not change {} {:?}",
                call.kind.group_resource(),
                call.info.name
            ))),
        }
    }
}

async fn undo_update(call: &Call, options: &WriteOptions, before: &Value, after: &Value) -> Answer {
    let separate = call.kind.find_subresource("status").is_some();
    let skip: &[&[&str]] = if separate { &[&["status"]] } else { &[] };
    let schema = typed::of(&call.kind);
    let outcome = update_object(call, options, &Whole, |current| {
        let current = current.ok_or_else(|| Status::not_found(&call.kind, &call.info.name))?;
        let object = undo(&schema, before, after, current, skip, options.force)
            .map_err(|conflicts| changed_since(call, &conflicts))?;
        Ok(Proposal { object, manage: Manage::Update, expected: None, warnings: Vec::new() })
    });
    outcome.await?.answer(call, &Whole)
}

/// The object goes, if it is still what it was created as.
async fn undo_create(call: &Call, options: &WriteOptions, after: &Value) -> Answer {
    call.authorize("delete").await?;
    let current = call.read(&*call.stored()?).await?;
    let status = ["status".to_owned()];
    let differ = changes(&typed::of(&call.kind), after, &current);
    let conflicts: Vec<_> = differ
        .into_iter()
        .filter(|change| !status.iter().any(|s| change.path().starts_with(&format!(".{s}"))))
        .map(|change| UndoConflict { path: change.path(), left: change.from, now: change.to })
        .collect();
    if !conflicts.is_empty() && !options.force {
        return Err(changed_since(call, &conflicts));
    }
    let text = |field: &str| current["metadata"][field].as_str().map(str::to_owned);
    let options = DeleteOptions {
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        dry_run: options.dry_run,
        ..DeleteOptions::default()
    };
    remove(call, &call.info.name, &options, Reviewed::Now).await?.answer(call)
}

/// The object comes back as a new one of the same name.
async fn undo_delete(call: &Call, options: &WriteOptions, before: Value) -> Answer {
    call.authorize("create").await?;
    let mut object = before;
    let metadata = object["metadata"].as_object_mut().ok_or_else(|| Status::internal("no metadata"))?;
    for field in ["resourceVersion", "uid", "managedFields", "ownerReferences", "finalizers"] {
        metadata.shift_remove(field);
    }
    let propose = || {
        let object = object.clone();
        Ok(Proposal { object, manage: Manage::Update, expected: None, warnings: Vec::new() })
    };
    create_object(call, options, propose).await?.answer(call, &Whole)
}

fn changed_since(call: &Call, conflicts: &[UndoConflict]) -> Status {
    let show = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    let causes = conflicts.iter().map(|conflict| Cause {
        reason: "FieldValueConflict".into(),
        message: format!("the change left {}, and now it is {}", show(&conflict.left), show(&conflict.now)),
        field: conflict.path.clone(),
    });
    let paths: Vec<_> = conflicts.iter().map(|conflict| conflict.path.as_str()).collect();
    let message = format!(
        "the change of {} {:?} cannot be taken back, because these fields were changed since: {}",
        call.kind.group_resource(),
        call.info.name,
        paths.join(", ")
    );
    let details = Details {
        name: call.info.name.clone(),
        group: call.kind.group.clone(),
        kind: call.kind.plural.clone(),
        causes: causes.collect(),
        ..Details::default()
    };
    Status::new(Reason::Conflict, message).with_details(details)
}
