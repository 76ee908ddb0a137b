//! A start over what many objects left on the disk.

use std::time::Duration;

use super::creates::path;
use super::memory::fill;
use crate::Bench;
use crate::figures::Figures;
use crate::processes::mebibytes;

/// Memory is looked at this long after the start, when what only that needed is given back.
const SETTLE: Duration = Duration::from_secs(20);

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let Some(launched) = &bench.launched else {
        eprintln!("start: nothing to start again; give --launch");
        return Ok(());
    };
    fill(bench).await?;
    let (elapsed, cpu) = launched.restart().await?;
    let named = format!("start over {} objects of 2 KiB", bench.objects);
    figures.add(format!("{named}, to /readyz"), elapsed.as_secs_f64() * 1000.0, "ms");
    figures.add(format!("{named}, CPU"), cpu.as_secs_f64(), "s");
    tokio::time::sleep(SETTLE).await;
    if let Some(bytes) = bench.servers.resident_bytes() {
        figures.add(format!("{named}, resident"), mebibytes(bytes), "MiB");
    }
    bench.cluster.delete_all(&path(bench)).await
}
