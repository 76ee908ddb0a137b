//! Exec and attach over SPDY: a stream each for errors, input, output, error output and terminal sizes.
//!
//! The client opens the streams it wants and names them in a header; the command starts when all are there.

use std::time::Duration;

use axum::response::Response;
use futures::StreamExt as _;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LinesCodec};
use tracing::debug;

use super::StreamQuery;
use super::spdy::{self, Opened};
use super::streams::{SIZES_MAX, report};
use super::upgrade::SpdyUpgrade;
use crate::runtime::{Result, Streams, TerminalSize};

/// From the newest, whose errors are a `Status`; the ones before have them as text.
const PROTOCOLS: [&str; 4] = [STATUS_PROTOCOL, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const STATUS_PROTOCOL: &str = "v4.channel.k8s.io";
/// How long a client may take to open its streams.
const STREAMS_LIMIT: Duration = Duration::from_secs(30);
/// The JSON of a terminal's size is not longer.
const SIZE_BYTES_MAX: usize = 1024;

/// Answers the upgrade and runs `command` on the streams that `query` wants.
pub(super) fn upgrade<F, Done>(upgrade: SpdyUpgrade, query: StreamQuery, command: F) -> Response
where
    F: FnOnce(Streams) -> Done + Send + 'static,
    Done: Future<Output = Result<i32>> + Send + 'static,
{
    upgrade.accept(&PROTOCOLS, move |protocol, io| {
        spdy::serve(io, move |opened| run(opened, query, protocol, command))
    })
}

/// The client's ends.
#[derive(Default)]
struct Ends {
    error: Option<DuplexStream>,
    stdin: Option<DuplexStream>,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    resize: Option<DuplexStream>,
}

impl Ends {
    async fn collect(
        opened: &mut mpsc::Receiver<Opened>,
        query: &StreamQuery,
        resizes: bool,
    ) -> Option<Self> {
        let mut ends = Self::default();
        let wanted = [true, query.stdin, query.stdout, query.stderr, query.tty && resizes];
        for _ in wanted.into_iter().filter(|it| *it) {
            let stream = opened.recv().await?;
            let end = match stream.headers.get("streamtype")? {
                "error" => &mut ends.error,
                "stdin" => &mut ends.stdin,
                "stdout" => &mut ends.stdout,
                "stderr" => &mut ends.stderr,
                "resize" => &mut ends.resize,
                _ => return None,
            };
            *end = Some(stream.io);
        }
        Some(ends)
    }
}

async fn run<F, Done>(mut opened: mpsc::Receiver<Opened>, query: StreamQuery, protocol: &str, command: F)
where
    F: FnOnce(Streams) -> Done,
    Done: Future<Output = Result<i32>>,
{
    let resizes = matches!(protocol, STATUS_PROTOCOL | "v3.channel.k8s.io");
    let collecting = Ends::collect(&mut opened, &query, resizes);
    let Ok(Some(ends)) = tokio::time::timeout(STREAMS_LIMIT, collecting).await else {
        return debug!("the client did not open the streams that it asked for");
    };
    let (sizes, resize) = mpsc::channel(SIZES_MAX);
    let streams = Streams {
        stdin: ends.stdin.map(|it| Box::new(it) as _),
        stdout: ends.stdout.map(|it| Box::new(it) as _),
        stderr: ends.stderr.map(|it| Box::new(it) as _),
        resize: query.tty.then_some(resize),
    };
    let work = command(streams);
    tokio::pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        () = follow_sizes(ends.resize, sizes) => work.await,
    };
    let Some(mut error) = ends.error else { return };
    let text = report(&result, protocol == STATUS_PROTOCOL);
    if let Err(error) = error.write_all(text.as_bytes()).await {
        debug!(%error, "sending the status");
    }
}

/// Passes the client's terminal sizes on until it sends no more.
async fn follow_sizes(resize: Option<DuplexStream>, sizes: mpsc::Sender<TerminalSize>) {
    let Some(stream) = resize else { return };
    let mut lines = FramedRead::new(stream, LinesCodec::new_with_max_length(SIZE_BYTES_MAX));
    while let Some(Ok(line)) = lines.next().await {
        let Ok(size) = serde_json::from_str::<TerminalSize>(&line) else { continue };
        if sizes.try_send(size).is_err() {
            debug!("a terminal size is dropped: the last ones are not applied yet");
        }
    }
}
