//! What happened in a run, line by line, in an order that the seed alone decides.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines kept for reading; all count for the hash.
const LINES_MAX: usize = 200_000;
/// A run with this many problems tells nothing more by going on.
const PROBLEMS_MAX: usize = 5;

/// The record of one run. Clones share it.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    started: Instant,
    lines: Vec<String>,
    hash: DefaultHasher,
    problems: Vec<String>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        let (started, hash) = (Instant::now(), DefaultHasher::new());
        Self(Arc::new(Mutex::new(Inner { started, lines: Vec::new(), hash, problems: Vec::new() })))
    }

    /// Notes that `actor` did or suffered `what`.
    pub(crate) fn note(&self, actor: &str, what: &str) {
        let mut inner = self.0.lock();
        let line = format!("{:>9.3} {actor:<22} {what}", inner.started.elapsed().as_secs_f64());
        line.hash(&mut inner.hash);
        if inner.lines.len() < LINES_MAX {
            inner.lines.push(line);
        }
    }

    /// Notes that something is as it must not be.
    pub(crate) fn problem(&self, what: String) {
        self.note("PROBLEM", &what);
        let mut inner = self.0.lock();
        if inner.problems.len() < PROBLEMS_MAX {
            inner.problems.push(what);
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.0.lock().problems.is_empty()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.0.lock().problems.clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// A figure that two runs share only if all their lines are the same.
    pub(crate) fn hash(&self) -> u64 {
        self.0.lock().hash.finish()
    }
}
