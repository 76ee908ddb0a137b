//! The rules of a StatefulSet, each as pods before and steps after.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use serde_json::{Value, json};

use super::identity::pod_for;
use super::plan::{Observed, plan};
use super::status::status;
use crate::owners::name_of;

fn set(replicas: i32, more: Value) -> StatefulSet {
    let mut spec = json!({"replicas": replicas, "selector": {}, "serviceName": "svc", "template": {},
                          "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(
        json!({"metadata": {"name": "db", "namespace": "ns", "uid": "set", "generation": 2}, "spec": spec}),
    )
    .unwrap()
}

fn parallel(replicas: i32, unavailable: i32) -> StatefulSet {
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": unavailable}});
    set(replicas, json!({"podManagementPolicy": "Parallel", "updateStrategy": strategy}))
}

/// A pod in a state: `ready`, `unready`, `pending`, `going`, `failed`, `succeeded`.
fn pod(ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
    let phase = match state {
        "pending" => "Pending",
        "failed" => "Failed",
        "succeeded" => "Succeeded",
        _ => "Running",
    };
    let ready = if matches!(state, "ready" | "going") { "True" } else { "False" };
    let name = format!("db-{ordinal}");
    let going = (state == "going").then_some("2024-01-01T00:00:00Z");
    let pod = json!({
        "metadata": {"name": name, "uid": name, "deletionTimestamp": going, "labels": {
            "controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": name}},
        "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2024-01-01T00:00:00Z"}]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn pods(states: &[(i32, &str, &str)]) -> Vec<Arc<Pod>> {
    states.iter().map(|(ordinal, revision, state)| pod(*ordinal, revision, state)).collect()
}

fn all_ready(count: i32, revision: &str) -> Vec<Arc<Pod>> {
    (0..count).map(|ordinal| pod(ordinal, revision, "ready")).collect()
}

fn now() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2024-01-01T00:00:05Z").unwrap().to_utc()
}

fn steps(set: &StatefulSet, pods: &[Arc<Pod>], claims: &[PersistentVolumeClaim]) -> Vec<String> {
    let claims: BTreeMap<_, _> =
        claims.iter().map(|claim| (name_of(&claim.metadata).to_owned(), Arc::new(claim.clone()))).collect();
    let done = plan(&Observed { set, pods, claims: &claims, update: "new", now: now() });
    let claims = done.make_claims.iter().map(|claim| format!("make {}", name_of(&claim.metadata)));
    let owned = done.own_claims.iter().map(|(claim, owners)| {
        let uids: Vec<_> = owners.iter().map(|owner| owner.uid.as_str()).collect();
        format!("own {} {}", name_of(&claim.metadata), uids.join(","))
    });
    let labels = done.label.iter().map(|(_, pod)| format!("label {}", name_of(&pod.metadata)));
    let created = done.create.iter().map(|(ordinal, template)| format!("create {ordinal} {template:?}"));
    let deleted = done.delete.iter().map(|pod| format!("delete {}", name_of(&pod.metadata)));
    let refused = done.refused.iter().map(|(ordinal, why)| format!("refuse {ordinal} {why}"));
    let waits = done.waits.then(|| "wait".to_owned());
    claims.chain(owned).chain(labels).chain(created).chain(deleted).chain(refused).chain(waits).collect()
}

fn check(set: &StatefulSet, pods: &[Arc<Pod>], expected: &[&str]) {
    assert_eq!(steps(set, pods, &[]), expected);
}

#[test]
fn pods_are_made_one_after_another() {
    check(&set(3, json!({})), &[], &["create 0 Update"]);
    check(&set(3, json!({})), &pods(&[(0, "new", "unready")]), &[]);
    check(&set(3, json!({})), &pods(&[(0, "new", "going")]), &[]);
    check(&set(3, json!({})), &pods(&[(0, "new", "ready")]), &["create 1 Update"]);
}

#[test]
fn the_next_pod_waits_until_the_one_before_is_available() {
    let slow = set(2, json!({"minReadySeconds": 10}));
    check(&slow, &pods(&[(0, "new", "ready")]), &[]);
    let quick = set(2, json!({"minReadySeconds": 5}));
    check(&quick, &pods(&[(0, "new", "ready")]), &["create 1 Update"]);
}

#[test]
fn a_gap_is_filled_before_anything_else() {
    let gap = pods(&[(0, "new", "ready"), (2, "old", "ready"), (3, "new", "ready")]);
    check(&set(3, json!({})), &gap, &["create 1 Update"]);
}

#[test]
fn parallel_pods_are_made_and_removed_at_once() {
    check(&parallel(2, 1), &[], &["create 0 Update", "create 1 Update"]);
    check(&parallel(1, 1), &all_ready(3, "new"), &["delete db-2", "delete db-1"]);
    let unready = pods(&[(0, "new", "unready"), (1, "new", "unready"), (2, "new", "unready")]);
    check(&parallel(0, 1), &unready, &["delete db-2", "delete db-1", "delete db-0"]);
}

#[test]
fn ordinals_begin_where_the_set_says() {
    let from_five = set(2, json!({"ordinals": {"start": 5}}));
    check(&from_five, &[], &["create 5 Update"]);
    let moved = pods(&[(0, "new", "ready"), (5, "new", "ready"), (6, "new", "ready")]);
    check(&from_five, &moved, &["delete db-0"]);
    let partition = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    let canary = set(2, json!({"ordinals": {"start": 5}, "updateStrategy": partition}));
    check(&canary, &pods(&[(5, "old", "ready"), (6, "old", "ready")]), &["delete db-6"]);
    check(&canary, &pods(&[(5, "old", "ready"), (6, "new", "ready")]), &[]);
}

#[test]
fn the_highest_ordinal_goes_first_and_alone() {
    check(&set(1, json!({})), &all_ready(3, "new"), &["delete db-2"]);
    let going = pods(&[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "going")]);
    check(&set(1, json!({})), &going, &[]);
}

#[test]
fn scaling_down_halts_at_an_unhealthy_pod() {
    let first_broken = pods(&[(0, "new", "unready"), (1, "new", "ready")]);
    check(&set(1, json!({})), &first_broken, &[]);
    let broken = pods(&[(0, "new", "unready"), (1, "new", "unready"), (2, "new", "unready")]);
    check(&set(0, json!({})), &broken, &[]);
    let last_broken = pods(&[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "unready")]);
    check(&set(1, json!({})), &last_broken, &["delete db-2"]);
}

#[test]
fn finished_pods_are_made_again() {
    for state in ["failed", "succeeded"] {
        let finished = pods(&[(0, "new", "ready"), (1, "new", state)]);
        check(&set(3, json!({})), &finished, &["delete db-1"]);
        check(&parallel(3, 1), &finished, &["create 2 Update", "delete db-1"]);
    }
}

#[test]
fn an_update_goes_from_the_top_and_waits() {
    check(&set(2, json!({})), &all_ready(2, "old"), &["delete db-1"]);
    check(&set(2, json!({})), &pods(&[(0, "old", "ready"), (1, "new", "unready")]), &[]);
    check(&set(2, json!({})), &pods(&[(0, "old", "ready"), (1, "new", "ready")]), &["delete db-0"]);
}

#[test]
fn an_update_stops_at_the_partition_and_restores_what_is_below() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    let partitioned = set(2, json!({"updateStrategy": strategy}));
    check(&partitioned, &pods(&[(0, "old", "ready"), (1, "new", "ready")]), &[]);
    check(&partitioned, &[], &["create 0 Current"]);
    check(&partitioned, &pods(&[(0, "old", "ready")]), &["create 1 Update"]);
}

#[test]
fn as_many_pods_are_updated_at_once_as_may_be_unavailable() {
    let strategy = |share: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": share}}});
    check(&set(4, strategy(json!(2))), &all_ready(4, "old"), &["delete db-3", "delete db-2"]);
    check(&set(4, strategy(json!("50%"))), &all_ready(4, "old"), &["delete db-3", "delete db-2"]);
    check(&set(4, strategy(json!("10%"))), &all_ready(4, "old"), &["delete db-3"]);
    check(
        &parallel(3, 2),
        &pods(&[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "unready")]),
        &["delete db-1"],
    );
}

#[test]
fn an_ordered_set_with_a_broken_pod_waits_for_the_user() {
    check(&set(1, json!({})), &pods(&[(0, "old", "unready")]), &[]);
}

#[test]
fn a_parallel_set_replaces_broken_pods_of_an_old_template_at_once() {
    let broken = pods(&[(0, "old", "unready"), (1, "old", "ready"), (2, "old", "unready")]);
    check(&parallel(3, 1), &broken, &["delete db-2", "delete db-0"]);
}

#[test]
fn on_delete_waits_for_the_user_and_makes_what_is_missing_anew() {
    let on_delete = set(2, json!({"updateStrategy": {"type": "OnDelete"}}));
    check(&on_delete, &all_ready(2, "old"), &[]);
    check(&on_delete, &pods(&[(0, "old", "ready")]), &["create 1 Update"]);
}

#[test]
fn a_set_that_is_being_deleted_does_nothing() {
    let mut going = set(3, json!({}));
    going.metadata.deletion_timestamp = pod(0, "new", "going").metadata.deletion_timestamp.clone();
    check(&going, &[], &[]);
}

#[test]
fn a_pod_that_does_not_say_who_it_is_is_labeled() {
    let mut unlabeled = (*pod(0, "new", "ready")).clone();
    unlabeled.metadata.labels.as_mut().unwrap().remove("statefulset.kubernetes.io/pod-name");
    check(&set(1, json!({})), &[Arc::new(unlabeled)], &["label db-0"]);
}

fn with_claims(replicas: i32, when_scaled: &str) -> StatefulSet {
    set(
        replicas,
        json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}],
               "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": when_scaled}}),
    )
}

fn claim(name: &str, meta: Value) -> PersistentVolumeClaim {
    let mut metadata = json!({"name": name});
    metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": metadata})).unwrap()
}

#[test]
fn claims_are_made_before_their_pod_and_while_it_waits_for_them() {
    let set = with_claims(1, "Retain");
    assert_eq!(steps(&set, &[], &[]), ["make data-db-0", "create 0 Update"]);
    assert_eq!(steps(&set, &[pod(0, "new", "pending")], &[]), ["make data-db-0"]);
    assert_eq!(steps(&set, &[pod(0, "new", "ready")], &[]), [""; 0]);
}

#[test]
fn a_pod_is_not_made_on_a_claim_that_goes() {
    let going = claim("data-db-0", json!({"deletionTimestamp": "2024-01-01T00:00:00Z"}));
    let expected = ["refuse 0 pvc data-db-0 is being deleted", "wait"];
    assert_eq!(steps(&with_claims(1, "Retain"), &[], &[going]), expected);
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "db-0", "uid": "earlier"});
    let stale = claim("data-db-0", json!({"ownerReferences": [owner]}));
    assert_eq!(steps(&with_claims(1, "Delete"), &[], &[stale]), ["wait"]);
}

#[test]
fn a_claim_follows_its_pod_when_that_is_scaled_away() {
    let claims = [claim("data-db-0", json!({})), claim("data-db-1", json!({}))];
    let expected = ["own data-db-0 set", "own data-db-1 db-1", "delete db-1"];
    assert_eq!(steps(&with_claims(1, "Delete"), &all_ready(2, "new"), &claims), expected);
}

#[test]
fn a_pod_has_a_stable_name_host_and_volumes() {
    let set = with_claims(1, "Retain");
    let template: PodTemplateSpec = serde_json::from_value(json!({
        "metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]},
    }))
    .unwrap();
    let pod = serde_json::to_value(pod_for(&set, &template, 3, "db-abc")).unwrap();
    assert_eq!(pod["metadata"]["name"], "db-3");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "db", "apps.kubernetes.io/pod-index": "3", "controller-revision-hash": "db-abc",
               "statefulset.kubernetes.io/pod-name": "db-3"})
    );
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-3"), &json!("svc")));
    let claimed = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-db-3"}});
    assert_eq!(pod["spec"]["volumes"], json!([claimed, {"name": "tmp", "emptyDir": {}}]));
}

fn shown(set: &StatefulSet, pods: &[Arc<Pod>]) -> Value {
    let claims = BTreeMap::new();
    let observed = Observed { set, pods, claims: &claims, update: "new", now: now() };
    serde_json::to_value(status(&observed, "old", 1).0).unwrap()
}

#[test]
fn the_status_counts_pods_by_readiness_and_revision() {
    let mid = pods(&[(0, "old", "ready"), (1, "old", "going"), (2, "new", "unready")]);
    assert_eq!(
        shown(&set(3, json!({})), &mid),
        json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 2, "availableReplicas": 2,
               "currentReplicas": 1, "updatedReplicas": 1, "currentRevision": "old", "updateRevision": "new",
               "collisionCount": 1})
    );
}

#[test]
fn a_finished_update_makes_the_new_revision_the_current_one() {
    let done = shown(&set(2, json!({})), &all_ready(2, "new"));
    assert_eq!((&done["currentRevision"], &done["currentReplicas"]), (&json!("new"), &json!(2)));
    let by_hand = set(2, json!({"updateStrategy": {"type": "OnDelete"}}));
    assert_eq!(shown(&by_hand, &all_ready(2, "new"))["currentRevision"], "old");
}

#[test]
fn a_pod_becomes_available_by_the_passing_of_time() {
    let slow = set(1, json!({"minReadySeconds": 15}));
    let claims = BTreeMap::new();
    let ready = all_ready(1, "new");
    let observed = Observed { set: &slow, pods: &ready, claims: &claims, update: "new", now: now() };
    let (told, next) = status(&observed, "new", 0);
    assert_eq!((told.ready_replicas, told.available_replicas), (Some(1), Some(0)));
    assert_eq!(next.unwrap().as_secs(), 10);
}
