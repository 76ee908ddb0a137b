//! Which scheduled time a CronJob has to run now, what it missed, and when to look again. Pure.

use std::time::Duration;

use api_types::cron::Schedule;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use component_base::clock::moment_of;
use k8s_openapi::api::batch::v1::CronJob;

/// More missed times than this are reported.
const MISSED_MAX: i64 = 100;
/// Clocks that differ a little must not make a schedule look early.
const PADDING: Duration = Duration::from_millis(100);

/// A schedule that never comes, or without end at one time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("time difference between two schedules is less than 1 second")]
pub(super) struct NoIntervalError;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The latest scheduled time that has come.
    pub latest: Option<DateTime<Utc>>,
    pub too_many_missed: bool,
    any_missed: bool,
    since: DateTime<Utc>,
}

/// A CronJob's schedule, by the clocks of its zone.
pub(super) struct Times<'a> {
    pub cron: &'a CronJob,
    pub schedule: Schedule,
    pub zone: Tz,
}

impl Times<'_> {
    fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.schedule.next(after, self.zone)
    }

    /// What is due of the times since the last one that ran; with the starting deadline, of those not too old.
    pub(super) fn due(&self, now: DateTime<Utc>, with_deadline: bool) -> Result<Due, NoIntervalError> {
        let status = self.cron.status.as_ref();
        let last = status.and_then(|status| status.last_schedule_time.as_ref());
        let mut since = last.or(self.cron.metadata.creation_timestamp.as_ref()).map_or(now, moment_of);
        let deadline = self.cron.spec.starting_deadline_seconds.filter(|_| with_deadline);
        let oldest = deadline.and_then(chrono::Duration::try_seconds).and_then(|d| now.checked_sub_signed(d));
        since = oldest.map_or(since, |oldest| oldest.max(since));
        let due = |latest, missed: i64| Due {
            latest,
            too_many_missed: missed > MISSED_MAX,
            any_missed: missed > 0,
            since,
        };
        let first = self.next(since).ok_or(NoIntervalError)?;
        let second = self.next(first).ok_or(NoIntervalError)?;
        if now < first {
            return Ok(due(None, 0));
        }
        if now < second {
            return Ok(due(Some(first), 0));
        }
        let interval = (second - first).num_seconds();
        if interval < 1 {
            return Err(NoIntervalError);
        }
        // The first interval stands for all: the times are not counted one by one, there may be millions.
        let missed = (now - first).num_seconds() / interval + 1;
        let near = first + chrono::Duration::seconds((missed - 2).saturating_mul(interval));
        let mut latest = None;
        let mut time = self.next(near);
        while let Some(come) = time.filter(|time| *time <= now) {
            latest = Some(come);
            time = self.next(come);
        }
        Ok(due(latest, missed))
    }

    /// How long until the next time comes.
    pub(super) fn wait(&self, now: DateTime<Utc>) -> Option<Duration> {
        let from = match self.due(now, false) {
            Ok(Due { latest: Some(latest), .. }) => latest,
            Ok(Due { any_missed: false, since, .. }) => since,
            Ok(_) | Err(NoIntervalError) => now,
        };
        let left = (self.next(from)? - now).to_std().unwrap_or(Duration::ZERO);
        Some(left + PADDING)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    /// Checks the latest time that is due, how it is missed, and the seconds to wait.
    fn check(schedule: &str, deadline: Option<i64>, now: &str, expected: &str) {
        let meta = json!({"name": "c", "creationTimestamp": "2024-03-30T00:00:30Z"});
        let spec = json!({"schedule": schedule, "jobTemplate": {}, "startingDeadlineSeconds": deadline});
        let cron: CronJob = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        let times = Times { cron: &cron, schedule: Schedule::parse(schedule).unwrap(), zone: Tz::UTC };
        let due = times.due(at(now), true).map_or("never".to_owned(), |due| {
            let latest = due.latest.map_or("none".to_owned(), |time| time.format("%dT%H:%M").to_string());
            format!("{latest}{}", if due.too_many_missed { " many" } else { "" })
        });
        let wait = times.wait(at(now)).map_or("-".to_owned(), |wait| wait.as_secs().to_string());
        assert_eq!(format!("{due}, {wait}s"), expected);
    }

    #[test]
    fn a_time_is_due_when_it_has_come() {
        check("* * * * *", None, "2024-03-30T00:00:45Z", "none, 15s");
        check("* * * * *", None, "2024-03-30T00:01:00Z", "30T00:01, 60s");
    }

    #[test]
    fn of_many_missed_times_the_latest_is_due_and_too_many_are_told() {
        check("0 * * * *", None, "2024-03-30T10:30:00Z", "30T10:00, 1800s");
        check("* * * * *", None, "2024-03-30T01:40:59Z", "30T01:40, 1s");
        check("* * * * *", None, "2024-03-30T01:41:30Z", "30T01:41 many, 30s");
        check("* * * * *", None, "2034-03-30T00:00:00Z", "30T00:00 many, 60s");
    }

    #[test]
    fn a_time_older_than_the_deadline_is_not_due() {
        check("0 * * * *", Some(60), "2024-03-30T10:30:00Z", "none, 1800s");
        check("0 * * * *", Some(3600), "2024-03-30T10:30:00Z", "30T10:00, 1800s");
        check("* * * * *", Some(600), "2034-03-30T00:00:00Z", "30T00:00, 60s");
    }

    #[test]
    fn times_at_uneven_intervals_are_found() {
        check("30 6-16/4 * * 1-5", None, "2024-04-03T15:00:00Z", "03T14:30, 55800s");
    }

    #[test]
    fn a_time_that_never_comes_is_told() {
        check("0 0 31 2 *", None, "2024-04-03T15:00:00Z", "never, -s");
    }
}
