//! Who commits at the same time. A write that comes alone is committed by who brings it: to hand it to a thread and
//! take the answer back costs more than half of what else there is to do.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Handle, RuntimeFlavor};

/// So many commits in a row have met no other before the next is taken for one that comes alone.
const ALONE_MIN: usize = 4;

/// How many are committing now, and how many commits in a row have met no other.
#[derive(Default)]
pub(super) struct Company {
    now: AtomicUsize,
    alone: AtomicUsize,
}

impl Company {
    /// Counts a commit until what is given is dropped.
    pub(super) fn join(&self) -> Member<'_> {
        let came_alone = match self.now.fetch_add(1, Ordering::Relaxed) {
            0 => self.alone.fetch_add(1, Ordering::Relaxed) >= ALONE_MIN,
            _ => {
                self.alone.store(0, Ordering::Relaxed);
                false
            }
        };
        Member { company: self, came_alone }
    }
}

/// One that commits.
pub(super) struct Member<'a> {
    company: &'a Company,
    came_alone: bool,
}

impl Member<'_> {
    /// Whether it may commit by itself. That waits for the disk where it stands, so it is for one that comes
    /// alone, and where another thread goes on with everything else.
    pub(super) async fn is_alone(&self) -> bool {
        if !self.came_alone || !others_go_on() {
            return false;
        }
        // What goes on at the same time in this very task shows itself now.
        tokio::task::yield_now().await;
        let (now, alone) = (&self.company.now, &self.company.alone);
        now.load(Ordering::Relaxed) == 1 && alone.load(Ordering::Relaxed) > ALONE_MIN
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.company.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether this is one of several threads that can do each other's work.
fn others_go_on() -> bool {
    let runtime = Handle::try_current();
    runtime.is_ok_and(|runtime| {
        runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use component_base::clock::Clock;
    use parking_lot::Mutex;

    use super::super::conformance::{pod, put};
    use super::super::*;

    /// On which threads transactions were published.
    #[derive(Default)]
    struct Publishers(Mutex<Vec<String>>);

    impl Publishers {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock())
        }
    }

    impl Feed for Publishers {
        fn load(&self, _: Loaded) {}

        fn publish(&self, committed: Vec<Committed>) {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            self.0.lock().extend(committed.iter().map(|_| name.clone()));
        }

        fn advance(&self, _: Revision) {}
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_write_that_comes_alone_is_committed_where_it_comes_and_others_together() {
        const THREAD: &str = "store-commit";
        let (dir, feed) = (tempfile::tempdir().unwrap(), Arc::new(Publishers::default()));
        let limits = DiskLimits::default();
        let storage =
            DiskStorage::open(&dir.path().join("store"), limits, Clock::system(), feed.clone()).unwrap();
        for i in 0..8 {
            storage.commit(put(&pod("alone"), &i.to_string())).await.unwrap();
        }
        let alone = feed.take();
        assert!(alone[0] == THREAD && alone[7] != THREAD, "{alone:?}");
        let lazy = Transaction { durability: Durability::Lazy, ..put(&pod("lazy"), "1") };
        storage.commit(lazy).await.unwrap();
        assert_eq!(feed.take(), [THREAD]);
        let together = (0..8).map(|i| storage.commit(put(&pod(&format!("together-{i}")), "1")));
        assert!(futures::future::join_all(together).await.iter().all(Result::is_ok));
        assert_eq!(feed.take(), [THREAD; 8]);
        storage.close().await;
        let late = storage.commit(put(&pod("late"), "1")).await;
        assert!(matches!(late, Err(CommitError::Closed)), "{late:?}");
    }
}
