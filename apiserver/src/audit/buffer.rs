//! What waits between requests and a slow writer. A request never waits: what does not fit is dropped and told.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tracing::warn;

/// The side of the requests.
pub(super) struct Buffer {
    lines: mpsc::Sender<Vec<u8>>,
    dropped: AtomicU64,
    /// What is written to, for the warning.
    to: &'static str,
}

impl Buffer {
    /// A buffer of so many events, and the end that they come out of.
    pub(super) fn new(to: &'static str, waiting_max: usize) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (lines, waiting) = mpsc::channel(waiting_max);
        (Self { lines, dropped: AtomicU64::new(0), to }, waiting)
    }

    /// Hands over an event; never waits.
    pub(super) fn write(&self, line: Vec<u8>) {
        if self.lines.try_send(line).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                warn!(dropped, to = self.to, "audit events were dropped: they are not written fast enough");
            }
        }
    }

    /// How many events did not fit so far.
    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
