//! What a job's status may say and how it may change: whoever controls a job, its clients can rely on it.
//!
//! A rule is asked only where what it is about changed, so that a status that broke it before can still be mended.

use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::job_policies::{common_index, count_indexes};
use crate::strategy::rules::{Errors, items};

/// A status before and after a write.
struct Change<'a> {
    spec: &'a Value,
    new: &'a Value,
    old: &'a Value,
}

impl Change<'_> {
    fn has(&self, condition: &str) -> bool {
        is_true(self.new, condition)
    }

    fn had(&self, condition: &str) -> bool {
        is_true(self.old, condition)
    }

    fn is_changed(&self, condition: &str) -> bool {
        self.has(condition) != self.had(condition)
    }

    fn differs(&self, field: &str) -> bool {
        self.new[field] != self.old[field]
    }

    fn is_finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }

    fn finish_changed(&self) -> bool {
        self.is_finished() != (self.had("Complete") || self.had("Failed"))
    }
}

fn is_true(status: &Value, condition: &str) -> bool {
    items(&status["conditions"]).iter().any(|c| c["type"] == condition && c["status"] == "True")
}

pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    let absent = Value::Null;
    let change = Change {
        spec: &check.new["spec"],
        new: &check.new["status"],
        old: check.old.map_or(&absent, |old| &old["status"]),
    };
    check_uncounted(change.new, errors);
    check_conditions(&change, errors);
    check_times(&change, errors);
    check_finished(&change, errors);
    check_ready(&change, errors);
    check_indexes(&change, errors);
    check_success(&change, errors);
    check_course(&change, errors);
}

fn check_uncounted(status: &Value, errors: &mut Errors) {
    let mut seen = Vec::new();
    for list in ["succeeded", "failed"] {
        for (index, uid) in items(&status["uncountedTerminatedPods"][list]).iter().enumerate() {
            let path = format!("status.uncountedTerminatedPods.{list}[{index}]");
            if uid == "" {
                errors.push(FieldError::invalid(path, "", "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(FieldError::duplicate(path, uid.clone()));
            } else {
                seen.push(uid);
            }
        }
    }
}

fn wrong_conditions(why: impl Into<String>, errors: &mut Errors) {
    errors.push(FieldError::invalid_unshown("status.conditions", why));
}

fn check_conditions(change: &Change<'_>, errors: &mut Errors) {
    let complete = change.has("Complete");
    if (change.is_changed("Complete") || change.is_changed("Failed")) && complete && change.has("Failed") {
        wrong_conditions("cannot set Complete=True and Failed=true conditions", errors);
    }
    let asked = change.is_changed("Complete") || change.is_changed("FailureTarget");
    if asked && complete && change.has("FailureTarget") {
        wrong_conditions("cannot set Complete=True and FailureTarget=true conditions", errors);
    }
    // What ends a job is decided before it has ended.
    for (end, decision) in [("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")] {
        if change.is_changed(end) && change.has(end) && !change.has(decision) {
            let why = format!("cannot set {end}=True condition without the {decision}=true condition");
            wrong_conditions(why, errors);
        }
    }
}

fn check_ready(change: &Change<'_>, errors: &mut Errors) {
    let active = change.new["active"].as_i64().unwrap_or_default();
    let too_many = change.new["ready"].as_i64().filter(|ready| *ready > active);
    if let Some(ready) = too_many.filter(|_| change.differs("ready") || change.differs("active")) {
        errors.push(FieldError::invalid("status.ready", ready, "cannot set more ready pods than active"));
    }
}

fn check_times(change: &Change<'_>, errors: &mut Errors) {
    let status = change.new;
    let (start, end) = (&status["startTime"], &status["completionTime"]);
    let path = "status.completionTime";
    if change.is_changed("Complete") || change.differs("completionTime") {
        match (end.is_null(), change.has("Complete")) {
            (false, false) => {
                let why = "cannot set completionTime when there is no Complete=True condition";
                errors.push(FieldError::invalid(path, end.clone(), why));
            }
            (true, true) => {
                errors.push(FieldError::required(path, "completionTime is required for Complete jobs"));
            }
            _ => {}
        }
    }
    let is_before = || match (time(start), time(end)) {
        (Some(start), Some(end)) => end < start,
        _ => false,
    };
    if (change.differs("startTime") || change.differs("completionTime")) && is_before() {
        let why = "completionTime cannot be set before startTime";
        errors.push(FieldError::invalid(path, end.clone(), why));
    }
}

fn time(value: &Value) -> Option<chrono::DateTime<chrono::FixedOffset>> {
    chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok()
}

fn check_finished(change: &Change<'_>, errors: &mut Errors) {
    if !change.is_finished() {
        return;
    }
    let status = change.new;
    let is_asked = |field: &str| change.finish_changed() || change.differs(field);
    if is_asked("active") && status["active"].as_i64() > Some(0) {
        let why = "active>0 is invalid for finished job";
        errors.push(FieldError::invalid("status.active", status["active"].clone(), why));
    }
    if is_asked("terminating") && status["terminating"].as_i64() > Some(0) {
        let why = "terminating>0 is invalid for finished job";
        errors.push(FieldError::invalid("status.terminating", status["terminating"].clone(), why));
    }
    // A job without work may end before it starts.
    let is_idle = change.spec["suspend"] == true && change.spec["completions"] == 0;
    if is_asked("startTime") && status["startTime"].is_null() && !is_idle {
        errors.push(FieldError::required("status.startTime", "startTime is required for finished job"));
    }
    let uncounted = &status["uncountedTerminatedPods"];
    let is_left = ["succeeded", "failed"].iter().any(|list| !items(&uncounted[*list]).is_empty());
    if is_asked("uncountedTerminatedPods") && is_left {
        let why = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(FieldError::invalid("status.uncountedTerminatedPods", uncounted.clone(), why));
    }
}

fn check_indexes(change: &Change<'_>, errors: &mut Errors) {
    let (spec, status) = (change.spec, change.new);
    let completed = status["completedIndexes"].as_str().unwrap_or_default();
    let failed = status["failedIndexes"].as_str();
    let completions = spec["completions"].as_i64();
    let has_limit = !spec["backoffLimitPerIndex"].is_null();
    let mut invalid = |field: &str, text: &str, why: String| {
        errors.push(FieldError::invalid(format!("status.{field}"), text, why));
    };
    if change.differs("completedIndexes") {
        if let Some(Err(why)) = completions.map(|completions| count_indexes(completed, completions)) {
            invalid("completedIndexes", completed, format!("error parsing completedIndexes: {why}"));
        }
        if !completed.is_empty() && spec["completionMode"] != "Indexed" {
            let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
            invalid("completedIndexes", completed, why.to_owned());
        }
    }
    let Some(failed) = failed else { return };
    if change.differs("failedIndexes") {
        let counted = completions.filter(|_| has_limit).map(|completions| count_indexes(failed, completions));
        if let Some(Err(why)) = counted {
            invalid("failedIndexes", failed, format!("error parsing failedIndexes: {why}"));
        }
        if !has_limit {
            let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            invalid("failedIndexes", failed, why.to_owned());
        }
    }
    let is_asked = change.differs("failedIndexes") || change.differs("completedIndexes");
    let common = completions.filter(|_| is_asked).and_then(|all| common_index(completed, failed, all));
    if let Some(index) = common {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        invalid("failedIndexes", failed, why);
    }
}

fn check_success(change: &Change<'_>, errors: &mut Errors) {
    let met = change.has("SuccessCriteriaMet");
    if met && change.has("Failed") {
        wrong_conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions", errors);
    }
    if met && change.has("FailureTarget") {
        wrong_conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", errors);
    }
    if !change.spec["successPolicy"].is_null() && !met && change.has("Complete") {
        let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        wrong_conditions(why, errors);
    }
}

/// What is over stays so, and what was counted stays counted.
fn check_course(change: &Change<'_>, errors: &mut Errors) {
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if change.had(condition) && !change.has(condition) {
            wrong_conditions(format!("cannot disable the terminal {condition}=True condition"), errors);
        }
    }
    let spec = change.spec;
    let is_scaled = spec["completionMode"] == "Indexed" && spec["completions"] == spec["parallelism"];
    for field in ["failed", "succeeded"] {
        let count = |status: &Value| status[field].as_i64().unwrap_or_default();
        if count(change.new) < count(change.old) && !(is_scaled && field == "succeeded") {
            let why = format!("cannot decrease the {field} counter");
            errors.push(FieldError::invalid(format!("status.{field}"), count(change.new), why));
        }
    }
    let (end, was) = (&change.new["completionTime"], &change.old["completionTime"]);
    if !end.is_null() && !was.is_null() && time(end) != time(was) {
        let why = "completionTime cannot be mutated";
        errors.push(FieldError::invalid("status.completionTime", end.clone(), why));
    }
    let (start, was) = (&change.new["startTime"], &change.old["startTime"]);
    // Who goes on after a suspension starts anew.
    let resumes = change.had("Suspended") && !change.has("Suspended") && !start.is_null();
    if !was.is_null() && time(start) != time(was) && spec["suspend"] != true && !resumes {
        let why = "startTime cannot be removed for unsuspended job";
        errors.push(FieldError::required("status.startTime", why));
    }
    let (met, was) = (change.has("SuccessCriteriaMet"), change.had("SuccessCriteriaMet"));
    if was && !met {
        wrong_conditions("cannot disable the SuccessCriteriaMet=True condition", errors);
    }
    if change.had("Complete") && !was && met {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        wrong_conditions(why, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn conditions(of: &[&str]) -> Value {
        of.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn a_status_follows_the_course_of_a_job() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z");
        let complete = json!({"startTime": early, "completionTime": late, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        let suspended = json!({"startTime": early, "conditions": conditions(&["Suspended"])});
        let indexed = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 1, "backoffLimitPerIndex": 1});
        for (spec, old, new, wrong) in [
            (json!({}), json!({"startTime": early}), complete.clone(), vec![]),
            (json!({}), json!({}), json!({"active": -1}), vec!["active"]),
            (json!({}), json!({"startTime": early}), json!({}), vec!["startTime"]),
            (json!({"suspend": true}), json!({"startTime": early}), json!({}), vec![]),
            (json!({}), suspended.clone(), json!({"startTime": late}), vec![]),
            (json!({}), suspended.clone(), json!({}), vec!["startTime"]),
            (
                json!({}),
                json!({"failed": 2, "succeeded": 1}),
                json!({"failed": 1}),
                vec!["failed", "succeeded"],
            ),
            (
                json!({}),
                json!({}),
                json!({"conditions": conditions(&["Complete"])}),
                vec!["conditions", "completionTime", "startTime"],
            ),
            (
                json!({}),
                json!({}),
                json!({"startTime": late, "completionTime": early, "conditions": conditions(&["Complete"])}),
                vec!["conditions", "completionTime"],
            ),
            (json!({}), json!({}), json!({"completionTime": early}), vec!["completionTime"]),
            (json!({}), complete.clone(), json!({"startTime": early}), vec!["conditions", "conditions"]),
            (
                json!({}),
                json!({}),
                json!({"startTime": early, "active": 1, "conditions": conditions(&["Failed"])}),
                vec!["conditions", "active"],
            ),
            (
                json!({}),
                json!({}),
                json!({"startTime": early, "terminating": 1, "conditions": conditions(&["FailureTarget", "Failed"])}),
                vec!["terminating"],
            ),
            (
                json!({"suspend": true, "completions": 0}),
                json!({}),
                json!({"completionTime": early, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])}),
                vec![],
            ),
            (json!({}), json!({}), json!({"active": 1, "ready": 2}), vec!["ready"]),
            (json!({}), json!({}), json!({"completedIndexes": "1"}), vec!["completedIndexes"]),
            (indexed.clone(), json!({}), json!({"completedIndexes": "0,1", "failedIndexes": "2"}), vec![]),
            (
                indexed.clone(),
                json!({}),
                json!({"completedIndexes": "0,1", "failedIndexes": "1"}),
                vec!["failedIndexes"],
            ),
            (indexed, json!({}), json!({"completedIndexes": "7"}), vec!["completedIndexes"]),
            (
                json!({}),
                json!({}),
                json!({"uncountedTerminatedPods": {"failed": ["a", "a", ""]}}),
                vec!["uncountedTerminatedPods.failed[1]", "uncountedTerminatedPods.failed[2]"],
            ),
        ] {
            let job = |status: &Value| json!({"spec": spec, "status": status});
            let wrong: Vec<String> = wrong.iter().map(|field| format!("status.{field}")).collect();
            assert_eq!(paths("batch", "jobs", "status", &job(&new), Some(&job(&old))), wrong, "{old} {new}");
        }
    }
}
