//! What every daemon shares: clock, supervision, client, logs, health and metrics, leader election.
//!
//! Nothing here knows a component; a component's `run(Config, Shutdown)` is built from these parts.

pub mod acted_on;
pub mod backoff;
pub mod caller;
pub mod client;
pub mod clock;
pub mod der;
pub mod events;
pub mod flags;
pub mod footprint;
pub mod health;
pub mod leader;
pub mod logs;
pub mod metrics;
pub mod random;
pub mod signals;
pub mod supervise;
pub mod zpages;

/// The signal to stop, passed down to every task; children stop with their parent.
pub type Shutdown = tokio_util::sync::CancellationToken;
