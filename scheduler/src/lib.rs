//! The scheduler: decides on which node each pod runs.
//!
//! `feed` turns watches into changes; `brain`, without I/O, keeps the `snapshot` and the `queue` from them and
//! decides with `cycle`, which asks the `plugins` at the points of the `framework`; `daemon` and `writes` carry
//! the decisions out. The scheduler keeps nothing of its own: after a restart it reads the cluster again and
//! goes on. It binds through the API only, so any other scheduler can have pods of its own beside it.

mod brain;
mod budgets;
mod cycle;
mod daemon;
mod decisions;
mod diagnosis;
mod event;
mod feed;
mod framework;
mod node;
mod plugins;
mod pod;
mod profile;
mod queue;
mod resources;
mod selector;
mod snapshot;
mod terms;
#[cfg(test)]
mod testing;
mod volumes;
mod writes;

use std::net::SocketAddr;
use std::time::Duration;

use component_base::Shutdown;
use component_base::acted_on::Seen;
use component_base::caller::Caller;
use component_base::client::ClientSource;
use component_base::clock::Clock;
use component_base::health::{Health, reached_at};
use component_base::leader::{self, Election};
use component_base::metrics::Metrics;
use component_base::supervise::Tasks;
use component_base::zpages::Zpages;

pub use profile::{ProfileConfig, ProfileError};

/// The Lease that is elected for, and says where the one at work can be asked.
pub const LEASE: &str = "kube-scheduler";

/// What a scheduler is started with.
#[derive(Clone)]
pub struct Config {
    pub client: ClientSource,
    pub clock: Clock,
    /// What it was started with, as `/flagz` shows it.
    pub flags: Vec<(String, String)>,
    /// One per `schedulerName` whose pods are to be scheduled.
    pub profiles: Vec<ProfileConfig>,
    /// How many percent of the nodes to find feasible before scoring; 0 lets the number of nodes decide.
    pub sample_percent: usize,
    /// The first back-off of a pod; each attempt doubles it.
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// Where ties between nodes begin; the same seed gives the same choices.
    pub seed: u64,
    /// The election to win first; none schedules at once.
    pub election: Option<Election>,
    /// Where `/livez`, `/readyz`, `/metrics` and `/debug/decisions` are served, which the Lease says.
    pub health: Option<SocketAddr>,
    pub bounds: Bounds,
}

/// Limits of everything that could grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Changes from watches that wait to be taken in; beyond, the watches wait.
    pub changes_max: usize,
    /// Bindings under way; beyond, no further pod is decided.
    pub binds_max: usize,
    /// Bindings that wait for volumes; beyond, pods with volumes are tried again after their back-off.
    pub volume_binds_max: usize,
    /// Reports of unschedulable pods under way; beyond, a report is left to the pod's next attempt.
    pub reports_max: usize,
    /// Decisions kept for `/debug/decisions`; beyond, the oldest goes.
    pub decisions_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            changes_max: 4096,
            binds_max: 256,
            volume_binds_max: 1024,
            reports_max: 256,
            decisions_max: 512,
        }
    }
}

impl Config {
    /// Kubernetes' defaults, without leader election.
    pub fn new(client: ClientSource, clock: Clock) -> Self {
        let waits = queue::Waits::default();
        Self {
            client,
            clock,
            flags: Vec::new(),
            profiles: vec![ProfileConfig::default()],
            sample_percent: 0,
            backoff_first: waits.backoff_first,
            backoff_max: waits.backoff_max,
            seed: 0,
            election: None,
            health: None,
            bounds: Bounds::default(),
        }
    }

    fn waits(&self) -> queue::Waits {
        let (backoff_first, backoff_max) = (self.backoff_first, self.backoff_max);
        queue::Waits { backoff_first, backoff_max, ..queue::Waits::default() }
    }
}

/// The names of all plugins, in the order in which they are asked.
pub fn plugin_names() -> Vec<&'static str> {
    plugins::PLUGINS.iter().map(|plugin| plugin.name).collect()
}

/// Schedules pods until `shutdown`, or until leadership is lost, which is an error.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let profiles = profile::Profiles::build(&config.profiles)?;
    let seen = Seen::default();
    let metrics = Metrics::default();
    let caller = Caller::new("kube-scheduler", seen.clone(), &metrics);
    let client = config.client.connect_as(caller).await?;
    let health = Health::new(metrics.clone());
    Zpages::new("kube-scheduler", config.clock, config.flags.clone()).serve(&health);
    let decisions = decisions::Decisions::new(config.bounds.decisions_max);
    let shown = decisions.clone();
    health.page("/debug/decisions", move |query| shown.page(query));
    let figures = daemon::Figures::new(&metrics);
    let ready = health.readiness("informers");
    let side = Tasks::new(shutdown.child_token());
    let told_at = match config.health {
        Some(address) => Some(reached_at(health.serve(address, &side).await?)),
        None => None,
    };
    if config.election.is_some() {
        // Who stands by is as ready as it can be.
        ready.pass();
    }
    let parts = daemon::Parts { client: client.clone(), seen, decisions, figures, ready };
    let work = |stop: Shutdown| daemon::run(&config, profiles, parts, stop);
    let ended = match config.election.clone() {
        None => {
            if let Some(told_at) = told_at {
                let announced = client.clone();
                side.spawn_until_shutdown("announcement", async move {
                    leader::announce(announced, LEASE, &told_at).await;
                });
            }
            work(shutdown.child_token()).await;
            Ok(())
        }
        Some(election) => {
            let election = Election { told_at, ..election };
            leader::lead(client, config.clock, election, &metrics, shutdown, work).await
        }
    };
    side.shutdown().cancel();
    side.join().await;
    Ok(ended?)
}
