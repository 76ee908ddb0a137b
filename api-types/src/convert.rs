//! Objects that several groups or versions serve: the same object in the words of another row.
//!
//! Objects are kept in the words of the row that wrote them; a reader of another row gets them translated.

use crate::kinds::Kind;
use serde_json::{Map, Value};

/// Core events' names of fields, and those of events.k8s.io.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Turns an object of any row with the same storage into one of `to`. Says whether anything changed.
pub fn to_kind(to: &Kind, object: &mut Value) -> bool {
    let version = to.api_version();
    let Some(fields) = object.as_object_mut() else { return false };
    let from = fields.get("apiVersion").and_then(Value::as_str).unwrap_or("").to_owned();
    if from == version || from.is_empty() {
        return false;
    }
    if to.kind == "Event" && to.storage == "events" {
        rename_event(fields, to.group.is_empty());
    }
    fields.insert("apiVersion".to_owned(), version.into());
    true
}

fn rename_event(fields: &mut Map<String, Value>, to_core: bool) {
    let renamed = std::mem::take(fields).into_iter().map(|(name, value)| {
        let pair =
            EVENT_FIELDS.iter().find(|(core, other)| if to_core { *other == name } else { *core == name });
        let name = match (pair, to_core) {
            (Some((core, _)), true) => (*core).to_owned(),
            (Some((_, other)), false) => (*other).to_owned(),
            (None, _) => name,
        };
        (name, value)
    });
    *fields = renamed.collect();
}

/// The path in `to`'s words of a field that a selector names in the words of the row that wrote the object.
pub fn field_path<'a>(object_api_version: &str, path: &'a str) -> std::borrow::Cow<'a, str> {
    let (head, rest) = path.split_once('.').map_or((path, None), |(h, r)| (h, Some(r)));
    let other = EVENT_FIELDS.iter().find_map(|(core, other)| match object_api_version {
        "v1" if *other == head => Some(*core),
        "events.k8s.io/v1" if *core == head => Some(*other),
        _ => None,
    });
    match (other, rest) {
        (None, _) => path.into(),
        (Some(head), None) => head.into(),
        (Some(head), Some(rest)) => format!("{head}.{rest}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::find_kind;
    use serde_json::json;

    #[test]
    fn an_event_reads_in_both_groups() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m",
            "reportingComponent": "c", "reason": "r"});
        let mut event = core.clone();
        assert!(to_kind(find_kind("events.k8s.io", "v1", "Event").unwrap(), &mut event));
        assert_eq!(
            event,
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"name": "a"}, "note": "m",
                "reportingController": "c", "reason": "r"})
        );
        assert!(to_kind(find_kind("", "v1", "Event").unwrap(), &mut event));
        assert_eq!(event, core);
        assert!(!to_kind(find_kind("", "v1", "Event").unwrap(), &mut event));
    }

    #[test]
    fn selectors_of_one_group_find_events_of_the_other() {
        assert_eq!(field_path("v1", "regarding.name"), "involvedObject.name");
        assert_eq!(field_path("events.k8s.io/v1", "involvedObject.name"), "regarding.name");
        assert_eq!(field_path("v1", "reason"), "reason");
    }
}
