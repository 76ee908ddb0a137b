//! Memory that only the start of a program needed.

use std::ops::Range;
use std::time::Duration;
use std::{fs, io};

use tracing::debug;

use crate::Shutdown;
use crate::supervise::Tasks;

/// By then a daemon has started.
const STARTED_AFTER: Duration = Duration::from_secs(10);

/// Gives back, once, what the start has mapped of the program's own file.
///
/// Much of a program runs only when it starts, and the kernel maps sixteen pages around each one that is touched,
/// so that afterwards nearly all of the program is resident. What still runs is mapped again when it does, from
/// the page cache and in microseconds.
pub fn trim_after_start(shutdown: &Shutdown) {
    let tasks = Tasks::new(shutdown.clone());
    tasks.spawn_until_shutdown("footprint", async {
        tokio::time::sleep(STARTED_AFTER).await;
        if let Err(error) = trim() {
            debug!(%error, "cannot give back what only the start needed");
        }
    });
}

fn trim() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/smaps")?;
    untouched(&maps, &program.to_string_lossy()).into_iter().try_for_each(let_go)
}

/// Where parts of `program` are mapped that nothing can write to and nothing has: those of which every page is as in
/// the file.
fn untouched(maps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = None;
    for line in maps.lines() {
        if let Some(begun) = mapping(line, program) {
            at = begun;
        } else if let Some(anonymous) = line.strip_prefix("Anonymous:")
            && anonymous.trim() == "0 kB"
        {
            found.extend(at.take());
        }
    }
    found
}

/// The line that begins a mapping, and its range if it is of `program` and is only read.
fn mapping(line: &str, program: &str) -> Option<Option<Range<usize>>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    let is_ours = matches!(rest.get(..4), Some("r-xp" | "r--p")) && rest.ends_with(&format!(" {program}"));
    Some(is_ours.then_some(range))
}

#[expect(unsafe_code, reason = "a private page that nobody has written to is read from its file again")]
fn let_go(range: Range<usize>) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    match unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_let_go() {
        let maps = "\
1000-3000 r--p 00000000 fe:00 7    /bin/apiserver
Rss:                 8 kB
Anonymous:           0 kB
3000-9000 r-xp 00002000 fe:00 7    /bin/apiserver
Anonymous:           0 kB
9000-a000 r--p 00008000 fe:00 7    /bin/apiserver
Anonymous:           4 kB
a000-b000 rw-p 00009000 fe:00 7    /bin/apiserver
Anonymous:           0 kB
b000-c000 rw-p 00000000 00:00 0
Anonymous:           0 kB
c000-d000 r-xp 00000000 fe:00 8    /lib/other/bin/apiserver
Anonymous:           0 kB
";
        assert_eq!(untouched(maps, "/bin/apiserver"), [0x1000..0x3000, 0x3000..0x9000]);
    }

    #[test]
    fn the_program_goes_on_when_they_are_gone() {
        trim().unwrap();
        let again = fs::read_to_string("/proc/self/smaps").unwrap();
        let program = fs::read_link("/proc/self/exe").unwrap();
        assert!(!untouched(&again, &program.to_string_lossy()).is_empty());
    }
}
