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
    fn write(&self, _kind: &Kind, _object: &Value, body: Value) -> Result<Value, Status> {
        Ok(body)
    }
}
