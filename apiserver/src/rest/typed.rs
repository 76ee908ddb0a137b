//! What a kind's schema says about bodies: checks, defaults, patches, ownership of fields.

use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::patch::apply::{self, Writer};
use api_types::patch::changes::changes;
use api_types::patch::{self, strategic};
use api_types::schema::{self, Schema, TypeError};
use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::body::{Decoded, Duplicates};
use super::options::FieldValidation;
use super::{Call, WriteOptions, metadata, translation};
use crate::strategy::isolate;

/// Checks a decoded body against the kind's schema. A wrong type is an error; unknown and duplicate fields
/// are refused, warned of or left unsaid, as the client wishes, and unknown ones are dropped.
pub(crate) fn read(
    kind: &Kind,
    decoded: Decoded,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let warnings = inspect(kind, &decoded, validation, &ToString::to_string)
        .map_err(|why| Status::undecodable(kind, why))?;
    Ok((normalized(kind, decoded.value), warnings))
}

/// A body of a subresource's own type and of the object `name`. What is to be said about it goes with the answer.
pub(crate) fn read_part(
    call: &Call,
    mut decoded: Decoded,
    name: &str,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let kind = call.kind.body_of(&call.info.subresource).ok_or_else(Status::unknown_resource)?;
    metadata::check_type(&kind, &mut decoded.value)?;
    let (mut body, warnings) = read(&kind, decoded, validation)?;
    warnings.into_iter().for_each(|text| call.notes.warn(text));
    metadata::check_identity(&kind, call.namespace(), name, &mut body)?;
    Ok(body)
}

/// As `read`, for what a patch has made of an object: it is the patch that is wrong, and `shown` of the outcome.
pub(super) fn read_patched(
    kind: &Kind,
    decoded: Decoded,
    shown: impl FnOnce(&Value) -> String,
    tell: impl Fn(&TypeError) -> String,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let warnings = inspect(kind, &decoded, validation, &tell).map_err(|why| {
        let error = FieldError::invalid("patch", shown(&decoded.value), why);
        Status::invalid_kind("", "", "", vec![error])
    })?;
    Ok((normalized(kind, decoded.value), warnings))
}

/// A configuration to apply is taken as it is: what is wrong in it, applying it finds. Only what was written
/// twice cannot be seen there any more.
pub(super) fn read_config(
    decoded: Decoded,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let warnings = say(&decoded.duplicates, Vec::new(), validation)
        .map_err(|why| Status::bad_request(format!("error strict decoding YAML: {why}")))?;
    Ok((decoded.value, warnings))
}

/// What is to be said about a body, or why it is refused.
fn inspect(
    kind: &Kind,
    decoded: &Decoded,
    validation: FieldValidation,
    tell: &dyn Fn(&TypeError) -> String,
) -> Result<Vec<String>, String> {
    // What is read into types is judged as it is read; of all else, what stands twice is found before.
    let (inside, before) = match &decoded.duplicates {
        Duplicates::Paths(paths) if kind.custom.is_none() => (paths.as_slice(), &Duplicates::default()),
        duplicates => (&[][..], duplicates),
    };
    let findings = of(kind).check_repeated(&decoded.value, inside);
    // Of a custom object only the metadata is read into types; the rest is for validation.
    let is_typed = |path: &str| kind.custom.is_none() || path.starts_with("metadata");
    if let Some(error) = findings.type_errors.iter().find(|e| is_typed(&e.path)) {
        return Err(tell(error));
    }
    let mut strict = findings.strict;
    if kind.custom.is_some() {
        // Of a custom object what is in its metadata is told first, and the rest by its path.
        strict.sort_by_cached_key(|found| (!found.path().starts_with("metadata."), found.path().to_owned()));
    }
    let found = strict.iter().map(ToString::to_string).collect();
    say(before, found, validation).map_err(|why| format!("strict decoding error: {why}"))
}

fn normalized(kind: &Kind, mut value: Value) -> Value {
    match &kind.custom {
        Some(custom) => custom.version().schema.conform(&mut value),
        None => of(kind).normalize(&mut value),
    }
    value
}

fn say(
    duplicates: &Duplicates,
    found: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, String> {
    match validation {
        FieldValidation::Strict => match [duplicates.errors(), found].concat() {
            problems if problems.is_empty() => Ok(problems),
            problems => Err(problems.join(", ")),
        },
        FieldValidation::Warn => Ok([duplicates.notes(), found].concat()),
        FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// The schema of a kind; one without any knows only its metadata.
pub(crate) fn of(kind: &Kind) -> Arc<Schema> {
    match &kind.custom {
        Some(custom) => custom.version().schema.clone(),
        None => schema::shared(kind).unwrap_or_else(|| Arc::new(Schema::open())),
    }
}

/// Whether an object that was decoded, defaulted and changed by admission is still of its type.
pub(super) fn check(kind: &Kind, object: &Value) -> Vec<FieldError> {
    if kind.custom.is_some() {
        // Its strategy checks types with the rest.
        return Vec::new();
    }
    let schema = of(kind);
    if schema.is_typed(object) {
        return Vec::new();
    }
    schema.check(object).type_errors.iter().map(schema::TypeError::to_field_error).collect()
}

/// What is different in `after`, for the log; empty for nothing. What is too much is told by its paths alone.
pub(super) fn difference(kind: &Kind, before: &Value, after: &Value) -> String {
    const BYTES_MAX: usize = 16 * 1024;
    if before == after {
        return String::new();
    }
    let fields = changes(&of(kind), before, after);
    let text = Value::from_iter(fields.iter().map(|field| field.to_value())).to_string();
    if text.len() <= BYTES_MAX {
        return text;
    }
    let paths = fields.iter().take(100).map(|field| serde_json::json!({ "path": field.path() }));
    Value::from_iter(paths).to_string()
}

/// Fills in what the kind's author says where the client said nothing.
pub(crate) fn default(kind: &Kind, object: &mut Value) {
    if let Some(custom) = &kind.custom {
        return custom.version().schema.conform(object);
    }
    let schema = of(kind);
    schema::set_defaults(kind, &schema, object);
    schema.normalize(object);
}

/// As `default`, for the last time before an object is checked and stored.
pub(super) fn complete(kind: &Kind, object: &mut Value) {
    default(kind, object);
    if kind.custom.is_none() {
        of(kind).settle(object);
    }
}

/// Notes which fields the manager of an ordinary write owns now.
pub(super) async fn track(
    call: &Call,
    old: Option<&Value>,
    object: &mut Value,
    manager: &str,
) -> Result<(), Status> {
    if !translation::may_wait(&call.kind) {
        track_known(call, old, object, manager);
        return Ok(());
    }
    let tracked = || {
        let mut object = object.clone();
        track_known(call, old, &mut object, manager);
        object
    };
    *object = translation::settled(call, tracked).await?;
    Ok(())
}

fn track_known(call: &Call, old: Option<&Value>, object: &mut Value, manager: &str) {
    let version = call.kind.api_version();
    let translate = |version: &str, object: &Value| translation::translate(call, version, object);
    let writer = Writer { translate: Some(&translate), ..writer(call, manager, &version) };
    apply::track(&of(&call.kind), old, object, &writer);
}

/// As `track`, for a body that is answered and never stored.
pub(crate) fn track_body(call: &Call, kind: &Kind, object: &mut Value, manager: &str) {
    let version = kind.api_version();
    apply::track(&of(kind), None, object, &Writer { reset: &[], ..writer(call, manager, &version) });
}

fn writer<'a>(call: &'a Call, manager: &'a str, api_version: &'a str) -> Writer<'a> {
    // What a write of this sort cannot change, nobody comes to own by it.
    const STATUS: &[&[&str]] = &[&["status"]];
    const SPEC: &[&[&str]] = &[&["spec"]];
    let separate = call.kind.find_subresource("status").is_some();
    let reset = match (separate, call.info.subresource.as_str()) {
        (true, "") => STATUS,
        (true, "status") => isolate::kept_by_status(&call.kind),
        (true, "approval") => SPEC,
        _ => &[],
    };
    Writer {
        manager,
        api_version,
        subresource: &call.info.subresource,
        now: call.server.clock.now(),
        reset,
        translate: None,
    }
}

/// RFC 6902.
pub(super) fn patch_json(current: &Value, change: &Value) -> Result<Value, Status> {
    patch::json(current, change).map_err(|e| e.to_status())
}

/// RFC 7386.
pub(super) fn patch_merge(current: &Value, change: &Value) -> Result<Value, Status> {
    patch::merge(current, change).map_err(|e| e.to_status())
}

/// Kubernetes' strategic merge: lists by their merge keys.
pub(super) fn patch_strategic(kind: &Kind, current: &Value, change: &Value) -> Result<Value, Status> {
    strategic::apply(&of(kind), current, change).map_err(|e| e.to_status())
}

/// Server-side apply; computed inside [`translation::settled`].
pub(super) fn apply(
    call: &Call,
    current: Option<&Value>,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let version = call.kind.api_version();
    let translate = |version: &str, object: &Value| translation::translate(call, version, object);
    let writer = Writer { translate: Some(&translate), ..writer(call, &options.manager, &version) };
    let applied = apply::apply(&of(&call.kind), current, config, &writer, options.force);
    applied.map(|a| a.object).map_err(|e| e.to_status())
}
