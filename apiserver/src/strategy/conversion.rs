//! Between the form in which objects are stored and the other forms in which their group, or an older or newer
//! version, shows them: a table of pairs of functions. Type names are the caller's.
//!
//! Retired versions are rows here where a field has changed; the others say the same in the same words.

mod autoscaling;
mod definitions;
mod events;
mod networking;
mod workloads;

use std::borrow::Cow;

use api_types::kinds::{self, Kind, Retired};
use serde_json::Value;

pub(crate) use autoscaling::stored as stored_autoscaler;

/// A form that is not the stored one.
struct Form {
    api_version: &'static str,
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
        api_version: "events.k8s.io/v1",
        storage: "events",
        show: events::show,
        store: events::store,
        fields: events::FIELDS,
    },
    Form {
        api_version: "autoscaling/v1",
        storage: AUTOSCALERS,
        show: autoscaling::show_version_1,
        store: autoscaling::store_version_1,
        fields: &[],
    },
    old("autoscaling/v2beta1", AUTOSCALERS, autoscaling::show_first_beta, autoscaling::store_first_beta),
    old("extensions/v1beta1", "apps/daemonsets", workloads::unchanged, workloads::store_on_delete),
    old("extensions/v1beta1", "apps/deployments", workloads::unchanged, workloads::store_first_deployment),
    old("extensions/v1beta1", "apps/replicasets", workloads::unchanged, workloads::store_selecting),
    old("extensions/v1beta1", INGRESSES, networking::show_ingress, networking::store_ingress),
    old("networking.k8s.io/v1beta1", INGRESSES, networking::show_ingress, networking::store_ingress),
    old("apps/v1beta1", "apps/deployments", workloads::unchanged, workloads::store_beta_deployment),
    old("apps/v1beta1", "apps/statefulsets", workloads::unchanged, workloads::store_on_delete),
    old("apps/v1beta2", "apps/daemonsets", workloads::unchanged, workloads::store_selecting),
    old("apps/v1beta2", "apps/deployments", workloads::unchanged, workloads::store_selecting),
    old("apps/v1beta2", "apps/replicasets", workloads::unchanged, workloads::store_selecting),
    old("apps/v1beta2", "apps/statefulsets", workloads::unchanged, workloads::store_selecting),
    old("policy/v1beta1", "policy/poddisruptionbudgets", workloads::show_budget, workloads::store_budget),
    old("discovery.k8s.io/v1beta1", SLICES, networking::show_slice, networking::store_slice),
    old("apiextensions.k8s.io/v1beta1", DEFINITIONS, definitions::show, definitions::store),
];

const AUTOSCALERS: &str = "autoscaling/horizontalpodautoscalers";
const INGRESSES: &str = "networking.k8s.io/ingresses";
const SLICES: &str = "discovery.k8s.io/endpointslices";
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// A retired version's form; it is that of the version that took its place which it is turned into.
const fn old(
    api_version: &'static str,
    storage: &'static str,
    show: fn(&mut Value),
    store: fn(&mut Value),
) -> Form {
    Form { api_version, storage, show, store, fields: &[] }
}

fn find(kind: &Kind) -> Option<&'static Form> {
    let (group, version) = (kind.group.as_str(), kind.version.as_str());
    FORMS.iter().find(|form| {
        form.storage == kind.storage && kinds::split_api_version(form.api_version) == (group, version)
    })
}

/// Writes an object of the current version as a retired one had it.
pub(crate) fn retire(retired: &Retired, object: &mut Value) {
    if let Some(form) = find(&retired.shown) {
        (form.show)(object);
    }
    object["apiVersion"] = retired.shown.api_version().into();
}

/// Writes an object of a retired version as the current one has it.
pub(crate) fn renew(retired: &Retired, object: &mut Value) {
    if let Some(form) = find(&retired.shown) {
        (form.store)(object);
    }
    object["apiVersion"] = retired.current.api_version().into();
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
