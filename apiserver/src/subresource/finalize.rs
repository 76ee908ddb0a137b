//! `finalize`: the finalizers in a spec, which hold up a deletion.

use api_types::kinds::Kind;
use api_types::status::Status;
use serde_json::Value;

use super::{Action, Subresource};
use crate::rest::Projection;

pub(super) struct Finalize;

impl Subresource for Finalize {
    const NAME: &'static str = "finalize";
    const ACTION: Action = Action::View(&Self);
}

impl Projection for Finalize {
    fn write(&self, _kind: &Kind, object: &Value, body: Value) -> Result<Value, Status> {
        let mut next = object.clone();
        match body.pointer("/spec/finalizers") {
            Some(finalizers) => next["spec"]["finalizers"] = finalizers.clone(),
            None => {
                next["spec"].as_object_mut().map(|spec| spec.shift_remove("finalizers"));
            }
        }
        next["metadata"]["managedFields"] = body["metadata"]["managedFields"].clone();
        if next["metadata"]["managedFields"].is_null() {
            next["metadata"].as_object_mut().map(|m| m.shift_remove("managedFields"));
        }
        Ok(next)
    }
}
