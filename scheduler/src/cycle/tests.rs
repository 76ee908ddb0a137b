//! Decisions over whole snapshots.

use super::*;
use crate::testing::{
    PodBuilder, affinity, anti_affinity, decide, decide_from, node, node_field, pod, snapshot,
};

fn chosen(pod: &PodBuilder, snapshot: &mut Snapshot) -> Option<String> {
    match decide(pod, snapshot).outcome {
        Outcome::Chosen(node) => Some(node.to_string()),
        Outcome::Unfit(_) => None,
    }
}

fn message(pod: &PodBuilder, snapshot: &mut Snapshot) -> String {
    match decide(pod, snapshot).outcome {
        Outcome::Chosen(node) => format!("chosen: {node}"),
        Outcome::Unfit(diagnosis) => diagnosis.to_string(),
    }
}

/// Schedules one after the other, as the daemon does with assumed pods.
fn place_all(pods: impl IntoIterator<Item = PodBuilder>, snapshot: &mut Snapshot) -> Vec<Option<String>> {
    let place = |pod: PodBuilder| {
        let node = chosen(&pod, snapshot)?;
        snapshot.place(pod.node(&node).info());
        Some(node)
    };
    pods.into_iter().map(place).collect()
}

#[test]
fn pods_spread_by_load() {
    let mut snapshot = snapshot(["n1", "n2", "n3"].map(node));
    let pods = (0..6).map(|i| pod(&format!("p{i}")).requests("100m", "100Mi"));
    let mut nodes = place_all(pods, &mut snapshot);
    nodes.sort();
    let expected = ["n1", "n1", "n2", "n2", "n3", "n3"].map(|name| Some(name.to_owned()));
    assert_eq!(nodes, expected);
}

#[test]
fn each_reason_is_counted() {
    let mut snapshot = snapshot([
        node("n1").taint("k", "v", "NoSchedule"),
        node("n2").allocatable("1", "1Gi", 10),
        node("n3").unschedulable(),
    ]);
    snapshot.place(pod("x").requests("800m", "1Mi").node("n2").info());
    assert_eq!(
        message(&pod("p").requests("500m", "1Mi"), &mut snapshot),
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were \
         unschedulable. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn no_nodes_is_said_so() {
    assert_eq!(message(&pod("p"), &mut snapshot([])), "no nodes available to schedule pods");
}

#[test]
fn replicas_with_anti_affinity_take_a_node_each() {
    let mut snapshot = snapshot(["n1", "n2"].map(|name| node(name).label("host", name)));
    let replica = |i| pod(&format!("p{i}")).label("app", "web").affinity(anti_affinity("app=web", "host"));
    let nodes = place_all((0..3).map(replica), &mut snapshot);
    assert!(nodes[0].is_some() && nodes[1].is_some() && nodes[0] != nodes[1]);
    assert_eq!(nodes[2], None);
}

#[test]
fn replicas_with_affinity_gather_in_one_zone() {
    let zones = [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b")];
    let mut snapshot = snapshot(zones.map(|(name, zone)| node(name).label("zone", zone)));
    let replica = |i| pod(&format!("p{i}")).label("app", "web").affinity(affinity("app=web", "zone"));
    let nodes = place_all((0..4).map(replica), &mut snapshot);
    let zones: std::collections::HashSet<String> = nodes
        .iter()
        .flatten()
        .map(|name| snapshot.node(name).unwrap().domain("zone").unwrap().to_owned())
        .collect();
    assert_eq!((zones.len(), nodes.iter().flatten().count()), (1, 4));
}

#[test]
fn hard_spread_keeps_zones_even() {
    let zones = [("n1", "a"), ("n2", "b"), ("n3", "c")];
    let mut snapshot = snapshot(zones.map(|(name, zone)| node(name).label("zone", zone)));
    let replica = |i| pod(&format!("p{i}")).label("app", "web").spread("app=web", "zone", 1, "DoNotSchedule");
    let mut nodes: Vec<String> =
        place_all((0..6).map(replica), &mut snapshot).into_iter().flatten().collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n1", "n2", "n2", "n3", "n3"]);
}

#[test]
fn pod_of_a_daemon_set_looks_at_its_node_alone() {
    let mut snapshot = snapshot(["n1", "n2", "n3"].map(node));
    let decision = decide(&pod("p").affinity(node_field("n2")), &mut snapshot);
    assert_eq!(decision.evaluated, 1);
    assert!(matches!(decision.outcome, Outcome::Chosen(name) if &*name == "n2"));
    let gone = message(&pod("p").affinity(node_field("n9")), &mut snapshot);
    assert!(
        gone.starts_with("0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."),
        "{gone}"
    );
}

#[test]
fn large_clusters_are_sampled_in_turn() {
    let mut snapshot = snapshot((0..1000).map(|i| node(&format!("n{i}"))));
    let first = decide_from(&pod("p"), &mut snapshot, 0);
    assert_eq!((first.evaluated, first.feasible, first.next_start), (420, 420, 420));
    let third = decide_from(&pod("p"), &mut snapshot, 840);
    assert_eq!(third.next_start, 260);
}

#[test]
fn decision_says_who_refused_and_how_the_rest_scored() {
    let mut snapshot = snapshot([node("n1"), node("n2"), node("n3").unschedulable()]);
    let trace = decide(&pod("p").requests("100m", "1Mi"), &mut snapshot).trace;
    let refusal = &trace.refused[0];
    assert_eq!(
        (plugins::row(refusal.plugin).name, refusal.count, &*refusal.nodes[0]),
        ("NodeUnschedulable", 1, "n3")
    );
    assert_eq!(trace.scores.len(), 2);
    let sum: i64 = trace.scores[0].by_plugin.iter().map(|(_, score)| score).sum();
    assert_eq!(sum, trace.scores[0].total);
}

#[test]
fn nominated_node_is_taken_when_it_passes() {
    let mut snapshot = snapshot(["n1", "n2", "n3"].map(node));
    snapshot.place(pod("x").requests("2", "2Gi").node("n2").info());
    snapshot.nominate(pod("p").info(), "n2");
    assert_eq!(chosen(&pod("p"), &mut snapshot).as_deref(), Some("n2"));
}
