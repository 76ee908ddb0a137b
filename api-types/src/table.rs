//! Texts of printed cells: ages and durations as `kubectl get` shows them.

use chrono::{DateTime, Duration, Utc};
use serde_json::Value;

/// A duration in at most two units, as in the AGE column.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.num_seconds();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, sub: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{sub}"),
    };
    match () {
        _ if seconds < -1 => "<invalid>".to_owned(),
        _ if seconds < 0 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The age of something that began at an RFC 3339 time; `<unknown>` if there is none.
pub fn age(began: &Value, now: DateTime<Utc>) -> String {
    match began.as_str().and_then(|t| DateTime::parse_from_rfc3339(t).ok()) {
        Some(began) => human_duration(now - began.with_timezone(&Utc)),
        None => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_read_as_in_kubectl() {
        let texts =
            [-5, -1, 0, 119, 120, 125, 599, 600, 10799, 10800, 28799, 28800, 172_800, 176_400, 691_200];
        let shown: Vec<_> = texts.iter().map(|s| human_duration(Duration::seconds(*s))).collect();
        assert_eq!(shown.join(" "), "<invalid> 0s 0s 119s 2m 2m5s 9m59s 10m 179m 3h 7h59m 8h 2d 2d1h 8d");
        assert_eq!(human_duration(Duration::days(730)), "2y");
        assert_eq!(human_duration(Duration::days(4000)), "10y");
    }

    #[test]
    fn an_age_counts_from_creation() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(age(&json!("2026-01-01T00:00:00Z"), now), "60s");
        assert_eq!(age(&Value::Null, now), "<unknown>");
    }
}
