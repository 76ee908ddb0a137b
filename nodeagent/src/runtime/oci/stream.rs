//! The agent's end of a conversation with a shim: streams to frames and back.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::runtime::{
    BoxRead, BoxWrite, EXEC_OUTPUT_BYTES_MAX, ExecOutput, Result, RuntimeError, TerminalSize,
};
use crate::shim::frame::{Decoder, Frame};

const READ_BYTES: usize = 16 * 1024;

/// Where output goes.
pub(super) enum Output<'a> {
    Streams { stdout: Option<BoxWrite>, stderr: Option<BoxWrite> },
    Collect(&'a mut ExecOutput),
}

impl Output<'_> {
    /// A receiver that has gone is no error of the process.
    async fn take(&mut self, frame: Frame) {
        match (self, frame) {
            (Self::Streams { stdout, .. }, Frame::Stdout(bytes)) => forward(stdout, &bytes).await,
            (Self::Streams { stderr, .. }, Frame::Stderr(bytes)) => forward(stderr, &bytes).await,
            (Self::Collect(output), Frame::Stdout(bytes)) => collect(&mut output.stdout, &bytes),
            (Self::Collect(output), Frame::Stderr(bytes)) => collect(&mut output.stderr, &bytes),
            _ => {}
        }
    }

    async fn finish(self) {
        if let Self::Streams { stdout, stderr } = self {
            for mut stream in [stdout, stderr].into_iter().flatten() {
                drop(stream.shutdown().await);
            }
        }
    }
}

async fn forward(to: &mut Option<BoxWrite>, bytes: &[u8]) {
    let Some(stream) = to else { return };
    let sent = match stream.write_all(bytes).await {
        Ok(()) => stream.flush().await,
        Err(error) => Err(error),
    };
    if sent.is_err() {
        *to = None;
    }
}

fn collect(to: &mut Vec<u8>, bytes: &[u8]) {
    let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(to.len());
    to.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// What goes in.
#[derive(Default)]
pub(super) struct Input {
    pub(super) stdin: Option<BoxRead>,
    pub(super) resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// Talks until the process has ended; `None` if the shim went without saying how.
pub(super) async fn converse(
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    input: Input,
    mut output: Output<'_>,
) -> Result<Option<i32>> {
    let outcome = {
        let feed = feed(write, input);
        let drain = drain(read, &mut output);
        tokio::pin!(feed, drain);
        // Feeding never ends, so that the shim's side stays open until the process has ended.
        tokio::select! {
            outcome = &mut drain => outcome,
            never = &mut feed => match never {},
        }
    };
    output.finish().await;
    outcome
}

async fn drain(mut read: impl AsyncRead + Unpin, output: &mut Output<'_>) -> Result<Option<i32>> {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = read.read(&mut bytes).await.map_err(RuntimeError::io("reading from the shim"))?;
        if count == 0 {
            return Ok(None);
        }
        decoder.push(&bytes[..count]);
        let broken = |error: crate::shim::frame::NotAFrame| RuntimeError::Failed {
            doing: "reading from the shim".into(),
            message: error.to_string(),
        };
        while let Some(frame) = decoder.next().map_err(broken)? {
            match frame {
                Frame::Exit(code) => return Ok(Some(code)),
                Frame::Failed(message) => {
                    return Err(RuntimeError::Failed { doing: "exec".into(), message });
                }
                frame => output.take(frame).await,
            }
        }
    }
}

async fn feed(mut write: impl AsyncWrite + Unpin, mut input: Input) -> std::convert::Infallible {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let frame = tokio::select! {
            size = next_size(&mut input.resize) => Frame::Resize(size),
            count = next_bytes(&mut input.stdin, &mut bytes) => match count {
                0 => {
                    input.stdin = None;
                    Frame::StdinEnd
                }
                count => Frame::Stdin(bytes[..count].to_vec()),
            },
        };
        if write.write_all(&frame.encode()).await.is_err() || write.flush().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn next_size(resize: &mut Option<mpsc::Receiver<TerminalSize>>) -> TerminalSize {
    if let Some(receiver) = resize {
        if let Some(size) = receiver.recv().await {
            return size;
        }
        *resize = None;
    }
    std::future::pending().await
}

/// An error of the caller's stream is its end.
async fn next_bytes(stdin: &mut Option<BoxRead>, bytes: &mut [u8]) -> usize {
    match stdin {
        Some(stream) => stream.read(bytes).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
