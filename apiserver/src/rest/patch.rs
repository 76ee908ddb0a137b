//! PATCH: JSON patch, merge patch and strategic merge patch.

use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::body::{self, Decoded};
use super::write::{Manage, Proposal, update_object};
use super::{Answer, Call, Verb, WriteOptions, create, media_type, metadata, typed, update};

pub(super) struct Patch;

#[derive(Clone, Copy)]
enum Form {
    Json,
    Merge,
    Strategic,
}

const MEDIA: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Verb for Patch {
    const NAME: &'static str = "patch";

    async fn answer(call: Call) -> Answer {
        let options = WriteOptions::parse(&call.info.query, &call.headers, "PatchOptions")?;
        if call.info.query.has("force") {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid_kind("meta.k8s.io", "PatchOptions", "", vec![error]));
        }
        let form = match media_type(&call.headers) {
            "application/json-patch+json" => Form::Json,
            "application/merge-patch+json" => Form::Merge,
            // A custom kind's schema has no merge keys.
            "application/strategic-merge-patch+json" if !call.kind.definition.is_empty() => Form::Strategic,
            _ if call.kind.definition.is_empty() => {
                let known: Vec<&str> = MEDIA.iter().copied().filter(|m| !m.contains("strategic")).collect();
                return Err(Status::unsupported_media_type(&known));
            }
            _ => return Err(Status::unsupported_media_type(MEDIA)),
        };
        let decoded = body::decode_json(&call.body)?;
        let (patch, duplicates) = (decoded.value, decoded.duplicates);
        let view = call.projection();
        let outcome = update_object(&call, &options, view, |current| {
            let Some(current) = current else { return Err(create::absent(&call)) };
            // A patch is of the object as its client reads it.
            let mut object = match (call.info.retired, view.is_object()) {
                (Some(_), true) => call.renewed(change(&call, form, &call.named(current.clone()), &patch)?),
                _ => change(&call, form, current, &patch)?,
            };
            // Only a revision that the patch itself names is a precondition.
            let unnamed = object["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"];
            let expected = if unnamed { None } else { update::expected_revision(&call, &object)? };
            let mut warnings = Vec::new();
            if view.is_object() {
                let decoded = Decoded { value: object, duplicates: duplicates.clone() };
                let read = typed::read_patched(&call.kind, decoded, options.field_validation)?;
                (object, warnings) = read;
                metadata::check_identity(&call.kind, call.namespace(), &call.info.name, &mut object)?;
            }
            Ok(Proposal { object, manage: Manage::Update, expected, warnings })
        });
        outcome.await?.answer(&call, view)
    }
}

fn change(call: &Call, form: Form, current: &Value, patch: &Value) -> Result<Value, Status> {
    match form {
        Form::Json => typed::patch_json(current, patch),
        Form::Merge => typed::patch_merge(current, patch),
        Form::Strategic => typed::patch_strategic(&call.kind, current, patch),
    }
}
