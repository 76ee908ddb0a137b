//! `approval`: the conditions that approve or deny a request for a certificate.

use api_types::kinds::Kind;
use api_types::status::Status;
use serde_json::Value;

use super::{Action, Subresource};
use crate::rest::Projection;

pub(super) struct Approval;

impl Subresource for Approval {
    const NAME: &'static str = "approval";
    const ACTION: Action = Action::View(&Self);
}

impl Projection for Approval {
    fn write(&self, _kind: &Kind, object: &Value, body: Value) -> Result<Value, Status> {
        let mut next = object.clone();
        match body.pointer("/status/conditions") {
            Some(conditions) => next["status"]["conditions"] = conditions.clone(),
            None => {
                next.get_mut("status").and_then(Value::as_object_mut).map(|s| s.shift_remove("conditions"));
            }
        }
        // The server's own fields are put back where every update's are.
        next["metadata"] = body["metadata"].clone();
        Ok(next)
    }
}
