//! The queues of one priority level: which flow waits where, and who is next. Pure: no clock, no waiting.
//!
//! A flow is dealt a hand of queues and waits in the shortest of them, so that a flow that floods its hand
//! leaves most other flows at least one queue of their own (shuffle sharding). The next to go is the queue that
//! has had the least so far (start-time fair queueing), whatever its length.

use std::collections::VecDeque;

/// What a request is taken to need until it has ended, in seconds of one seat.
const SECONDS_GUESSED: f64 = 0.003;

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) queues: usize,
    pub(super) hand: usize,
    pub(super) length_max: usize,
}

/// A request that was chosen: its queue, and what it left there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen<T> {
    pub(super) queue: usize,
    pub(super) seats: u32,
    pub(super) item: T,
}

struct Waiting<T> {
    seats: u32,
    item: T,
}

struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Seat-seconds had so far, on the level's common scale.
    had: f64,
    executing: u32,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), had: 0.0, executing: 0 }
    }
}

pub(super) struct Queues<T> {
    queues: Vec<Queue<T>>,
    shape: Shape,
    /// What the queue that went last had had: where a queue that was idle joins in.
    reached: f64,
}

impl<T> Queues<T> {
    pub(super) fn new(shape: Shape) -> Self {
        let queues = (0..shape.queues.max(1)).map(|_| Queue::default()).collect();
        Self { queues, shape, reached: 0.0 }
    }

    /// Takes another shape; those who wait keep waiting.
    pub(super) fn reshape(&mut self, shape: Shape) {
        if shape == self.shape {
            return;
        }
        let old = std::mem::replace(self, Self::new(shape));
        for (index, queue) in old.queues.into_iter().enumerate() {
            let into = index % self.queues.len();
            self.queues[into].waiting.extend(queue.waiting);
            self.queues[into].executing += queue.executing;
        }
    }

    /// Queues a request of the flow with this hash; gives it back if its queue is full.
    pub(super) fn push(&mut self, flow: u64, seats: u32, item: T) -> Result<(), T> {
        let hand = deal(flow, self.queues.len(), self.shape.hand);
        let load = |index: &usize| self.queues[*index].waiting.len() + self.queues[*index].executing as usize;
        let index = hand.into_iter().min_by_key(load).unwrap_or(0);
        let (reached, queue) = (self.reached, &mut self.queues[index]);
        if queue.waiting.len() >= self.shape.length_max {
            return Err(item);
        }
        if queue.waiting.is_empty() && queue.executing == 0 {
            queue.had = queue.had.max(reached);
        }
        queue.waiting.push_back(Waiting { seats, item });
        Ok(())
    }

    /// The next request, if `fits` finds room for it. One that `is_gone` is dropped.
    pub(super) fn pop(
        &mut self,
        is_gone: impl Fn(&T) -> bool,
        fits: impl FnOnce(u32) -> bool,
    ) -> Option<Chosen<T>> {
        for queue in &mut self.queues {
            while queue.waiting.front().is_some_and(|first| is_gone(&first.item)) {
                queue.waiting.pop_front();
            }
        }
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (index, _) = waiting.min_by(|(_, a), (_, b)| a.had.total_cmp(&b.had))?;
        let queue = &mut self.queues[index];
        if !fits(queue.waiting.front()?.seats) {
            return None;
        }
        let Waiting { seats, item } = queue.waiting.pop_front()?;
        self.reached = self.reached.max(queue.had);
        queue.had += f64::from(seats) * SECONDS_GUESSED;
        queue.executing += 1;
        Some(Chosen { queue: index, seats, item })
    }

    /// A request of this queue has ended; what it really took counts.
    pub(super) fn finish(&mut self, queue: usize, seats: u32, seconds: f64) {
        let index = queue % self.queues.len();
        let queue = &mut self.queues[index];
        queue.executing = queue.executing.saturating_sub(1);
        queue.had += f64::from(seats) * (seconds - SECONDS_GUESSED);
    }

    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }
}

/// The hand of a flow: `hand` different queues of `deck`, as Kubernetes deals them.
fn deal(mut flow: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut remainders = Vec::with_capacity(hand);
    for place in 0..hand.min(deck) {
        let left = (deck - place) as u64;
        remainders.push((flow % left) as usize);
        flow /= left;
    }
    let mut cards = Vec::with_capacity(remainders.len());
    for place in 0..remainders.len() {
        let mut card = remainders[place];
        for before in (0..place).rev() {
            if card >= remainders[before] {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { queues: 64, hand: 6, length_max: 50 };

    fn next(queues: &mut Queues<&'static str>) -> Option<&'static str> {
        let chosen = queues.pop(|_| false, |_| true)?;
        queues.finish(chosen.queue, chosen.seats, SECONDS_GUESSED);
        Some(chosen.item)
    }

    #[test]
    fn one_noisy_flow_does_not_starve_the_others() {
        let mut queues = Queues::new(SHAPE);
        let mut accepted = 0;
        for _ in 0..1000 {
            accepted += usize::from(queues.push(7, 1, "noisy").is_ok());
        }
        assert_eq!(accepted, SHAPE.hand * SHAPE.length_max);
        for flow in [99, 12_345_678, 0xdead_beef] {
            queues.push(flow, 1, "quiet").unwrap();
        }
        // All quiet ones are among the first few, although hundreds came before them.
        let first: Vec<_> = (0..SHAPE.hand + 3).filter_map(|_| next(&mut queues)).collect();
        assert_eq!(first.iter().filter(|who| **who == "quiet").count(), 3, "{first:?}");
    }

    #[test]
    fn a_flow_of_long_requests_waits_for_those_that_had_less() {
        let mut queues = Queues::new(SHAPE);
        for _ in 0..3 {
            queues.push(1, 1, "long").unwrap();
        }
        let chosen = queues.pop(|_| false, |_| true).unwrap();
        queues.finish(chosen.queue, chosen.seats, 10.0);
        for _ in 0..3 {
            queues.push(99, 1, "short").unwrap();
        }
        let order: Vec<_> = (0..5).filter_map(|_| next(&mut queues)).collect();
        assert_eq!(order.iter().filter(|who| **who == "short").count(), 3);
        assert_eq!(queues.waiting(), 0);
    }

    #[test]
    fn hands_are_of_different_queues_and_always_the_same() {
        for flow in [0, 1, 77, u64::MAX] {
            let mut hand = deal(flow, 128, 6);
            assert_eq!(hand, deal(flow, 128, 6));
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 6);
            assert!(hand.iter().all(|card| *card < 128));
        }
    }

    #[test]
    fn who_has_gone_away_is_passed_over_and_who_does_not_fit_stays() {
        let mut queues = Queues::new(Shape { queues: 1, hand: 1, length_max: 9 });
        queues.push(1, 1, "gone").unwrap();
        queues.push(1, 3, "wide").unwrap();
        assert_eq!(queues.pop(|who| *who == "gone", |seats| seats < 3), None);
        assert_eq!(queues.pop(|who| *who == "gone", |_| true).unwrap().item, "wide");
    }

    #[test]
    fn another_shape_keeps_those_who_wait() {
        let mut queues = Queues::new(SHAPE);
        queues.push(1, 1, "a").unwrap();
        queues.push(2, 1, "b").unwrap();
        queues.reshape(Shape { queues: 2, hand: 1, length_max: 9 });
        assert_eq!(queues.waiting(), 2);
    }
}
