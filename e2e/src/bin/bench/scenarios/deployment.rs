//! A large Deployment: until every pod has a node, and until every pod runs.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::lists::pods_path;
use crate::Bench;
use crate::connection::{Line, get, list_version, next_line, open_path, request, timed};
use crate::figures::Figures;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

/// How far the pods are.
#[derive(Default)]
struct Progress {
    bound: HashSet<String>,
    running: HashSet<String>,
    all_bound: Option<Duration>,
}

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let client = &bench.cluster.client;
    let nodes = count_nodes(bench).await?;
    if nodes == 0 {
        bail!("the cluster has no nodes");
    }
    let path = pods_path(bench);
    let version = list_version(client, &path).await?;
    let mut stream = open_path(client, &format!("{path}?watch=true&resourceVersion={version}")).await?;
    let deployments = format!("/apis/apps/v1/namespaces/{}/deployments", bench.namespace);
    let cpu = bench.servers.cpu();
    let begun = Instant::now();
    timed(client, request(Method::POST, &deployments, &deployment(bench))?).await?;
    let mut progress = Progress::default();
    let followed = async {
        let mut line = Vec::new();
        while progress.running.len() < bench.replicas {
            if !next_line(&mut stream, &mut line).await? {
                bail!("the watch of pods ended");
            }
            progress.note(serde_json::from_slice(&line)?, bench.replicas, begun);
        }
        Ok(())
    };
    let ended = tokio::time::timeout(bench.wait, followed).await;
    let elapsed = begun.elapsed();
    report(bench, figures, &progress, nodes, elapsed, cpu);
    bench.cluster.delete_all(&deployments).await?;
    ended.with_context(|| {
        format!(
            "of {} pods {} are bound, {} run",
            bench.replicas,
            progress.bound.len(),
            progress.running.len()
        )
    })?
}

impl Progress {
    fn note(&mut self, line: Line<Object>, replicas: usize, begun: Instant) {
        if line.kind != "ADDED" && line.kind != "MODIFIED" {
            return;
        }
        let name = line.object.metadata.name;
        if !line.object.spec.node_name.is_empty() {
            self.bound.insert(name.clone());
        }
        if line.object.status.phase == "Running" {
            self.running.insert(name);
        }
        if self.bound.len() >= replicas && self.all_bound.is_none() {
            self.all_bound = Some(begun.elapsed());
        }
    }
}

fn report(
    bench: &Bench,
    figures: &mut Figures,
    progress: &Progress,
    nodes: usize,
    elapsed: Duration,
    cpu: Option<Duration>,
) {
    let name = format!("Deployment of {} on {nodes} nodes", bench.replicas);
    if let Some(bound) = progress.all_bound {
        figures.add(format!("{name}, until all are bound"), bound.as_secs_f64(), "s");
        figures.add(format!("{name}, pods bound"), bench.replicas as f64 / bound.as_secs_f64(), "/s");
    }
    if progress.running.len() >= bench.replicas {
        figures.add(format!("{name}, until all run"), elapsed.as_secs_f64(), "s");
    }
    if let (Some(before), Some(after)) = (cpu, bench.servers.cpu()) {
        let used = after.saturating_sub(before).as_secs_f64();
        figures.add(format!("{name}, CPU s per 1,000 pods"), used * 1000.0 / bench.replicas as f64, "s");
    }
}

async fn count_nodes(bench: &Bench) -> anyhow::Result<usize> {
    get(&bench.cluster.client, "/api/v1/nodes?limit=1").await?;
    let list: Value =
        bench.cluster.client.request(http::Request::get("/api/v1/nodes").body(Vec::new())?).await?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

fn deployment(bench: &Bench) -> Value {
    let container = json!({"name": "main", "image": bench.image,
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}});
    let labels = json!({"app": "bench"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"}, "spec": {
        "replicas": bench.replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}}})
}
