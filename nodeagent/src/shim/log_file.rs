//! A container's log in the CRI format: `2016-10-06T00:17:09.669794202Z stdout F the line`.
//!
//! `F` ends a line, `P` marks a piece of one that is longer than a piece may be.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};

/// Longest piece of a line, as containerd's default.
const PIECE_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Appends what a container prints. A file that was moved away (rotated) is opened anew.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    inode: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = append(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { path: path.to_owned(), file, inode, stdout: Vec::new(), stderr: Vec::new() })
    }

    /// Writes the whole lines of `bytes` and keeps the rest for later.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], at: DateTime<Utc>) -> std::io::Result<()> {
        self.reopen_if_moved()?;
        let waiting = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        waiting.extend_from_slice(bytes);
        let text = take_lines(waiting, stream, at);
        self.file.write_all(&text)
    }

    /// Writes what never got its newline, as a piece of a line: readers must not show one that was not there.
    pub(super) fn finish(&mut self, at: DateTime<Utc>) -> std::io::Result<()> {
        let mut text = Vec::new();
        for (stream, waiting) in [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)] {
            if !waiting.is_empty() {
                push_piece(&mut text, stream, at, 'P', waiting);
                waiting.clear();
            }
        }
        self.file.write_all(&text)
    }

    fn reopen_if_moved(&mut self) -> std::io::Result<()> {
        let moved = std::fs::metadata(&self.path).map_or(true, |now| now.ino() != self.inode);
        if moved {
            self.file = append(&self.path)?;
            self.inode = self.file.metadata()?.ino();
        }
        Ok(())
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn take_lines(waiting: &mut Vec<u8>, stream: Stream, at: DateTime<Utc>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut from = 0;
    loop {
        let rest = &waiting[from..];
        let within = &rest[..rest.len().min(PIECE_BYTES_MAX + 1)];
        if let Some(end) = within.iter().position(|&byte| byte == b'\n') {
            push_piece(&mut text, stream, at, 'F', &rest[..end]);
            from += end + 1;
        } else if rest.len() > PIECE_BYTES_MAX {
            push_piece(&mut text, stream, at, 'P', &rest[..PIECE_BYTES_MAX]);
            from += PIECE_BYTES_MAX;
        } else {
            break;
        }
    }
    waiting.drain(..from);
    text
}

fn push_piece(text: &mut Vec<u8>, stream: Stream, at: DateTime<Utc>, tag: char, piece: &[u8]) {
    let stamp = at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    text.extend_from_slice(format!("{stamp} {} {tag} ", stream.name()).as_bytes());
    text.extend_from_slice(piece);
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[(Stream, &[u8])]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/0.log");
        let mut log = LogFile::open(&path).unwrap();
        for (stream, bytes) in pieces {
            log.write(*stream, bytes, DateTime::UNIX_EPOCH).unwrap();
        }
        log.finish(DateTime::UNIX_EPOCH).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_joined_across_reads_and_streams_do_not_mix() {
        let text =
            written(&[(Stream::Stdout, b"a\nb"), (Stream::Stderr, b"oops\n"), (Stream::Stdout, b"c\n")]);
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000000000Z stdout F a\n\
             1970-01-01T00:00:00.000000000Z stderr F oops\n\
             1970-01-01T00:00:00.000000000Z stdout F bc\n"
        );
    }

    #[test]
    fn a_last_line_without_newline_is_kept() {
        assert_eq!(written(&[(Stream::Stdout, b"end")]), "1970-01-01T00:00:00.000000000Z stdout P end\n");
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let mut line = vec![b'x'; PIECE_BYTES_MAX + 3];
        line.push(b'\n');
        let text = written(&[(Stream::Stdout, &line)]);
        let tags: Vec<_> = text.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
        assert!(text.ends_with("F xxx\n"));
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.write(Stream::Stdout, b"old\n", DateTime::UNIX_EPOCH).unwrap();
        std::fs::rename(&path, folder.path().join("0.log.1")).unwrap();
        log.write(Stream::Stdout, b"new\n", DateTime::UNIX_EPOCH).unwrap();
        assert!(std::fs::read_to_string(path).unwrap().ends_with("F new\n"));
    }
}
