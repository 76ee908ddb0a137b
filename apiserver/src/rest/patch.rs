//! PATCH: JSON patch, merge patch and strategic merge patch.

use api_types::schema::TypeError;
use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::body::syntax::go_name;
use super::body::{self, Decoded, Duplicates};
use super::options::FieldValidation;
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
        let decoded = read(form, &call.body, options.field_validation)?;
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
            let part = (!view.is_object()).then(|| call.kind.body_of(&call.info.subresource)).flatten();
            let kind = part.as_ref().unwrap_or(&call.kind);
            if view.is_object() || part.is_some() {
                let decoded = Decoded { value: object, duplicates: duplicates.clone() };
                let shown = |object: &Value| match form {
                    Form::Strategic => api_types::patch::go_text(&patch),
                    _ => in_order(object, &patch).to_string(),
                };
                let tell = |error: &TypeError| match form {
                    Form::Strategic => error.conversion().to_owned(),
                    _ => error.to_string(),
                };
                let read = typed::read_patched(kind, decoded, shown, tell, options.field_validation)?;
                (object, warnings) = read;
                metadata::check_identity(kind, call.namespace(), &call.info.name, &mut object)?;
            }
            Ok(Proposal { object, manage: Manage::Update, expected, warnings })
        });
        outcome.await?.answer(&call, view)
    }
}

/// Reads a patch, which is to be of its form's type.
fn read(form: Form, body: &[u8], validation: FieldValidation) -> Result<Decoded, Status> {
    let decoded = body::decode_json(body).and_then(|decoded| {
        let problem = match form {
            Form::Json => operations_problem(&decoded.value),
            Form::Merge | Form::Strategic if decoded.value.is_object() || decoded.value.is_null() => None,
            Form::Merge | Form::Strategic => {
                Some(format!("{} into Go value of type map[string]interface {{}}", go_name(&decoded.value)))
            }
        };
        problem.map_or(Ok(decoded), |why| Err(format!("json: cannot unmarshal {why}")))
    });
    decoded.map_err(|why| match (form, validation) {
        (Form::Strategic, _) | (_, FieldValidation::Ignore) => Status::bad_request(why),
        _ => Status::bad_request(format!("error decoding patch: {why}")),
    })
}

fn operations_problem(patch: &Value) -> Option<String> {
    let operations = match patch {
        Value::Array(operations) => operations,
        Value::Null => return None,
        other => return Some(format!("{} into Go value of type []handlers.jsonPatchOp", go_name(other))),
    };
    operations.iter().find_map(|operation| {
        let Value::Object(fields) = operation else {
            return Some(format!("{} into Go value of type handlers.jsonPatchOp", go_name(operation)));
        };
        let is_wrong = |value: &&Value| !value.is_string() && !value.is_null();
        let mut texts = ["op", "path", "from"].iter();
        texts.find_map(|name| {
            let value = fields.get(*name).filter(is_wrong)?;
            Some(format!("{} into Go struct field jsonPatchOp.{name} of type string", go_name(value)))
        })
    })
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

/// An object as it comes out of a patch: fields by name where the patch went in, the rest as it was, its metadata in
/// the order of their type.
fn in_order(object: &Value, patch: &Value) -> Value {
    let touched = match patch {
        Value::Array(operations) => ways(operations),
        other => other.clone(),
    };
    let mut shown = sorted(object, &touched);
    if !touched["metadata"].is_object()
        && let Some(metadata) = shown.get_mut("metadata").and_then(Value::as_object_mut)
    {
        let place = |name: &String| METADATA.iter().position(|known| known == name).unwrap_or(METADATA.len());
        let mut fields: Vec<_> = std::mem::take(metadata).into_iter().collect();
        fields.sort_by_key(|(name, _)| place(name));
        metadata.extend(fields);
    }
    shown
}

/// The fields of an object's metadata in the order of Go's type.
const METADATA: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// The objects on the ways to what operations change, as objects in each other.
fn ways(operations: &[Value]) -> Value {
    let mut all = Value::Object(serde_json::Map::new());
    for path in operations.iter().filter_map(|operation| operation["path"].as_str()) {
        let parents = path.rsplit_once('/').map_or("", |(parents, _)| parents);
        let mut at = &mut all;
        for step in parents.split('/').skip(1) {
            let Some(fields) = at.as_object_mut() else { break };
            at = fields.entry(step).or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
    }
    all
}

fn sorted(value: &Value, touched: &Value) -> Value {
    let (Value::Object(fields), Value::Object(touched)) = (value, touched) else { return value.clone() };
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    let below = |name: &String| touched.get(name).unwrap_or(&Value::Null);
    fields.into_iter().map(|(name, value)| (name.clone(), sorted(value, below(name)))).collect()
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
    fn what_a_patch_made_is_shown_in_order_where_it_went() {
        let object = serde_json::json!({
            "kind": "ConfigMap", "metadata": {"labels": {"b": "1", "a": "2"}, "name": "c"}, "data": {"y": "1", "x": "2"},
        });
        let shown = |patch: Value| in_order(&object, &patch).to_string();
        assert_eq!(
            shown(serde_json::json!({"metadata": {"labels": {"a": "2"}}})),
            r#"{"data":{"y":"1","x":"2"},"kind":"ConfigMap","metadata":{"labels":{"a":"2","b":"1"},"name":"c"}}"#
        );
        assert_eq!(
            shown(serde_json::json!([{"op": "add", "path": "/data/x", "value": "2"}])),
            r#"{"data":{"x":"2","y":"1"},"kind":"ConfigMap","metadata":{"name":"c","labels":{"b":"1","a":"2"}}}"#
        );
    }

    #[test]
    fn a_patch_that_is_none_is_told_in_the_words_of_its_form() {
        let refused = |form, body: &str| {
            read(form, body.as_bytes(), FieldValidation::Warn).err().map(|status| status.message).unwrap()
        };
        for (form, body, expected) in [
            (
                Form::Merge,
                "data: x",
                "error decoding patch: invalid character 'd' looking for beginning of value",
            ),
            (Form::Strategic, "{", "unexpected end of JSON input"),
            (
                Form::Merge,
                "[]",
                "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
            (
                Form::Json,
                "{}",
                "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
            ),
            (
                Form::Json,
                "[{\"op\":1}]",
                "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
            ),
        ] {
            assert_eq!(refused(form, body), expected);
        }
        assert!(read(Form::Json, b"[{\"op\":\"test\"}]", FieldValidation::Strict).is_ok());
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
