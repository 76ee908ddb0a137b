//! `ephemeralcontainers`: containers added to a pod that runs, for debugging.

use api_types::kinds::Kind;
use api_types::status::Status;
use serde_json::Value;

use super::{Action, Subresource};
use crate::rest::Projection;

pub(super) struct EphemeralContainers;

impl Subresource for EphemeralContainers {
    const NAME: &'static str = "ephemeralcontainers";
    const ACTION: Action = Action::View(&Self);
}

impl Projection for EphemeralContainers {
    fn write(&self, _kind: &Kind, object: &Value, body: Value) -> Result<Value, Status> {
        let mut next = object.clone();
        if let Some(containers) = body.pointer("/spec/ephemeralContainers") {
            next["spec"]["ephemeralContainers"] = containers.clone();
        }
        next["metadata"]["managedFields"] = body["metadata"]["managedFields"].clone();
        if next["metadata"]["managedFields"].is_null() {
            next["metadata"].as_object_mut().map(|m| m.shift_remove("managedFields"));
        }
        Ok(next)
    }

    fn owns_whole_body(&self) -> bool {
        true
    }
}
