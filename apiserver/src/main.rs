//! The API server as a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use component_base::clock::Clock;
use component_base::flags::{LogFlags, with_config_file};
use component_base::footprint;
use component_base::signals::shutdown_on_signals;
use component_base::zpages;
use tracing::error;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves the Kubernetes API from a store of its own.
///
/// Everything else of a cluster, controllers, scheduler, node agents and kubectl, talks to this process and
/// to nothing else. Certificates, and a kubeconfig for the administrator, are made in the data directory at
/// the first start. Without a data directory everything is lost at the end.
#[derive(Parser)]
#[command(name = "apiserver", version, after_help = EXAMPLES, next_line_help = true)]
#[group(skip)]
struct Flags {
    #[command(flatten)]
    log: LogFlags,
    /// Read further flags from this file, one `flag: value` a line; the command line wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    server: apiserver::Flags,
}

const EXAMPLES: &str = "Examples:
  apiserver --data-dir /var/lib/coxswain            serve on this machine; kubeconfig in the data directory
  apiserver --data-dir d --listen 0.0.0.0:6443 --tls-san cluster.example
  kubectl --kubeconfig d/admin.kubeconfig get namespaces";

#[tokio::main]
async fn main() -> ExitCode {
    let args = match with_config_file(std::env::args_os()) {
        Ok(args) => args,
        Err(problem) => return fail(&problem.into()),
    };
    let (flags, told): (Flags, _) = zpages::parse(args);
    flags.log.init();
    component_base::client::install_crypto_provider();
    match serve(flags, told).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem),
    }
}

fn fail(problem: &anyhow::Error) -> ExitCode {
    error!("{problem:#}");
    ExitCode::FAILURE
}

async fn serve(flags: Flags, told: Vec<(String, String)>) -> anyhow::Result<()> {
    let shutdown = shutdown_on_signals()?;
    footprint::trim_after_start(&shutdown);
    let config = apiserver::Config { flags: told, ..flags.server.config(Clock::system()) };
    apiserver::run(config, shutdown).await
}
