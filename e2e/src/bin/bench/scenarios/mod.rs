//! The table of scenarios, in the order in which they run.

mod creates;
mod deployment;
mod fork;
mod lists;
mod memory;
mod reads;
mod start;
mod watches;
mod workloads;

use std::time::Duration;

use futures::future::BoxFuture;
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Bench;
use crate::figures::{Figures, Latencies};

type Run = for<'a> fn(&'a Bench, &'a mut Figures) -> BoxFuture<'a, anyhow::Result<()>>;

/// One scenario.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) needs_nodes: bool,
    pub(crate) run: Run,
}

pub(crate) static SCENARIOS: &[Row] = &[
    Row {
        name: "creates",
        about: "durable creates of a 1 KiB ConfigMap with 1, 16 and 64 clients",
        needs_nodes: false,
        run: |bench, figures| Box::pin(creates::run(bench, figures)),
    },
    Row {
        name: "reads",
        about: "get of a pod and patch of its status with 64 clients",
        needs_nodes: false,
        run: |bench, figures| Box::pin(reads::run(bench, figures)),
    },
    Row {
        name: "latency",
        about: "from a write's acknowledgement to the watcher's event",
        needs_nodes: false,
        run: |bench, figures| Box::pin(watches::latency(bench, figures)),
    },
    Row {
        name: "fan-out",
        about: "events delivered to many watchers",
        needs_nodes: false,
        run: |bench, figures| Box::pin(watches::fan_out(bench, figures)),
    },
    Row {
        name: "fan-out-by-node",
        about: "events delivered to many watchers, each of another node's pods",
        needs_nodes: false,
        run: |bench, figures| Box::pin(watches::fan_out_by_node(bench, figures)),
    },
    Row {
        name: "memory",
        about: "memory of the servers for each stored object of 2 KiB; needs --launch or --pid",
        needs_nodes: false,
        run: |bench, figures| Box::pin(memory::run(bench, figures)),
    },
    Row {
        name: "start",
        about: "a start over many objects: time to /readyz, CPU, memory; needs --launch",
        needs_nodes: false,
        run: |bench, figures| Box::pin(start::run(bench, figures)),
    },
    Row {
        name: "fork",
        about: "a second cluster from the state of the measured one; needs --fork",
        needs_nodes: false,
        run: |bench, figures| Box::pin(fork::run(bench, figures)),
    },
    Row {
        name: "list",
        about: "lists of many pods: full, by label, as Table, in pages",
        needs_nodes: false,
        run: |bench, figures| Box::pin(lists::run(bench, figures)),
    },
    Row {
        name: "deployment",
        about: "a large Deployment until its pods are bound, and until they run",
        needs_nodes: true,
        run: |bench, figures| Box::pin(deployment::run(bench, figures)),
    },
    Row {
        name: "rollout",
        about: "a large Deployment made, rolled over, and deleted until its last pod is gone",
        needs_nodes: true,
        run: |bench, figures| Box::pin(workloads::rollout(bench, figures)),
    },
    Row {
        name: "fleet",
        about: "many Deployments of 3 at once, until all are available",
        needs_nodes: true,
        run: |bench, figures| Box::pin(workloads::fleet(bench, figures)),
    },
    Row {
        name: "jobs",
        about: "many Jobs at once, until all are complete; needs nodes whose containers end by themselves",
        needs_nodes: true,
        run: |bench, figures| Box::pin(workloads::jobs(bench, figures)),
    },
    Row {
        name: "rest",
        about: "memory and CPU of each process at rest over many Deployments; needs --launch or --pid",
        needs_nodes: true,
        run: |bench, figures| Box::pin(workloads::rest(bench, figures)),
    },
];

/// Lets each client repeat `operation` (client, its number, round) until the time is up, and adds the rate.
pub(crate) async fn repeat<F, R>(
    bench: &Bench,
    figures: &mut Figures,
    what: String,
    clients: Vec<Client>,
    operation: F,
) -> anyhow::Result<()>
where
    F: Fn(Client, usize, usize) -> R + Clone + Send + 'static,
    R: Future<Output = anyhow::Result<Duration>> + Send,
{
    let (cpu, begun) = (bench.servers.cpu(), Instant::now());
    let until = begun + bench.length;
    let mut running = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let operation = operation.clone();
        running.spawn(async move {
            let mut latencies = Latencies::default();
            while Instant::now() < until {
                let took = operation(client.clone(), number, latencies.count()).await?;
                latencies.note(took);
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Latencies::default();
    while let Some(ended) = running.join_next().await {
        all.join(ended??);
    }
    let elapsed = begun.elapsed();
    let used = cpu.zip(bench.servers.cpu()).map(|(before, after)| after.saturating_sub(before));
    figures.add_rate(what, all, elapsed, used);
    Ok(())
}

/// Runs `operation` for 0..count on `clients`, each taking the next number.
pub(crate) async fn spread<F, R>(clients: Vec<Client>, count: usize, operation: F) -> anyhow::Result<()>
where
    F: Fn(Client, usize) -> R + Clone + Send + 'static,
    R: Future<Output = anyhow::Result<Duration>> + Send,
{
    let lanes = clients.len().max(1);
    let mut running = JoinSet::new();
    for (lane, client) in clients.into_iter().enumerate() {
        let operation = operation.clone();
        running.spawn(async move {
            for number in (lane..count).step_by(lanes) {
                operation(client.clone(), number).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}
