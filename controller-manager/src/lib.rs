//! The control loops of a cluster: one file per controller under `controllers/`, one runtime for all.
//!
//! `informers` keeps one cache per kind, `queue` the keys to reconcile, `runtime` joins them with the
//! controllers; `expectations` keeps a lagging cache from making a controller create too much. Everything
//! goes through the API: nothing here knows the store or another controller.

mod bootstrap_token;
mod claims;
mod controller;
mod controllers;
mod endpoint_slices;
mod eviction;
mod expectations;
mod finalizers;
mod informers;
mod key;
mod metadata;
mod node_fit;
mod owners;
mod ownership;
mod pod_control;
mod pods;
mod prefix;
mod queue;
mod replicas;
mod resources;
mod revisions;
mod runtime;
mod service_pods;
mod signing;
mod signing_request;
mod token_signer;
mod trigger_times;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

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

pub use prefix::{Prefix, PrefixError};
use why::Ledger;

pub use signing::{Authority, SigningError};
pub use token_signer::{SignerError, TokenSigner};

/// The Lease that is elected for, and says where the one at work can be asked.
pub const LEASE: &str = "kube-controller-manager";

/// What a controller manager is started with.
#[derive(Clone)]
pub struct Config {
    pub client: ClientSource,
    pub clock: Clock,
    /// What it was started with, as `/flagz` shows it.
    pub flags: Vec<(String, String)>,
    /// Which controllers run.
    pub controllers: Selection,
    /// The certificate of the cluster's CA (PEM), published to every namespace as `kube-root-ca.crt`. Nothing is published without it.
    pub root_ca: Option<String>,
    /// What signs approved requests for certificates. Nothing is signed without it.
    pub signing: Option<Arc<Authority>>,
    /// What signs the tokens of Secrets. None are filled in without it.
    pub token_signer: Option<Arc<TokenSigner>>,
    /// The election to win first; none runs at once.
    pub election: Option<Election>,
    /// Keys reconciled at the same time, by controller name.
    pub concurrency: BTreeMap<String, usize>,
    /// Where `/livez`, `/readyz`, `/metrics` and `/debug/why` are served, which the Lease says.
    pub health: Option<SocketAddr>,
    /// How long a node may be silent before it is taken as unreachable.
    pub node_monitor_grace_period: std::time::Duration,
    /// How fast nodes that are not ready are emptied.
    pub eviction_rates: EvictionRates,
    /// The ranges of addresses that nodes get for their pods. None are given out without it.
    pub node_ranges: Option<NodeRanges>,
    /// Finished pods kept in the cluster before the oldest are removed.
    pub terminated_pod_threshold: usize,
    /// Where volumes of the default class are made. Without it there is no such class.
    pub host_path_volumes: Option<PathBuf>,
}

impl Config {
    /// Kubernetes' defaults, without leader election.
    pub fn new(client: ClientSource, clock: Clock) -> Self {
        Self {
            client,
            clock,
            flags: Vec::new(),
            controllers: Selection::default(),
            root_ca: None,
            signing: None,
            token_signer: None,
            election: None,
            concurrency: BTreeMap::new(),
            health: None,
            node_monitor_grace_period: std::time::Duration::from_secs(50),
            eviction_rates: EvictionRates::default(),
            node_ranges: None,
            terminated_pod_threshold: 12_500,
            host_path_volumes: None,
        }
    }
}

/// How fast nodes that are not ready are emptied, in nodes a second for each zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvictionRates {
    pub primary: f64,
    /// The rate in a large zone much of which is not ready; in a small one none is emptied then.
    pub secondary: f64,
    /// The share of a zone's nodes from which much of it is not ready.
    pub unhealthy_zone_threshold: f64,
    /// A zone with more nodes is large.
    pub large_cluster_size: usize,
}

impl Default for EvictionRates {
    fn default() -> Self {
        Self { primary: 0.1, secondary: 0.01, unhealthy_zone_threshold: 0.55, large_cluster_size: 50 }
    }
}

/// Where the addresses of pods come from, and how many each node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRanges {
    /// The cluster's ranges, one of each family at most.
    pub cluster: Vec<Prefix>,
    /// What is never given out, such as the addresses of Services.
    pub reserved: Vec<Prefix>,
    /// The prefix lengths of a node's ranges.
    pub len_v4: u8,
    pub len_v6: u8,
}

/// A choice of controllers, as `--controllers` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    all: bool,
    on: BTreeSet<String>,
    off: BTreeSet<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { all: true, on: BTreeSet::new(), off: BTreeSet::new() }
    }
}

/// A controller that does not exist was named.
#[derive(Debug, thiserror::Error)]
#[error("there is no controller {0:?}; there are: {known}", known = controller_names().join(", "))]
pub struct UnknownControllerError(String);

impl std::str::FromStr for Selection {
    type Err = UnknownControllerError;

    /// Reads `*`, `name` and `-name`, separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut selection = Self { all: false, on: BTreeSet::new(), off: BTreeSet::new() };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let name = part.strip_prefix('-').unwrap_or(part);
            if part != "*" && !controller_names().contains(&name) {
                return Err(UnknownControllerError(name.to_owned()));
            }
            match part {
                "*" => selection.all = true,
                part if part.starts_with('-') => drop(selection.off.insert(name.to_owned())),
                name => drop(selection.on.insert(name.to_owned())),
            }
        }
        Ok(selection)
    }
}

impl Selection {
    /// Whether the controller `name` runs.
    pub fn includes(&self, name: &str) -> bool {
        !self.off.contains(name) && (self.all || self.on.contains(name))
    }
}

/// The names of all controllers, in the order in which they start.
pub fn controller_names() -> Vec<&'static str> {
    controllers::ALL.iter().map(|row| row.name).collect()
}

/// Runs the controllers until `shutdown`, or until leadership is lost, which is an error.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let seen = Seen::default();
    let metrics = Metrics::default();
    let caller = Caller::new("kube-controller-manager", seen.clone(), &metrics);
    let client = config.client.connect_as(caller).await?;
    let health = Health::new(metrics.clone());
    Zpages::new("kube-controller-manager", config.clock, config.flags.clone()).serve(&health);
    let figures = runtime::Figures::new(&metrics);
    let ledger = Ledger::new(config.clock);
    let shown = ledger.clone();
    health.page("/debug/why", move |query| shown.page(query));
    let ready = health.readiness("informers");
    let side = Tasks::new(shutdown.child_token());
    let told_at = match config.health {
        Some(address) => Some(reached_at(health.serve(address, &side).await?)),
        None => None,
    };
    // Who stands by is as ready as it can be.
    let standing_by = ready.clone();
    let work =
        |stop: Shutdown| runtime::run(&config, client.clone(), seen.clone(), figures, ledger, ready, stop);
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
            standing_by.pass();
            let election = Election { told_at, ..election };
            leader::lead(client.clone(), config.clock, election, &metrics, shutdown, work).await
        }
    };
    side.shutdown().cancel();
    side.join().await;
    Ok(ended?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_takes_all_but_what_is_excluded() {
        let selection: Selection = "*,-cronjob-controller".parse().unwrap();
        assert!(selection.includes("job-controller"));
        assert!(!selection.includes("cronjob-controller"));
    }

    #[test]
    fn selection_without_star_takes_only_what_is_named() {
        let selection: Selection = "job-controller".parse().unwrap();
        assert!(selection.includes("job-controller"));
        assert!(!selection.includes("deployment-controller"));
    }

    #[test]
    fn unknown_controller_is_refused_with_the_known_names() {
        let error = "nonsense".parse::<Selection>().unwrap_err();
        assert!(error.to_string().contains("deployment-controller"));
    }
}
