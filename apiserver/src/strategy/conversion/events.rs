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

/// Texts that core events have always, be they empty, and that `events.k8s.io` leaves out when they are.
const ALWAYS_STORED: &[(&str, &str)] =
    &[("reportingComponent", "reportingController"), ("reportingInstance", "reportingInstance")];

pub(super) fn show(event: &mut Value) {
    rename(event, |(stored, shown)| (stored, shown));
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|name, value| *value != "" || ALWAYS_STORED.iter().all(|(_, shown)| name != shown));
    }
}

pub(super) fn store(event: &mut Value) {
    rename(event, |(stored, shown)| (shown, stored));
    if let Some(fields) = event.as_object_mut() {
        for (stored, _) in ALWAYS_STORED {
            fields.entry(*stored).or_insert_with(|| "".into());
        }
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_reported_is_always_said_in_core_and_only_if_known_in_the_newer_group() {
        let stored = json!({"message": "m", "reportingComponent": "", "reportingInstance": "", "count": 1});
        let mut event = stored.clone();
        show(&mut event);
        assert_eq!(event, json!({"note": "m", "deprecatedCount": 1}));
        store(&mut event);
        assert_eq!(event, stored);
        let mut known = json!({"reportingComponent": "kubelet", "reportingInstance": "n1"});
        show(&mut known);
        assert_eq!(known, json!({"reportingController": "kubelet", "reportingInstance": "n1"}));
    }
}
