//! The rules of admission policies and of `matchConditions`: what their expressions may read, and the expressions
//! compiled. Pure: the API server evaluates them, its validation and a controller tell what is wrong with them.

mod compiled;
mod conditions;
mod environment;
mod type_check;

pub use compiled::{Compiled, Expression, Failure, Mutation, PatchType, Validation, problems};
pub use conditions::{Conditions, condition_problems};
pub use environment::Scope;
pub use type_check::{Warning, resources_to_check, type_check};

/// The words for an exhausted budget.
pub const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";
