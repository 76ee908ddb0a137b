//! Pods on one machine: a worker per pod over a container runtime, volumes, probes, and the node itself.
//!
//! `pod` decides and does, `runtime` runs, `node` registers and keeps the lease, `server` answers the API
//! server. The agent talks to the API server only; it knows no store and no other component.

mod agent;
pub mod bridge;
mod config;
mod downward;
mod env;
pub mod image;
mod network;
mod node;
mod pod;
mod probe;
pub mod runtime;
mod server;
pub mod shim;
mod volume;

pub use agent::run;
pub use config::{Config, Flags, Pem, RuntimeKind, Serving};
pub use node::address::FindAddressError;
