//! Patches of objects in JSON: JSON patch, merge patch, strategic merge patch and server-side apply.
//!
//! Each takes values and gives a value; none knows about requests. What is merged how comes from the schema.

pub mod apply;
pub mod changes;
pub mod strategic;

use crate::status::{Details, Reason, Status};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation};
use serde_json::{Map, Value};

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
    /// A strategic merge patch asks for what the schema cannot answer. Kubernetes calls this its own error.
    #[error("{0}")]
    Unmergeable(String),
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
            PatchError::Unmergeable(why) => Status::unexplained(500, why),
            PatchError::TooLong(_) => Status::new(Reason::RequestEntityTooLarge, self.to_string()),
        }
    }
}

/// Applies a JSON patch (RFC 6902): all of it or nothing. As in Kubernetes, replacing a field that an object
/// does not have adds it, and a field that is not there passes a test for null.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        let why = "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp";
        return Err(PatchError::Malformed(why.to_owned()));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(PatchError::TooLong(operations.len()));
    }
    let mut patched = object.clone();
    for operation in operations {
        let operation: PatchOperation =
            serde_json::from_value(operation.clone()).map_err(|e| PatchError::Inapplicable(e.to_string()))?;
        if is_test_for_absence(&operation, &patched) {
            continue;
        }
        let operation = lenient(operation, &patched);
        json_patch::patch(&mut patched, &[operation]).map_err(|e| PatchError::Inapplicable(e.to_string()))?;
    }
    Ok(patched)
}

fn lenient(operation: PatchOperation, object: &Value) -> PatchOperation {
    match operation {
        PatchOperation::Replace(r)
            if object.pointer(r.path.as_str()).is_none() && in_object(&r.path, object) =>
        {
            PatchOperation::Add(AddOperation { path: r.path, value: r.value })
        }
        other => other,
    }
}

/// Clients that add the first finalizer make sure in this way that there is none yet.
fn is_test_for_absence(operation: &PatchOperation, object: &Value) -> bool {
    matches!(operation, PatchOperation::Test(test)
        if test.value.is_null() && object.pointer(test.path.as_str()).is_none() && in_object(&test.path, object))
}

fn in_object(path: &PointerBuf, object: &Value) -> bool {
    let parent = path.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
    object.pointer(parent).is_some_and(Value::is_object)
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

/// Whether two objects have the same fields, those named `besides` left out.
pub fn same_but(old: &Map<String, Value>, new: &Map<String, Value>, besides: &[&str]) -> bool {
    let counts = |name: &&String| !besides.contains(&name.as_str());
    old.keys().filter(counts).count() == new.keys().filter(counts).count()
        && new.iter().filter(|(name, _)| counts(name)).all(|(name, value)| old.get(name) == Some(value))
}

/// A value as Kubernetes prints what it has read, in its messages.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields.into_iter().map(|(name, value)| format!("{name}:{}", go_text(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" "))
        }
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_printed_as_go_does() {
        let patch = serde_json::json!({"b": [1, "x", null], "a": {"c": true}});
        assert_eq!(go_text(&patch), "map[a:map[c:true] b:[1 x <nil>]]");
    }

    #[test]
    fn a_json_patch_that_fails_changes_nothing_and_says_so() {
        let object = json!({"a": 1});
        assert_eq!(
            json(&object, &json!([{"op": "add", "path": "/b", "value": 2}])),
            Ok(json!({"a": 1, "b": 2}))
        );
        let error = json(&object, &json!([{"op": "test", "path": "/a", "value": 2}])).unwrap_err();
        assert_eq!(error.to_status().code(), 422);
        assert_eq!(json(&object, &json!([{"op": "fly"}])).unwrap_err().to_status().code(), 422);
        assert_eq!(json(&object, &json!({"op": "add"})).unwrap_err().to_status().code(), 400);
        let replaced = json(&object, &json!([{"op": "replace", "path": "/c", "value": 2}]));
        assert_eq!(replaced, Ok(json!({"a": 1, "c": 2})));
    }

    #[test]
    fn a_field_that_is_not_there_passes_a_test_for_null() {
        let first =
            json!([{"op": "test", "path": "/f", "value": null}, {"op": "add", "path": "/f", "value": ["x"]}]);
        assert_eq!(json(&json!({}), &first), Ok(json!({"f": ["x"]})));
        assert!(json(&json!({"f": ["y"]}), &first).is_err());
    }

    #[test]
    fn a_merge_patch_deletes_with_null_and_replaces_lists() {
        let patched = merge(&json!({"a": {"b": 1, "c": [1]}}), &json!({"a": {"b": null, "c": [2]}}));
        assert_eq!(patched, Ok(json!({"a": {"c": [2]}})));
        assert!(merge(&json!({}), &json!([])).is_err());
    }
}
