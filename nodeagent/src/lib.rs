//! Pods on one machine: a worker per pod over a container runtime, volumes, probes, and the node itself.
//!
//! `pod` decides and does, `runtime` runs, `node` registers and keeps the lease, `server` answers the API
//! server. The agent talks to the API server only; it knows no store and no other component.

pub mod runtime;
