//! PUT: the whole object, or what a subresource shows of it.

use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::write::{Manage, Projection, Proposal, update_object};
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
            check_view(&call, view, &decoded.value)?;
            (decoded.value, Vec::new())
        };
        let expected = expected_revision(&call, &object)?;
        let creates =
            call.info.subresource.is_empty() && strategy::find(&call.kind).allows_create_on_update();
        let outcome = update_object(&call, &options, view, |current| {
            if current.is_none() && (!creates || expected.is_some()) {
                return Err(create::absent(&call));
            }
            if current.is_some()
                && expected.is_none()
                && !strategy::find(&call.kind).allows_unconditional_update()
            {
                let error =
                    FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
                let (group, resource) = (&call.kind.group, &call.kind.plural);
                return Err(Status::invalid_kind(group, resource, &call.info.name, vec![error]));
            }
            let (object, warnings) = (object.clone(), warnings.clone());
            Ok(Proposal { object, manage: Manage::Update, expected, warnings })
        });
        outcome.await?.answer(&call, view)
    }
}

/// A view of another type than its object's: the body is of that type, and of the object in the path.
fn check_view(call: &Call, view: &dyn Projection, body: &Value) -> Result<(), Status> {
    let Some((version, kind)) = view.own_type() else { return Ok(()) };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (given_version, given) = (text(&body["apiVersion"]), text(&body["kind"]));
    if (!given_version.is_empty() && given_version != version) || (!given.is_empty() && given != kind) {
        let short = given_version.rsplit('/').next().unwrap_or_default();
        let why = format!("{given} in version {short:?} cannot be handled as a {kind}: it is no {kind}");
        return Err(Status::bad_request(why));
    }
    let (name, namespace) = (text(&body["metadata"]["name"]), text(&body["metadata"]["namespace"]));
    if !name.is_empty() && name != call.info.name {
        let asked = &call.info.name;
        let why = format!("the name of the object ({name}) does not match the name on the URL ({asked})");
        return Err(Status::bad_request(why));
    }
    if !namespace.is_empty() && namespace != call.namespace() {
        let asked = call.namespace();
        let why = format!(
            "the namespace of the object ({namespace}) does not match the namespace on the URL ({asked})"
        );
        return Err(Status::bad_request(why));
    }
    Ok(())
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
