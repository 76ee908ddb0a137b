//! Schedules as CronJobs write them: five fields, or a name such as `@hourly`; and when they come next.
//!
//! The rules are those of the library Kubernetes uses, also where clocks are changed: a time that a change
//! leaps over does not come that day, and one that comes twice is run by the hours that really pass.

use chrono::{
    DateTime, Datelike, Duration, Months, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike, Utc,
};
use chrono_tz::Tz;

/// A schedule that comes within this many years, or never.
const YEARS_MAX: i32 = 5;

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the times that the fields fit.
    Fields(Box<Fields>),
    /// Again and again after this long.
    Every(Duration),
}

/// The values of each field that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
}

/// A set of numbers below 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Values {
    bits: u64,
    /// Every value fits because nothing was asked for.
    any: bool,
}

impl Values {
    fn has(self, value: u32) -> bool {
        self.bits & (1 << value) != 0
    }
}

/// Smallest and largest value, and names for values.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: DAYS },
];

impl Schedule {
    /// Reads a schedule, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(name) = text.strip_prefix('@') {
            return parse_name(name, text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let Ok(fields): Result<[&str; 5], _> = fields.as_slice().try_into() else {
            let found = fields.len();
            return Err(format!("expected exactly 5 fields, found {found}: [{}]", fields.join(" ")));
        };
        let [minutes, hours, days, months, weekdays] =
            [0, 1, 2, 3, 4].map(|at| values(fields[at], &FIELDS[at]));
        let fields =
            Fields { minutes: minutes?, hours: hours?, days: days?, months: months?, weekdays: weekdays? };
        Ok(Self::Fields(Box::new(fields)))
    }

    /// The first time after `after` by the clocks of `zone`; none if it does not come within five years.
    pub fn next(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let whole = after - Duration::nanoseconds(i64::from(after.timestamp_subsec_nanos()));
        match self {
            Self::Every(delay) => whole.checked_add_signed(*delay),
            Self::Fields(fields) => fields.next(whole, zone),
        }
    }
}

/// A moment that moves forward by the clocks of a zone, until all fields fit.
struct Cursor {
    at: DateTime<Utc>,
    zone: Tz,
    /// Whether it has moved: from then on it stands at the beginning of what it moves by.
    moved: bool,
}

impl Cursor {
    fn local(&self) -> NaiveDateTime {
        self.at.with_timezone(&self.zone).naive_local()
    }

    /// The moment of a local time; one that a change of clocks leaps over is taken by the clocks before it.
    fn moment(&self, local: NaiveDateTime) -> DateTime<Utc> {
        let offset = |time: &NaiveDateTime| {
            let seconds = self.zone.offset_from_utc_datetime(time).fix().local_minus_utc();
            Duration::seconds(i64::from(seconds))
        };
        let guess = local - offset(&local);
        (local - offset(&guess)).and_utc()
    }

    /// Moves to `start` of what does not fit, the first time.
    fn begin(&mut self, start: Option<NaiveDateTime>) {
        if let Some(start) = start.filter(|_| !self.moved) {
            self.at = self.moment(start);
        }
        self.moved = true;
    }

    /// To the next month; says whether a new year began.
    fn next_month(&mut self) -> Option<bool> {
        let local = self.local();
        self.begin(local.date().with_day(1).and_then(|day| day.and_hms_opt(0, 0, 0)));
        self.at = self.moment(self.local().checked_add_months(Months::new(1))?);
        Some(self.local().month() == 1)
    }

    /// To the next day; says whether a new month began. A day without midnight begins where it does.
    fn next_day(&mut self) -> Option<bool> {
        self.begin(self.local().date().and_hms_opt(0, 0, 0));
        self.at = self.moment(self.local().checked_add_signed(Duration::days(1))?);
        let hour = i64::from(self.local().hour());
        let to_midnight = if hour > 12 { 24 - hour } else { -hour };
        self.at = self.at.checked_add_signed(Duration::hours(to_midnight))?;
        Some(self.local().day() == 1)
    }

    fn next_hour(&mut self) -> Option<bool> {
        let local = self.local();
        self.begin(local.date().and_hms_opt(local.hour(), 0, 0));
        self.at = self.at.checked_add_signed(Duration::hours(1))?;
        Some(self.local().hour() == 0)
    }

    fn next_minute(&mut self) -> Option<bool> {
        if !self.moved {
            self.at -= Duration::seconds(i64::from(self.at.second()));
            self.moved = true;
        }
        self.at = self.at.checked_add_signed(Duration::minutes(1))?;
        Some(self.local().minute() == 0)
    }
}

impl Fields {
    fn next(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let mut cursor = Cursor { at: after, zone, moved: false };
        // Only whole minutes fit, and only those to come.
        cursor.next_minute()?;
        cursor.moved = false;
        let last_year = cursor.local().year() + YEARS_MAX;
        'again: while cursor.local().year() <= last_year {
            while !self.months.has(cursor.local().month()) {
                if cursor.next_month()? {
                    continue 'again;
                }
            }
            while !self.fits_day(cursor.local().date()) {
                if cursor.next_day()? {
                    continue 'again;
                }
            }
            while !self.hours.has(cursor.local().hour()) {
                if cursor.next_hour()? {
                    continue 'again;
                }
            }
            while !self.minutes.has(cursor.local().minute()) {
                if cursor.next_minute()? {
                    continue 'again;
                }
            }
            return Some(cursor.at);
        }
        None
    }

    /// A day of the month and a day of the week that are both asked for are two ways to fit.
    fn fits_day(&self, day: NaiveDate) -> bool {
        let of_month = self.days.has(day.day());
        let of_week = self.weekdays.has(day.weekday().num_days_from_sunday());
        if self.days.any || self.weekdays.any { of_month && of_week } else { of_month || of_week }
    }
}

fn parse_name(name: &str, text: &str) -> Result<Schedule, String> {
    let fields = match name {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => {
            let delay = name.strip_prefix("every ").ok_or(format!("unrecognized descriptor: {text}"))?;
            let delay = parse_delay(delay)
                .ok_or(format!("failed to parse duration {text}: time: invalid duration {delay:?}"))?;
            return Ok(Schedule::Every(Duration::seconds(delay.num_seconds().max(1))));
        }
    };
    Schedule::parse(fields)
}

/// Reads a duration such as `1h30m`.
fn parse_delay(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0.0_f64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, left) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = left;
    }
    let known = !text.is_empty() && total.is_finite();
    Duration::from_std(std::time::Duration::try_from_secs_f64(total).ok().filter(|_| known)?).ok()
}

fn values(text: &str, field: &Field) -> Result<Values, String> {
    text.split(',').try_fold(Values { bits: 0, any: false }, |all, part| {
        let more = part_values(part, field)?;
        Ok(Values { bits: all.bits | more.bits, any: all.any || more.any })
    })
}

/// One of `*`, `3`, `3-5`, each with or without a step: `*/2`, `3/2`, `3-5/2`.
fn part_values(part: &str, field: &Field) -> Result<Values, String> {
    let mut halves = part.split('/');
    let (range, step) = (halves.next().unwrap_or_default(), halves.next());
    if halves.next().is_some() {
        return Err(format!("too many slashes: {part}"));
    }
    let every = matches!(range, "*" | "?");
    let (low, high) = if every { (field.min, field.max) } else { ends(range, step.is_some(), field)? };
    let step = step.map_or(Ok(1), number)?;
    match (low < field.min, high > field.max, low > high, step == 0) {
        (true, _, _, _) => Err(format!("beginning of range ({low}) below minimum ({}): {part}", field.min)),
        (_, true, _, _) => Err(format!("end of range ({high}) above maximum ({}): {part}", field.max)),
        (_, _, true, _) => Err(format!("beginning of range ({low}) beyond end of range ({high}): {part}")),
        (_, _, _, true) => Err(format!("step of range should be a positive number: {part}")),
        _ => {
            let stride = usize::try_from(step).unwrap_or(usize::MAX);
            let bits = (low..=high).step_by(stride).fold(0, |bits, value| bits | (1 << value));
            Ok(Values { bits, any: every && step == 1 })
        }
    }
}

/// The ends of a range; a single value with a step goes on to the largest.
fn ends(range: &str, stepped: bool, field: &Field) -> Result<(u32, u32), String> {
    let mut ends = range.split('-');
    let low = value(ends.next().unwrap_or_default(), field)?;
    let high = match ends.next() {
        Some(high) => value(high, field)?,
        None if stepped => field.max,
        None => low,
    };
    if ends.next().is_some() {
        return Err(format!("too many hyphens: {range}"));
    }
    Ok((low, high))
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    match field.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(position) => Ok(position as u32 + field.min),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_kubernetes_takes_are_taken() {
        for schedule in
            ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 5m", "0 0 ? * 0", "5/10 * * * *"]
        {
            assert!(Schedule::parse(schedule).is_ok(), "{schedule}");
        }
    }

    #[test]
    fn others_are_refused_with_the_place() {
        for (schedule, why) in [
            ("every day", "expected exactly 5 fields, found 2: [every day]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ] {
            assert_eq!(Schedule::parse(schedule), Err(why.to_owned()));
        }
    }

    /// The times after `after`, all by the clocks of the zone.
    fn check(schedule: &str, zone: &str, after: &str, expected: &[&str]) {
        let (schedule, zone) = (Schedule::parse(schedule).unwrap(), zone.parse::<Tz>().unwrap());
        let mut at = DateTime::parse_from_rfc3339(after).unwrap().to_utc();
        let times: Vec<String> = expected
            .iter()
            .map(|_| {
                at = schedule.next(at, zone).unwrap();
                at.with_timezone(&zone).format("%m-%dT%H:%M%z").to_string()
            })
            .collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn the_next_time_is_after_the_moment_itself() {
        let at = "2024-03-30T00:01:00Z";
        check("* * * * *", "UTC", at, &["03-30T00:02+0000", "03-30T00:03+0000"]);
        check("*/30 9-10 * * *", "UTC", at, &["03-30T09:00+0000", "03-30T09:30+0000", "03-30T10:00+0000"]);
        check("0 0 29 2 *", "UTC", at, &["02-29T00:00+0000"]);
        check("@every 90m", "UTC", "2024-03-30T00:01:07.5Z", &["03-30T01:31+0000", "03-30T03:01+0000"]);
    }

    #[test]
    fn a_day_of_the_month_or_of_the_week_is_enough_when_both_are_asked_for() {
        let at = "2024-03-01T00:00:00Z";
        check("0 0 13 * 5", "UTC", at, &["03-08T00:00+0000", "03-13T00:00+0000", "03-15T00:00+0000"]);
        check("0 0 * * 5", "UTC", at, &["03-08T00:00+0000"]);
        check("0 0 */2 * 5", "UTC", at, &["03-03T00:00+0000"]);
    }

    #[test]
    fn an_hour_that_clocks_leap_over_does_not_come_that_day() {
        let at = "2024-03-30T12:00:00Z";
        check("30 2 * * *", "Europe/Berlin", at, &["04-01T02:30+0200", "04-02T02:30+0200"]);
        check(
            "0 * * * *",
            "Europe/Berlin",
            "2024-03-31T00:00:00Z",
            &["03-31T03:00+0200", "03-31T04:00+0200"],
        );
    }

    #[test]
    fn an_hour_that_comes_twice_is_run_twice() {
        let at = "2024-10-26T12:00:00Z";
        check(
            "30 2 * * *",
            "Europe/Berlin",
            at,
            &["10-27T02:30+0200", "10-27T02:30+0100", "10-28T02:30+0100"],
        );
        check("0 3 * * *", "Europe/Berlin", at, &["10-27T03:00+0100"]);
    }

    #[test]
    fn a_day_without_midnight_begins_an_hour_later() {
        check("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", &["11-05T00:00-0200"]);
        check("0 1 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", &["11-04T01:00-0200"]);
    }

    #[test]
    fn a_day_that_never_comes_is_no_time() {
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next(DateTime::UNIX_EPOCH, Tz::UTC), None);
    }
}
