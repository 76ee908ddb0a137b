//! What a kind's schema says about bodies: checks, defaults, patches, ownership of fields.

use api_types::kinds::Kind;
use api_types::schema::{self, Schema};
use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::body::Decoded;
use super::options::FieldValidation;
use super::{Call, WriteOptions};

/// Checks a decoded body against the kind's schema. A wrong type is an error; unknown and duplicate fields
/// are refused, warned of or left unsaid, as the client wishes, and unknown ones are dropped.
pub(super) fn read(kind: &Kind, decoded: Decoded, validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
    let mut value = decoded.value;
    let schema = of(kind);
    let findings = schema.check(&value);
    if let Some(error) = findings.type_errors.first() {
        return Err(Status::undecodable(kind, error));
    }
    let unknown = findings.unknown.iter().map(|p| format!("unknown field {p:?}"));
    let duplicate = decoded.duplicates.iter().map(|p| format!("duplicate field {p:?}"));
    let problems: Vec<String> = duplicate.chain(unknown).collect();
    schema.normalize(&mut value);
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(Status::undecodable(kind, format_args!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Warn => Ok((value, problems)),
        _ => Ok((value, Vec::new())),
    }
}

/// The schema of a kind; one without any knows only its metadata.
fn of(kind: &Kind) -> Schema {
    schema::builtin(kind).unwrap_or_else(Schema::open)
}

/// Whether an object that was decoded, defaulted and changed by admission is still of its type.
pub(super) fn check(kind: &Kind, object: &Value) -> Vec<FieldError> {
    of(kind).check(object).type_errors.iter().map(schema::TypeError::to_field_error).collect()
}

/// Fills in what the kind's author says where the client said nothing.
pub(super) fn default(kind: &Kind, object: &mut Value) {
    let schema = of(kind);
    schema::set_defaults(kind, &schema, object);
    schema.normalize(object);
}

/// Notes which fields the manager of an ordinary write owns now.
pub(super) fn track(_call: &Call, _old: Option<&Value>, _object: &mut Value, _manager: &str) {}

/// RFC 6902.
pub(super) fn patch_json(kind: &Kind, name: &str, current: &Value, patch: &Value) -> Result<Value, Status> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| Status::bad_request(format!("the patch is not one: {e}")))?;
    let mut object = current.clone();
    json_patch::patch(&mut object, &patch)
        .map_err(|e| Status::invalid(kind, name, vec![FieldError::invalid("patch", "", e.to_string())]))?;
    Ok(object)
}

/// RFC 7386.
pub(super) fn patch_merge(current: &Value, patch: &Value) -> Result<Value, Status> {
    let mut object = current.clone();
    json_patch::merge(&mut object, patch);
    Ok(object)
}

/// Kubernetes' strategic merge: lists by their merge keys.
pub(super) fn patch_strategic(_kind: &Kind, current: &Value, patch: &Value) -> Result<Value, Status> {
    patch_merge(current, patch)
}

/// Server-side apply.
pub(super) fn apply(
    _call: &Call,
    current: Option<&Value>,
    config: &Value,
    _options: &WriteOptions,
) -> Result<Value, Status> {
    patch_merge(current.unwrap_or(&Value::Object(serde_json::Map::new())), config)
}
