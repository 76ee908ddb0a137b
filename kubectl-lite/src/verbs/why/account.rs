//! What others say of an object: controllers, the scheduler, events.

use api_types::table::age;
use chrono::{DateTime, Utc};
use serde_json::Value;

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What each controller last did, what failed, and what it waits for.
pub(super) fn of_controllers(notes: &[Value], now: DateTime<Utc>) -> Vec<String> {
    if notes.is_empty() {
        return vec!["none has looked at it since they began to work".to_owned()];
    }
    notes.iter().flat_map(|note| of_controller(note, now)).collect()
}

fn of_controller(note: &Value, now: DateTime<Utc>) -> Vec<String> {
    let controller = note["controller"].as_str().unwrap_or_default();
    let mut lines = vec![format!("{controller} last looked {} ago", age(&note["lookedAt"], now))];
    if let Some(failure) = note["failed"].as_str() {
        lines.push(format!("  that failed: {failure}"));
    }
    lines.extend(texts(&note["waitsFor"]).into_iter().map(|what| format!("  it waits for {what}")));
    if let Some(again) = moment(&note["looksAgainAt"]).filter(|again| *again > now) {
        lines.push(format!("  it looks again in {}", api_types::table::human_duration(again - now)));
    }
    let wrote = texts(&note["wrote"]);
    if !wrote.is_empty() {
        lines.push(format!("  it last wrote {} ago:", age(&note["wroteAt"], now)));
        lines.extend(wrote.into_iter().map(|write| format!("    {write}")));
    }
    lines
}

fn moment(value: &Value) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(value.as_str()?).ok()?.with_timezone(&Utc))
}

/// What the scheduler last found for a pod; `decisions` come newest first.
pub(super) fn of_scheduler(decisions: &[Value], now: DateTime<Utc>) -> Vec<String> {
    let Some(last) = decisions.first() else {
        return vec!["it has not tried to place this pod, or no longer knows of it".to_owned()];
    };
    let message = last["message"].as_str().unwrap_or("it found a node");
    let attempt = last["attempt"].as_i64().unwrap_or(0);
    let mut lines = vec![format!("attempt {attempt}, {} ago: {message}", age(&last["time"], now))];
    for refusal in last["refused"].as_array().into_iter().flatten() {
        let (plugin, reason) = (refusal["plugin"].as_str(), refusal["reason"].as_str());
        let nodes = refusal["count"].as_i64().unwrap_or(0);
        let (plugin, reason) = (plugin.unwrap_or_default(), reason.unwrap_or_default());
        lines.push(format!("  {plugin} refused {nodes} nodes: {reason}"));
    }
    lines
}

/// The newest events, newest first.
pub(super) fn of_events(mut events: Vec<Value>, events_max: usize, now: DateTime<Utc>) -> Vec<String> {
    events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
    events.iter().take(events_max).map(|event| of_event(event, now)).collect()
}

fn last_seen(event: &Value) -> Option<DateTime<Utc>> {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().find_map(moment)
}

fn of_event(event: &Value, now: DateTime<Utc>) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or_default();
    let seen = last_seen(event).map(|seen| api_types::table::human_duration(now - seen)).unwrap_or_default();
    let count = event["series"]["count"].as_i64().or_else(|| event["count"].as_i64()).unwrap_or(1);
    let times = if count > 1 { format!(", {count} times") } else { String::new() };
    let by = event["source"]["component"].as_str().unwrap_or_else(|| text("reportingComponent"));
    format!("{seen} ago{times}, {} {} from {by}: {}", text("type"), text("reason"), text("message"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1000, 0).unwrap()
    }

    #[test]
    fn a_controller_tells_what_failed_and_what_it_did() {
        let note = json!({"controller": "replicaset-controller", "lookedAt": "1970-01-01T00:16:37Z",
            "failed": "exceeded quota", "waitsFor": ["pod web-0"], "looksAgainAt": "1970-01-01T00:16:45Z",
            "wroteAt": "1970-01-01T00:16:30Z", "wrote": ["POST /api/v1/namespaces/a/pods 403"]});
        expect![[r#"
            replicaset-controller last looked 3s ago
              that failed: exceeded quota
              it waits for pod web-0
              it looks again in 5s
              it last wrote 10s ago:
                POST /api/v1/namespaces/a/pods 403
        "#]]
        .assert_eq(&(of_controllers(&[note], now()).join("\n") + "\n"));
    }

    #[test]
    fn the_scheduler_tells_which_plugin_refused() {
        let decision = json!({"time": "1970-01-01T00:16:37Z", "attempt": 2, "message": "0/3 nodes are available",
            "refused": [{"plugin": "NodeResourcesFit", "reason": "Insufficient cpu", "count": 3}]});
        assert_eq!(
            of_scheduler(&[decision], now()),
            [
                "attempt 2, 3s ago: 0/3 nodes are available",
                "  NodeResourcesFit refused 3 nodes: Insufficient cpu"
            ]
        );
    }

    #[test]
    fn the_newest_events_come_first() {
        let event = |reason: &str, at: &str, count: i64| {
            json!({"type": "Warning", "reason": reason, "message": "m", "count": count, "lastTimestamp": at,
                "source": {"component": "c"}})
        };
        let events = vec![
            event("A", "1970-01-01T00:16:00Z", 1),
            event("C", "1970-01-01T00:00:00Z", 1),
            event("B", "1970-01-01T00:16:30Z", 4),
        ];
        assert_eq!(
            of_events(events, 2, now()),
            ["10s ago, 4 times, Warning B from c: m", "40s ago, Warning A from c: m"]
        );
    }
}
