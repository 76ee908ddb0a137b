//! What is left to chance in a run, all of it drawn from the seed.

use std::ops::Range;
use std::time::Duration;

use component_base::random::Random;

/// A sequence of draws. Clones share it.
#[derive(Clone)]
pub(crate) struct Chance(Random);

impl Chance {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    /// The same numbers as a source for a component.
    pub(crate) fn random(&self) -> Random {
        self.0.clone()
    }

    /// True with this probability.
    pub(crate) fn happens(&self, probability: f64) -> bool {
        self.0.fraction() < probability
    }

    pub(crate) fn number(&self, range: Range<u64>) -> u64 {
        range.start + self.0.number() % (range.end - range.start).max(1)
    }

    pub(crate) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }

    /// One of these.
    pub(crate) fn of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
        all.get(usize::try_from(self.number(0..count)).ok()?)
    }

    /// A choice by weight: the index of the chosen.
    pub(crate) fn weighted(&self, weights: &[u64]) -> usize {
        let mut left = self.number(0..weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        0
    }
}
