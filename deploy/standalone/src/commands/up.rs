//! `coxswain up`: a cluster on this machine, until Ctrl-C.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches as _};
use component_base::clock::Clock;

use super::Subcommand;
use crate::cluster::{Cluster, NodeRuntime, Options};
use crate::host;
use crate::progress::Progress;
use crate::terminal::say;

/// # Does
/// Starts the control plane and nodes, applies manifests, shows how each object comes up, prints how to
/// go on, and stays until Ctrl-C or SIGTERM. Containers stop with it; objects stay in the data directory.
pub(super) struct Up;

#[async_trait::async_trait]
impl Subcommand for Up {
    const NAME: &'static str = "up";
    const READS_CONFIG_FILE: bool = true;

    fn command(base: Command) -> Command {
        let value = |name: &'static str, placeholder: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(placeholder).help(help)
        };
        let command = base
            .next_line_help(true)
            .arg(
                value("nodes", "N", "How many nodes")
                    .default_value("1")
                    .value_parser(clap::value_parser!(usize)),
            )
            .arg(value("apply", "PATH", "Manifests to apply: a file or a folder").action(ArgAction::Append))
            .arg(
                value("runtime", "KIND", "oci runs real containers, simulated only pretends")
                    .value_parser(["oci", "simulated"]),
            )
            .arg(
                value("timeout", "SECONDS", "How long manifests may take to be ready")
                    .default_value("300")
                    .value_parser(clap::value_parser!(u64)),
            )
            .arg(value("log-level", "LEVEL", "error, warn, info, debug or trace").default_value("error"))
            .arg(value("config", "FILE", "Read further flags from this file, one `flag: value` a line"));
        // The flags of the API server bring their own description along.
        <apiserver::Flags as clap::Args>::augment_args(command.next_help_heading("API server"))
            .about("Bring up a cluster on this machine")
    }

    async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
        start_logs(matches)?;
        let shutdown = component_base::signals::shutdown_on_signals()?;
        let manifests = read(matches)?;
        let options = options(matches)?;
        let started = tokio::time::Instant::now();
        let cluster = Cluster::start(options).await?;
        component_base::footprint::trim_after_start(&shutdown);
        let address = cluster.address().context("the API server listens nowhere")?;
        say(format_args!("Cluster ready at https://{address} in {:.2} s", started.elapsed().as_secs_f64()));
        let ended = tokio::select! {
            ended = follow(&cluster, &manifests, matches) => ended,
            () = shutdown.cancelled() => Ok(()),
        };
        if ended.is_ok() && !shutdown.is_cancelled() {
            print_next_steps(&cluster, &manifests);
            shutdown.cancelled().await;
        }
        say("Stopping: pods end first, objects are kept.");
        cluster.stop().await;
        ended.map(|()| ExitCode::SUCCESS)
    }
}

/// Logs on standard error at `--log-level`.
pub(super) fn start_logs(matches: &ArgMatches) -> anyhow::Result<()> {
    let level = matches.get_one::<String>("log-level").map_or("error", String::as_str);
    component_base::logs::init(&level.parse()?, component_base::logs::Format::Text);
    Ok(())
}

fn read(matches: &ArgMatches) -> anyhow::Result<Vec<kubectl_lite::Manifest>> {
    let mut manifests = Vec::new();
    for path in matches.get_many::<String>("apply").into_iter().flatten() {
        manifests.extend(
            kubectl_lite::read_manifests(path, true)
                .map_err(|error| anyhow::anyhow!("{}", error.for_humans()))?,
        );
    }
    Ok(manifests)
}

fn options(matches: &ArgMatches) -> anyhow::Result<Options> {
    let asked = matches.get_one::<String>("runtime").map(String::as_str);
    let runtime = match (asked, host::why_not_containers()) {
        (Some("simulated"), _) => NodeRuntime::Simulated,
        (Some(_), Some(why)) => anyhow::bail!("--runtime oci is not possible: {why}"),
        (None, Some(why)) => {
            say(format_args!("Containers are simulated: {why}."));
            NodeRuntime::Simulated
        }
        (_, None) => NodeRuntime::Oci,
    };
    let mut flags = apiserver::Flags::from_arg_matches(matches)?;
    let data_dir = flags.data_dir.get_or_insert_with(host::default_data_dir).clone();
    Ok(Options {
        nodes: matches.get_one::<usize>("nodes").copied().unwrap_or(1),
        runtime,
        server: flags.config(Clock::system()),
        data_dir: Some(data_dir),
        ..Options::default()
    })
}

async fn follow(
    cluster: &Cluster,
    manifests: &[kubectl_lite::Manifest],
    matches: &ArgMatches,
) -> anyhow::Result<()> {
    let limit = Duration::from_secs(matches.get_one::<u64>("timeout").copied().unwrap_or(300));
    let mut progress = Progress::new(cluster.client());
    tokio::time::timeout(limit, async {
        progress.nodes(&cluster.node_names()).await?;
        progress.apply(manifests).await
    })
    .await
    .unwrap_or_else(|_elapsed| {
        Err(anyhow::anyhow!("not all was ready in {limit:?}; {}", progress.waiting_for()))
    })
}

fn print_next_steps(cluster: &Cluster, manifests: &[kubectl_lite::Manifest]) {
    let Some(kubeconfig) = cluster.kubeconfig() else { return };
    let deployment = manifests.iter().find(|manifest| manifest.object["kind"] == "Deployment");
    let (create, name) = match deployment.and_then(|found| found.object["metadata"]["name"].as_str()) {
        Some(name) => ("", name),
        None => ("  kubectl create deployment web --image=node.local/rootfs -- sleep infinity", "web"),
    };
    say(format_args!("\nAll is ready. The kubeconfig is {}", kubeconfig.display()));
    say("Try next:\n");
    say(format_args!("  export KUBECONFIG={}", kubeconfig.display()));
    if !create.is_empty() {
        say(create);
    }
    say("  kubectl get pods -o wide");
    say(format_args!("  kubectl logs deploy/{name}"));
    say(format_args!("  kubectl exec -it deploy/{name} -- sh"));
    say(format_args!("  kubectl scale deploy/{name} --replicas 5"));
    say("\nCtrl-C stops the cluster; `coxswain up` again finds every object where it was.");
}
