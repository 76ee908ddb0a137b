//! One pod on this node: what is wanted, what is seen, what is remembered, and the worker between them.
//!
//! `plan` (what to do next) and `status` (what to report) are pure over [`observed`]; `worker` does the
//! steps, one task per pod; `admit` says beforehand whether the node takes the pod. What a restarted agent must know is in the runtime's labels and the pod's status;
//! `Memory` holds only what may be forgotten: back-offs, probe results, errors to report.

pub(crate) mod admit;
pub(crate) mod containers;
pub(crate) mod message;
pub(crate) mod observed;
pub(crate) mod plan;
pub(crate) mod qos;
pub(crate) mod status;
pub(crate) mod sub_path;
pub(crate) mod worker;

#[cfg(test)]
mod tests;
