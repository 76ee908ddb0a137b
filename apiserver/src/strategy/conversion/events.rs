//! Events of the core group and of their own: the same facts under other names.

use serde_json::Value;

/// Fields of core events and what `events.k8s.io` calls them.
pub(super) const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub(super) fn show(event: &mut Value) {
    rename(event, |(stored, shown)| (stored, shown));
}

pub(super) fn store(event: &mut Value) {
    rename(event, |(stored, shown)| (shown, stored));
}

type Pair = (&'static str, &'static str);

fn rename(event: &mut Value, direction: fn(Pair) -> Pair) {
    let Some(fields) = event.as_object_mut() else { return };
    for pair in FIELDS {
        let (from, to) = direction(*pair);
        if let Some(value) = fields.shift_remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}
