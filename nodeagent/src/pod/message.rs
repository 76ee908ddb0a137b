//! What an ended container tells: the end of the file that it may write, or else of its log.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::server::parse_line;

/// As many bytes of the file's end are shown, as Kubernetes does.
const FILE_BYTES_MAX: u64 = 4096;
/// So many bytes and lines of the log's end.
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
/// In this much of the log's file, with the times before its lines, those are looked for.
const LOG_FILE_BYTES: u64 = 64 * 1024;

/// The end of what the container wrote to its `terminationMessagePath`.
pub(crate) fn of_file(path: &Path) -> String {
    String::from_utf8_lossy(&tail(path, FILE_BYTES_MAX).unwrap_or_default()).into_owned()
}

/// The end of the container's log, for `FallbackToLogsOnError`.
pub(crate) fn of_log(path: &Path) -> String {
    let bytes = tail(path, LOG_FILE_BYTES).unwrap_or_default();
    let lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').filter_map(parse_line).collect();
    let ends = lines.iter().enumerate().filter(|(index, (_, full))| *full || index + 1 == lines.len());
    // The piece after the end of the line before the wanted ones is the first that is wanted.
    let first = ends.rev().nth(LOG_LINES_MAX).map_or(0, |(index, _)| index + 1);
    let mut text = Vec::new();
    for (line, full) in &lines[first..] {
        text.extend_from_slice(&line.text);
        if *full {
            text.push(b'\n');
        }
    }
    let end = &text[text.len().saturating_sub(LOG_BYTES_MAX)..];
    String::from_utf8_lossy(end).into_owned()
}

fn tail(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(of: fn(&Path) -> String, content: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it");
        std::fs::write(&path, content).unwrap();
        of(&path)
    }

    #[test]
    fn the_end_of_a_long_file_is_told() {
        assert_eq!(told(of_file, &format!("{}end", "x".repeat(5000))), format!("{}end", "x".repeat(4093)));
        assert_eq!(of_file(Path::new("/nowhere/at-all")), "");
    }

    #[test]
    fn a_log_is_told_without_times_and_an_unended_line_stays_so() {
        let log = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P two\n";
        assert_eq!(told(of_log, log), "one\ntwo");
    }

    #[test]
    fn eighty_lines_and_two_kilobytes_of_a_log_are_enough() {
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        let short: String = (0..200).map(|number| line(&number.to_string())).collect();
        let lines = told(of_log, &short);
        assert_eq!((lines.lines().count(), lines.lines().next()), (80, Some("120")));
        let long = told(of_log, &(line("first") + &line(&"y".repeat(3000))));
        assert_eq!(long.len(), 2048);
        assert!(long.starts_with('y') && long.ends_with("y\n"));
    }
}
