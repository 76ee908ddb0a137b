//! Exponential back-off: how long to wait after the n-th failure in a row.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Doubles from `base` up to `max`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The back-off of Kubernetes' controller work queues: 5 ms doubling up to 1000 s.
    pub const CONTROLLER: Self = Self { base: Duration::from_millis(5), max: Duration::from_secs(1000) };
    /// The back-off for a connection to the API server that failed.
    pub const CONNECTION: Self = Self { base: Duration::from_millis(100), max: Duration::from_secs(30) };

    /// The delay after `failures` failures in a row; none after none.
    pub fn delay(&self, failures: u32) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let factor = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
        self.base.checked_mul(factor).map_or(self.max, |delay| delay.min(self.max))
    }

    /// The same delay, made up to a fifth longer, so that many clients do not come back together.
    pub fn delay_with_jitter(&self, failures: u32, random: &mut impl Rng) -> Duration {
        self.delay(failures).mul_f64(1.0 + random.random_range(0.0..0.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_the_maximum() {
        let backoff = Backoff { base: Duration::from_secs(10), max: Duration::from_secs(300) };
        let seconds: Vec<u64> = (0..8).map(|n| backoff.delay(n).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn very_many_failures_do_not_overflow() {
        assert_eq!(Backoff::CONTROLLER.delay(u32::MAX), Backoff::CONTROLLER.max);
    }
}
