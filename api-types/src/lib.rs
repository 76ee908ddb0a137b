//! What the API is: kinds, schemas, patches, selectors, quantities. Pure: no I/O, no async, no clock.

pub mod kinds;
pub mod names;
pub mod selectors;
pub mod status;

/// The API's types, generated from Kubernetes' own OpenAPI document.
pub use k8s_openapi;
