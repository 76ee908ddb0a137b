//! `resize`: the resources of the containers of a pod that runs.

use api_types::kinds::Kind;
use api_types::status::Status;
use serde_json::Value;

use super::{Action, Subresource};
use crate::rest::Projection;

pub(super) struct Resize;

impl Subresource for Resize {
    const NAME: &'static str = "resize";
    const ACTION: Action = Action::View(&Self);
}

impl Projection for Resize {
    fn write(&self, _kind: &Kind, object: &Value, body: Value) -> Result<Value, Status> {
        let mut next = object.clone();
        for list in ["containers", "initContainers"] {
            let wanted = body["spec"][list].as_array().into_iter().flatten();
            for container in wanted {
                let own = next["spec"][list].as_array_mut().into_iter().flatten();
                if let Some(found) = own.into_iter().find(|c| c["name"] == container["name"]) {
                    found["resources"] = container["resources"].clone();
                    found["resizePolicy"] = container["resizePolicy"].clone();
                }
            }
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
