//! Patches of objects in JSON: JSON patch, merge patch, strategic merge patch and server-side apply.
//!
//! Each takes values and gives a value; none knows about requests. What is merged how comes from the schema.

pub mod apply;
pub mod strategic;

use crate::status::{Details, Reason, Status};
use serde_json::Value;

/// A JSON patch may have as many operations as in Kubernetes.
const OPERATIONS_MAX: usize = 10_000;

/// A patch that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object.
    #[error("{0}")]
    Inapplicable(String),
    #[error("the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooLong(usize),
}

impl PatchError {
    /// The answer to the request that brought the patch.
    pub fn to_status(&self) -> Status {
        match self {
            PatchError::Malformed(why) => Status::bad_request(why),
            PatchError::Inapplicable(_) => {
                Status::new(Reason::Invalid, "the server rejected our request due to an error in our request")
                    .with_details(Details::default())
            }
            PatchError::TooLong(_) => Status::new(Reason::RequestEntityTooLarge, self.to_string()),
        }
    }
}

/// Applies a JSON patch (RFC 6902): all of it or nothing.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Malformed(e.to_string()))?;
    if patch.0.len() > OPERATIONS_MAX {
        return Err(PatchError::TooLong(patch.0.len()));
    }
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).map_err(|e| PatchError::Inapplicable(e.to_string()))?;
    Ok(patched)
}

/// Applies a merge patch (RFC 7386): null deletes, lists are replaced.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be an object".to_owned()));
    }
    let mut patched = object.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_json_patch_that_fails_changes_nothing_and_says_so() {
        let object = json!({"a": 1});
        assert_eq!(
            json(&object, &json!([{"op": "add", "path": "/b", "value": 2}])),
            Ok(json!({"a": 1, "b": 2}))
        );
        let error = json(&object, &json!([{"op": "test", "path": "/a", "value": 2}])).unwrap_err();
        assert_eq!(error.to_status().code(), 422);
        assert_eq!(json(&object, &json!([{"op": "fly"}])).unwrap_err().to_status().code(), 400);
    }

    #[test]
    fn a_merge_patch_deletes_with_null_and_replaces_lists() {
        let patched = merge(&json!({"a": {"b": 1, "c": [1]}}), &json!({"a": {"b": null, "c": [2]}}));
        assert_eq!(patched, Ok(json!({"a": {"c": [2]}})));
        assert!(merge(&json!({}), &json!([])).is_err());
    }
}
