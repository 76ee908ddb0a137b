//! Custom resources: definitions become rows of the kinds table, and their objects go the way of all others.
//!
//! [`Definitions`] reads the stored definitions whenever they are not those it read last, so a row is there as
//! soon as its definition is acknowledged, and after a start. `names` decides who gets a contested name,
//! `rows` compiles a definition's versions, `versions` brings objects from one version to another, `keeper`
//! writes conditions and clears up after a deleted definition. What a definition must look like is said in
//! `definition` and below `checks`; what its objects must look like in `objects`.

mod checks;
pub(crate) mod definition;
mod definitions;
mod keeper;
mod names;
pub(crate) mod objects;
mod rows;
mod status;
pub(crate) mod versions;

pub(crate) use definitions::Definitions;
pub(crate) use keeper::Keeper;

/// Where definitions are kept.
pub(crate) const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Holds a deleted definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
