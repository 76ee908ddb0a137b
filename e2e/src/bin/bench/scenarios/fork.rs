//! A second cluster from the state of the measured one.

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::time::Instant;

use super::creates::path;
use super::memory::fill;
use crate::Bench;
use crate::figures::Figures;
use crate::processes::cpu_of_ended;

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let Some(command) = &bench.fork else {
        eprintln!("fork: no command that makes one; give --fork");
        return Ok(());
    };
    fill(bench).await?;
    let (cpu, begun) = (cpu_of_ended()?, Instant::now());
    let ended = Command::new("sh").args(["-c", &format!("exec {command}")]).output().await;
    let (elapsed, used) = (begun.elapsed(), cpu_of_ended()?.saturating_sub(cpu));
    let output = ended.context("cannot run the command")?;
    if !output.status.success() {
        bail!("{command} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let named = format!("fork of {} objects of 2 KiB", bench.objects);
    figures.add(named.clone(), elapsed.as_secs_f64() * 1000.0, "ms");
    figures.add(format!("{named}, CPU"), used.as_secs_f64() * 1000.0, "ms");
    bench.cluster.delete_all(&path(bench)).await
}
