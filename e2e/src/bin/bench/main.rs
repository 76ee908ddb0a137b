//! The benchmark: what a cluster does, over its public API only. It takes any kubeconfig, so that the same
//! figures can be taken of any other Kubernetes.
//!
//! `scenarios` has one file per group of figures; `connection` makes one connection per client and reads
//! answers without decoding them, so that the client costs as little as it can.

mod connection;
mod disk;
mod figures;
mod phase;
mod processes;
mod scenarios;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;

use connection::Cluster;
use figures::{Figures, print_json, print_table};
use processes::{Launched, Watched};

/// Measures a cluster over its API.
///
/// Makes a namespace of its own, measures, and deletes it again. Every figure comes with its latencies; with
/// --launch or --pid also with the servers' CPU seconds per 1,000 operations, which depend less on how busy the
/// machine is.
#[derive(Parser)]
#[command(name = "bench", version, after_help = EXAMPLES)]
struct Flags {
    /// The kubeconfig file of the cluster; the user needs every right.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", required_unless_present = "list")]
    kubeconfig: Option<PathBuf>,
    /// What to measure; separated by commas. `--list` names them. All that need no nodes by default.
    #[arg(long = "scenario", value_name = "NAMES", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// List the scenarios and stop.
    #[arg(long)]
    list: bool,
    /// Start this command first; measure its time to /readyz and its memory when idle; stop it at the end.
    #[arg(long, value_name = "COMMAND")]
    launch: Option<String>,
    /// What the scenario `fork` runs: it makes a second cluster from the state of the measured one.
    #[arg(long, value_name = "COMMAND")]
    fork: Option<String>,
    /// How long the launched command idles before its memory is read.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    idle_seconds: u64,
    /// Processes of the control plane, for their CPU time.
    #[arg(long = "pid", value_name = "PIDS", value_delimiter = ',')]
    pids: Vec<u32>,
    /// Measure the raw rate of 2 KiB append + fdatasync in this folder (that of the store's disk).
    #[arg(long, value_name = "FOLDER")]
    disk_dir: Option<PathBuf>,
    /// How long each rate is measured.
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    seconds: u64,
    /// Pods of a full list.
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    pods: usize,
    /// Watchers of the fan-out.
    #[arg(long, value_name = "COUNT", default_value = "500")]
    watchers: usize,
    /// Objects whose memory is measured.
    #[arg(long, value_name = "COUNT", default_value = "100000")]
    objects: usize,
    /// Replicas of the Deployment.
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    replicas: usize,
    /// Deployments of the scenarios `fleet` and `rest`.
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    deployments: usize,
    /// Jobs of the scenario `jobs`.
    #[arg(long, value_name = "COUNT", default_value = "500")]
    jobs: usize,
    /// Completions of each Job.
    #[arg(long, value_name = "COUNT", default_value = "20")]
    completions: usize,
    /// Replicas of each Deployment of the scenario `rest`.
    #[arg(long, value_name = "COUNT", default_value = "50")]
    rest_replicas: usize,
    /// How long `rest` lets the servers settle, and then looks at them.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    rest_seconds: u64,
    /// The image of the Deployment's pods; simulated nodes run any.
    #[arg(long, default_value = "registry.k8s.io/pause:3.10")]
    image: String,
    /// How long to wait for the Deployment.
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    wait_seconds: u64,
    /// Write the figures as JSON to this file; `-` prints them after the table.
    #[arg(long, value_name = "FILE", default_value = "-")]
    json: PathBuf,
}

const EXAMPLES: &str = "Examples:
  bench --kubeconfig admin.kubeconfig --disk-dir /var/lib/coxswain
  bench --kubeconfig F --scenario deployment --replicas 1000      # needs nodes
  bench --kubeconfig F --scenario rollout,fleet,jobs --replicas 2000 --pid PID   # jobs: simulated nodes only
  bench --kubeconfig /tmp/d/admin.kubeconfig --launch 'coxswain up --nodes 0 --data-dir /tmp/d'
  bench --kubeconfig /tmp/d/admin.kubeconfig --launch 'coxswain up --nodes 0 --data-dir /tmp/d' \\
      --scenario start,fork --fork 'coxswain fork --data-dir /tmp/d --into /tmp/e'";

/// What every scenario may use.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
    pub(crate) length: Duration,
    pub(crate) pods: usize,
    pub(crate) watchers: usize,
    pub(crate) objects: usize,
    pub(crate) replicas: usize,
    pub(crate) deployments: usize,
    pub(crate) jobs: usize,
    pub(crate) completions: usize,
    pub(crate) rest_replicas: usize,
    pub(crate) rest: Duration,
    pub(crate) image: String,
    pub(crate) wait: Duration,
    pub(crate) fork: Option<String>,
    pub(crate) launched: Option<Arc<Launched>>,
    pub(crate) servers: Watched,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    if flags.list {
        for row in scenarios::SCENARIOS {
            println!("{:<12} {}", row.name, row.about);
        }
        return Ok(());
    }
    let rows = choose(&flags.scenarios)?;
    let kubeconfig = flags.kubeconfig.as_deref().context("no kubeconfig is given")?;
    let mut figures = Figures::default();
    let launched = match &flags.launch {
        Some(command) => Some(Launched::start(command, kubeconfig, &mut figures).await?),
        None => None,
    };
    let outcome = measure(&flags, kubeconfig, &rows, launched.clone(), &mut figures).await;
    if let Some(launched) = launched {
        launched.stop(&mut figures).await?;
    }
    print_table(&figures);
    print_json(&figures, &flags.json)?;
    outcome
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static scenarios::Row>> {
    if names.is_empty() {
        return Ok(scenarios::SCENARIOS.iter().filter(|row| !row.needs_nodes).collect());
    }
    let find = |name: &String| scenarios::SCENARIOS.iter().find(|row| row.name == name);
    let known = || scenarios::SCENARIOS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| find(name).with_context(|| format!("no scenario {name:?}; there are {}", known())))
        .collect()
}

async fn measure(
    flags: &Flags,
    kubeconfig: &Path,
    rows: &[&scenarios::Row],
    launched: Option<Arc<Launched>>,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    if let Some(launched) = &launched {
        launched.idle(Duration::from_secs(flags.idle_seconds), figures).await?;
    }
    if let Some(folder) = &flags.disk_dir {
        disk::measure(folder, Duration::from_secs(flags.seconds.min(5)), figures)?;
    }
    let cluster = Cluster::read(kubeconfig).await?;
    let namespace = cluster.make_namespace().await?;
    let bench = Bench {
        cluster,
        namespace,
        length: Duration::from_secs(flags.seconds),
        pods: flags.pods,
        watchers: flags.watchers,
        objects: flags.objects,
        replicas: flags.replicas,
        deployments: flags.deployments,
        jobs: flags.jobs,
        completions: flags.completions,
        rest_replicas: flags.rest_replicas,
        rest: Duration::from_secs(flags.rest_seconds),
        image: flags.image.clone(),
        wait: Duration::from_secs(flags.wait_seconds),
        fork: flags.fork.clone(),
        servers: Watched::new(flags.pids.clone(), launched.clone()),
        launched,
    };
    let outcome = run_all(&bench, rows, figures).await;
    bench.cluster.delete_namespace(&bench.namespace).await?;
    outcome
}

async fn run_all(bench: &Bench, rows: &[&scenarios::Row], figures: &mut Figures) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for row in rows {
        eprintln!("{}: {}", row.name, row.about);
        if let Err(error) = (row.run)(bench, figures).await {
            eprintln!("{}: {error:#}", row.name);
            failed.push(row.name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
