//! The controller manager as a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use component_base::clock::Clock;
use component_base::flags::{DaemonFlags, with_config_file};
use component_base::footprint;
use component_base::leader::Election;
use component_base::signals::shutdown_on_signals;
use component_base::zpages;
use controller_manager::{
    Authority, Config, EvictionRates, LEASE, NodeRanges, Prefix, Selection, TokenSigner,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the control loops of a cluster.
///
/// Each controller watches objects through the API server and writes what is missing: a Deployment gets its
/// ReplicaSets, a ReplicaSet its pods, a Job its completions, a Service its endpoints; deleted owners and
/// namespaces take what belongs to them along. It keeps nothing itself and may be stopped and started at
/// any time. With several replicas one works at a time (the Lease kube-system/kube-controller-manager).
#[derive(Parser)]
#[command(name = "controller-manager", version, after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    daemon: DaemonFlags,
    /// Which controllers run: `*` for all, `name` for one, `-name` for all but one; separated by commas.
    #[arg(long, default_value = "*", allow_hyphen_values = true)]
    controllers: Selection,
    /// Take part in the election of one leader among the replicas.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// How long others wait for a leader that is silent.
    #[arg(long, default_value = "15", value_name = "SECONDS", value_parser = seconds)]
    leader_elect_lease_duration: Duration,
    /// How long a leader works on without being able to renew.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    leader_elect_renew_deadline: Duration,
    /// How often the lease is tried.
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    leader_elect_retry_period: Duration,
    /// The CA certificate (PEM) that every namespace gets as the ConfigMap kube-root-ca.crt.
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// The certificate (PEM) of the authority that signs approved requests for certificates.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// The key (PEM) of that authority. Nothing is signed without it.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// How many hours a signed certificate is good for, unless the request asks for less.
    #[arg(long, default_value = "8760", value_name = "HOURS", value_parser = hours)]
    cluster_signing_duration: u64,
    /// The private key (PEM) of service-account tokens; fills the Secrets that keep one.
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// How long a node may be silent before its pods are moved away.
    #[arg(long, default_value = "50", value_name = "SECONDS", value_parser = seconds)]
    node_monitor_grace_period: Duration,
    /// How many nodes of a zone are emptied a second when they are not ready.
    #[arg(long, default_value = "0.1", value_name = "NODES")]
    node_eviction_rate: f64,
    /// The same in a large zone much of which is not ready.
    #[arg(long, default_value = "0.01", value_name = "NODES")]
    secondary_node_eviction_rate: f64,
    /// The share of a zone's nodes from which much of it is not ready.
    #[arg(long, default_value = "0.55", value_name = "SHARE")]
    unhealthy_zone_threshold: f64,
    /// A zone with more nodes is large; in a small one no node is emptied while much of it is not ready.
    #[arg(long, default_value = "50", value_name = "NODES")]
    large_cluster_size_threshold: usize,
    /// Give each node a range of addresses for its pods.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, action = clap::ArgAction::Set, requires = "cluster_cidr")]
    allocate_node_cidrs: bool,
    /// The ranges that pods have addresses of: one, or one of each family.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<Prefix>,
    /// The ranges that Services have addresses of; nodes get none of them.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    service_cluster_ip_range: Vec<Prefix>,
    /// How many bits the IPv4 range of a node leaves fixed.
    #[arg(long, alias = "node-cidr-mask-size", default_value = "24", value_name = "BITS", value_parser = clap::value_parser!(u8).range(1..=32))]
    node_cidr_mask_size_ipv4: u8,
    /// How many bits the IPv6 range of a node leaves fixed.
    #[arg(long, default_value = "64", value_name = "BITS", value_parser = clap::value_parser!(u8).range(1..=128))]
    node_cidr_mask_size_ipv6: u8,
    /// How many finished pods are kept before the oldest are removed; 0 keeps all.
    #[arg(long, default_value = "12500")]
    terminated_pod_gc_threshold: usize,
    /// The folder in which volumes of the class `standard` are made. Only for clusters whose nodes all see it.
    #[arg(long, value_name = "DIR")]
    host_path_volumes_dir: Option<PathBuf>,
    /// Deployments reconciled at the same time.
    #[arg(long, default_value = "5")]
    concurrent_deployment_syncs: usize,
    /// ReplicaSets reconciled at the same time.
    #[arg(long, default_value = "5")]
    concurrent_replicaset_syncs: usize,
    /// StatefulSets reconciled at the same time.
    #[arg(long, default_value = "5")]
    concurrent_statefulset_syncs: usize,
    /// Jobs reconciled at the same time.
    #[arg(long, default_value = "5")]
    concurrent_job_syncs: usize,
    /// Namespaces reconciled at the same time.
    #[arg(long, default_value = "10")]
    concurrent_namespace_syncs: usize,
    /// Objects garbage collected at the same time.
    #[arg(long, default_value = "20")]
    concurrent_gc_syncs: usize,
}

const EXAMPLES: &str = "Examples:
  controller-manager --kubeconfig controller-manager.kubeconfig
  controller-manager --kubeconfig F --controllers '*,-cronjob-controller' --healthz-bind-address 127.0.0.1:10257
  controller-manager --kubeconfig F --config flags.yaml     # flags.yaml: `log-level: debug`";

fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    digits.parse().map(Duration::from_secs).map_err(|_| format!("{text:?} is not a number of seconds"))
}

/// `8760`, `8760h` or `8760h0m0s`.
fn hours(text: &str) -> Result<u64, String> {
    let digits = text.strip_suffix("0m0s").unwrap_or(text).trim_end_matches('h');
    digits.parse().map_err(|_| format!("{text:?} is not a number of hours"))
}

impl Flags {
    /// Reads the keys of the signers.
    fn read_keys(&self, config: &mut Config) -> anyhow::Result<()> {
        if let (Some(certificate), Some(key)) =
            (&self.cluster_signing_cert_file, &self.cluster_signing_key_file)
        {
            let (certificate, key) = (std::fs::read_to_string(certificate)?, std::fs::read_to_string(key)?);
            let life = Duration::from_secs(self.cluster_signing_duration * 3600);
            config.signing = Some(Arc::new(Authority::new(&certificate, &key, life)?));
        }
        if let Some(key) = &self.service_account_private_key_file {
            config.token_signer = Some(Arc::new(TokenSigner::new(&std::fs::read_to_string(key)?)?));
        }
        Ok(())
    }

    fn config(&self) -> anyhow::Result<Config> {
        let mut config = Config::new(self.daemon.client(), Clock::system());
        config.controllers = self.controllers.clone();
        config.health = self.daemon.health;
        config.root_ca = self.root_ca_file.as_ref().map(std::fs::read_to_string).transpose()?;
        config.node_monitor_grace_period = self.node_monitor_grace_period;
        config.eviction_rates = EvictionRates {
            primary: self.node_eviction_rate,
            secondary: self.secondary_node_eviction_rate,
            unhealthy_zone_threshold: self.unhealthy_zone_threshold,
            large_cluster_size: self.large_cluster_size_threshold,
        };
        config.node_ranges = self.allocate_node_cidrs.then(|| NodeRanges {
            cluster: self.cluster_cidr.clone(),
            reserved: self.service_cluster_ip_range.clone(),
            len_v4: self.node_cidr_mask_size_ipv4,
            len_v6: self.node_cidr_mask_size_ipv6,
        });
        config.host_path_volumes = self.host_path_volumes_dir.clone();
        config.terminated_pod_threshold = self.terminated_pod_gc_threshold;
        config.election = self.leader_elect.then(|| Election {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
            ..Election::new(LEASE)
        });
        let concurrency = [
            ("deployment-controller", self.concurrent_deployment_syncs),
            ("replicaset-controller", self.concurrent_replicaset_syncs),
            ("statefulset-controller", self.concurrent_statefulset_syncs),
            ("job-controller", self.concurrent_job_syncs),
            ("namespace-controller", self.concurrent_namespace_syncs),
            ("garbage-collector-controller", self.concurrent_gc_syncs),
        ];
        self.read_keys(&mut config)?;
        config.concurrency = concurrency.map(|(name, count)| (name.to_owned(), count)).into();
        Ok(config)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("controller-manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start() -> anyhow::Result<()> {
    let (flags, told): (Flags, _) = zpages::parse(with_config_file(std::env::args_os())?);
    flags.daemon.log.init();
    let config = Config { flags: told, ..flags.config()? };
    let shutdown = shutdown_on_signals()?;
    footprint::trim_after_start(&shutdown);
    controller_manager::run(config, shutdown).await
}
