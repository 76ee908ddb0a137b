//! One priority level: its seats, those it may borrow, and those who wait for one.
//!
//! Taking a free seat is one atomic addition. Only a level whose seats are all taken looks at the others, and
//! only then are there locks. A level may use seats that others may lend and do not use; a lender takes its own
//! back at once, so that for a moment more run than there are seats, by at most what is lent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::queues::{Chosen, Queues, Shape};

/// The seats of a level.
#[derive(Debug, Default)]
pub(super) struct Seats {
    pub(super) taken: AtomicU32,
    /// Its own.
    pub(super) limit: AtomicU32,
    /// Of its own, those that others may use.
    pub(super) lendable: AtomicU32,
    /// Of others, those that it may use.
    pub(super) borrowable: AtomicU32,
}

impl Seats {
    /// Takes seats if no more than `limit` are taken then; a request wider than that runs alone.
    fn take(&self, seats: u32, limit: u32) -> bool {
        let fits =
            |taken: u32| (taken + seats <= limit || (taken == 0 && limit > 0)).then_some(taken + seats);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    fn free_to_lend(&self) -> u32 {
        let (limit, taken) = (self.limit.load(Ordering::SeqCst), self.taken.load(Ordering::SeqCst));
        limit.saturating_sub(taken).min(self.lendable.load(Ordering::SeqCst))
    }

    fn borrowed(&self) -> u32 {
        self.taken.load(Ordering::SeqCst).saturating_sub(self.limit.load(Ordering::SeqCst))
    }
}

/// The seats of all levels, for those that want to borrow.
#[derive(Default)]
pub(super) struct Pool {
    all: Mutex<Vec<Arc<Seats>>>,
    /// Requests that wait, on all levels.
    waiting: AtomicUsize,
}

impl Pool {
    pub(super) fn set(&self, all: Vec<Arc<Seats>>) {
        *self.all.lock() = all;
    }

    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn take(&self, mine: &Seats, seats: u32) -> bool {
        let limit = mine.limit.load(Ordering::SeqCst);
        mine.take(seats, limit) || self.borrow(mine, seats, limit)
    }

    fn borrow(&self, mine: &Seats, seats: u32, limit: u32) -> bool {
        let most = limit.saturating_add(mine.borrowable.load(Ordering::SeqCst));
        if most == limit {
            return false;
        }
        let all = self.all.lock();
        let free: u32 = all.iter().map(|seats| seats.free_to_lend()).sum();
        let borrowed: u32 = all.iter().map(|seats| seats.borrowed()).sum();
        borrowed + seats <= free && mine.take(seats, most)
    }
}

/// What happens to a request that finds no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    Reject,
    Queue(Shape),
}

/// A level's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Exempt,
    Limited(WhenFull),
}

pub(super) struct Level {
    pub(super) name: String,
    pub(super) seats: Arc<Seats>,
    pool: Arc<Pool>,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    kind: Kind,
    queues: Queues<Ticket>,
}

/// Tells a waiting request that it may run, and in which queue it was.
type Ticket = oneshot::Sender<usize>;

/// How a request gets in.
pub(super) enum Entry {
    Now,
    /// It has to wait for the ticket.
    Wait(oneshot::Receiver<usize>),
    /// Why not.
    Refused(&'static str),
}

impl Level {
    pub(super) fn new(name: &str, pool: Arc<Pool>) -> Self {
        let shape = Shape { queues: 1, hand: 1, length_max: 0 };
        let state = State { kind: Kind::Limited(WhenFull::Reject), queues: Queues::new(shape) };
        let (seats, waiting) = (Arc::default(), AtomicUsize::new(0));
        Self { name: name.to_owned(), seats, pool, waiting, state: Mutex::new(state) }
    }

    /// Takes another configuration; what runs and waits goes on.
    pub(super) fn configure(&self, kind: Kind) {
        let mut state = self.state.lock();
        state.kind = kind;
        if let Kind::Limited(WhenFull::Queue(shape)) = kind {
            state.queues.reshape(shape);
        }
    }

    /// Lets a request in, or not.
    pub(super) fn enter(&self, flow: u64, seats: u32) -> Entry {
        let free = self.waiting.load(Ordering::SeqCst) == 0;
        if free && self.seats.take(seats, self.seats.limit.load(Ordering::SeqCst)) {
            return Entry::Now;
        }
        let mut state = self.state.lock();
        match state.kind {
            Kind::Exempt => {
                self.seats.taken.fetch_add(seats, Ordering::SeqCst);
                Entry::Now
            }
            Kind::Limited(WhenFull::Reject) if self.pool.take(&self.seats, seats) => Entry::Now,
            Kind::Limited(WhenFull::Reject) => Entry::Refused("concurrency-limit"),
            Kind::Limited(WhenFull::Queue(_)) => {
                let (ticket, turn) = oneshot::channel();
                if state.queues.push(flow, seats, ticket).is_err() {
                    return Entry::Refused("queue-full");
                }
                self.note_waiting(&state);
                self.dispatch(&mut state);
                Entry::Wait(turn)
            }
        }
    }

    /// A request has ended, or never began.
    pub(super) fn leave(&self, queue: Option<usize>, seats: u32, seconds: f64) {
        self.seats.taken.fetch_sub(seats, Ordering::SeqCst);
        if queue.is_none() && self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut state = self.state.lock();
        if let Some(queue) = queue {
            state.queues.finish(queue, seats, seconds);
        }
        self.dispatch(&mut state);
    }

    /// Lets in those who wait, as far as there are seats.
    pub(super) fn let_in(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.dispatch(&mut self.state.lock());
        }
    }

    fn dispatch(&self, state: &mut State) {
        let fits = |seats| self.pool.take(&self.seats, seats);
        while let Some(Chosen { queue, seats, item }) = state.queues.pop(Ticket::is_closed, fits) {
            if item.send(queue).is_err() {
                self.seats.taken.fetch_sub(seats, Ordering::SeqCst);
                state.queues.finish(queue, seats, 0.0);
            }
        }
        self.note_waiting(state);
    }

    fn note_waiting(&self, state: &State) {
        let now = state.queues.waiting();
        let before = self.waiting.swap(now, Ordering::SeqCst);
        if now >= before {
            self.pool.waiting.fetch_add(now - before, Ordering::SeqCst);
        } else {
            self.pool.waiting.fetch_sub(before - now, Ordering::SeqCst);
        }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(pool: &Arc<Pool>, limit: u32, lendable: u32, kind: Kind) -> Level {
        let level = Level::new("l", pool.clone());
        level.seats.limit.store(limit, Ordering::SeqCst);
        level.seats.lendable.store(lendable, Ordering::SeqCst);
        level.seats.borrowable.store(u32::MAX, Ordering::SeqCst);
        level.configure(kind);
        level
    }

    const QUEUE: Kind = Kind::Limited(WhenFull::Queue(Shape { queues: 8, hand: 2, length_max: 5 }));

    #[test]
    fn a_full_level_rejects_or_queues_and_a_seat_goes_to_who_waits() {
        let pool = Arc::new(Pool::default());
        let rejecting = level(&pool, 1, 0, Kind::Limited(WhenFull::Reject));
        assert!(matches!(rejecting.enter(1, 1), Entry::Now));
        assert!(matches!(rejecting.enter(1, 1), Entry::Refused("concurrency-limit")));
        let queueing = level(&pool, 1, 0, QUEUE);
        assert!(matches!(queueing.enter(1, 1), Entry::Now));
        let Entry::Wait(mut turn) = queueing.enter(1, 1) else { panic!("no queue") };
        assert!(turn.try_recv().is_err());
        queueing.leave(None, 1, 0.1);
        assert!(turn.try_recv().is_ok());
        assert_eq!(queueing.waiting(), 0);
    }

    #[test]
    fn idle_seats_that_others_lend_are_used_and_no_more() {
        let pool = Arc::new(Pool::default());
        let (busy, idle) = (level(&pool, 1, 0, QUEUE), level(&pool, 4, 2, QUEUE));
        pool.set(vec![busy.seats.clone(), idle.seats.clone()]);
        let entered = (0..5).filter(|_| match busy.enter(1, 1) {
            Entry::Now => true,
            Entry::Wait(mut turn) => turn.try_recv().is_ok(),
            Entry::Refused(_) => false,
        });
        assert_eq!(entered.count(), 3);
        assert!(matches!(idle.enter(1, 1), Entry::Now));
    }

    #[test]
    fn nothing_limits_an_exempt_level() {
        let pool = Arc::new(Pool::default());
        let exempt = level(&pool, 0, 0, Kind::Exempt);
        assert!((0..100).all(|_| matches!(exempt.enter(1, 1), Entry::Now)));
    }
}
