//! Workloads in number: a large Deployment made, rolled over and deleted; many small ones at once; many Jobs;
//! and what controllers cost at rest over very many of them.

use std::collections::HashSet;

use anyhow::{Context as _, bail};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::lists::pods_path;
use super::spread;
use crate::Bench;
use crate::connection::{Line, list_version, next_line, open_path, request, timed, typed};
use crate::figures::Figures;
use crate::phase::Phase;

const CLIENTS: usize = 16;
/// Replicas of each of many small Deployments.
const FEW: usize = 3;

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
    generation: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    replicas: i64,
    completions: i64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    observed_generation: i64,
    replicas: i64,
    updated_replicas: i64,
    available_replicas: i64,
    succeeded: i64,
    completion_time: Option<String>,
}

impl Object {
    /// Every pod is there, of the current template, available, and none is too many.
    fn is_rolled_out(&self) -> bool {
        let (wanted, status) = (self.spec.replicas, &self.status);
        status.observed_generation >= self.metadata.generation
            && [status.replicas, status.updated_replicas, status.available_replicas] == [wanted; 3]
    }

    fn is_complete(&self) -> bool {
        self.status.completion_time.is_some() && self.status.succeeded == self.spec.completions
    }
}

/// A Deployment of many made, rolled over, and deleted until its last pod is gone.
pub(super) async fn rollout(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let (client, path, count) = (&bench.cluster.client, deployments(bench), bench.replicas);
    let named = format!("Deployment of {count}");
    let one = format!("{path}/bench-0");

    let phase = Phase::begin(bench).await?;
    let from = list_version(client, &path).await?;
    timed(client, request(Method::POST, &path, &deployment(bench, 0, count))?).await?;
    all_become(bench, &path, &from, 1, Object::is_rolled_out).await?;
    phase.end(bench, figures, &format!("{named}, made until all are available"), count).await?;

    let phase = Phase::begin(bench).await?;
    let from = list_version(client, &path).await?;
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"round": "2"}}}}});
    timed(
        client,
        typed(Method::PATCH, &one, "application/merge-patch+json", patch.to_string().into_bytes())?,
    )
    .await?;
    all_become(bench, &path, &from, 1, Object::is_rolled_out).await?;
    phase.end(bench, figures, &format!("{named}, rolled over"), count).await?;

    let phase = Phase::begin(bench).await?;
    delete_until_gone(bench, &path).await?;
    phase.end(bench, figures, &format!("{named}, deleted until the last pod is gone"), count).await
}

/// Many small Deployments at once.
pub(super) async fn fleet(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let phase = Phase::begin(bench).await?;
    make_fleet(bench, FEW).await?;
    let named = format!("{} Deployments of {FEW} at once, until all are available", bench.deployments);
    phase.end(bench, figures, &named, bench.deployments * FEW).await?;
    delete_until_gone(bench, &deployments(bench)).await
}

async fn make_fleet(bench: &Bench, each: usize) -> anyhow::Result<()> {
    let path = deployments(bench);
    let from = list_version(&bench.cluster.client, &path).await?;
    let bodies: Vec<Value> = (0..bench.deployments).map(|number| deployment(bench, number, each)).collect();
    make_all(bench, &path, bodies).await?;
    all_become(bench, &path, &from, bench.deployments, Object::is_rolled_out).await
}

/// Many Jobs at once, whose pods end at once.
pub(super) async fn jobs(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let path = format!("/apis/batch/v1/namespaces/{}/jobs", bench.namespace);
    let phase = Phase::begin(bench).await?;
    let from = list_version(&bench.cluster.client, &path).await?;
    let bodies: Vec<Value> = (0..bench.jobs).map(|number| job(bench, number)).collect();
    make_all(bench, &path, bodies).await?;
    all_become(bench, &path, &from, bench.jobs, Object::is_complete).await?;
    let named = format!("{} Jobs of {} at once, until all are complete", bench.jobs, bench.completions);
    phase.end(bench, figures, &named, bench.jobs * bench.completions).await?;
    delete_until_gone(bench, &path).await
}

/// What the control plane costs while nothing happens to very many pods.
pub(super) async fn rest(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    make_fleet(bench, bench.rest_replicas).await?;
    let pods = bench.deployments * bench.rest_replicas;
    // What came of the making, such as the last events, is no rest.
    tokio::time::sleep(bench.rest).await;
    let before = bench.servers.each();
    tokio::time::sleep(bench.rest).await;
    for (now, then) in bench.servers.each().iter().zip(&before) {
        let named = format!(
            "{} ({}) at rest with {} Deployments and {pods} pods",
            now.name, now.pid, bench.deployments
        );
        let share = now.cpu.saturating_sub(then.cpu).as_secs_f64() / bench.rest.as_secs_f64().max(1e-9);
        figures.add(format!("{named}, resident"), now.resident_bytes as f64 / f64::from(1 << 20), "MiB");
        figures.add(format!("{named}, CPU"), share * 100.0, "% of a core");
    }
    delete_until_gone(bench, &deployments(bench)).await
}

async fn make_all(bench: &Bench, path: &str, bodies: Vec<Value>) -> anyhow::Result<()> {
    let (path, count) = (path.to_owned(), bodies.len());
    let create = move |client, number: usize| {
        let made = request(Method::POST, &path, &bodies[number]);
        async move { timed(&client, made?).await }
    };
    spread(bench.cluster.clients(CLIENTS).await?, count, create).await
}

/// Follows the collection until so many objects are as wished.
async fn all_become(
    bench: &Bench,
    path: &str,
    from: &str,
    count: usize,
    is_done: fn(&Object) -> bool,
) -> anyhow::Result<()> {
    let mut done = HashSet::new();
    let note = |line: Line<Object>| {
        match line.kind != "DELETED" && is_done(&line.object) {
            true => done.insert(line.object.metadata.name),
            false => done.remove(&line.object.metadata.name),
        };
        done.len() >= count
    };
    let ended = follow(bench, path, from, note).await;
    ended.with_context(|| format!("of {count} objects at {path} {} are as wished", done.len()))
}

/// Deletes the collection and waits until none of the namespace's pods is left.
async fn delete_until_gone(bench: &Bench, path: &str) -> anyhow::Result<()> {
    let client = &bench.cluster.client;
    let pods = pods_path(bench);
    let list: Value = client.request(http::Request::get(&pods).body(Vec::new())?).await?;
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut left: HashSet<String> = list["items"].as_array().into_iter().flatten().map(name).collect();
    let from = list["metadata"]["resourceVersion"].as_str().context("a list has a version")?.to_owned();
    bench.cluster.delete_all(path).await?;
    if left.is_empty() {
        return Ok(());
    }
    let note = |line: Line<Object>| {
        match line.kind == "DELETED" {
            true => left.remove(&line.object.metadata.name),
            false => left.insert(line.object.metadata.name),
        };
        left.is_empty()
    };
    let ended = follow(bench, &pods, &from, note).await;
    ended.with_context(|| format!("{} pods are left", left.len()))
}

/// Reads the watch of a collection until `note` has seen enough.
async fn follow(
    bench: &Bench,
    path: &str,
    from: &str,
    mut note: impl FnMut(Line<Object>) -> bool,
) -> anyhow::Result<()> {
    let mut stream =
        open_path(&bench.cluster.client, &format!("{path}?watch=true&resourceVersion={from}")).await?;
    let reading = async {
        let mut line = Vec::new();
        loop {
            if !next_line(&mut stream, &mut line).await? {
                bail!("the watch ended");
            }
            if note(serde_json::from_slice(&line)?) {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(bench.wait, reading).await.map_err(|_| anyhow::anyhow!("it took too long"))?
}

fn deployments(bench: &Bench) -> String {
    format!("/apis/apps/v1/namespaces/{}/deployments", bench.namespace)
}

fn pod_spec(bench: &Bench, restart: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 0, "restartPolicy": restart, "containers": [
        {"name": "main", "image": bench.image, "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}]})
}

fn deployment(bench: &Bench, number: usize, replicas: usize) -> Value {
    let name = format!("bench-{number}");
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec(bench, "Always")}}})
}

fn job(bench: &Bench, number: usize) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("bench-{number}")}, "spec": {
        "completions": bench.completions, "parallelism": bench.completions,
        "template": {"spec": pod_spec(bench, "Never")}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_deployment_is_rolled_out_when_no_old_pod_is_left() {
        let of = |replicas: i64| {
            object(json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": {
                "observedGeneration": 2, "replicas": replicas, "updatedReplicas": 3, "availableReplicas": 3}}))
        };
        assert!(of(3).is_rolled_out());
        assert!(!of(4).is_rolled_out());
        assert!(!object(json!({"metadata": {"generation": 1}, "spec": {"replicas": 3}})).is_rolled_out());
    }

    #[test]
    fn a_job_is_complete_when_its_end_is_written() {
        let of = |status: Value| object(json!({"spec": {"completions": 2}, "status": status})).is_complete();
        assert!(of(json!({"succeeded": 2, "completionTime": "2026-01-01T00:00:00Z"})));
        assert!(!of(json!({"succeeded": 2})));
    }
}
