//! Rules that fields of an object break, as the causes of a `Status` tell of them.

use super::Cause;
use serde_json::Value;
use std::fmt;

/// What is wrong with a field (`metav1.CauseType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldReason {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
    Internal,
}

impl FieldReason {
    fn as_str(self) -> &'static str {
        match self {
            FieldReason::Required => "FieldValueRequired",
            FieldReason::Invalid => "FieldValueInvalid",
            FieldReason::NotSupported => "FieldValueNotSupported",
            FieldReason::Duplicate => "FieldValueDuplicate",
            FieldReason::Forbidden => "FieldValueForbidden",
            FieldReason::TooLong => "FieldValueTooLong",
            FieldReason::TooMany => "FieldValueTooMany",
            FieldReason::NotFound => "FieldValueNotFound",
            FieldReason::TypeInvalid => "FieldValueTypeInvalid",
            FieldReason::Internal => "InternalError",
        }
    }

    fn title(self) -> &'static str {
        match self {
            FieldReason::Required => "Required value",
            FieldReason::Invalid | FieldReason::TypeInvalid => "Invalid value",
            FieldReason::NotSupported => "Unsupported value",
            FieldReason::Duplicate => "Duplicate value",
            FieldReason::Forbidden => "Forbidden",
            FieldReason::TooLong => "Too long",
            FieldReason::TooMany => "Too many",
            FieldReason::NotFound => "Not found",
            FieldReason::Internal => "Internal error",
        }
    }
}

/// A rule that a field breaks. The path is written `spec.containers[0].image`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub path: String,
    pub reason: FieldReason,
    /// Kubernetes' detail text, without the title and the value.
    pub message: String,
    /// The offending value, printed where Kubernetes prints it.
    pub value: Option<Value>,
}

impl FieldError {
    fn new(path: impl Into<String>, reason: FieldReason, message: impl Into<String>) -> Self {
        FieldError { path: path.into(), reason, message: message.into(), value: None }
    }

    pub fn required(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(path, FieldReason::Required, message)
    }

    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, message: impl Into<String>) -> Self {
        FieldError { value: Some(value.into()), ..Self::new(path, FieldReason::Invalid, message) }
    }

    /// As `invalid`, of a value that is not worth showing.
    pub fn invalid_unshown(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(path, FieldReason::Invalid, message)
    }

    pub fn type_invalid(
        path: impl Into<String>,
        value: impl Into<Value>,
        message: impl Into<String>,
    ) -> Self {
        FieldError { value: Some(value.into()), ..Self::new(path, FieldReason::TypeInvalid, message) }
    }

    /// The value is not one of `supported`, which are printed in their order.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = match supported.as_slice() {
            [] => String::new(),
            values => format!("supported values: {}", values.join(", ")),
        };
        FieldError { value: Some(value.into()), ..Self::new(path, FieldReason::NotSupported, message) }
    }

    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        FieldError { value: Some(value.into()), ..Self::new(path, FieldReason::Duplicate, "") }
    }

    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        FieldError { value: Some(value.into()), ..Self::new(path, FieldReason::NotFound, "") }
    }

    pub fn forbidden(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(path, FieldReason::Forbidden, message)
    }

    pub fn too_long(path: impl Into<String>, bytes_max: usize) -> Self {
        Self::new(path, FieldReason::TooLong, format!("may not be more than {bytes_max} bytes"))
    }

    pub fn too_many(path: impl Into<String>, items: usize, items_max: usize) -> Self {
        let message = format!("must have at most {items_max} items");
        FieldError { value: Some(items.into()), ..Self::new(path, FieldReason::TooMany, message) }
    }

    /// The field may not change once it is set.
    pub fn immutable(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::invalid(path, value, "field is immutable")
    }

    /// The text without the path, as it stands in a cause.
    pub fn body(&self) -> String {
        let title = self.reason.title();
        match (&self.value, self.message.as_str()) {
            (None, "") => title.to_owned(),
            (None, message) => format!("{title}: {message}"),
            (Some(value), "") => format!("{title}: {value}"),
            (Some(value), message) => format!("{title}: {value}: {message}"),
        }
    }

    pub(super) fn to_cause(&self) -> Cause {
        Cause { reason: self.reason.as_str().to_owned(), message: self.body(), field: self.path.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}
