//! The raw rate of the disk: 2 KiB appended and made durable, in a loop.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use crate::figures::{Figures, Latencies};

pub(crate) fn measure(folder: &Path, length: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    let path = folder.join(format!("bench-{}.tmp", std::process::id()));
    let result =
        append(&path, length, figures).with_context(|| format!("cannot measure in {}", folder.display()));
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    result
}

fn append(path: &Path, length: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().create_new(true).append(true).open(path)?;
    let (block, begun, mut latencies) = ([7_u8; 2048], Instant::now(), Latencies::default());
    while begun.elapsed() < length {
        let one = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.note(one.elapsed());
    }
    figures.add_rate("disk: 2 KiB append + fdatasync", latencies, begun.elapsed(), None);
    Ok(())
}
