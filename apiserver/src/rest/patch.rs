//! PATCH: JSON patch, merge patch and strategic merge patch.

use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::body::{self, Decoded, Duplicates};
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
        let duplicates = match form {
            Form::Json => Duplicates::Operations(oddities(&decoded)),
            _ => decoded.duplicates,
        };
        let patch = decoded.value;
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
                let shown = |object: &Value| match form {
                    Form::Strategic => go_text(&patch),
                    _ => in_order(object).to_string(),
                };
                let read = typed::read_patched(&call.kind, decoded, shown, options.field_validation)?;
                (object, warnings) = read;
                metadata::check_identity(&call.kind, call.namespace(), &call.info.name, &mut object)?;
            }
            Ok(Proposal { object, manage: Manage::Update, expected, warnings })
        });
        outcome.await?.answer(&call, view)
    }
}

/// What is odd about the operations of a JSON patch: fields that stand twice, and fields of no meaning.
fn oddities(patch: &Decoded) -> Vec<String> {
    let known = ["op", "path", "from", "value"];
    let mut odd: Vec<String> =
        patch.duplicates.notes().iter().map(|note| format!("json patch {note}")).collect();
    for (index, operation) in patch.value.as_array().into_iter().flatten().enumerate() {
        let fields = operation.as_object().into_iter().flat_map(serde_json::Map::keys);
        for field in fields.filter(|field| !known.contains(&field.as_str())) {
            odd.push(format!("json patch unknown field {:?}", format!("[{index}].{field}")));
        }
    }
    odd
}

/// A value as Kubernetes prints a patch that it has read.
fn go_text(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.into_iter().map(|(name, value)| format!("{name}:{}", go_text(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" "))
        }
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// An object as it comes out of a patch, its fields by name.
fn in_order(object: &Value) -> Value {
    let mut fields: Vec<_> = object.as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| *name);
    fields.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn change(call: &Call, form: Form, current: &Value, patch: &Value) -> Result<Value, Status> {
    match form {
        Form::Json => typed::patch_json(current, patch),
        Form::Merge => typed::patch_merge(current, patch),
        Form::Strategic => typed::patch_strategic(&call.kind, current, patch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_printed_as_go_does() {
        let patch = serde_json::json!({"b": [1, "x", null], "a": {"c": true}});
        assert_eq!(go_text(&patch), "map[a:map[c:true] b:[1 x <nil>]]");
    }

    #[test]
    fn odd_operations_of_a_json_patch_are_named_by_their_place() {
        let patch =
            body::decode_json(br#"[{"op": "add", "path": "/a", "value": 1, "value": 2, "odd": 3}]"#).unwrap();
        assert_eq!(
            oddities(&patch),
            ["json patch duplicate field \"[0].value\"", "json patch unknown field \"[0].odd\""]
        );
    }
}
