//! `/containerLogs`: a container's log from its CRI-format file or from a runtime's memory.

use std::collections::VecDeque;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader, SeekFrom};
use tokio::sync::mpsc;

use super::{Refusal, runs};
use crate::agent::Agent;
use crate::runtime::{Container, ContainerState, LogLine};

/// How often a followed file is looked at. Watching files needs inotify instances, which are few.
const FOLLOW_PERIOD: Duration = Duration::from_millis(200);
/// Pieces that wait for a slow reader before the log is read on.
const PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 16 * 1024;

/// `PodLogOptions` as query parameters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogQuery {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<DateTime<Utc>>,
    limit_bytes: Option<usize>,
    /// `All`, `Stdout` or `Stderr`.
    stream: Option<String>,
}

pub(super) async fn serve(
    State(agent): State<Arc<Agent>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let (found, mut runs) = runs(&agent, &namespace, &pod, &container).await?;
    let run = match (query.previous, runs.len()) {
        (false, 1..) => runs.swap_remove(0),
        (true, 2..) => runs.swap_remove(1),
        (true, _) => return Err(Refusal::NoPrevious { pod, container }),
        (false, _) => {
            let reason = waiting_reason(&found, &container);
            return Err(Refusal::Waiting { pod, container, reason });
        }
    };
    let since = query.since_seconds.map(|seconds| agent.clock.now() - TimeDelta::seconds(seconds));
    let filter = Filter {
        since: since.or(query.since_time),
        timestamps: query.timestamps,
        left: query.limit_bytes,
        stream: query.stream.clone().filter(|it| it != "All"),
    };
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let sender = Sender { filter, pieces, buffer: Vec::new() };
    let fallback = agent.folders.logs(&found).join(&container).join(format!("{}.log", run.attempt));
    agent.tasks.clone().spawn_until_shutdown("log-stream", async move {
        let path = run.log_path.clone().unwrap_or(fallback);
        if let Err(error) = stream(agent, run, path, query, sender).await {
            tracing::debug!(%error, "a log stream ended");
        }
    });
    let body = futures::stream::unfold(body, |mut body| async move {
        let piece: Option<Bytes> = body.recv().await;
        piece.map(|piece| (Ok::<_, std::io::Error>(piece), body))
    });
    Ok(([("content-type", "text/plain")], Body::from_stream(body)).into_response())
}

fn waiting_reason(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let mut all = status.container_statuses.into_iter().chain(status.init_container_statuses).flatten();
    let waiting = all.find(|it| it.name == container).and_then(|it| it.state?.waiting?.reason);
    waiting.unwrap_or_else(|| "ContainerCreating".to_owned())
}

async fn stream(
    agent: Arc<Agent>,
    run: Container,
    path: PathBuf,
    query: LogQuery,
    sender: Sender,
) -> Result<(), StreamEnd> {
    if agent.runtime.memory_log(&run.id).is_some() {
        return from_memory(&agent, &run.id, &query, sender).await;
    }
    from_file(&agent, &run.id, &path, &query, sender).await
}

/// Why a stream ends before the log does.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("the reader has gone or has enough")]
    Enough,
    #[error("reading the log file")]
    Read(#[source] std::io::Error),
}

async fn runs_on(agent: &Agent, id: &str) -> bool {
    let status = agent.runtime.container_status(id).await;
    status.is_ok_and(|it| matches!(it.state, ContainerState::Running | ContainerState::Created))
}

async fn from_memory(agent: &Agent, id: &str, query: &LogQuery, mut sender: Sender) -> Result<(), StreamEnd> {
    let mut sent = 0;
    let mut first = true;
    loop {
        let alive = runs_on(agent, id).await;
        let Some(mut log) = agent.runtime.memory_log(id) else { return Ok(()) };
        log.changed.mark_unchanged();
        if std::mem::take(&mut first) {
            sent = log.lines.len().saturating_sub(query.tail_lines.unwrap_or(usize::MAX));
        }
        for line in log.lines.get(sent..).unwrap_or_default() {
            sender.line(line, true).await?;
        }
        sender.flush().await?;
        sent = log.lines.len();
        if !query.follow || !alive {
            return Ok(());
        }
        tokio::select! {
            changed = log.changed.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(FOLLOW_PERIOD) => {}
        }
    }
}

async fn from_file(
    agent: &Agent,
    id: &str,
    path: &FilePath,
    query: &LogQuery,
    mut sender: Sender,
) -> Result<(), StreamEnd> {
    let file = match File::open(path).await {
        Ok(file) => file,
        // Nothing was written yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !query.follow => return Ok(()),
        Err(error) => return Err(StreamEnd::Read(error)),
    };
    let mut reader = BufReader::new(file);
    if let Some(lines) = query.tail_lines {
        let start = tail_start(&mut reader, lines).await.map_err(StreamEnd::Read)?;
        reader.seek(SeekFrom::Start(start)).await.map_err(StreamEnd::Read)?;
    }
    let mut raw = Vec::new();
    loop {
        // Asked before reading: what is written after a last look at a dead container cannot be missed.
        let alive = query.follow && runs_on(agent, id).await;
        while reader.read_until(b'\n', &mut raw).await.map_err(StreamEnd::Read)? > 0 {
            if raw.last() != Some(&b'\n') {
                break;
            }
            if let Some((line, full)) = parse_line(&raw) {
                sender.line(&line, full).await?;
            }
            raw.clear();
        }
        sender.flush().await?;
        if !alive {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_PERIOD).await;
    }
}

/// Where the last `lines` lines begin.
async fn tail_start(reader: &mut BufReader<File>, lines: usize) -> std::io::Result<u64> {
    let mut starts: VecDeque<u64> = VecDeque::new();
    let (mut at, mut raw, mut continues) = (0u64, Vec::new(), false);
    loop {
        raw.clear();
        let count = reader.read_until(b'\n', &mut raw).await?;
        if count == 0 {
            return Ok(starts.front().copied().unwrap_or(at));
        }
        // Pieces of one long line count as one.
        if !continues {
            starts.push_back(at);
        }
        continues = parse_line(&raw).is_some_and(|(_, full)| !full);
        if starts.len() > lines {
            starts.pop_front();
        }
        at += count as u64;
    }
}

/// One line of the CRI log format, `TIME STREAM TAG TEXT`, and whether it is a full line.
pub(crate) fn parse_line(raw: &[u8]) -> Option<(LogLine, bool)> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |byte| *byte == b' ');
    let at = DateTime::parse_from_rfc3339(std::str::from_utf8(parts.next()?).ok()?).ok()?.to_utc();
    let stderr = parts.next()? == b"stderr";
    let full = !parts.next()?.starts_with(b"P");
    Some((LogLine { at, stderr, text: parts.next().unwrap_or_default().to_vec() }, full))
}

struct Filter {
    since: Option<DateTime<Utc>>,
    timestamps: bool,
    /// Bytes that may still be sent.
    left: Option<usize>,
    stream: Option<String>,
}

impl Filter {
    /// The bytes to send for a line.
    fn apply(&mut self, line: &LogLine, full: bool) -> Vec<u8> {
        let other = match self.stream.as_deref() {
            Some("Stdout") => line.stderr,
            Some("Stderr") => !line.stderr,
            _ => false,
        };
        if other || self.since.is_some_and(|since| line.at < since) {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(line.text.len() + 32);
        if self.timestamps {
            bytes.extend(line.at.to_rfc3339_opts(SecondsFormat::Nanos, true).bytes());
            bytes.push(b' ');
        }
        bytes.extend(&line.text);
        if full {
            bytes.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        bytes
    }
}

struct Sender {
    filter: Filter,
    pieces: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Sender {
    async fn line(&mut self, line: &LogLine, full: bool) -> Result<(), StreamEnd> {
        let bytes = self.filter.apply(line, full);
        self.buffer.extend(bytes);
        if self.filter.left == Some(0) {
            self.flush().await?;
            return Err(StreamEnd::Enough);
        }
        if self.buffer.len() >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), StreamEnd> {
        if self.pieces.is_closed() {
            return Err(StreamEnd::Enough);
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.pieces.send(piece).await.map_err(|_| StreamEnd::Enough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n\
        2026-01-01T00:00:01Z stderr P tw\n\
        2026-01-01T00:00:01Z stderr F o\n\
        2026-01-01T00:00:02.000000001Z stdout F three words here\n";

    fn filtered(mut filter: Filter) -> String {
        let lines = LOG.lines().filter_map(|line| parse_line(line.as_bytes()));
        let bytes: Vec<u8> = lines.flat_map(|(line, full)| filter.apply(&line, full)).collect();
        String::from_utf8(bytes).unwrap()
    }

    fn all() -> Filter {
        Filter { since: None, timestamps: false, left: None, stream: None }
    }

    #[test]
    fn pieces_of_a_line_are_joined() {
        assert_eq!(filtered(all()), "one\ntwo\nthree words here\n");
    }

    #[test]
    fn since_limit_stream_and_timestamps_are_heeded() {
        let since = Some("2026-01-01T00:00:02Z".parse().unwrap());
        assert_eq!(filtered(Filter { since, ..all() }), "three words here\n");
        assert_eq!(filtered(Filter { left: Some(5), ..all() }), "one\nt");
        assert_eq!(filtered(Filter { stream: Some("Stderr".into()), ..all() }), "two\n");
        let stamped = filtered(Filter { since, timestamps: true, ..all() });
        assert_eq!(stamped, "2026-01-01T00:00:02.000000001Z three words here\n");
    }

    #[tokio::test]
    async fn tail_counts_whole_lines() {
        let path = std::env::temp_dir().join(format!("log-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, LOG).unwrap();
        let mut starts = Vec::new();
        for lines in [0, 1, 2, 9] {
            let mut reader = BufReader::new(File::open(&path).await.unwrap());
            starts.push(tail_start(&mut reader, lines).await.unwrap() as usize);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(starts[0], LOG.len());
        assert!(LOG[starts[1]..].starts_with("2026-01-01T00:00:02"));
        assert!(LOG[starts[2]..].starts_with("2026-01-01T00:00:01Z stderr P"));
        assert_eq!(starts[3], 0);
    }
}
