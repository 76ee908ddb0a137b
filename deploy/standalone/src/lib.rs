//! The whole cluster in one process, as a library for tests and as the binary `coxswain`.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let cluster = coxswain::Cluster::start(coxswain::Options::default()).await?;
//! let client: kube::Client = cluster.client();
//! // … create objects, watch what becomes of them …
//! # drop(client);
//! cluster.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here does what a component does: it only starts the components' own `run` functions.

mod cluster;
pub mod commands;
mod host;
mod progress;
mod terminal;

pub use apiserver::{Backend, KeptMemory, UserInfo};
pub use cluster::{
    Cluster, NodeRuntime, Options, controller_manager_user, node_user, scheduler, scheduler_user,
};
