//! The rules of a rollout, each as a table of sets before and steps after.

use std::sync::Arc;

use api_types::conditions;
use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use serde_json::{Value, json};

use super::history::{REVISION, revision};
use super::status::{collided, deadline_in, refused, status};
use super::wanted::{DESIRED, MAXIMUM, Wanted, limits, size};
use super::{Mode, Observed, Step, plan};
use crate::owners::name_of;

struct Case {
    deployment: Value,
    sets: Vec<Arc<ReplicaSet>>,
    old_pods: bool,
}

fn case(replicas: i32, strategy: Value) -> Case {
    let deployment = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
                 "progressDeadlineSeconds": 60, "template": template("v2")},
    });
    Case { deployment, sets: Vec::new(), old_pods: false }
}

fn rolling(replicas: i32, surge: impl Into<Value>, unavailable: impl Into<Value>) -> Case {
    let limits = json!({"maxSurge": surge.into(), "maxUnavailable": unavailable.into()});
    case(replicas, json!({"type": "RollingUpdate", "rollingUpdate": limits}))
}

fn recreate() -> Case {
    case(2, json!({"type": "Recreate"}))
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2024-01-01T00:00:00Z").unwrap().to_utc()
        + chrono::Duration::seconds(seconds)
}

impl Case {
    fn set(self, image: &str, replicas: i32, available: i32) -> Self {
        self.set_with(image, replicas, available, json!({}))
    }

    /// The same with values at pointers.
    fn set_with(mut self, image: &str, replicas: i32, available: i32, more: Value) -> Self {
        let number = self.sets.len() + 1;
        let desired = self.deployment["spec"]["replicas"].to_string();
        let spec = serde_json::from_value(self.deployment["spec"].clone()).unwrap();
        let (surge, _) = limits(&spec, spec.replicas.unwrap());
        let maximum = (spec.replicas.unwrap() + surge).to_string();
        let mut set = json!({
            "metadata": {"name": image, "uid": image, "generation": 1,
                         "creationTimestamp": format!("2024-01-01T00:00:0{number}Z"),
                         "annotations": {REVISION: number.to_string(), DESIRED: desired, MAXIMUM: maximum}},
            "spec": {"replicas": replicas, "selector": {}, "template": template(image)},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available,
                       "terminatingReplicas": 0, "observedGeneration": 1},
        });
        put(&mut set, more);
        self.sets.push(Arc::new(serde_json::from_value(set).unwrap()));
        self
    }

    fn with(mut self, pointer: &str, value: Value) -> Self {
        put(&mut self.deployment, json!({pointer: value}));
        self
    }

    fn steps(&self) -> Vec<Step> {
        let deployment: Deployment = serde_json::from_value(self.deployment.clone()).unwrap();
        plan(&Observed { deployment: &deployment, sets: &self.sets, old_pods: self.old_pods })
    }

    fn check(self, expected: &[&str]) {
        let told: Vec<String> = self.steps().iter().map(tell).collect();
        assert_eq!(told, expected);
    }

    fn status(&self, created: Option<&str>, after_seconds: i64) -> DeploymentStatus {
        let deployment: Deployment = serde_json::from_value(self.deployment.clone()).unwrap();
        let wanted = Wanted::of(&deployment, &self.sets).unwrap();
        status(&wanted, Mode::of(&wanted), created, at(after_seconds))
    }

    /// The condition of this type as status, reason and message.
    fn check_condition(&self, type_: &str, after_seconds: i64, expected: Option<(&str, &str, &str)>) {
        check_in(&self.status(None, after_seconds), type_, expected);
    }

    /// Some time ago the Deployment said this of its progress.
    fn said(self, status: &str, reason: &str) -> Self {
        let (time, [updated, ready]) = ("2024-01-01T00:00:00Z", self.counts());
        let told = json!({"type": "Progressing", "status": status, "reason": reason, "message": "before",
                          "lastUpdateTime": time, "lastTransitionTime": time});
        self.with(
            "/status",
            json!({"replicas": 2, "updatedReplicas": updated, "readyReplicas": ready,
                   "availableReplicas": ready, "observedGeneration": 1, "conditions": [told]}),
        )
    }

    fn counts(&self) -> [i32; 2] {
        let new = self.sets.last().map_or(0, |set| size(set));
        [new, 0]
    }
}

fn put(object: &mut Value, more: Value) {
    for (pointer, value) in more.as_object().unwrap() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
}

fn check_in(status: &DeploymentStatus, type_: &str, expected: Option<(&str, &str, &str)>) {
    let all = status.conditions.clone().unwrap_or_default();
    let told = conditions::find(&all, type_).map(|one| {
        (one.status.as_str(), one.reason.as_deref().unwrap_or(""), one.message.as_deref().unwrap_or(""))
    });
    assert_eq!(told, expected);
}

fn tell(step: &Step) -> String {
    match step {
        Step::Create(set) => format!("create {} revision {}", size(set), revision(set)),
        Step::Change(change) => {
            let mut text =
                format!("{} {} -> {}", name_of(&change.set.metadata), size(&change.set), change.replicas);
            for (name, value) in &change.annotations {
                let name = name.trim_start_matches("deployment.kubernetes.io/");
                text.push_str(&format!(" {name}={value}"));
            }
            if let Some(seconds) = change.min_ready_seconds {
                text.push_str(&format!(" ready after {seconds}"));
            }
            text
        }
        Step::Delete(set) => format!("delete {}", name_of(&set.metadata)),
    }
}

#[test]
fn first_rollout_creates_the_whole_set() {
    rolling(3, 1, 0).check(&["create 3 revision 1"]);
}

#[test]
fn a_new_template_starts_with_the_surge() {
    rolling(3, 1, 0).set("v1", 3, 3).check(&["create 1 revision 2"]);
    rolling(10, "25%", "25%").set("v1", 10, 10).check(&["create 3 revision 2"]);
    rolling(3, 0, 1).set("v1", 3, 3).check(&["create 0 revision 2"]);
}

#[test]
fn percentages_of_unavailability_are_rounded_down() {
    rolling(10, 0, "25%").set("v1", 10, 10).set("v2", 0, 0).check(&["v1 10 -> 8"]);
}

#[test]
fn pods_beyond_a_sets_size_do_not_let_others_go() {
    rolling(4, 2, 0).set("v1", 3, 3).set("v2", 3, 4).check(&["v1 3 -> 1"]);
    rolling(4, 2, 0).set("v1", 3, 5).set("v2", 3, 0).check(&[]);
}

#[test]
fn old_pods_go_only_when_new_ones_are_available() {
    rolling(3, 1, 0).set("v1", 3, 3).set("v2", 1, 0).check(&[]);
    rolling(3, 1, 0).set("v1", 3, 3).set("v2", 1, 1).check(&["v1 3 -> 2"]);
}

#[test]
fn the_new_set_grows_as_the_old_one_shrinks() {
    rolling(3, 1, 0).set("v1", 2, 2).set("v2", 1, 1).check(&["v2 1 -> 2"]);
}

#[test]
fn a_new_set_that_is_too_large_shrinks_first() {
    rolling(3, 1, 0).set("v1", 1, 1).set("v2", 4, 4).check(&["v2 4 -> 3"]);
}

#[test]
fn broken_old_pods_go_first_and_at_once() {
    rolling(3, 1, 1).set("v0", 1, 0).set("v1", 2, 2).set("v2", 1, 0).check(&["v0 1 -> 0"]);
}

#[test]
fn a_rollover_leaves_the_unfinished_set_behind() {
    let rollover = rolling(3, 1, 0).set("v0", 3, 3).set("v1", 1, 0);
    rollover.check(&["create 0 revision 3"]);
    rolling(3, 1, 0).set("v0", 3, 3).set("v1", 1, 0).set("v2", 0, 0).check(&["v1 1 -> 0"]);
}

#[test]
fn neither_surge_nor_unavailable_still_moves() {
    rolling(2, 0, 0).set("v1", 2, 2).set("v2", 0, 0).check(&["v1 2 -> 1"]);
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    recreate().set("v1", 2, 2).check(&["v1 2 -> 0"]);
    Case { old_pods: true, ..recreate().set("v1", 0, 0) }.check(&[]);
    recreate().set("v1", 0, 0).check(&["create 2 revision 2"]);
    recreate().set("v2", 0, 0).set("v1", 0, 0).check(&["v2 0 -> 2 revision=3 revision-history=1"]);
}

#[test]
fn going_back_takes_the_old_set_under_a_new_revision() {
    let back = rolling(2, 1, 0).set("v2", 0, 0).set("v1", 2, 2);
    back.check(&["v2 0 -> 1 revision=3 revision-history=1"]);
}

#[test]
fn the_new_set_gets_the_annotations_and_the_ready_seconds_of_the_deployment() {
    let annotations = json!({"why": "because", REVISION: "9", "deployment.kubernetes.io/revision-history": "1",
        "kubectl.kubernetes.io/last-applied-configuration": "{}"});
    let annotated = || rolling(2, 1, 0).with("/metadata/annotations", annotations.clone());
    annotated().set("v2", 2, 2).check(&["v2 2 -> 2 why=because"]);
    let same = json!({"/metadata/annotations/why": "because"});
    annotated().set_with("v2", 2, 2, same).check(&[]);
    rolling(2, 1, 0)
        .with("/spec/minReadySeconds", json!(5))
        .set("v2", 2, 2)
        .check(&["v2 2 -> 2 ready after 5"]);
    let Step::Create(set) = &annotated().steps()[0] else { panic!("no set is made") };
    let has = |name: &str| set.metadata.annotations.as_ref().unwrap().contains_key(name);
    assert!(
        has("why")
            && has(DESIRED)
            && has(MAXIMUM)
            && !has("kubectl.kubernetes.io/last-applied-configuration")
    );
}

#[test]
fn a_new_set_is_named_and_selected_by_its_templates_hash() {
    let Step::Create(set) = &rolling(3, 1, 0).steps()[0] else { panic!("no set is made") };
    let spec = set.spec.as_ref().unwrap();
    let hash = spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"].clone();
    assert_eq!(name_of(&set.metadata), format!("web-{hash}"));
    let template = spec.template.as_ref().unwrap().metadata.as_ref().unwrap();
    assert_eq!(template.labels.as_ref().unwrap()["pod-template-hash"], hash);
    assert_eq!(set.metadata.labels.as_ref().unwrap()["pod-template-hash"], hash);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let paused = || rolling(3, 1, 0).set("v1", 3, 3).with("/spec/paused", json!(true));
    paused().check(&[]);
    paused().with("/spec/replicas", json!(5)).check(&["v1 3 -> 5 desired-replicas=5 max-replicas=6"]);
}

#[test]
fn a_paused_deployment_forgets_old_sets() {
    let paused =
        rolling(3, 1, 0).with("/spec/revisionHistoryLimit", json!(0)).with("/spec/paused", json!(true));
    paused.set("v0", 0, 0).set("v1", 3, 3).check(&["delete v0"]);
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let sizes = " desired-replicas=15 max-replicas=18";
    let mid = rolling(10, 3, 2).set("v1", 8, 8).set("v2", 5, 0);
    let expected = [format!("v1 8 -> 11{sizes}"), format!("v2 5 -> 7{sizes}")];
    mid.with("/spec/replicas", json!(15)).check(&[&expected[0], &expected[1]]);
}

#[test]
fn what_rounding_leaves_over_goes_to_the_largest_and_newest_set() {
    let sizes = |before: i32, after: i32, replicas: i32| {
        format!("{before} -> {after} desired-replicas={replicas} max-replicas={}", replicas + 2)
    };
    let mid = || rolling(10, 2, 2).set("v0", 4, 4).set("v1", 4, 4).set("v2", 4, 0);
    let grown = [
        format!("v2 {}", sizes(4, 5, 11)),
        format!("v1 {}", sizes(4, 4, 11)),
        format!("v0 {}", sizes(4, 4, 11)),
    ];
    mid().with("/spec/replicas", json!(11)).check(&[&grown[0], &grown[1], &grown[2]]);
    let shrunk = [
        format!("v0 {}", sizes(4, 2, 5)),
        format!("v1 {}", sizes(4, 2, 5)),
        format!("v2 {}", sizes(4, 3, 5)),
    ];
    mid().with("/spec/replicas", json!(5)).check(&[&shrunk[0], &shrunk[1], &shrunk[2]]);
}

#[test]
fn scaling_to_zero_empties_every_set() {
    let sizes = " desired-replicas=0 max-replicas=3";
    let mid = rolling(10, 3, 2).set("v1", 8, 8).set("v2", 5, 0);
    let expected = [format!("v1 8 -> 0{sizes}"), format!("v2 5 -> 0{sizes}")];
    mid.with("/spec/replicas", json!(0)).check(&[&expected[0], &expected[1]]);
}

#[test]
fn history_beyond_the_limit_goes_when_all_is_done() {
    let done = json!({"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "observedGeneration": 1});
    let finished = |limit: i64| {
        let case = rolling(1, 1, 0).set("v0", 0, 0).set("v1", 0, 0).set("v2", 1, 1);
        case.with("/status", done.clone()).with("/spec/revisionHistoryLimit", json!(limit))
    };
    finished(1).check(&["delete v0"]);
    finished(0).check(&["delete v0", "delete v1"]);
    finished(i64::from(i32::MAX)).check(&[]);
    finished(0).with("/status", json!({})).check(&[]);
}

#[test]
fn a_deployment_that_is_being_deleted_does_nothing() {
    let going = rolling(3, 1, 0).set("v1", 3, 3);
    going.with("/metadata/deletionTimestamp", json!("2024-01-01T00:00:00Z")).check(&[]);
}

#[test]
fn the_status_counts_what_the_sets_count() {
    let mid = rolling(4, 1, 1).set("v1", 3, 3).set("v2", 2, 1).with("/status", json!({"collisionCount": 2}));
    let mut told = serde_json::to_value(mid.status(None, 0)).unwrap();
    told.as_object_mut().unwrap().remove("conditions");
    assert_eq!(
        told,
        json!({"observedGeneration": 1, "replicas": 5, "updatedReplicas": 2, "readyReplicas": 4,
               "availableReplicas": 4, "unavailableReplicas": 1, "terminatingReplicas": 0, "collisionCount": 2})
    );
    let unknown = rolling(1, 1, 0).set_with("v2", 1, 1, json!({"/status/terminatingReplicas": null}));
    assert_eq!(unknown.status(None, 0).terminating_replicas, None);
}

#[test]
fn a_deployment_is_available_while_enough_pods_are() {
    let enough = Some(("True", "MinimumReplicasAvailable", "Deployment has minimum availability."));
    rolling(4, 1, 1).set("v2", 4, 3).check_condition("Available", 0, enough);
    let few = Some(("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."));
    rolling(4, 1, 1).set("v2", 4, 2).check_condition("Available", 0, few);
}

#[test]
fn a_new_set_is_told_of_once_made_or_found() {
    let made = rolling(2, 1, 0).set("v2", 2, 0).with("/status", json!({"replicas": 2, "updatedReplicas": 2}));
    let created = Some(("True", "NewReplicaSetCreated", "Created new replica set \"web-1\""));
    check_in(&made.status(Some("web-1"), 0), "Progressing", created);
    made.check_condition(
        "Progressing",
        0,
        Some(("True", "FoundNewReplicaSet", "Found new replica set \"v2\"")),
    );
}

#[test]
fn a_set_that_could_not_be_made_is_told_of() {
    let case = rolling(2, 1, 0).said("True", "NewReplicaSetAvailable");
    let deployment: Deployment = serde_json::from_value(case.deployment).unwrap();
    let told = refused(&Wanted::of(&deployment, &[]).unwrap(), "no", at(0));
    let one = conditions::find(told.conditions.as_ref().unwrap(), "Progressing").unwrap();
    assert_eq!((one.status.as_str(), one.reason.as_deref()), ("False", Some("ReplicaSetCreateError")));
    let message = one.message.as_deref().unwrap();
    assert!(message.starts_with("Failed to create new replica set \"web-") && message.ends_with("\": no"));
}

#[test]
fn a_collision_is_counted_and_changes_nothing_else() {
    let case = rolling(2, 1, 0).said("True", "NewReplicaSetAvailable");
    let deployment: Deployment = serde_json::from_value(case.deployment).unwrap();
    let told = collided(&deployment);
    assert_eq!(told.collision_count, Some(1));
    assert_eq!(DeploymentStatus { collision_count: None, ..told }, deployment.status.unwrap());
}

#[test]
fn progress_is_noted_with_its_time() {
    let case = rolling(2, 1, 0).set("v2", 2, 1).said("True", "ReplicaSetUpdated");
    case.check_condition(
        "Progressing",
        30,
        Some(("True", "ReplicaSetUpdated", "ReplicaSet \"v2\" is progressing.")),
    );
    let told = case.status(None, 30).conditions.unwrap();
    let one = conditions::find(&told, "Progressing").unwrap();
    let seconds = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map(|time| component_base::clock::moment_of(time) - at(0)).unwrap().num_seconds()
    };
    assert_eq!((seconds(&one.last_update_time), seconds(&one.last_transition_time)), (30, 0));
}

#[test]
fn what_was_said_last_stands_last() {
    let case = rolling(2, 1, 0).set("v2", 2, 1).said("True", "ReplicaSetUpdated");
    let told = case.status(None, 30).conditions.unwrap();
    let types: Vec<_> = told.iter().map(|one| one.type_.as_str()).collect();
    assert_eq!(types, ["Available", "Progressing"]);
}

#[test]
fn a_rollout_without_progress_misses_its_deadline() {
    let stuck = rolling(2, 1, 0).set("v2", 2, 0).said("True", "ReplicaSetUpdated");
    stuck.check_condition("Progressing", 60, Some(("True", "ReplicaSetUpdated", "before")));
    let missed = ("False", "ProgressDeadlineExceeded", "ReplicaSet \"v2\" has timed out progressing.");
    stuck.check_condition("Progressing", 61, Some(missed));
}

#[test]
fn a_late_rollout_can_still_succeed() {
    let late = rolling(2, 1, 0).set("v2", 2, 2).said("False", "ProgressDeadlineExceeded");
    let done = ("True", "NewReplicaSetAvailable", "ReplicaSet \"v2\" has successfully progressed.");
    late.check_condition("Progressing", 90, Some(done));
}

#[test]
fn a_finished_rollout_stays_finished_when_pods_fail() {
    let lost = rolling(2, 1, 0).set("v2", 2, 1).said("True", "NewReplicaSetAvailable");
    lost.check_condition("Progressing", 900, Some(("True", "NewReplicaSetAvailable", "before")));
}

#[test]
fn without_a_deadline_nothing_is_said_of_progress() {
    for none in [json!(null), json!(i32::MAX)] {
        let case = rolling(2, 1, 0).set("v2", 2, 0).said("True", "ReplicaSetUpdated");
        case.with("/spec/progressDeadlineSeconds", none).check_condition("Progressing", 0, None);
    }
}

#[test]
fn no_deadline_runs_while_a_deployment_is_paused() {
    let paused = |reason: &str| {
        rolling(2, 1, 0).set("v2", 2, 0).said("True", reason).with("/spec/paused", json!(true))
    };
    let told = ("Unknown", "DeploymentPaused", "Deployment is paused");
    paused("ReplicaSetUpdated").check_condition("Progressing", 90, Some(told));
    paused("ProgressDeadlineExceeded").check_condition(
        "Progressing",
        90,
        Some(("True", "ProgressDeadlineExceeded", "before")),
    );
    let resumed = rolling(2, 1, 0).set("v2", 2, 0).said("Unknown", "DeploymentPaused");
    let told = ("Unknown", "DeploymentResumed", "Deployment is resumed");
    resumed.check_condition("Progressing", 90, Some(told));
}

#[test]
fn the_deadline_is_waited_for_only_while_a_rollout_runs() {
    let left = |case: Case, after_seconds: i64| {
        let deployment: Deployment = serde_json::from_value(case.deployment.clone()).unwrap();
        let wanted = Wanted::of(&deployment, &case.sets).unwrap();
        let told = status(&wanted, Mode::of(&wanted), None, at(after_seconds));
        deadline_in(&wanted, &told, at(after_seconds)).map(|left| left.as_secs())
    };
    let running = |reason: &str| rolling(2, 1, 0).set("v2", 2, 0).said("True", reason);
    assert_eq!(left(running("ReplicaSetUpdated"), 20), Some(40));
    assert_eq!(left(running("ReplicaSetUpdated"), 61), None);
    assert_eq!(left(running("NewReplicaSetAvailable"), 20), None);
    assert_eq!(left(running("ReplicaSetUpdated").with("/spec/paused", json!(true)), 20), None);
}

#[test]
fn the_failure_of_a_set_is_the_deployments() {
    let failed = |text: &str| {
        json!({"/status/conditions": [{"type": "Other", "status": "True"},
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": text}]})
    };
    let both = rolling(2, 1, 0).set_with("v1", 2, 2, failed("old")).set_with("v2", 1, 0, failed("new"));
    both.check_condition("ReplicaFailure", 0, Some(("True", "FailedCreate", "new")));
    let old = rolling(2, 1, 0).set_with("v1", 2, 2, failed("old")).set("v2", 1, 0);
    old.check_condition("ReplicaFailure", 0, Some(("True", "FailedCreate", "old")));
    let gone = json!([{"type": "ReplicaFailure", "status": "True"}]);
    let fine = rolling(2, 1, 0).set("v2", 2, 2).with("/status", json!({"conditions": gone}));
    fine.check_condition("ReplicaFailure", 0, None);
}
