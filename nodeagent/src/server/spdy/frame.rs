//! Frames of SPDY/3.1 on the wire.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::SpdyError;
use super::headers::{HeaderDecoder, Headers};

/// A control frame must not be longer.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// A longer data frame is read in parts of this size.
const PART_BYTES: usize = 16 * 1024;
const FIN: u8 = 1;
const CONTROL: u8 = 0x80;
const VERSION: u8 = 3;

/// Kinds of control frames, by their numbers.
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const PING: u16 = 6;
    pub(super) const GO_AWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
}

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Open {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, windows, priorities: nothing to do.
    Other,
}

/// Reads frames.
pub(super) struct FrameReader<R> {
    read: R,
    headers: HeaderDecoder,
    /// The rest of a data frame: stream, whether it is the last, bytes.
    rest: Option<(u32, bool, usize)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read, headers: HeaderDecoder::new(), rest: None }
    }

    /// The next frame; `None` when the client has gone.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some((stream, fin, length)) = self.rest.take() {
            return self.data(stream, fin, length).await.map(Some);
        }
        let mut head = [0; 8];
        match self.read.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(SpdyError::Read(error)),
        }
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if head[0] & CONTROL == 0 {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return self.data(stream, flags & FIN != 0, length).await.map(Some);
        }
        if (head[0] & !CONTROL, head[1]) != (0, VERSION) {
            return Err(SpdyError::Version);
        }
        if length > CONTROL_BYTES_MAX {
            return Err(SpdyError::TooLong(length));
        }
        let body = self.bytes(length).await?;
        self.control(u16::from_be_bytes([head[2], head[3]]), flags, &body).map(Some)
    }

    async fn data(&mut self, stream: u32, fin: bool, length: usize) -> Result<Frame, SpdyError> {
        let part = length.min(PART_BYTES);
        let bytes = self.bytes(part).await?.into();
        let is_last = part == length;
        if !is_last {
            self.rest = Some((stream, fin, length - part));
        }
        Ok(Frame::Data { stream, fin: fin && is_last, bytes })
    }

    async fn bytes(&mut self, length: usize) -> Result<Vec<u8>, SpdyError> {
        let mut bytes = vec![0; length];
        self.read.read_exact(&mut bytes).await.map_err(SpdyError::Read)?;
        Ok(bytes)
    }

    fn control(&mut self, number: u16, flags: u8, body: &[u8]) -> Result<Frame, SpdyError> {
        let first = body.first_chunk::<4>().map(|it| u32::from_be_bytes(*it) & 0x7fff_ffff);
        Ok(match (number, first) {
            (kind::SYN_STREAM, Some(stream)) => {
                let block = body.get(10..).ok_or(SpdyError::Headers)?;
                Frame::Open { stream, fin: flags & FIN != 0, headers: self.headers.decode(block)? }
            }
            // Read all the same: the blocks of one direction are one stream of zlib.
            (kind::SYN_REPLY | kind::HEADERS, Some(_)) => {
                self.headers.decode(&body[4..])?;
                Frame::Other
            }
            (kind::RST_STREAM, Some(stream)) => Frame::Reset { stream },
            (kind::PING, Some(_)) => {
                Frame::Ping { id: body.first_chunk().map(|it| u32::from_be_bytes(*it)).unwrap_or_default() }
            }
            (kind::GO_AWAY, _) => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

fn control(number: u16, body: &[&[u8]]) -> Bytes {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(8 + length);
    frame.put_slice(&[CONTROL, VERSION]);
    frame.put_u16(number);
    frame.put_u32(u32::try_from(length).unwrap_or_default());
    for part in body {
        frame.put_slice(part);
    }
    frame.freeze()
}

/// Accepts a stream; `block` are the reply's headers.
pub(super) fn reply(stream: u32, block: &[u8]) -> Bytes {
    control(kind::SYN_REPLY, &[&stream.to_be_bytes(), block])
}

/// Refuses a stream.
pub(super) fn refuse(stream: u32) -> Bytes {
    const REFUSED_STREAM: u32 = 3;
    control(kind::RST_STREAM, &[&stream.to_be_bytes(), &REFUSED_STREAM.to_be_bytes()])
}

/// Answers a ping.
pub(super) fn pong(id: u32) -> Bytes {
    control(kind::PING, &[&id.to_be_bytes()])
}

/// The last word of a session that ends as it should; `last` is the last stream it took.
pub(super) fn go_away(last: u32) -> Bytes {
    control(kind::GO_AWAY, &[&last.to_be_bytes(), &0u32.to_be_bytes()])
}

/// Bytes of a stream, and whether they are its last.
pub(super) fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u32(stream);
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    frame.put_u32(u32::from(u8::from(fin) * FIN) << 24 | length);
    frame.put_slice(bytes);
    frame.freeze()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::server::spdy::headers::tests::block;

    /// A client's `SYN_STREAM`.
    pub(in crate::server::spdy) fn open(stream: u32, first: bool, pairs: &[(&str, &str)]) -> Bytes {
        control(kind::SYN_STREAM, &[&stream.to_be_bytes(), &[0; 6], &block(first, pairs)])
    }

    async fn all(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_are_read_as_they_are_written() {
        let sent = [open(1, true, &[("a", "b")]), pong(7), data(1, b"x", true), go_away(1)].concat();
        let frames = all(&sent).await.unwrap();
        assert!(
            matches!(&frames[0], Frame::Open { stream: 1, fin: false, headers } if headers.get("a") == Some("b"))
        );
        assert_eq!(frames[1], Frame::Ping { id: 7 });
        assert_eq!(frames[2], Frame::Data { stream: 1, fin: true, bytes: Bytes::from_static(b"x") });
        assert_eq!(frames[3], Frame::GoAway);
    }

    #[tokio::test]
    async fn a_long_data_frame_comes_in_parts_and_ends_once() {
        let frames = all(&data(3, &vec![1; PART_BYTES * 2 + 5], true)).await.unwrap();
        let ends: Vec<_> = frames.iter().map(|it| matches!(it, Frame::Data { fin: true, .. })).collect();
        assert_eq!(ends, [false, false, true]);
    }

    #[tokio::test]
    async fn another_version_and_an_endless_control_frame_are_refused() {
        assert!(matches!(all(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await, Err(SpdyError::Version)));
        assert!(matches!(all(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).await, Err(SpdyError::TooLong(_))));
        assert!(all(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]).await.is_ok());
    }
}
