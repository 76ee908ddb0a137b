//! Events: loose in the core group, strict in their own.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use super::fields::is_same;
use crate::strategy::rules::{Errors, invalid_all, text};

const STRICT_GROUP: &str = "events.k8s.io";
const TEXT_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

pub(super) fn event(check: &Check<'_>, errors: &mut Errors) {
    let is_strict = check.kind.group == STRICT_GROUP;
    validate_namespace(check.new, errors);
    // Who says when something happened in the newer way says all the rest in that way, too.
    if text(check.new, "eventTime").is_some() {
        validate_report(check.new, is_strict, errors);
    }
    match check.old {
        _ if !is_strict => {}
        Some(old) => {
            if old["series"] != check.new["series"] {
                validate_series(check.new, errors);
            }
            validate_fixed(check.new, old, errors);
        }
        None => validate_strict(check.new, errors),
    }
}

fn involved(event: &Value) -> &Value {
    if event["involvedObject"].is_object() { &event["involvedObject"] } else { &event["regarding"] }
}

fn validate_namespace(event: &Value, errors: &mut Errors) {
    let of = involved(event)["namespace"].as_str().unwrap_or_default();
    let own = event["metadata"]["namespace"].as_str().unwrap_or_default();
    let fits = match (of, text(event, "eventTime").is_some()) {
        ("", true) => matches!(own, "default" | "kube-system"),
        ("", false) => matches!(own, "" | "default"),
        (_, true) => true,
        (of, false) => of == own,
    };
    if !fits {
        errors.push(FieldError::invalid("involvedObject.namespace", of, "does not match event.namespace"));
    }
}

fn validate_report(event: &Value, is_strict: bool, errors: &mut Errors) {
    let controller = if is_strict { "reportingController" } else { "reportingComponent" };
    let name = event[controller].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(FieldError::required(controller, ""));
    }
    invalid_all(names::check_label_key(name), controller, name, errors);
    for field in ["reportingInstance", "action", "reason"] {
        match text(event, field) {
            None => errors.push(FieldError::required(field, "")),
            Some(long) if long.len() > TEXT_BYTES_MAX => {
                let why = format!("can have at most {TEXT_BYTES_MAX} characters");
                errors.push(FieldError::invalid(field, "", why));
            }
            Some(_) => {}
        }
    }
    let note = if is_strict { "note" } else { "message" };
    if text(event, note).is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
        let why = format!("can have at most {NOTE_BYTES_MAX} characters");
        errors.push(FieldError::invalid("message", "", why));
    }
}

/// What the newer group calls the fields of the older, and what those are called where they may not be set.
const UNSET: &[(&str, &str)] = &[
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("deprecatedSource", "source"),
];

fn validate_strict(event: &Value, errors: &mut Errors) {
    if text(event, "eventTime").is_none() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let kind = event["type"].as_str().unwrap_or_default();
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    for (field, shown) in UNSET {
        let value = &event[*field];
        let is_set = match value {
            Value::Null => false,
            Value::Object(fields) => {
                fields.values().any(|value| value.as_str().is_some_and(|text| !text.is_empty()))
            }
            Value::Number(number) => number.as_i64() != Some(0),
            _ => true,
        };
        if is_set {
            errors.push(FieldError::invalid(*shown, "", "needs to be unset"));
        }
    }
    validate_series(event, errors);
}

fn validate_series(event: &Value, errors: &mut Errors) {
    let series = &event["series"];
    if series.is_object() {
        if let Some(count) = Some(series["count"].as_i64().unwrap_or_default()).filter(|count| *count < 2) {
            let why = "should be at least 2";
            errors.push(FieldError::invalid("series.count", count, why));
        }
        if text(series, "lastObservedTime").is_none() {
            errors.push(FieldError::required("series.lastObservedTime", ""));
        }
    }
}

/// Fields that never change, and what they are called.
const FIXED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn validate_fixed(new: &Value, old: &Value, errors: &mut Errors) {
    for (field, shown) in FIXED {
        if !is_same(&new[*field], &old[*field]) {
            errors.push(FieldError::immutable(*shown, new[*field].clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn of(extra: Value) -> Vec<String> {
        let mut event = json!({"metadata": {"name": "e", "namespace": "n"}, "regarding": {"namespace": "n"},
            "eventTime": "2026-01-02T03:04:05.000006Z", "reportingController": "example.com/c",
            "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal", "note": "n"});
        event.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        paths("events.k8s.io", "events", "", &event, None)
    }

    #[test]
    fn each_mistake_is_named_by_its_path() {
        let cases = [
            (json!({}), vec![]),
            (json!({"type": "Odd"}), vec!["type"]),
            (json!({"reason": ""}), vec!["reason"]),
            (json!({"action": "x".repeat(200)}), vec!["action"]),
            (json!({"reportingController": "a b"}), vec!["reportingController"]),
            (json!({"eventTime": null}), vec!["eventTime"]),
            (json!({"note": "x".repeat(2000)}), vec!["message"]),
            (json!({"deprecatedCount": 3}), vec!["count"]),
            (json!({"series": {"count": 1}}), vec!["series.count", "series.lastObservedTime"]),
            (json!({"regarding": {"namespace": "other"}}), vec![]),
            (json!({"regarding": {}}), vec!["involvedObject.namespace"]),
            (json!({"reportingController": ""}), vec!["reportingController"; 3]),
        ];
        for (extra, expected) in cases {
            assert_eq!(of(extra.clone()), expected, "{extra}");
        }
    }

    #[test]
    fn an_old_style_event_says_little() {
        let event =
            json!({"metadata": {"name": "e", "namespace": "n"}, "involvedObject": {"namespace": "n"}});
        assert!(paths("", "events", "", &event, None).is_empty());
        let mut other = event.clone();
        other["involvedObject"]["namespace"] = json!("other");
        assert_eq!(paths("", "events", "", &other, None), ["involvedObject.namespace"]);
        assert_eq!(paths("", "events", "", &other, Some(&event)), ["involvedObject.namespace"]);
    }
}
