//! The scheduler as a process of its own.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use component_base::clock::Clock;
use component_base::flags::{DaemonFlags, with_config_file};
use component_base::footprint;
use component_base::leader::Election;
use component_base::signals::shutdown_on_signals;
use component_base::zpages;
use scheduler::{Bounds, Config, ProfileConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Assigns pods to nodes.
///
/// Watches pods without a node, filters the nodes that can run each, scores the rest, and binds the pod to the
/// best one through the API. Why a pod waits is in its condition PodScheduled and in `kubectl describe pod`;
/// which plugin refused which node, and how the others scored, is at /debug/decisions of the health address.
/// It keeps nothing itself and may be stopped and started at any time. With several replicas one works at a
/// time (the Lease kube-system/kube-scheduler). Another scheduler may run beside it: pods name theirs in
/// spec.schedulerName.
#[derive(Parser)]
#[command(name = "scheduler", version, after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    daemon: DaemonFlags,
    /// Schedule the pods that name this scheduler. May be given several times, or with commas.
    #[arg(
        long = "scheduler-name",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "default-scheduler"
    )]
    names: Vec<String>,
    /// Leave these plugins out; separated by commas. They are asked in this order.
    #[arg(long, value_name = "PLUGINS", value_delimiter = ',', value_parser = PossibleValuesParser::new(scheduler::plugin_names()))]
    disable_plugins: Vec<String>,
    /// Stop looking for nodes when this share of them can run the pod; 0 lets the number of nodes decide.
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    percentage_of_nodes_to_score: usize,
    /// How long a pod waits after its first failed attempt; doubled with each further one.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pod_initial_backoff_seconds: Duration,
    /// The longest wait of a pod between two attempts.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pod_max_backoff_seconds: Duration,
    /// Bindings written at the same time.
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = clap::value_parser!(u16).range(1..))]
    binds_max: u16,
    /// Take part in the election of one leader among the replicas.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

const EXAMPLES: &str = "Examples:
  scheduler --kubeconfig scheduler.kubeconfig
  scheduler --kubeconfig F --healthz-bind-address 127.0.0.1:10259
  curl -s '127.0.0.1:10259/debug/decisions?pod=default/web-0'     # why a pod is, or is not, where it is
  scheduler --kubeconfig F --scheduler-name batch --leader-elect=false     # a second one, for its own pods";

fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    digits.parse().map(Duration::from_secs).map_err(|_| format!("{text:?} is not a number of seconds"))
}

impl Flags {
    fn config(&self) -> Config {
        let profile = |name: &String| ProfileConfig {
            scheduler_name: name.clone(),
            disabled_plugins: self.disable_plugins.clone(),
        };
        Config {
            profiles: self.names.iter().map(profile).collect(),
            sample_percent: self.percentage_of_nodes_to_score,
            backoff_first: self.pod_initial_backoff_seconds,
            backoff_max: self.pod_max_backoff_seconds,
            election: self.leader_elect.then(|| Election::new(scheduler::LEASE)),
            health: self.daemon.health,
            bounds: Bounds { binds_max: usize::from(self.binds_max), ..Bounds::default() },
            ..Config::new(self.daemon.client(), Clock::system())
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scheduler: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start() -> anyhow::Result<()> {
    let (flags, told): (Flags, _) = zpages::parse(with_config_file(std::env::args_os())?);
    flags.daemon.log.init();
    let config = Config { flags: told, ..flags.config() };
    let shutdown = shutdown_on_signals()?;
    footprint::trim_after_start(&shutdown);
    scheduler::run(config, shutdown).await
}
