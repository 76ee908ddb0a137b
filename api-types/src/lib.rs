//! What the API is: kinds, schemas, patches, selectors, quantities. Pure: no I/O, no async, no clock.

pub mod cel;
pub mod conditions;
pub mod cron;
pub mod int_or_percent;
pub mod json_path;
pub mod kinds;
pub mod names;
pub mod owners;
pub mod patch;
pub mod pods;
pub mod policy;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selectors;
pub mod status;
pub mod table;
pub mod template_hash;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// The API's types, generated from Kubernetes' own OpenAPI document.
pub use k8s_openapi;
