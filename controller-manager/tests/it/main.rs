//! Controllers against an API server in the same process: from objects to objects.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod autoscaling;
mod budgets;
mod cluster;
mod collection;
mod crashes;
mod cronjobs;
mod daemons;
mod deployments;
mod devices;
mod jobs;
mod leadership;
mod quotas;
mod replicas;
mod rollouts;
mod services;
mod statefulsets;
mod storage;
mod trust;
mod workloads;
