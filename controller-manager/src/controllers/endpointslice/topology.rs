//! Hints by the annotation `service.kubernetes.io/topology-mode: Auto`: each zone gets as large a part of the
//! endpoints as it has of the CPU of all nodes. Pure.
//!
//! A zone may lack a sixth of its part at most; where that cannot be had, there are no hints at all. Hints that
//! are there stay as long as they are good enough, so that one pod more does not write every slice.

use std::collections::BTreeMap;

use api_types::conditions;
use api_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};

use super::packing::pod_name;
use super::{Group, zone_of};
use crate::owners::{annotation, label};
use crate::service_pods::TargetPort;

const MODE: &str = "service.kubernetes.io/topology-mode";
/// What the annotation was called before; it wins where both are there.
const MODE_BEFORE: &str = "service.kubernetes.io/topology-aware-hints";
/// How much more than its part an endpoint may have to carry.
const OVERLOAD_MAX: f64 = 0.2;
const NO_NODES: &str =
    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";
const TOO_FEW: &str = "Insufficient number of endpoints";
const OVERLOAD: &str =
    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";

/// The part of all CPU that each zone has.
pub(super) type Shares = BTreeMap<String, f64>;

/// Whether the Service asks for hints by zone.
pub(super) fn is_wished(service: &Service) -> bool {
    let mode = annotation(&service.metadata, MODE_BEFORE).or_else(|| annotation(&service.metadata, MODE));
    matches!(mode, Some("Auto" | "auto"))
}

/// What a node counts for: its zone and its CPU in thousandths; nothing unless pods of Services run on it.
pub(super) fn weight_of(node: &Node) -> Option<(Option<String>, i64)> {
    let control = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"]
        .iter()
        .any(|role| label(&node.metadata, role).is_some());
    let status = node.status.as_ref()?;
    let ready = conditions::is_true(status.conditions.as_deref().unwrap_or_default(), "Ready");
    let cpu = status.allocatable.as_ref().and_then(|all| all.get("cpu"));
    let cpu = cpu.map_or(0, |cpu| Quantity::parse_or_zero(&cpu.0).milli());
    (ready && !control).then(|| (zone_of(node).map(ToOwned::to_owned), cpu))
}

/// The parts of the zones; none where a node does not say enough of itself or there is but one zone.
pub(super) fn shares_of<'a>(nodes: impl Iterator<Item = &'a Node>) -> Option<Shares> {
    let mut cpu: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, milli) in nodes.filter_map(weight_of) {
        *cpu.entry(zone.filter(|_| milli > 0)?).or_default() += milli;
    }
    let total: i64 = cpu.values().sum();
    let share = |(zone, milli)| (zone, milli as f64 / total as f64);
    (cpu.len() > 1).then(|| cpu.into_iter().map(share).collect())
}

/// How many endpoints a zone needs.
#[derive(Clone, Copy)]
struct Allocation {
    min: usize,
    max: usize,
    desired: f64,
}

fn allocations(shares: Option<&Shares>, endpoints: usize) -> Result<BTreeMap<&str, Allocation>, String> {
    let shares = shares.ok_or(NO_NODES)?;
    let refusal = |why: &str| format!("{why} ({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(refusal(TOO_FEW));
    }
    let needed = shares.iter().map(|(zone, share)| {
        let part = share * endpoints as f64;
        let min = (part * (1.0 / (1.0 + OVERLOAD_MAX))).ceil();
        (zone.as_str(), min as usize, part.max(min))
    });
    let needed: Vec<(&str, usize, f64)> = needed.collect();
    let spare = endpoints.checked_sub(needed.iter().map(|(_, min, _)| min).sum());
    let spare = spare.ok_or_else(|| refusal(OVERLOAD))?;
    let allocation = |(zone, min, desired)| (zone, Allocation { min, max: min + spare, desired });
    Ok(needed.into_iter().map(allocation).collect())
}

/// A ready endpoint: the zone that it is in, and the one that it is meant for so far.
#[derive(Clone, Copy)]
struct Place<'a> {
    zone: &'a str,
    hint: Option<&'a str>,
}

/// The zone that each endpoint is meant for.
fn assign(places: &[Place<'_>], allocations: &BTreeMap<&str, Allocation>) -> Vec<String> {
    let kept: Vec<&str> = places.iter().map(|place| place.hint.unwrap_or(place.zone)).collect();
    let count = |zone: &str| kept.iter().filter(|one| **one == zone).count();
    let good = kept.iter().all(|zone| allocations.contains_key(zone))
        && allocations.iter().all(|(zone, one)| (one.min..=one.max).contains(&count(zone)));
    if good && places.iter().any(|place| place.hint.is_some()) {
        return kept.into_iter().map(ToOwned::to_owned).collect();
    }
    let (mut giving, mut receiving) = exchanges(places, allocations);
    let assigned = places.iter().map(|place| {
        let gives = giving.get_mut(place.zone).filter(|left| **left > 0);
        let takes = receiving.iter_mut().find(|(_, left)| **left > 0);
        match (gives, takes) {
            (Some(gives), Some((zone, takes))) => {
                *gives -= 1;
                *takes -= 1;
                (*zone).to_owned()
            }
            _ => place.zone.to_owned(),
        }
    });
    assigned.collect()
}

type Counts<'a> = BTreeMap<&'a str, usize>;

/// How many endpoints zones give away and get, from the zone that has most too many to the one that lacks most.
fn exchanges<'a>(
    places: &[Place<'_>],
    allocations: &BTreeMap<&'a str, Allocation>,
) -> (Counts<'a>, Counts<'a>) {
    let excess = |(zone, one): (&&'a str, &Allocation)| {
        (*zone, places.iter().filter(|place| place.zone == *zone).count() as f64 - one.desired)
    };
    let mut excesses: BTreeMap<&str, f64> = allocations.iter().map(excess).collect();
    let (mut giving, mut receiving) = (Counts::new(), Counts::new());
    loop {
        let order = |one: &(&&'a str, &f64), other: &(&&'a str, &f64)| one.1.total_cmp(other.1);
        let most = excesses.iter().max_by(order).map(|(zone, excess)| (*zone, *excess));
        let least = excesses.iter().min_by(order).map(|(zone, excess)| (*zone, -*excess));
        let (Some((giver, gives)), Some((taker, takes))) = (most, least) else { break };
        if (gives < 1.0 && takes < 1.0) || gives < 0.5 || takes < 0.5 {
            break;
        }
        *giving.entry(giver).or_default() += 1;
        *receiving.entry(taker).or_default() += 1;
        excesses.entry(giver).and_modify(|excess| *excess -= 1.0);
        excesses.entry(taker).and_modify(|excess| *excess += 1.0);
    }
    (giving, receiving)
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
}

fn hint_of(endpoint: &Endpoint) -> Option<&str> {
    let zones = endpoint.hints.as_ref()?.for_zones.as_deref()?;
    zones.first().map(|zone| zone.name.as_str())
}

/// Says of each ready endpoint for which zone it is meant; else why that cannot be said of any.
pub(super) fn hint(
    groups: &mut BTreeMap<Vec<TargetPort>, Group>,
    slices: &[&EndpointSlice],
    shares: Option<&Shares>,
) -> Result<(), String> {
    let listed = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let hints: BTreeMap<String, &str> =
        listed.filter_map(|endpoint| Some((pod_name(endpoint), hint_of(endpoint)?))).collect();
    let ready = || groups.values().flat_map(|group| &group.endpoints).filter(|(_, one)| is_ready(one));
    let allocations = allocations(shares, ready().count())?;
    let place = |(pod, endpoint): (&String, &'_ Endpoint)| {
        let zone = endpoint.zone.clone().filter(|zone| !zone.is_empty())?;
        Some((zone, hints.get(pod).copied().filter(|hint| allocations.contains_key(hint))))
    };
    let places: Option<Vec<(String, Option<&str>)>> = ready().map(place).collect();
    let places = places.ok_or(NO_ZONE)?;
    let places: Vec<Place<'_>> = places.iter().map(|(zone, hint)| Place { zone, hint: *hint }).collect();
    let assigned = assign(&places, &allocations);
    let endpoints = groups.values_mut().flat_map(|group| group.endpoints.values_mut());
    for (endpoint, name) in endpoints.filter(|endpoint| is_ready(endpoint)).zip(assigned) {
        endpoint.hints = Some(EndpointHints { for_nodes: None, for_zones: Some(vec![ForZone { name }]) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shares(all: &[(&str, f64)]) -> Shares {
        all.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect()
    }

    /// The zones that endpoints in `zones` are meant for; `a>b` is in `a` and meant for `b` so far.
    fn assigned(zones: &str, all: &[(&str, f64)]) -> Result<String, String> {
        let shares = shares(all);
        let place = |text: &'static str| match text.split_once('>') {
            Some((zone, hint)) => Place { zone, hint: Some(hint) },
            None => Place { zone: text, hint: None },
        };
        let zones: &'static str = zones.to_owned().leak();
        let places: Vec<Place<'_>> = zones.split(' ').map(place).collect();
        let allocations = allocations(Some(&shares), places.len())?;
        Ok(assign(&places, &allocations).join(" "))
    }

    const HALVES: &[(&str, f64)] = &[("a", 0.5), ("b", 0.5)];

    #[test]
    fn endpoints_that_are_spread_as_the_cpu_stay_in_their_zone() {
        assert_eq!(assigned("a b a b", HALVES).unwrap(), "a b a b");
    }

    #[test]
    fn a_zone_with_too_many_gives_to_the_one_that_lacks_most() {
        assert_eq!(assigned("a a a a", HALVES).unwrap(), "b b a a");
        let thirds = [("a", 0.5), ("b", 0.25), ("c", 0.25)];
        assert_eq!(assigned("a a a a a a b b", &thirds).unwrap(), "c c a a a a b b");
    }

    #[test]
    fn hints_that_are_good_enough_stay_though_others_would_be_better() {
        let even = "a>a a>a a>a a>b a>b a>b";
        assert_eq!(assigned(&format!("{even} a"), HALVES).unwrap(), "a a a b b b a");
        let scratch = assigned("a a a a a a a", HALVES).unwrap();
        assert_ne!(scratch, "a a a b b b a", "which nobody would have chosen anew");
    }

    #[test]
    fn hints_that_overload_a_zone_are_made_anew() {
        assert_eq!(assigned("a>a a>a a>a b>a", HALVES).unwrap(), "b a a b");
        assert_eq!(assigned("a>gone b>b a>a b>b", HALVES).unwrap(), "a b a b");
    }

    #[test]
    fn without_enough_endpoints_there_are_none() {
        let refused = |zones: &str, all| assigned(zones, all).unwrap_err();
        assert_eq!(refused("a", HALVES), "Insufficient number of endpoints (1 endpoints, 2 zones)");
        assert_eq!(
            refused("a b", &[("a", 0.7), ("b", 0.3)]),
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold \
             (2 endpoints, 2 zones)"
        );
        assert_eq!(allocations(None, 9).err().as_deref(), Some(NO_NODES));
    }

    fn node(zone: &str, cpu: &str, more: Value) -> Node {
        let ready = json!({"type": "Ready", "status": if more["down"] == true { "False" } else { "True" }});
        let mut labels = json!({"topology.kubernetes.io/zone": zone});
        if more["control"] == true {
            labels["node-role.kubernetes.io/control-plane"] = json!("");
        }
        serde_json::from_value(json!({
            "metadata": {"labels": labels}, "status": {"conditions": [ready], "allocatable": {"cpu": cpu}},
        }))
        .unwrap()
    }

    #[test]
    fn zones_share_the_cpu_of_ready_nodes_that_run_pods() {
        let of = |nodes: &[Node]| shares_of(nodes.iter());
        let (a, b) = (node("a", "1500m", json!({})), node("b", "500m", json!({})));
        let both = Some(shares(&[("a", 0.75), ("b", 0.25)]));
        assert_eq!(of(&[a.clone(), b.clone()]), both);
        let others = [node("", "0", json!({"down": true})), node("c", "64", json!({"control": true}))];
        let all: Vec<Node> = [a.clone(), b.clone()].into_iter().chain(others).collect();
        assert_eq!(of(&all), both, "neither nodes that are down nor the control plane count");
        assert_eq!(of(std::slice::from_ref(&a)), None, "one zone");
        assert_eq!(of(&[a.clone(), b.clone(), node("", "1", json!({}))]), None, "a node without zone");
        assert_eq!(of(&[a, b, node("c", "0", json!({}))]), None, "a node without CPU");
    }
}
