//! Durable creates of a ConfigMap of 1 KiB.

use http::Method;
use serde_json::{Value, json};

use super::repeat;
use crate::Bench;
use crate::connection::{request, timed};
use crate::figures::Figures;

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    for count in [1, 16, 64] {
        let clients = bench.cluster.clients(count).await?;
        let path = path(bench);
        let create = move |client, number: usize, round: usize| {
            let made = request(Method::POST, &path, &config_map(&format!("c{count}-{number}-{round}")));
            async move { timed(&client, made?).await }
        };
        repeat(bench, figures, format!("create ConfigMap, clients: {count}"), clients, create).await?;
        bench.cluster.delete_all(&self::path(bench)).await?;
    }
    Ok(())
}

pub(super) fn path(bench: &Bench) -> String {
    format!("/api/v1/namespaces/{}/configmaps", bench.namespace)
}

/// A ConfigMap of about 1 KiB.
pub(super) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "bench"}},
        "data": {"text": "x".repeat(900)}})
}
