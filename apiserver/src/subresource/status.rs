//! `status`: what was observed, written by controllers. A write changes nothing but the status and metadata
//! that is not the server's; the strategy of the kind sees to it.

use api_types::kinds::Kind;
use api_types::status::Status;
use serde_json::Value;

use super::{Action, Subresource};
use crate::rest::Projection;

pub(super) struct StatusPart;

impl Subresource for StatusPart {
    const NAME: &'static str = "status";
    const ACTION: Action = Action::View(&Self);
}

impl Projection for StatusPart {
    fn write(&self, kind: &Kind, object: &Value, mut body: Value) -> Result<Value, Status> {
        if kind.custom.is_none() {
            return Ok(body);
        }
        // Of a custom object, a write of the status changes nothing else, metadata included.
        let mut next = object.clone();
        match body.get_mut("status").map(Value::take) {
            Some(status) => next["status"] = status,
            None => drop(next.as_object_mut().and_then(|fields| fields.shift_remove("status"))),
        }
        if let Some(managed) = body["metadata"].get_mut("managedFields").map(Value::take) {
            next["metadata"]["managedFields"] = managed;
        }
        Ok(next)
    }
}
