//! Between versions of a kind that share their storage: which field of the one is which of the other.

use api_types::kinds::Kind;
use serde_json::Value;

/// Fields of core events and what `events.k8s.io` calls them.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

type Pairs = &'static [(&'static str, &'static str)];

/// Field pairs by storage prefix: the stored name, and that of the other group.
static RENAMED: &[(&str, &str, Pairs)] = &[("events", "events.k8s.io", EVENT_FIELDS)];

/// Rewrites `object` from one row's form to the other's. Type names are the caller's.
pub(crate) fn convert(from: &Kind, to: &Kind, object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    for (storage, group, pairs) in RENAMED {
        if from.storage != *storage || from.group == to.group {
            continue;
        }
        for (stored, shown) in *pairs {
            let (old, new) = if to.group == *group { (stored, shown) } else { (shown, stored) };
            if let Some(value) = fields.shift_remove(*old) {
                fields.insert((*new).to_owned(), value);
            }
        }
    }
}

/// The stored path of a field that a selector names in `kind`'s own words.
pub(crate) fn stored_field<'a>(kind: &Kind, path: &'a str) -> std::borrow::Cow<'a, str> {
    let (head, tail) = path.split_once('.').map_or((path, None), |(h, t)| (h, Some(t)));
    let renamed =
        RENAMED.iter().filter(|(storage, group, _)| kind.storage == *storage && kind.group == *group);
    let found = renamed.flat_map(|(_, _, pairs)| pairs.iter()).find(|(_, shown)| *shown == head);
    match (found, tail) {
        (None, _) => path.into(),
        (Some((stored, _)), None) => (*stored).into(),
        (Some((stored, _)), Some(tail)) => format!("{stored}.{tail}").into(),
    }
}

#[cfg(test)]
mod tests {
    use api_types::kinds::find_resource;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_reads_in_both_groups() {
        let core = find_resource("", "v1", "events").unwrap();
        let new = find_resource("events.k8s.io", "v1", "events").unwrap();
        let mut event = json!({ "involvedObject": { "name": "p" }, "message": "m", "reason": "r" });
        convert(core, new, &mut event);
        assert_eq!(event, json!({ "reason": "r", "regarding": { "name": "p" }, "note": "m" }));
        convert(new, core, &mut event);
        assert_eq!(event["involvedObject"]["name"], "p");
        assert_eq!(stored_field(new, "regarding.name"), "involvedObject.name");
    }
}
