//! `coxswain test -- COMMAND`: a fresh cluster for one run of any program.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command};
use component_base::Shutdown;

use super::Subcommand;
use crate::{Cluster, Options};

/// # Does
/// Starts a cluster in memory with simulated nodes, runs the command with `KUBECONFIG` pointing at it,
/// takes everything down and ends with the command's exit code. Ctrl-C is passed on by the terminal.
pub(super) struct Test;

#[async_trait::async_trait]
impl Subcommand for Test {
    const NAME: &'static str = "test";

    fn command(base: Command) -> Command {
        base.about("Run a command with KUBECONFIG set to a fresh cluster in memory")
            .arg(
                Arg::new("nodes")
                    .long("nodes")
                    .default_value("2")
                    .value_parser(clap::value_parser!(usize))
                    .help("How many simulated nodes"),
            )
            .arg(
                Arg::new("log-level")
                    .long("log-level")
                    .default_value("error")
                    .help("error, warn, info, debug or trace"),
            )
            .arg(
                Arg::new("command")
                    .last(true)
                    .num_args(1..)
                    .required(true)
                    .help("The program and its arguments"),
            )
    }

    async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
        super::up::start_logs(matches)?;
        let scratch = tempfile::tempdir().context("cannot make a folder for the kubeconfig")?;
        let cluster = Cluster::start(Options {
            nodes: matches.get_one::<usize>("nodes").copied().unwrap_or(2),
            server: apiserver::Config {
                pki_dir: Some(scratch.path().join("pki")),
                ..apiserver::Config::listening_locally(0)
            },
            data_dir: Some(scratch.path().to_owned()),
            ..Options::default()
        })
        .await?;
        let ended = run_command(matches, &cluster).await;
        cluster.stop().await;
        ended
    }
}

async fn run_command(matches: &ArgMatches, cluster: &Cluster) -> anyhow::Result<ExitCode> {
    let words: Vec<&String> = matches.get_many("command").into_iter().flatten().collect();
    let (program, args) = words.split_first().context("no command")?;
    let kubeconfig = cluster.kubeconfig().context("the cluster has no kubeconfig")?;
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    // The terminal sends Ctrl-C to the command too: it ends first, and then the cluster.
    let interrupted = component_base::signals::shutdown_on_signals()?;
    let status =
        wait(&mut child, &interrupted).await.with_context(|| format!("{program} cannot be waited for"))?;
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|s| 128 + s));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

async fn wait(
    child: &mut tokio::process::Child,
    interrupted: &Shutdown,
) -> std::io::Result<std::process::ExitStatus> {
    tokio::select! {
        status = child.wait() => status,
        () = interrupted.cancelled() => {
            let limit = std::time::Duration::from_secs(10);
            match tokio::time::timeout(limit, child.wait()).await {
                Ok(status) => status,
                Err(_elapsed) => {
                    child.start_kill()?;
                    child.wait().await
                }
            }
        }
    }
}
