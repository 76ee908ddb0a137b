//! The only source of time: wall time that follows tokio's clock, so a paused runtime pauses it too.

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// Wall time as a parameter.
///
/// `now` is the start time plus what tokio's clock has run since. Under `tokio::time::pause` it stands
/// still until time is advanced, so lease renewals, back-offs and schedules can be stepped by a test.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: DateTime<Utc>,
    base: Instant,
}

impl Clock {
    /// A clock that starts at the machine's wall time.
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
        let wall = Utc::now();
        Self::starting_at(wall)
    }

    /// A clock that starts at `wall`, for simulations and tests.
    pub fn starting_at(wall: DateTime<Utc>) -> Self {
        Self { wall, base: Instant::now() }
    }

    /// Wall time, UTC.
    pub fn now(&self) -> DateTime<Utc> {
        let elapsed = chrono::Duration::from_std(self.base.elapsed()).unwrap_or(chrono::Duration::MAX);
        self.wall.checked_add_signed(elapsed).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn advancing_tokio_time_advances_the_wall() {
        let clock = Clock::starting_at(DateTime::UNIX_EPOCH);
        tokio::time::advance(std::time::Duration::from_secs(86_400)).await;
        assert_eq!(clock.now().to_rfc3339(), "1970-01-02T00:00:00+00:00");
    }
}
