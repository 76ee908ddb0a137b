//! Admission policies: rules in CEL that are objects of the API themselves.
//!
//! A policy is compiled once per generation (`api_types::policy`) and kept with its bindings (`set`) as long as
//! neither changes. For a request that it concerns, `subject` has what its expressions read, `params` the
//! objects that its bindings name, and `variables` its variables. What is done with the outcome is in the two
//! admission plugins. Nothing here waits or writes.

mod params;
mod set;
mod subject;
mod variables;

pub(crate) use api_types::policy::{Conditions, Scope};
use api_types::status::{Cause, Details, Reason, Status};

pub(crate) use params::find as find_params;
pub(crate) use set::{Binding, Policies, Policy, Sort, is_exempt};
pub(crate) use subject::{Subject, activation};
pub(crate) use variables::Variables;

use crate::admission::Review;

/// A refusal by a policy: the 403 that admission gives, with the policy's reason and its message as a cause.
pub(crate) fn refusal(review: &Review<'_>, why: &str, reason: &str, cause: String) -> Status {
    let reason = match reason {
        "Forbidden" => Reason::Forbidden,
        "Unauthorized" => Reason::Unauthorized,
        "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
        _ => Reason::Invalid,
    };
    let forbidden = review.forbidden(why);
    let details = forbidden.details().cloned().unwrap_or_default();
    let cause = Cause { message: cause, ..Cause::default() };
    Status::new(reason, forbidden.message).with_details(Details { causes: vec![cause], ..details })
}
