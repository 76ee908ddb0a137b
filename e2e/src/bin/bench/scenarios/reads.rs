//! Gets of one pod, and patches of pods' status.

use http::Method;
use serde_json::json;

use super::lists::{make_pods, pods_path};
use super::repeat;
use crate::Bench;
use crate::connection::{get, timed, typed};
use crate::figures::Figures;

const CLIENTS: usize = 64;

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    make_pods(bench, "read", CLIENTS).await?;
    let path = pods_path(bench);
    let one = path.clone();
    let read = move |client, _: usize, _: usize| {
        let path = format!("{one}/read-0");
        async move { Ok(get(&client, &path).await?.1) }
    };
    let clients = bench.cluster.clients(CLIENTS).await?;
    repeat(bench, figures, format!("get pod, {CLIENTS} clients"), clients, read).await?;
    for (name, media) in
        [("merge", "application/merge-patch+json"), ("strategic", "application/strategic-merge-patch+json")]
    {
        let path = path.clone();
        let patch = move |client, number: usize, round: usize| {
            let condition = json!({"type": "Ready", "status": "False", "reason": "Bench", "message": format!("round {round}")});
            let body = json!({"status": {"conditions": [condition]}}).to_string().into_bytes();
            let made = typed(Method::PATCH, &format!("{path}/read-{number}/status"), media, body);
            async move { timed(&client, made?).await }
        };
        let clients = bench.cluster.clients(CLIENTS).await?;
        repeat(bench, figures, format!("patch pod status ({name}), {CLIENTS} clients"), clients, patch)
            .await?;
    }
    bench.cluster.delete_all(&format!("{path}?gracePeriodSeconds=0")).await
}
