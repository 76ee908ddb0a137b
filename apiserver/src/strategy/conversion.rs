//! Between the form in which objects are stored and the other forms in which their group, or an older or newer
//! version, shows them: a table of pairs of functions. Type names are the caller's.

mod autoscaling;
mod events;

use std::borrow::Cow;

use api_types::kinds::Kind;
use serde_json::Value;

pub(crate) use autoscaling::stored as stored_autoscaler;

/// A form that is not the stored one.
struct Form {
    group: &'static str,
    version: &'static str,
    storage: &'static str,
    /// Makes it of the stored form.
    show: fn(&mut Value),
    /// Makes the stored form of it.
    store: fn(&mut Value),
    /// The stored name of a field by its name in this form.
    fields: &'static [(&'static str, &'static str)],
}

static FORMS: &[Form] = &[
    Form {
        group: "events.k8s.io",
        version: "v1",
        storage: "events",
        show: events::show,
        store: events::store,
        fields: events::FIELDS,
    },
    Form {
        group: "autoscaling",
        version: "v1",
        storage: "autoscaling/horizontalpodautoscalers",
        show: autoscaling::show_version_1,
        store: autoscaling::store_version_1,
        fields: &[],
    },
];

fn find(kind: &Kind) -> Option<&'static Form> {
    FORMS
        .iter()
        .find(|form| form.storage == kind.storage && form.group == kind.group && form.version == kind.version)
}

/// Rewrites `object` from one row's form to the other's.
pub(crate) fn convert(from: &Kind, to: &Kind, object: &mut Value) {
    if let Some(form) = find(from) {
        (form.store)(object);
    }
    if let Some(form) = find(to) {
        (form.show)(object);
    }
}

/// The stored path of a field that a selector names in `kind`'s own words.
pub(crate) fn stored_field<'a>(kind: &Kind, path: &'a str) -> Cow<'a, str> {
    let (head, tail) = path.split_once('.').map_or((path, None), |(h, t)| (h, Some(t)));
    let renamed = find(kind).and_then(|form| form.fields.iter().find(|(_, shown)| *shown == head));
    match (renamed, tail) {
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
