//! The `authorizer` of expressions: who asks is known to the server, what is asked is built up by calls.

use std::fmt;

/// Answers what expressions ask of `authorizer`.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// May the user of the request, or the service account that the query names, do this?
    fn check(&self, query: &Query) -> Decision;
}

/// What is asked. Empty where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Namespace and name, if it is not the user of the request.
    pub service_account: Option<(String, String)>,
    /// Set for what is not a resource.
    pub path: Option<String>,
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// Why the question could not be answered.
    pub error: Option<String>,
}
