//! Whether a CronJob's schedule can be read: five fields, or a name such as `@hourly`.

/// Nothing, or what is wrong with the schedule.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let schedule = schedule.trim();
    if let Some(name) = schedule.strip_prefix('@') {
        return check_name(name, schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(FIELDS).try_for_each(|(field, row)| check_field(field, row))
}

/// Name, smallest and largest value, and names for values.
struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: &[Field] = &[
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: DAYS },
];

fn check_name(name: &str, schedule: &str) -> Result<(), String> {
    match name {
        "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
        _ if name.starts_with("every ") => Ok(()),
        _ => Err(format!("unrecognized descriptor: {schedule}")),
    }
}

fn check_field(text: &str, field: &Field) -> Result<(), String> {
    text.split(',').try_for_each(|part| check_part(part, field))
}

fn check_part(part: &str, field: &Field) -> Result<(), String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if matches!(range, "*" | "?") {
        return Ok(());
    }
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    let (low, high) = (value(low, field)?, value(high, field)?);
    match (low < field.min, high > field.max, low > high) {
        (true, _, _) => Err(format!("beginning of range ({low}) below minimum ({}): {part}", field.min)),
        (_, true, _) => Err(format!("end of range ({high}) above maximum ({}): {part}", field.max)),
        (_, _, true) => Err(format!("beginning of range ({low}) beyond end of range ({high}): {part}")),
        _ => Ok(()),
    }
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    let named = field.names.iter().position(|name| text.eq_ignore_ascii_case(name));
    match named {
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
        for schedule in ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 5m", "0 0 ? * 0"] {
            assert_eq!(check(schedule), Ok(()), "{schedule}");
        }
    }

    #[test]
    fn others_are_refused_with_the_place() {
        for schedule in
            ["every day", "61 * * * *", "* * * *", "*/0 * * * *", "5-1 * * * *", "@sometimes", "* * 0 * *"]
        {
            assert!(check(schedule).is_err(), "{schedule}");
        }
    }
}
