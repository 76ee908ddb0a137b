//! Watches: how soon one event is there, and how many reach many watchers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::creates::{config_map, path};
use super::lists::{make_pods_of, pod, pods_path};
use super::spread;
use crate::Bench;
use crate::connection::{Stream, list_version, next_line, open_path, request, timed};
use crate::figures::{Figures, Latencies};

/// Writes whose events are fanned out.
const EVENTS: usize = 400;
const WRITERS: usize = 8;
const EVENTS_OF_A_NODE: usize = 10;

#[derive(Deserialize)]
struct Line {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

async fn watch(client: &kube::Client, path: &str, version: &str) -> anyhow::Result<Stream> {
    let separator = if path.contains('?') { '&' } else { '?' };
    open_path(client, &format!("{path}{separator}watch=true&resourceVersion={version}")).await
}

/// One writer, one watcher. An event that is there before the acknowledgement took no time.
pub(super) async fn latency(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let mut clients = bench.cluster.clients(2).await?;
    let (writer, reader) = (clients.remove(0), clients.remove(0));
    let path = path(bench);
    let version = list_version(&reader, &path).await?;
    let mut stream = watch(&reader, &path, &version).await?;
    let (seen, mut arrivals) = mpsc::channel(1024);
    let mut running = JoinSet::new();
    running.spawn(async move {
        let mut line = Vec::new();
        while next_line(&mut stream, &mut line).await? {
            let event: Line = serde_json::from_slice(&line)?;
            if seen.send((event.object.metadata.name, Instant::now())).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    });
    let (begun, mut latencies) = (Instant::now(), Latencies::default());
    while begun.elapsed() < bench.length {
        let name = format!("latency-{}", latencies.count());
        timed(&writer, request(Method::POST, &path, &config_map(&name))?).await?;
        let acknowledged = Instant::now();
        let (arrived, at) = arrivals.recv().await.context("the watch ended")?;
        if arrived != name {
            bail!("the event of {arrived} came where that of {name} was due");
        }
        latencies.note(at.saturating_duration_since(acknowledged));
    }
    running.abort_all();
    figures.add_rate("write acknowledged to event, 1 writer", latencies, begun.elapsed(), None);
    bench.cluster.delete_all(&path).await
}

/// Many watchers of the same objects, each with a connection of its own.
pub(super) async fn fan_out(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let path = path(bench);
    let watched = vec![path.clone(); bench.watchers];
    let target: Arc<str> = path.as_str().into();
    let create = move |client, number: usize| {
        let made = request(Method::POST, &target, &config_map(&format!("fan-{number}")));
        async move { timed(&client, made?).await }
    };
    let writes = async { spread(bench.cluster.clients(WRITERS).await?, EVENTS, create).await };
    let name = format!("fan-out to {} watchers of one namespace", bench.watchers);
    deliver(bench, figures, &name, &watched, EVENTS, writes).await?;
    bench.cluster.delete_all(&path).await
}

/// Many watchers, each of the pods of one node: an event is wanted by one of them.
pub(super) async fn fan_out_by_node(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let path = pods_path(bench);
    let watched: Vec<String> = (0..bench.watchers)
        .map(|node| format!("{path}?fieldSelector=spec.nodeName%3Dbench-{node}"))
        .collect();
    let nodes = bench.watchers;
    let writes = make_pods_of(bench, EVENTS_OF_A_NODE * nodes, move |number| {
        let mut pod = pod(&format!("fan-{number}"), number);
        pod["spec"]["nodeName"] = format!("bench-{}", number % nodes).into();
        pod
    });
    let name = format!("fan-out to {nodes} watchers of a node's pods");
    deliver(bench, figures, &name, &watched, EVENTS_OF_A_NODE, writes).await?;
    bench.cluster.delete_all(&format!("{path}?gracePeriodSeconds=0")).await
}

/// Opens the watches, does the writes, and waits until each watch has had its `events`.
async fn deliver(
    bench: &Bench,
    figures: &mut Figures,
    name: &str,
    watched: &[String],
    events: usize,
    writes: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let version = list_version(&bench.cluster.client, &watched[0]).await?;
    let mut running = JoinSet::new();
    for (client, path) in bench.cluster.clients(watched.len()).await?.into_iter().zip(watched) {
        let stream = watch(&client, path, &version).await?;
        running.spawn(count_lines(stream, events, client));
    }
    let (cpu, begun) = (bench.servers.cpu(), Instant::now());
    writes.await?;
    let finished = async {
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(bench.wait, finished).await.context("not all watchers got all events in time")??;
    let elapsed = begun.elapsed();
    let delivered = (events * watched.len()) as f64;
    figures.add(format!("{name}, events delivered"), delivered / elapsed.as_secs_f64(), "/s");
    if let (Some(before), Some(after)) = (cpu, bench.servers.cpu()) {
        let used: Duration = after.saturating_sub(before);
        figures.add(format!("{name}, CPU s per 1,000 events"), used.as_secs_f64() * 1000.0 / delivered, "s");
    }
    Ok(())
}

/// Reads until `wanted` lines came. The client is kept as long as its connection is read.
async fn count_lines(mut stream: Stream, wanted: usize, client: kube::Client) -> anyhow::Result<()> {
    let mut line = Vec::new();
    for number in 0..wanted {
        if !next_line(&mut stream, &mut line).await? {
            bail!("the watch ended after {number} of {wanted} events");
        }
        if line.starts_with(br#"{"type":"ERROR""#) {
            bail!("the watch failed: {}", String::from_utf8_lossy(&line));
        }
    }
    drop(client);
    Ok(())
}
