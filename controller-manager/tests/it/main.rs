//! Controllers against an API server in the same process: from objects to objects.

mod cluster;
mod collection;
mod jobs;
mod rollouts;
mod workloads;
