//! SPDY/3.1, the server's side of it: streams that a client opens within one connection.
//!
//! Clients older than WebSocket in Kubernetes speak it for exec, attach and port-forward, and `kubectl
//! port-forward` tunnels it through a WebSocket. There are no windows: as in the other implementations in
//! use, a stream whose reader is slow holds up its connection.

mod frame;
mod headers;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use frame::{Frame, FrameReader};
use headers::HeaderEncoder;
pub(super) use headers::Headers;

const BUFFER_BYTES: usize = 32 * 1024;
/// Frames that wait for a slow client before its streams are held up.
const FRAMES_MAX: usize = 32;
/// Streams of one connection; more are refused.
const STREAMS_MAX: usize = 512;
/// How long a client may take to read the end and close the connection.
const LINGER: Duration = Duration::from_secs(5);

/// Why a session ended before its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("cannot read from the client")]
    Read(#[source] std::io::Error),
    #[error("the client speaks another version of SPDY")]
    Version,
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a header block cannot be read")]
    Headers,
}

/// A stream that the client opened and this side accepted. Dropping `io` ends it in both directions.
pub(super) struct Opened {
    pub(super) id: u32,
    pub(super) headers: Headers,
    pub(super) io: DuplexStream,
}

/// What goes to the client.
enum Outgoing {
    Frame(Bytes),
    End,
}

/// Serves one connection: hands its streams to `work`, and ends when the work is done and what it wrote is
/// sent, or when the client has gone.
pub(super) async fn serve<T, W>(io: T, work: impl FnOnce(mpsc::Receiver<Opened>) -> W)
where
    T: AsyncRead + AsyncWrite,
    W: Future<Output = ()>,
{
    let (read, write) = tokio::io::split(io);
    let (opened, to_work) = mpsc::channel(FRAMES_MAX);
    let (frames, queue) = mpsc::channel(FRAMES_MAX);
    let (pumps, pump_queue) = mpsc::channel(FRAMES_MAX);
    let (open, _) = watch::channel(0usize);
    let session = Session {
        opened,
        frames: frames.clone(),
        pumps,
        open: open.clone(),
        inputs: HashMap::new(),
        headers: HeaderEncoder::default(),
    };
    let reading = session.read(FrameReader::new(read));
    tokio::pin!(reading);
    let working = async {
        work(to_work).await;
        // The work has let go of its streams: their last bytes are on the way.
        let all_sent = open.subscribe().wait_for(|count| *count == 0).await.is_ok();
        let last = [Outgoing::Frame(frame::go_away(0)), Outgoing::End];
        for frame in last.into_iter().filter(|_| all_sent) {
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        result = &mut reading => return report(result),
        () = pump_all(pump_queue, frames.clone(), open.clone()) => {}
        _ = async { tokio::join!(working, write_all(queue, write)) } => {}
    }
    if let Ok(result) = tokio::time::timeout(LINGER, reading).await {
        report(result);
    }
}

fn report(result: Result<(), SpdyError>) {
    if let Err(error) = result {
        debug!(%error, "a SPDY connection ended");
    }
}

/// The reading side of a connection.
struct Session {
    opened: mpsc::Sender<Opened>,
    frames: mpsc::Sender<Outgoing>,
    pumps: mpsc::Sender<(u32, ReadHalf<DuplexStream>)>,
    /// Streams whose output has not ended.
    open: watch::Sender<usize>,
    inputs: HashMap<u32, WriteHalf<DuplexStream>>,
    headers: HeaderEncoder,
}

impl Session {
    async fn read<R: AsyncRead + Unpin>(mut self, mut frames: FrameReader<R>) -> Result<(), SpdyError> {
        while let Some(frame) = frames.next().await? {
            match frame {
                Frame::Open { stream, fin, headers } => self.open(stream, fin, headers).await,
                Frame::Data { stream, fin, bytes } => self.deliver(stream, fin, &bytes).await,
                Frame::Reset { stream } => drop(self.inputs.remove(&stream)),
                // A ping with an even number would be the answer to one of ours: we send none.
                Frame::Ping { id } if id % 2 == 1 => self.send(frame::pong(id)).await,
                Frame::GoAway | Frame::Ping { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: Headers) {
        if *self.open.borrow() >= STREAMS_MAX || self.inputs.contains_key(&stream) {
            return self.send(frame::refuse(stream)).await;
        }
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        let (read, write) = tokio::io::split(ours);
        // Counted before the work can end it.
        self.open.send_modify(|count| *count += 1);
        if self.opened.send(Opened { id: stream, headers, io: theirs }).await.is_err() {
            // The work has ended and takes no more.
            self.open.send_modify(|count| *count -= 1);
            return self.send(frame::refuse(stream)).await;
        }
        self.inputs.insert(stream, write);
        let block = self.headers.empty();
        self.send(frame::reply(stream, &block)).await;
        if self.pumps.send((stream, read)).await.is_err() {
            debug!("a stream came after the end of its connection");
        }
        if fin {
            self.deliver(stream, true, &[]).await;
        }
    }

    async fn deliver(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        let Some(input) = self.inputs.get_mut(&stream) else { return };
        let written = input.write_all(bytes).await;
        if (fin || written.is_err())
            && let Some(mut input) = self.inputs.remove(&stream)
            && let Err(error) = input.shutdown().await
        {
            debug!(%error, "closing a stream's input");
        }
    }

    async fn send(&self, frame: Bytes) {
        if self.frames.send(Outgoing::Frame(frame)).await.is_err() {
            debug!("a frame came after the end of its connection");
        }
    }
}

/// Sends what the work writes to its streams, each until it is closed.
async fn pump_all(
    mut queue: mpsc::Receiver<(u32, ReadHalf<DuplexStream>)>,
    frames: mpsc::Sender<Outgoing>,
    open: watch::Sender<usize>,
) {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = queue.recv() => match next {
                Some((stream, read)) => running.push(pump(stream, read, frames.clone()).boxed()),
                None => return,
            },
            Some(()) = running.next() => open.send_modify(|count| *count -= 1),
        }
    }
}

async fn pump(stream: u32, mut read: ReadHalf<DuplexStream>, frames: mpsc::Sender<Outgoing>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = read.read(&mut buffer).await {
        let frame = frame::data(stream, &buffer[..count], count == 0);
        if frames.send(Outgoing::Frame(frame)).await.is_err() || count == 0 {
            return;
        }
    }
}

async fn write_all<W: AsyncWrite + Unpin>(mut queue: mpsc::Receiver<Outgoing>, mut write: W) {
    while let Some(Outgoing::Frame(frame)) = queue.recv().await {
        let written = match write.write_all(&frame).await {
            Ok(()) => write.flush().await,
            failed => failed,
        };
        if let Err(error) = written {
            return debug!(%error, "writing to a SPDY client");
        }
    }
    if let Err(error) = write.shutdown().await {
        debug!(%error, "closing a SPDY connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_end_with_the_work() {
        let (mut client, server) = tokio::io::duplex(BUFFER_BYTES);
        let echo = |mut streams: mpsc::Receiver<Opened>| async move {
            let mut opened = streams.recv().await.unwrap();
            assert_eq!(opened.headers.get("streamtype"), Some("data"));
            let mut said = String::new();
            opened.io.read_to_string(&mut said).await.unwrap();
            opened.io.write_all(said.to_uppercase().as_bytes()).await.unwrap();
        };
        let open = frame::tests::open(1, true, &[("streamType", "data")]);
        let sent = [open, frame::data(1, b"hel", false), frame::data(1, b"lo", true)].concat();
        let talk = async {
            client.write_all(&sent).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            drop(client);
            answer
        };
        let (answer, ()) = tokio::join!(talk, serve(server, echo));
        let expected =
            [frame::data(1, b"HELLO", false), frame::data(1, b"", true), frame::go_away(0)].concat();
        assert!(answer.ends_with(&expected), "{answer:?}");
    }

    #[tokio::test]
    async fn a_client_that_goes_ends_the_session() {
        let (client, server) = tokio::io::duplex(BUFFER_BYTES);
        drop(client);
        serve(server, |_streams| std::future::pending::<()>()).await;
    }
}
