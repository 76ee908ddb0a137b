//! What a stored object costs in memory.

use http::Method;
use serde_json::json;

use super::creates::path;
use super::spread;
use crate::Bench;
use crate::connection::{request, timed};
use crate::figures::Figures;

const CLIENTS: usize = 64;

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let Some(before) = bench.servers.resident_bytes() else {
        eprintln!("memory: no process to look at; give --launch or --pid");
        return Ok(());
    };
    fill(bench).await?;
    let after = bench.servers.resident_bytes().unwrap_or(before);
    let each = after.saturating_sub(before) as f64 / 1024.0 / bench.objects as f64;
    figures.add(format!("memory for each of {} objects of 2 KiB", bench.objects), each, "KiB");
    bench.cluster.delete_all(&path(bench)).await
}

/// Makes the objects: ConfigMaps of 2 KiB.
pub(super) async fn fill(bench: &Bench) -> anyhow::Result<()> {
    let target = path(bench);
    let create = move |client, number: usize| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("memory-{number}")},
            "data": {"text": "x".repeat(1700)}});
        let made = request(Method::POST, &target, &body);
        async move { timed(&client, made?).await }
    };
    spread(bench.cluster.clients(CLIENTS).await?, bench.objects, create).await
}
