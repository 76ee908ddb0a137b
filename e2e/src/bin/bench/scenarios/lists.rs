//! Full lists of many pods of 1.9 KB.

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::spread;
use crate::Bench;
use crate::connection::{get_as, get_pages, request, timed};
use crate::figures::{Figures, Latencies};

/// Lists in one figure.
const ROUNDS: usize = 20;
const PAGE: usize = 500;

enum Form {
    As(&'static str),
    Pages,
}

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";

const FORMS: [(&str, &str, Form); 5] = [
    ("any version", "?resourceVersion=0", Form::As(JSON)),
    ("consistent", "", Form::As(JSON)),
    ("by label, 1%", "?labelSelector=hundredth%3D7", Form::As(JSON)),
    ("as Table", "", Form::As(TABLE)),
    ("in pages of 500", "", Form::Pages),
];

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let begun = Instant::now();
    make_pods(bench, "list", bench.pods).await?;
    let seconds = begun.elapsed().as_secs_f64().max(1e-9);
    figures.add(format!("create {} pods, 16 clients", bench.pods), bench.pods as f64 / seconds, "/s");
    let client = bench.cluster.clients(1).await?.remove(0);
    let path = pods_path(bench);
    for (name, query, form) in FORMS {
        let (cpu, begun) = (bench.servers.cpu(), Instant::now());
        let (mut latencies, mut size) = (Latencies::default(), 0);
        for _ in 0..ROUNDS {
            let (bytes, took) = match form {
                Form::As(accept) => get_as(&client, &format!("{path}{query}"), accept).await?,
                Form::Pages => get_pages(&client, &path, PAGE).await?,
            };
            latencies.note(took);
            size = bytes;
        }
        let used = cpu.zip(bench.servers.cpu()).map(|(before, after)| after.saturating_sub(before));
        let megabytes = size as f64 / 1e6;
        let what = format!("list {} pods, {name} ({megabytes:.1} MB)", bench.pods);
        figures.add_rate(what, latencies, begun.elapsed(), used);
    }
    bench.cluster.delete_all(&format!("{path}?gracePeriodSeconds=0")).await
}

pub(super) fn pods_path(bench: &Bench) -> String {
    format!("/api/v1/namespaces/{}/pods", bench.namespace)
}

/// Makes pods `NAME-0`, … that nobody schedules.
pub(super) async fn make_pods(bench: &Bench, name: &'static str, count: usize) -> anyhow::Result<()> {
    make_pods_of(bench, count, move |number| pod(&format!("{name}-{number}"), number)).await
}

/// Makes as many pods as `pod` says for 0..count.
pub(super) async fn make_pods_of(
    bench: &Bench,
    count: usize,
    pod: impl Fn(usize) -> Value + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let path = pods_path(bench);
    let create = move |client, number: usize| {
        let made = request(Method::POST, &path, &pod(number));
        async move { timed(&client, made?).await }
    };
    spread(bench.cluster.clients(16).await?, count, create).await
}

/// A pod of 1.9 KB.
pub(super) fn pod(name: &str, number: usize) -> Value {
    let container = json!({"name": "main", "image": "registry.example.com/team/service:1.2.3",
        "env": [{"name": "MODE", "value": "benchmark"}], "resources": {"requests": {"cpu": "100m"}}});
    let labels =
        json!({"app": "bench", "hundredth": (number % 100).to_string(), "pod-template-hash": "5d4f8c7b9"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"schedulerName": "nobody", "containers": [container]}})
}
