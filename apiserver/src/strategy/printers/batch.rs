//! Work that ends.

use chrono::DateTime;
use serde_json::{Value, json};

use super::{Printed, or_none, selector};

pub(super) fn job(printed: &Printed<'_>) -> Vec<Value> {
    let [names, images] = printed.containers("/spec/template/spec/containers");
    vec![
        printed.name(),
        json!(status(printed)),
        json!(completions(printed)),
        json!(duration(printed)),
        printed.age(),
        names,
        images,
        json!(selector(printed.at("/spec/selector"))),
    ]
}

fn status(printed: &Printed<'_>) -> &'static str {
    let has = |kind: &str| {
        printed.list("/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
    };
    let deleting = !printed.text("/metadata/deletionTimestamp").is_empty();
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if deleting => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(printed: &Printed<'_>) -> String {
    let succeeded = printed.count("/status/succeeded");
    match (printed.at("/spec/completions").as_i64(), printed.count("/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(printed: &Printed<'_>) -> String {
    let started = printed.text("/status/startTime");
    if started.is_empty() {
        return String::new();
    }
    let times = [started, printed.text("/status/completionTime")].map(DateTime::parse_from_rfc3339);
    match times {
        [Ok(start), Ok(end)] => api_types::table::human_duration(end.signed_duration_since(start)),
        _ => printed.since(started),
    }
}

pub(super) fn cron_job(printed: &Printed<'_>) -> Vec<Value> {
    let [names, images] = printed.containers("/spec/jobTemplate/spec/template/spec/containers");
    let last = match printed.text("/status/lastScheduleTime") {
        "" => "<none>".to_owned(),
        at => printed.since(at),
    };
    vec![
        printed.name(),
        json!(printed.text("/spec/schedule")),
        or_none(printed.text("/spec/timeZone")),
        // kube-apiserver prints this boolean as a word.
        json!(if printed.at("/spec/suspend").is_true() { "True" } else { "False" }),
        json!(printed.list("/status/active").len()),
        json!(last),
        printed.age(),
        names,
        images,
        json!(selector(printed.at("/spec/jobTemplate/spec/selector"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_job_prints_how_far_it_is() {
        let object = json!({"metadata": {"name": "sum", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"completions": 3, "parallelism": 2}, "status": {"succeeded": 3,
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:08Z",
            "conditions": [{"type": "Complete", "status": "True"}]}});
        check(job, &object, &["sum", "Complete", "3/3", "8s", "5m", "", "", "<none>"]);
    }
}
