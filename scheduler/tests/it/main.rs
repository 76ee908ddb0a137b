//! The scheduler against an API server in the same process: objects in, objects out.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod world;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use world::{World, node_of, version_of};

fn far_from(app: &str, key: &str) -> Value {
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

#[tokio::test]
async fn pods_are_bound_and_told_so() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.pod("web-1", json!({})).await;
    assert_eq!(world.bound("web-1").await, "n1");
    let event = world.event("web-1", "Scheduled").await;
    assert_eq!(event.message.as_deref(), Some("Successfully assigned default/web-1 to n1"));
    world.stop().await;
}

#[tokio::test]
async fn pod_that_fits_nowhere_is_told_once_and_bound_when_a_node_comes() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.pod("web-1", json!({})).await;
    world.pod("web-2", json!({})).await;
    world.bound("web-1").await;
    world.bound("web-2").await;
    world.pod("web-3", json!({})).await;
    let refused = world.refused("web-3", "0/1 nodes are available: 1 Insufficient cpu.").await;
    world.event("web-3", "FailedScheduling").await;
    // Another pod's passage would show a loop of writes, if there were one.
    world.pod("idle-1", json!({"containers": [{"name": "c", "image": "i"}]})).await;
    world.bound("idle-1").await;
    let still = world.pods().get("web-3").await.unwrap();
    assert_eq!(version_of(&still), version_of(&refused));
    assert_eq!(world.event_count("web-3", "FailedScheduling").await, 1);
    world.node("n2", "a").await;
    assert_eq!(world.bound("web-3").await, "n2");
    world.stop().await;
}

#[tokio::test]
async fn freed_room_is_given_to_a_waiting_pod() {
    let world = World::start().await;
    world.node("n1", "a").await;
    for name in ["web-1", "web-2"] {
        world.pod(name, json!({})).await;
        world.bound(name).await;
    }
    world.pod("web-3", json!({})).await;
    world.refused("web-3", "Insufficient cpu").await;
    world.pods().delete("web-1", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(world.bound("web-3").await, "n1");
    world.stop().await;
}

#[tokio::test]
async fn gated_pod_waits_for_its_gates() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.pod("gated-1", json!({"schedulingGates": [{"name": "example.com/quota"}]})).await;
    world.pod("free-1", json!({})).await;
    world.bound("free-1").await;
    assert_eq!(node_of(&world.pods().get("gated-1").await.unwrap()), None);
    let open = Patch::Merge(json!({"spec": {"schedulingGates": []}}));
    world.pods().patch("gated-1", &PatchParams::default(), &open).await.unwrap();
    world.bound("gated-1").await;
    world.stop().await;
}

#[tokio::test]
async fn anti_affinity_goes_by_the_topology_key() {
    let world = World::start().await;
    for (name, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        world.node(name, zone).await;
    }
    for name in ["web-1", "web-2", "web-3"] {
        world.pod(name, far_from("web", "zone")).await;
    }
    let message = "2 node(s) didn't match pod anti-affinity rules";
    let (first, second) = (world.bound("web-1").await, world.bound("web-2").await);
    assert_ne!(first == "n3", second == "n3", "{first} and {second} are not in different zones");
    world.refused("web-3", message.trim_start_matches("2 ")).await;
    world.stop().await;
}

#[tokio::test]
async fn cordoned_and_tainted_nodes_get_nothing() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.node("n2", "a").await;
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    world.nodes().patch("n1", &PatchParams::default(), &cordon).await.unwrap();
    let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let taint = Patch::Merge(json!({"spec": {"taints": taint}}));
    world.nodes().patch("n2", &PatchParams::default(), &taint).await.unwrap();
    world.pod("web-1", json!({})).await;
    let wanted = "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.";
    world.refused("web-1", wanted).await;
    let open = Patch::Merge(json!({"spec": {"unschedulable": null}}));
    world.nodes().patch("n1", &PatchParams::default(), &open).await.unwrap();
    assert_eq!(world.bound("web-1").await, "n1");
    world.stop().await;
}

#[tokio::test]
async fn restarted_scheduler_goes_on_where_the_other_stopped() {
    let mut world = World::start().await;
    world.node("n1", "a").await;
    for name in ["web-1", "web-2"] {
        world.pod(name, json!({})).await;
        world.bound(name).await;
    }
    world.pod("web-3", json!({})).await;
    let refused = world.refused("web-3", "Insufficient cpu").await;
    world.stop_scheduler().await;
    world.node("n2", "b").await;
    world.pod("web-4", json!({})).await;
    world.start_scheduler();
    let nodes = [world.bound("web-3").await, world.bound("web-4").await];
    assert_eq!(nodes, ["n2", "n2"]);
    assert!(node_of(&refused).is_none());
    world.stop().await;
}

#[tokio::test]
async fn pods_of_another_scheduler_are_left_alone() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.pod("other-1", json!({"schedulerName": "mine"})).await;
    world.pod("web-1", json!({})).await;
    world.bound("web-1").await;
    let other = world.pods().get("other-1").await.unwrap();
    assert_eq!((node_of(&other), world::message_of(&other)), (None, None));
    world.stop().await;
}

fn with_claim(claim: &str) -> Value {
    json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]})
}

#[tokio::test]
async fn a_pod_waits_until_its_claim_is_there_and_bound() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.node("n2", "b").await;
    world.pod("db-0", with_claim("data")).await;
    world.refused("db-0", "0/2 nodes are available: persistentvolumeclaim \"data\" not found.").await;
    world.claim("data", "fast").await;
    world.refused("db-0", "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.").await;
    world.volume("v", "fast", "b").await;
    world.bind_claim("data", "v").await;
    assert_eq!(world.bound("db-0").await, "n2");
    world.stop().await;
}

#[tokio::test]
async fn a_claim_that_waits_learns_its_node_and_its_pod_waits_for_the_volume() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.storage_class("late", "example.org/disk").await;
    world.claim("data", "late").await;
    world.pod("db-0", with_claim("data")).await;
    assert_eq!(world.selected_node("data").await, "n1");
    assert_eq!(node_of(&world.pods().get("db-0").await.unwrap()), None);
    world.volume("v", "late", "a").await;
    world.bind_claim("data", "v").await;
    assert_eq!(world.bound("db-0").await, "n1");
    world.stop().await;
}

#[tokio::test]
async fn a_free_volume_is_given_to_the_claim_of_a_pod_that_it_reaches() {
    let world = World::start().await;
    world.node("n1", "a").await;
    world.node("n2", "b").await;
    world.storage_class("local", "kubernetes.io/no-provisioner").await;
    world.claim("data", "local").await;
    world.pod("db-0", with_claim("data")).await;
    let nowhere = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    world.refused("db-0", nowhere).await;
    world.volume("v", "local", "b").await;
    assert_eq!(world.given("v").await, "data");
    world.bind_claim("data", "v").await;
    assert_eq!(world.bound("db-0").await, "n2");
    world.stop().await;
}

#[tokio::test]
async fn many_pods_fill_many_nodes_and_none_too_far() {
    let world = World::start().await;
    for index in 0..20 {
        world.node(&format!("n{index}"), "a").await;
    }
    for index in 0..41 {
        world.pod(&format!("web-{index}"), json!({})).await;
    }
    let mut on_node = std::collections::HashMap::new();
    let mut left = Vec::new();
    for index in 0..41 {
        let name = format!("web-{index}");
        // Which pod finds no room is open; that exactly one does is not.
        tokio::select! {
            node = world.bound(&name) => *on_node.entry(node).or_insert(0) += 1,
            _ = world.refused(&name, "0/20 nodes are available: 20 Insufficient cpu.") => left.push(name),
        }
    }
    assert!(on_node.values().all(|pods| *pods == 2), "{on_node:?}");
    assert_eq!((on_node.len(), left.len()), (20, 1));
    world.stop().await;
}
