//! Configuration files that are read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

use crate::metrics::Reloads;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A configuration file is not longer than this.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A configuration file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", .path.display())]
pub struct ReadConfigError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The file's text.
pub(crate) fn read(path: &Path) -> Result<String, ReadConfigError> {
    std::fs::read_to_string(path).map_err(|source| ReadConfigError { path: path.to_path_buf(), source })
}

/// Takes what `parse` makes of the file whenever its text is another than `text`, until it is dropped. A file that
/// cannot be used is told of and changes nothing.
pub(crate) async fn keep<T, E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
    (path, text): (PathBuf, String),
    reloads: Reloads,
    parse: impl Fn(&str) -> Result<T, E>,
    take: impl Fn(T),
) {
    let changed = |text: &str| {
        let parsed = parse(text);
        let succeeded = parsed.is_ok();
        match parsed {
            Ok(made) => {
                info!("the changed {what} configuration is in force");
                take(made);
            }
            Err(problem) => {
                let problem = anyhow::Error::new(problem);
                warn!("the changed {what} configuration cannot be used: {problem:#}");
            }
        }
        reloads.note(succeeded);
    };
    follow(path, text, changed).await;
}

/// Calls `changed` with the file's text whenever it is another than `text`, until it is dropped.
///
/// The file may be replaced, be a link that points elsewhere, or be away for a while.
async fn follow(path: PathBuf, mut text: String, mut changed: impl FnMut(&str)) {
    // It may have changed since it was read the first time.
    let mut seen = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = stamp(&path).await;
        if now.is_none() || now == seen {
            continue;
        }
        match tokio::fs::read_to_string(&path).await {
            Ok(read) if read == text => {}
            Ok(read) => {
                changed(&read);
                text = read;
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read the changed configuration");
                continue;
            }
        }
        seen = now;
    }
}

/// What tells one state of a file from another.
async fn stamp(path: &Path) -> Option<(u64, i64, i64, u64)> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    let stamp = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    (metadata.len() <= FILE_BYTES_MAX).then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_another_now_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, "b").unwrap();
        let (told, mut heard) = tokio::sync::mpsc::channel(8);
        let following = follow(path, "a".to_owned(), move |text| told.try_send(text.to_owned()).unwrap());
        let ended = tokio::time::timeout(LOOK * 3, following).await;
        assert!(ended.is_err());
        assert_eq!(heard.recv().await.as_deref(), Some("b"));
        assert_eq!(heard.recv().await, None);
    }
}
