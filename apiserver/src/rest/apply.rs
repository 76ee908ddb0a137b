//! PATCH with `application/apply-patch+yaml`: server-side apply. Creates what is not there.

use api_types::kinds::Kind;
use api_types::status::{FieldError, Status};
use serde_json::Value;

use super::write::{Manage, Projection, Proposal, update_object};
use super::{Answer, Call, Verb, WriteOptions, body, create, metadata, typed, update};

pub(super) struct Apply;

impl Verb for Apply {
    const NAME: &'static str = "apply";

    async fn answer(call: Call) -> Answer {
        let options = WriteOptions::parse(&call.info.query, &call.headers, "PatchOptions")?;
        if !options.manager_is_named {
            let missing = FieldError::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid_kind("meta.k8s.io", "PatchOptions", "", vec![missing]));
        }
        let mut decoded = body::decode_yaml(&call.body)
            .map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
        let view = call.projection();
        let (mut config, warnings) = if view.is_object() {
            decoded.value = call.renewed(decoded.value);
            check_version(&call.kind, &decoded.value)?;
            typed::read_config(decoded, options.field_validation)?
        } else {
            (view.configuration(&call.kind, decoded.value)?, Vec::new())
        };
        // What is wrong with a configuration is said of the object as its author names it.
        let named = config["metadata"]["namespace"].clone();
        metadata::check_identity(&call.kind, call.namespace(), "", &mut config)?;
        if !call.namespace().is_empty() && named.is_null() {
            config["metadata"].as_object_mut().map(|metadata| metadata.shift_remove("namespace"));
        }
        if config["metadata"].get("managedFields").is_some_and(|m| !m.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let expected = update::expected_revision(&call, &config)?;
        let uid = config["metadata"]["uid"].as_str().map(str::to_owned);
        let through: &dyn Projection = if view.is_object() { view } else { &OfObject(view) };
        let outcome = update_object(&call, &options, through, |current| {
            if current.is_none() {
                if !call.info.subresource.is_empty() {
                    return Err(create::absent(&call));
                }
                if let Some(uid) = &uid {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                    );
                    return Err(Status::conflict(&call.kind, &call.info.name, why));
                }
            }
            let mut object = typed::apply(&call, current, &config, &options)?;
            metadata::check_identity(&call.kind, call.namespace(), &call.info.name, &mut object)?;
            Ok(Proposal { object, manage: Manage::Done, expected, warnings: warnings.clone() })
        });
        outcome.await?.answer(&call, view)
    }
}

/// Fields are owned in a version, so a configuration says its own.
fn check_version(kind: &Kind, config: &Value) -> Result<(), Status> {
    match config["apiVersion"].as_str().filter(|version| !version.is_empty()) {
        Some(_) => Ok(()),
        None => Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: , expected: {}",
            kind.api_version()
        ))),
    }
}

/// What is owned are fields of the object itself, whatever a view shows of them.
struct OfObject(&'static dyn Projection);

impl Projection for OfObject {
    fn write(&self, _kind: &Kind, _object: &Value, body: Value) -> Result<Value, Status> {
        Ok(body)
    }

    fn shown_by(&self) -> Option<&'static dyn Projection> {
        Some(self.0)
    }
}
