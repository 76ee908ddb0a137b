//! The only source of time: wall time that follows tokio's clock, so a paused runtime pauses it too.

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
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

    /// Now, as the API writes it: whole seconds.
    pub fn time(&self) -> Time {
        time_of(self.now())
    }

    /// Now, as leases and events write it: microseconds.
    pub fn micro_time(&self) -> MicroTime {
        let now = self.now();
        let nanos = i32::try_from(now.timestamp_subsec_micros() * 1000).unwrap_or(0);
        MicroTime(Timestamp::new(now.timestamp(), nanos).unwrap_or(Timestamp::MAX))
    }
}

/// A moment as an API time, cut to whole seconds.
pub fn time_of(moment: DateTime<Utc>) -> Time {
    Time(Timestamp::from_second(moment.timestamp()).unwrap_or(Timestamp::MAX))
}

/// An API time as a moment.
pub fn moment_of(time: &Time) -> DateTime<Utc> {
    moment(time.0)
}

/// An API time with microseconds as a moment.
pub fn micro_moment_of(time: &MicroTime) -> DateTime<Utc> {
    moment(time.0)
}

fn moment(stamp: Timestamp) -> DateTime<Utc> {
    let nanos = u32::try_from(stamp.subsec_nanosecond()).unwrap_or(0);
    DateTime::from_timestamp(stamp.as_second(), nanos).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn api_time_survives_the_way_there_and_back() {
        let moment = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert_eq!(moment_of(&time_of(moment)), moment);
        assert_eq!(micro_moment_of(&Clock::starting_at(moment).micro_time()), moment);
    }

    #[tokio::test(start_paused = true)]
    async fn advancing_tokio_time_advances_the_wall() {
        let clock = Clock::starting_at(DateTime::UNIX_EPOCH);
        tokio::time::advance(std::time::Duration::from_secs(86_400)).await;
        assert_eq!(clock.now().to_rfc3339(), "1970-01-02T00:00:00+00:00");
    }
}
