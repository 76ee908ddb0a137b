//! PUT: the whole object, or what a subresource shows of it.

use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::write::{Manage, Proposal, update_object};
use super::{Answer, Call, Verb, WriteOptions, body, create, media_type, metadata, typed};
use crate::store::Revision;
use crate::strategy;

pub(super) struct Update;

impl Verb for Update {
    const NAME: &'static str = "update";

    async fn answer(call: Call) -> Answer {
        let options = WriteOptions::parse(&call.info.query, &call.headers, "UpdateOptions")?;
        let mut decoded = body::decode(media_type(&call.headers), &call.body, &call.kind.kind)?;
        let view = call.projection();
        let (object, warnings) = if view.is_object() {
            decoded.value = call.renewed(decoded.value);
            let (mut object, warnings) = typed::read(&call.kind, decoded, options.field_validation)?;
            metadata::check_identity(&call.kind, call.namespace(), &call.info.name, &mut object)?;
            (object, warnings)
        } else {
            (typed::read_part(&call, decoded, &call.info.name, options.field_validation)?, Vec::new())
        };
        let expected = expected_revision(&call, &object)?;
        let creates = call.info.subresource.is_empty() && strategy::is_made_by_update(&call.kind);
        let outcome = update_object(&call, &options, view, |current| {
            metadata::check_uid(&call.kind, &call.info.name, current, &object)?;
            let mut object = object.clone();
            if current.is_none() {
                if !creates {
                    return Err(create::absent(&call));
                }
                // What is not there is of no revision, whatever its author has read before.
                object["metadata"].as_object_mut().map(|fields| fields.shift_remove("resourceVersion"));
            } else if expected.is_none() && view.is_object() && strategy::is_updated_at_a_revision(&call.kind)
            {
                let error =
                    FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
                let (group, resource) = (&call.kind.group, &call.kind.plural);
                return Err(Status::invalid_kind(group, resource, &call.info.name, vec![error]));
            }
            Ok(Proposal { object, manage: Manage::Update, expected, warnings: warnings.clone() })
        });
        outcome.await?.answer(&call, view)
    }
}

/// The revision that a body says it was read at; an empty one is no precondition.
pub(super) fn expected_revision(call: &Call, object: &Value) -> Result<Option<Revision>, Status> {
    match object["metadata"]["resourceVersion"].as_str() {
        None | Some("" | "0") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            let error = FieldError::invalid(
                "metadata.resourceVersion",
                text,
                "must be a number that the server gave",
            );
            Status::invalid(&call.kind, &call.info.name, vec![error])
        }),
    }
}
