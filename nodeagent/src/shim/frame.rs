//! Frames between agent and shim: one byte of type, four of length (big endian), the payload.

use crate::runtime::TerminalSize;

/// Longest payload; a longer one is a broken peer.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
const HEAD_BYTES: usize = 5;

/// What one side tells the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Stdin(Vec<u8>),
    StdinEnd,
    Resize(TerminalSize),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The process ended with this code; nothing follows.
    Exit(i32),
    /// The process could not be started; nothing follows.
    Failed(String),
}

/// The bytes are not frames.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a frame: type {kind}, {length} bytes")]
pub(crate) struct NotAFrame {
    kind: u8,
    length: usize,
}

impl Frame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, Vec<u8>) = match self {
            Self::Stdin(bytes) => (0, bytes.clone()),
            Self::Stdout(bytes) => (1, bytes.clone()),
            Self::Stderr(bytes) => (2, bytes.clone()),
            Self::Exit(code) => (3, code.to_be_bytes().to_vec()),
            Self::Resize(size) => (4, [size.width.to_be_bytes(), size.height.to_be_bytes()].concat()),
            Self::StdinEnd => (5, Vec::new()),
            Self::Failed(message) => (6, message.bytes().take(PAYLOAD_BYTES_MAX).collect()),
        };
        let mut encoded = Vec::with_capacity(HEAD_BYTES + payload.len());
        encoded.push(kind);
        encoded.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        encoded.extend_from_slice(&payload);
        encoded
    }
}

/// Makes frames of bytes that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    waiting: Vec<u8>,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, NotAFrame> {
        let Some((head, rest)) = self.waiting.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let kind = head[0];
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(NotAFrame { kind, length });
        }
        let Some(payload) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.waiting.drain(..HEAD_BYTES + length);
        decode(kind, payload).map(Some)
    }
}

fn decode(kind: u8, payload: Vec<u8>) -> Result<Frame, NotAFrame> {
    let length = payload.len();
    match (kind, payload.as_slice()) {
        (0, _) => Ok(Frame::Stdin(payload)),
        (1, _) => Ok(Frame::Stdout(payload)),
        (2, _) => Ok(Frame::Stderr(payload)),
        (3, &[a, b, c, d]) => Ok(Frame::Exit(i32::from_be_bytes([a, b, c, d]))),
        (4, &[a, b, c, d]) => Ok(Frame::Resize(TerminalSize {
            width: u16::from_be_bytes([a, b]),
            height: u16::from_be_bytes([c, d]),
        })),
        (5, []) => Ok(Frame::StdinEnd),
        (6, _) => Ok(Frame::Failed(String::from_utf8_lossy(&payload).into_owned())),
        _ => Err(NotAFrame { kind, length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let frames = [
            Frame::Stdin(b"ls\n".to_vec()),
            Frame::Resize(TerminalSize { width: 80, height: 24 }),
            Frame::StdinEnd,
            Frame::Exit(-3),
            Frame::Failed("no such file".into()),
        ];
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in frames.iter().flat_map(Frame::encode) {
            decoder.push(&[byte]);
            seen.extend(decoder.next().unwrap());
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 255, 255, 255, 255]);
        assert!(decoder.next().is_err());
    }
}
