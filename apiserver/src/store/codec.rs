//! The bytes of the log and of snapshots: frames with a length and a checksum, and what is in them.
//!
//! Frame: length of the payload (u32), CRC-32 of length and payload (u32), payload. All numbers are little
//! endian; texts and bytes follow their length (u32).

use bytes::Bytes;

use super::{Cause, Committed, Did, Event, Key, Record, Revision};

/// A frame longer than this is not one.
const FRAME_BYTES_MAX: usize = 256 << 20;
const HEAD: usize = 8;

/// What a frame holds.
#[derive(Debug)]
pub(super) enum Entry {
    Commit(Committed),
    /// Revisions up to this one may have been used without being written.
    Reserve(Revision),
    /// No revision after this one was used.
    Release(Revision),
    /// Of a snapshot.
    Object(Record),
    /// The end of a snapshot and the number of its objects.
    End(u64),
}

/// A commit without method, path, manager and what admission changed; read, and no longer written.
const COMMIT_BRIEF: u8 = 1;
const RESERVE: u8 = 2;
const RELEASE: u8 = 3;
const OBJECT: u8 = 4;
const END: u8 = 5;
const COMMIT: u8 = 6;

pub(super) fn write_commit(out: &mut Vec<u8>, committed: &Committed) {
    write_frame(out, |out| {
        out.push(COMMIT);
        put_u64(out, committed.revision);
        put_u64(out, committed.at_ms);
        put_u64(out, committed.cause.acted_on.unwrap_or(0));
        put_bytes(out, committed.cause.user.as_bytes());
        put_bytes(out, committed.cause.request.as_bytes());
        put_bytes(out, committed.cause.call.as_bytes());
        put_bytes(out, committed.cause.manager.as_bytes());
        put_u32(out, committed.cause.admitted.len());
        for admitted in &committed.cause.admitted {
            put_bytes(out, admitted.as_bytes());
        }
        put_u32(out, committed.events.len());
        for event in &committed.events {
            out.push(u8::from(event.did == Did::Delete));
            put_key(out, &event.key);
            put_u64(out, event.previous.unwrap_or(0));
            put_bytes(out, &event.bytes);
        }
    });
}

pub(super) fn write_reserve(out: &mut Vec<u8>, up_to: Revision) {
    write_number(out, RESERVE, up_to);
}

pub(super) fn write_release(out: &mut Vec<u8>, up_to: Revision) {
    write_number(out, RELEASE, up_to);
}

pub(super) fn write_end(out: &mut Vec<u8>, count: u64) {
    write_number(out, END, count);
}

pub(super) fn write_object(out: &mut Vec<u8>, record: &Record) {
    write_frame(out, |out| {
        out.push(OBJECT);
        put_u64(out, record.revision);
        put_key(out, &record.key);
        put_bytes(out, &record.bytes);
    });
}

fn write_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    write_frame(out, |out| {
        out.push(tag);
        put_u64(out, number);
    });
}

fn write_frame(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    payload(out);
    let length =
        u32::try_from(out.len() - start - HEAD).expect("a frame is far smaller than 4 GiB").to_le_bytes();
    let sum = checksum(length, &out[start + HEAD..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + HEAD].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("a part of a frame is far smaller than 4 GiB");
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_key(out: &mut Vec<u8>, key: &Key) {
    for part in [&key.resource, &key.namespace, &key.name] {
        put_bytes(out, part.as_bytes());
    }
}

/// Reads frames until the end or the first that is not whole.
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    pub(super) fn new(bytes: &'a [u8], from: usize) -> Self {
        Self { bytes, at: from }
    }

    /// Where the last whole frame ended.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    fn payload(&self) -> Option<&'a [u8]> {
        let head = self.bytes.get(self.at..self.at + HEAD)?;
        let (length, sum) = head.split_at(4);
        let length: [u8; 4] = length.try_into().ok()?;
        let size = u32::from_le_bytes(length) as usize;
        if size == 0 || size > FRAME_BYTES_MAX {
            return None;
        }
        let payload = self.bytes.get(self.at + HEAD..self.at + HEAD + size)?;
        (checksum(length, payload).to_le_bytes() == sum).then_some(payload)
    }
}

impl Iterator for Frames<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let payload = self.payload()?;
        let entry = Reader(payload).entry()?;
        self.at += HEAD + payload.len();
        Some(entry)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn entry(mut self) -> Option<Entry> {
        match self.byte()? {
            COMMIT => self.commit(true).map(Entry::Commit),
            COMMIT_BRIEF => self.commit(false).map(Entry::Commit),
            RESERVE => self.u64().map(Entry::Reserve),
            RELEASE => self.u64().map(Entry::Release),
            END => self.u64().map(Entry::End),
            OBJECT => {
                let revision = self.u64()?;
                Some(Entry::Object(Record { revision, key: self.key()?, bytes: self.copy()? }))
            }
            _ => None,
        }
    }

    fn commit(&mut self, is_full: bool) -> Option<Committed> {
        let (revision, at_ms, acted_on) = (self.u64()?, self.u64()?, self.u64()?);
        let mut cause = Cause {
            acted_on: (acted_on != 0).then_some(acted_on),
            user: self.text()?.to_owned(),
            request: self.text()?.to_owned(),
            ..Cause::default()
        };
        if is_full {
            cause.call = self.text()?.to_owned();
            cause.manager = self.text()?.to_owned();
            cause.admitted =
                (0..self.u32()?).map(|_| self.text().map(str::to_owned)).collect::<Option<_>>()?;
        }
        let events = (0..self.u32()?).map(|_| self.event()).collect::<Option<_>>()?;
        Some(Committed { revision, at_ms, cause, events })
    }

    fn event(&mut self) -> Option<Event> {
        let did = if self.byte()? == 0 { Did::Put } else { Did::Delete };
        let key = self.key()?;
        let previous = Some(self.u64()?).filter(|revision| *revision != 0);
        Some(Event { key, did, previous, bytes: self.copy()? })
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn copy(&mut self) -> Option<Bytes> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn key(&mut self) -> Option<Key> {
        Some(Key { resource: self.text()?.into(), namespace: self.text()?.into(), name: self.text()?.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Committed {
        let cause = Cause {
            user: "ada".into(),
            request: "id".into(),
            call: "POST /a".into(),
            manager: "kubectl".into(),
            acted_on: Some(4),
            admitted: vec![String::new(), "[]".into()],
        };
        let event = |did, previous| Event {
            key: Key::new("pods", "ns", "a"),
            did,
            previous,
            bytes: Bytes::from_static(b"{\"a\":1}"),
        };
        let events = vec![event(Did::Put, None), event(Did::Delete, Some(3))];
        Committed { revision: 9, at_ms: 77, cause, events }
    }

    #[test]
    fn a_commit_reads_back_as_it_was_written() {
        let mut out = Vec::new();
        write_reserve(&mut out, 1000);
        write_commit(&mut out, &commit());
        let mut frames = Frames::new(&out, 0);
        assert!(matches!(frames.next(), Some(Entry::Reserve(1000))));
        let read = frames.next().unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", Entry::Commit(commit())));
        assert!(frames.next().is_none());
        assert_eq!(frames.offset(), out.len());
    }

    #[test]
    fn reading_stops_before_the_first_damaged_frame_wherever_it_is_damaged() {
        let mut out = Vec::new();
        write_reserve(&mut out, 1000);
        let first = out.len();
        write_commit(&mut out, &commit());
        for at in first..out.len() {
            let mut damaged = out.clone();
            damaged[at] ^= 0x40;
            let mut frames = Frames::new(&damaged, 0);
            assert_eq!((frames.by_ref().count(), frames.offset()), (1, first), "byte {at}");
            let mut torn = Frames::new(&out[..at], 0);
            assert_eq!((torn.by_ref().count(), torn.offset()), (1, first), "cut at {at}");
        }
    }
}
