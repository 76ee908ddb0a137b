//! The taints that a node's conditions ask for.

use api_types::conditions;
use chrono::{DateTime, Utc};
use component_base::clock::time_of;
use k8s_openapi::api::core::v1::{NodeCondition, Taint};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions besides Ready, and the taint of each that is true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Whether pods may be driven off a node that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Now.
    Now,
    /// Others first; what is being evicted already goes on.
    NotYet,
    /// Not at all; what was begun is taken back.
    Never,
}

/// The taint that drives pods off a node with these conditions.
pub(super) fn evicting(all: &[NodeCondition]) -> Option<&'static str> {
    match conditions::find(all, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") | None => None,
        Some("Unknown") => Some(UNREACHABLE),
        Some(_) => Some(NOT_READY),
    }
}

/// Whether pods are being driven off the node by this controller.
pub(super) fn is_evicting(taints: &[Taint]) -> bool {
    taints
        .iter()
        .any(|taint| taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()))
}

/// The taints a node should have: others' as they are, ours by its conditions.
pub(super) fn taints(
    old: &[Taint],
    all: &[NodeCondition],
    unschedulable: bool,
    eviction: Eviction,
    now: DateTime<Utc>,
) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match (evicting(all), conditions::find(all, "Ready")) {
        (Some(key), _) => {
            wanted.push((key, "NoSchedule"));
            if eviction == Eviction::Now || (eviction == Eviction::NotYet && is_evicting(old)) {
                wanted.push((key, "NoExecute"));
            }
        }
        (None, Some(_)) => {}
        // A node that never reported is not ready.
        (None, None) => wanted.push((NOT_READY, "NoSchedule")),
    }
    let pressing = PRESSURES.iter().filter(|(type_, _)| conditions::is_true(all, type_));
    wanted.extend(pressing.map(|(_, key)| (*key, "NoSchedule")));
    if unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let asked =
        |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut after: Vec<Taint> = old.iter().filter(|taint| !is_ours(taint) || asked(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !after.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = Some(time_of(now));
            after.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    after
}

fn is_ours(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    match taint.effect.as_str() {
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&key),
        "NoSchedule" => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
                || PRESSURES.iter().any(|(_, one)| *one == key)
        }
        _ => false,
    }
}
