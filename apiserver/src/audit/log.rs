//! Where audit events go: standard output, or a file that is set aside when it is large.
//!
//! Requests hand lines to a bounded buffer; one task writes them in the order in which they came.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tracing::error;

use super::buffer::Buffer;

/// The file of `--audit-log-path` and its bounds; 0 is no bound.
#[derive(Clone, Debug, Default)]
pub struct LogFile {
    /// `-` is standard output.
    pub path: PathBuf,
    /// The file is set aside when it has this many megabytes (100 when 0).
    pub megabytes_max: u64,
    /// Files set aside that are kept.
    pub backups_max: usize,
    /// Days after which files set aside are removed.
    pub age_days_max: i64,
}

/// A log that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("--audit-log-path: cannot write {}", .path.display())]
pub struct OpenLogError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Events that may wait to be written; more are dropped.
const WAITING_MAX: usize = 10_000;
const BATCH_MAX: usize = 400;
const MEGABYTES_USUAL: u64 = 100;

/// Opens the log; its writer is one of `tasks` and writes what waits before it ends with them.
pub(super) fn open(file: LogFile, clock: Clock, tasks: &Tasks) -> Result<Buffer, OpenLogError> {
    let failed = |source| OpenLogError { path: file.path.clone(), source };
    if file.path.as_os_str() != "-" {
        if let Some(dir) = file.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        std::fs::OpenOptions::new().append(true).create(true).open(&file.path).map_err(failed)?;
    }
    let (buffer, waiting) = Buffer::new("log", WAITING_MAX);
    let (shutdown, writer) = (tasks.shutdown().clone(), Writer { file, clock, open: None, bytes: 0 });
    tasks.spawn("audit log", writer.run(waiting, shutdown));
    Ok(buffer)
}

struct Writer {
    file: LogFile,
    clock: Clock,
    open: Option<File>,
    bytes: u64,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Vec<u8>>, shutdown: component_base::Shutdown) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let received = tokio::select! {
                biased;
                received = waiting.recv_many(&mut batch, BATCH_MAX) => received,
                () = shutdown.cancelled() => {
                    waiting.close();
                    waiting.recv_many(&mut batch, usize::MAX).await
                }
            };
            if received == 0 {
                return;
            }
            if let Err(problem) = self.write(&batch.concat()).await {
                error!(%problem, path = %self.file.path.display(), "audit events could not be written");
                self.open = None;
            }
            batch.clear();
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.file.path.as_os_str() == "-" {
            let mut out = tokio::io::stdout();
            out.write_all(bytes).await?;
            return out.flush().await;
        }
        let limit = match self.file.megabytes_max {
            0 => MEGABYTES_USUAL << 20,
            megabytes => megabytes << 20,
        };
        let mut file = match self.open.take() {
            Some(file) => file,
            None => self.reopen().await?,
        };
        if self.bytes > 0 && self.bytes + bytes.len() as u64 > limit {
            set_aside(&self.file, self.clock.now()).await?;
            file = self.reopen().await?;
        }
        file.write_all(bytes).await?;
        file.flush().await?;
        self.bytes += bytes.len() as u64;
        self.open = Some(file);
        Ok(())
    }

    async fn reopen(&mut self) -> std::io::Result<File> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.file.path).await?;
        self.bytes = file.metadata().await?.len();
        Ok(file)
    }
}

/// `audit.log` becomes `audit-2026-01-02T15-04-05.000.log`; the oldest such files beyond the bounds go.
async fn set_aside(file: &LogFile, now: DateTime<Utc>) -> std::io::Result<()> {
    let (stem, extension) = split(&file.path);
    let stamp = now.format("%Y-%m-%dT%H-%M-%S%.3f");
    let dir = file.path.parent().unwrap_or(Path::new(""));
    tokio::fs::rename(&file.path, dir.join(format!("{stem}-{stamp}{extension}"))).await?;
    let mut backups = Vec::new();
    let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let mut entries = tokio::fs::read_dir(listed).await?;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        let made = stamp.and_then(|s| chrono::NaiveDateTime::parse_from_str(s, "%Y-%m-%dT%H-%M-%S%.3f").ok());
        backups.extend(made.map(|made| (made, entry.path())));
    }
    backups.sort();
    let oldest = now.naive_utc() - chrono::Duration::days(file.age_days_max);
    let excess = match file.backups_max {
        0 => 0,
        max => backups.len().saturating_sub(max),
    };
    for (index, (made, path)) in backups.iter().enumerate() {
        if index < excess || (file.age_days_max > 0 && *made < oldest) {
            tokio::fs::remove_file(path).await?;
        }
    }
    Ok(())
}

fn split(path: &Path) -> (String, String) {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    (stem, extension)
}

#[cfg(test)]
mod tests {
    use component_base::Shutdown;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_full_file_is_set_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let file =
            LogFile { path: dir.path().join("a.log"), megabytes_max: 1, backups_max: 1, age_days_max: 0 };
        std::fs::write(dir.path().join("a-2020-01-02T03-04-05.000.log"), "old").unwrap();
        let mut writer = Writer { file, clock: Clock::system(), open: None, bytes: 0 };
        writer.write(&vec![b'x'; 900 << 10]).await.unwrap();
        writer.write(&vec![b'y'; 900 << 10]).await.unwrap();
        let names = names(dir.path());
        assert_eq!(names.len(), 2, "{names:?}");
        assert_ne!(names[0], "a-2020-01-02T03-04-05.000.log");
        assert_eq!(std::fs::read(dir.path().join("a.log")).unwrap()[0], b'y');
    }

    #[tokio::test]
    async fn what_waits_is_written_before_the_end_and_the_buffer_never_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let file = LogFile { path: dir.path().join("a.log"), ..LogFile::default() };
        let log = open(file, Clock::system(), &tasks).unwrap();
        for _ in 0..WAITING_MAX + 5 {
            log.write(b"line\n".to_vec());
        }
        tasks.shutdown().cancel();
        tasks.join().await;
        let lines = std::fs::read_to_string(dir.path().join("a.log")).unwrap().lines().count();
        assert_eq!(lines, WAITING_MAX);
        assert_eq!(log.dropped(), 5);
    }
}
