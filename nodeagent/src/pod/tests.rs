//! Tables for the pure half: what is planned and what is reported.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::admit::Refusal;
use super::observed::{Failure, ImageState, Memory, Observed, Probed, Told, Volumes, Work, backoff};
use super::plan::{Plan, Step, Why, plan};
use super::status::{Host, status};
use crate::runtime::{Container, ContainerState, Sandbox, SandboxState};

/// A pod, what is seen of it, and what is remembered, ten minutes after the epoch.
struct World {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    now: DateTime<Utc>,
}

fn start() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(10)
}

impl World {
    fn new(spec: Value) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
        let mut memory = Memory::new(start());
        memory.volumes = Volumes::Mounted;
        let pod: Pod = serde_json::from_value(pod).unwrap();
        for container in &pod.spec.as_ref().unwrap().containers {
            memory.containers.entry(container.name.clone()).or_default().image = present();
        }
        for container in pod.spec.as_ref().unwrap().init_containers.iter().flatten() {
            memory.containers.entry(container.name.clone()).or_default().image = present();
        }
        Self { pod, observed: Observed::default(), memory, now: start() }
    }

    fn simple(policy: &str) -> Self {
        Self::new(json!({"restartPolicy": policy, "containers": [{"name": "app", "image": "i"}]})).sandbox()
    }

    fn sandbox(mut self) -> Self {
        let sandbox =
            Sandbox { id: "s0".into(), ips: vec!["10.0.0.7".parse().unwrap()], ..Sandbox::default() };
        self.observed.sandboxes.push(sandbox);
        self
    }

    fn run(mut self, name: &str, attempt: u32, state: ContainerState) -> Self {
        let id = format!("{name}-{attempt}");
        let began = matches!(state, ContainerState::Running | ContainerState::Exited);
        self.observed.containers.push(Container {
            id,
            sandbox: "s0".into(),
            name: name.into(),
            attempt,
            state,
            started_at: began.then_some(self.now),
            created_at: self.now,
            ..Container::default()
        });
        self
    }

    fn running(self, name: &str) -> Self {
        self.run(name, 0, ContainerState::Running)
    }

    fn exited(mut self, name: &str, attempt: u32, code: i32) -> Self {
        self = self.run(name, attempt, ContainerState::Exited);
        let run = self.observed.containers.last_mut().unwrap();
        run.exit_code = Some(code);
        run.finished_at = Some(self.now);
        self
    }

    fn restarts(mut self, name: &str, restarts: u32) -> Self {
        self.memory.containers.entry(name.into()).or_default().restarts = restarts;
        self
    }

    fn after(mut self, seconds: i64) -> Self {
        self.now += TimeDelta::seconds(seconds);
        self
    }

    fn deleted(mut self, grace: i64) -> Self {
        let at = component_base::clock::time_of(self.now + TimeDelta::seconds(grace));
        self.pod.metadata.deletion_timestamp = Some(at);
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self
    }

    fn plan(&self) -> Plan {
        plan(&self.pod, &self.observed, &self.memory, self.now)
    }

    fn steps(&self) -> Vec<Step> {
        self.plan().steps
    }

    fn status(&self) -> PodStatus {
        let host = Host { ips: vec!["192.0.2.1".into()], runtime_name: "test".into() };
        status(&self.pod, &self.observed, &self.memory, &host, self.now)
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }

    fn condition(&self, type_: &str) -> String {
        let all = self.status().conditions.unwrap();
        all.into_iter().find(|it| it.type_ == type_).unwrap().status
    }

    fn waiting_reason(&self) -> String {
        let main = self.status().container_statuses.unwrap().remove(0);
        main.state.unwrap().waiting.unwrap().reason.unwrap()
    }
}

fn present() -> ImageState {
    ImageState::Present("i".into())
}

fn start_of(name: &str, attempt: u32) -> Step {
    Step::Start { container: name.into(), attempt, sandbox: "s0".into(), replaces: None }
}

fn kill_of(name: &str, grace: u64) -> Step {
    Step::Kill {
        id: format!("{name}-0"),
        container: name.into(),
        grace: Duration::from_secs(grace),
        why: Why::Stopping,
    }
}

fn with_inits() -> World {
    World::new(json!({
        "containers": [{"name": "app"}],
        "initContainers": [{"name": "first"}, {"name": "second"}],
    }))
    .sandbox()
}

fn with_sidecar() -> World {
    World::new(json!({
        "containers": [{"name": "app"}],
        "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "init"}],
    }))
    .sandbox()
}

#[test]
fn volumes_come_before_the_sandbox() {
    let mut world = World::new(json!({"containers": [{"name": "app"}]}));
    world.memory.volumes = Volumes::Pending;
    assert_eq!(world.steps(), [Step::MountVolumes]);
}

#[test]
fn failed_volumes_wait_for_their_retry() {
    let mut world = World::new(json!({"containers": [{"name": "app"}]}));
    let first = Failure::of_volumes(None, "no such secret".into(), world.now);
    let second = Failure::of_volumes(Some(&first), "no such secret".into(), world.now);
    let waited = [&first, &second].map(|failure| (failure.retry_at - world.now).num_milliseconds());
    assert_eq!(waited, [500, 1000]);
    world.memory.volumes = Volumes::Failed(second.clone());
    assert_eq!(world.plan(), Plan { steps: vec![], look_again: Some(second.retry_at) });
    assert_eq!(world.after(1).steps(), [Step::MountVolumes]);
}

#[test]
fn sandbox_comes_before_containers() {
    let world = World::new(json!({"containers": [{"name": "app"}]}));
    assert_eq!(world.steps(), [Step::RunSandbox { attempt: 0 }]);
}

#[test]
fn sandbox_that_died_is_replaced_by_the_next_attempt() {
    let mut world = World::simple("Always");
    world.observed.sandboxes[0].state = SandboxState::NotReady;
    assert_eq!(world.steps(), [Step::RunSandbox { attempt: 1 }]);
}

#[test]
fn image_is_pulled_before_start() {
    let mut world = World::simple("Always");
    world.memory.containers.clear();
    assert_eq!(world.steps(), [Step::Pull { container: "app".into() }]);
}

#[test]
fn pulled_container_starts() {
    assert_eq!(World::simple("Always").steps(), [start_of("app", 0)]);
}

#[test]
fn work_under_way_is_not_begun_twice() {
    let mut world = World::simple("Always");
    world.memory.busy.insert(Work::Start("app".into()));
    assert_eq!(world.steps(), []);
}

#[test]
fn running_container_needs_nothing() {
    assert_eq!(World::simple("Always").running("app").plan(), Plan::default());
}

#[test]
fn created_container_of_a_killed_agent_is_replaced() {
    let world = World::simple("Always").run("app", 2, ContainerState::Created);
    let replaces = Some("app-2".into());
    assert_eq!(
        world.steps(),
        [Step::Start { container: "app".into(), attempt: 2, sandbox: "s0".into(), replaces }]
    );
}

#[test]
fn first_restart_is_at_once() {
    assert_eq!(World::simple("Always").exited("app", 0, 1).steps(), [start_of("app", 1)]);
}

#[test]
fn second_restart_waits_ten_seconds() {
    let world = World::simple("Always").exited("app", 1, 1).restarts("app", 1);
    assert_eq!(world.plan().look_again, Some(world.now + TimeDelta::seconds(10)));
    assert_eq!(world.waiting_reason(), "CrashLoopBackOff");
    assert_eq!(world.after(10).steps(), [start_of("app", 2)]);
}

#[test]
fn backoff_doubles_up_to_five_minutes() {
    let seconds: Vec<u64> = (0..8).map(|failures| backoff(failures).as_secs()).collect();
    assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn a_long_run_starts_the_backoff_anew() {
    let mut world = World::simple("Always").exited("app", 5, 1).restarts("app", 5);
    world.observed.containers[0].started_at = Some(world.now - TimeDelta::minutes(11));
    assert_eq!(world.steps(), [start_of("app", 6)]);
}

#[test]
fn on_failure_keeps_a_success() {
    let world = World::simple("OnFailure").exited("app", 0, 0);
    assert_eq!(world.phase(), "Succeeded");
    assert_eq!(world.steps(), [Step::StopSandbox { id: "s0".into() }]);
}

#[test]
fn on_failure_restarts_a_failure() {
    let world = World::simple("OnFailure").exited("app", 0, 2);
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.steps(), [start_of("app", 1)]);
}

#[test]
fn never_fails_with_the_first_failure() {
    let world = World::simple("Never").exited("app", 0, 2);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.steps(), [Step::StopSandbox { id: "s0".into() }]);
}

#[test]
fn one_of_two_still_running_is_a_running_pod() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]});
    let world = World::new(spec).sandbox().exited("a", 0, 0).running("b");
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.steps(), []);
}

#[test]
fn init_containers_run_one_after_the_other() {
    assert_eq!(with_inits().steps(), [start_of("first", 0)]);
    assert_eq!(with_inits().running("first").steps(), []);
    assert_eq!(with_inits().exited("first", 0, 0).steps(), [start_of("second", 0)]);
    assert_eq!(with_inits().exited("first", 0, 0).exited("second", 0, 0).steps(), [start_of("app", 0)]);
}

#[test]
fn failed_init_container_is_restarted() {
    assert_eq!(with_inits().exited("first", 0, 1).steps(), [start_of("first", 1)]);
    assert_eq!(with_inits().exited("first", 0, 1).phase(), "Pending");
}

#[test]
fn failed_init_container_fails_a_pod_that_never_restarts() {
    let spec =
        json!({"restartPolicy": "Never", "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
    let world = World::new(spec).sandbox().exited("i", 0, 1);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.steps(), [Step::StopSandbox { id: "s0".into() }]);
}

#[test]
fn initialized_turns_true_after_the_last_init_container() {
    assert_eq!(with_inits().condition("Initialized"), "False");
    assert_eq!(with_inits().running("first").condition("Initialized"), "False");
    let world = with_inits().exited("first", 0, 0).exited("second", 0, 0);
    assert_eq!(world.condition("Initialized"), "True");
}

#[test]
fn sidecar_does_not_hold_up_the_next_init_container() {
    assert_eq!(with_sidecar().steps(), [start_of("side", 0)]);
    assert_eq!(with_sidecar().running("side").steps(), [start_of("init", 0)]);
    assert_eq!(with_sidecar().running("side").exited("init", 0, 0).steps(), [start_of("app", 0)]);
}

#[test]
fn sidecar_is_restarted_beside_running_containers() {
    let world = with_sidecar().exited("side", 0, 0).exited("init", 0, 0).running("app");
    assert_eq!(world.steps(), [start_of("side", 1)]);
}

#[test]
fn sidecar_is_killed_after_the_containers() {
    let world = with_sidecar().running("side").exited("init", 0, 0).running("app").deleted(30);
    assert_eq!(world.steps(), [kill_of("app", 30)]);
    let world = with_sidecar().running("side").exited("init", 0, 0).exited("app", 0, 143).deleted(30);
    assert_eq!(world.steps(), [kill_of("side", 30)]);
}

#[test]
fn deletion_kills_with_the_grace_that_is_left() {
    let world = World::simple("Always").running("app").deleted(30);
    assert_eq!(world.steps(), [kill_of("app", 30)]);
    assert_eq!(world.after(20).steps(), [kill_of("app", 10)]);
}

#[test]
fn deletion_tears_down_and_then_removes_the_object() {
    let mut world = World::simple("Always").exited("app", 0, 143).deleted(30);
    assert_eq!(world.steps(), [Step::Teardown]);
    world.memory.torn_down = true;
    assert_eq!(world.steps(), [Step::Delete]);
    world.memory.gone = true;
    assert_eq!(world.steps(), []);
}

#[test]
fn deletion_waits_for_a_start_under_way() {
    let mut world = World::simple("Always").deleted(30);
    world.memory.busy.insert(Work::Start("app".into()));
    assert_eq!(world.steps(), []);
}

#[test]
fn deleted_pod_whose_containers_ended_is_terminal() {
    assert_eq!(World::simple("Always").exited("app", 0, 0).deleted(30).phase(), "Succeeded");
    assert_eq!(World::simple("Always").exited("app", 0, 143).deleted(30).phase(), "Failed");
    assert_eq!(World::simple("Always").running("app").deleted(30).phase(), "Running");
}

#[test]
fn deadline_kills_and_fails_the_pod() {
    let spec = json!({"activeDeadlineSeconds": 5, "containers": [{"name": "app"}]});
    let world = World::new(spec).sandbox().running("app");
    assert_eq!(world.plan(), Plan { steps: vec![], look_again: Some(world.now + TimeDelta::seconds(5)) });
    let world = world.after(5);
    assert_eq!(world.steps(), [kill_of("app", 30)]);
    let mut world = world;
    world.observed.containers[0].state = ContainerState::Exited;
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.status().reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_pod_that_the_node_does_not_take_fails_and_nothing_is_begun() {
    let mut world = World::new(json!({"containers": [{"name": "app"}]}));
    let message = "Predicate NodePorts failed".to_owned();
    world.memory.refused = Some(Refusal { reason: "NodePorts".to_owned(), message });
    assert_eq!(world.steps(), []);
    let status = world.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("NodePorts")));
    assert_eq!(status.message.as_deref(), Some("Pod was rejected: Predicate NodePorts failed"));
    assert_eq!(status.container_statuses, None);
}

#[test]
fn reported_end_is_final() {
    let mut world = World::simple("Always");
    world.pod.status = Some(PodStatus { phase: Some("Failed".into()), ..PodStatus::default() });
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.steps(), [Step::StopSandbox { id: "s0".into() }]);
}

#[test]
fn pull_error_becomes_back_off() {
    let mut world = World::simple("Always");
    let failure = Failure::after(None, "ErrImagePull", "not found".into(), world.now);
    world.memory.containers.get_mut("app").unwrap().image = ImageState::Failed(failure);
    assert_eq!(world.waiting_reason(), "ErrImagePull");
    assert_eq!(world.plan().look_again, Some(world.now + TimeDelta::seconds(2)));
    let world = world.after(2);
    assert_eq!(world.waiting_reason(), "ImagePullBackOff");
    assert_eq!(world.plan().look_again, Some(world.now + TimeDelta::seconds(8)));
    assert_eq!(world.after(8).steps(), [Step::Pull { container: "app".into() }]);
}

#[test]
fn failed_start_is_reported_and_tried_again() {
    let mut world = World::simple("Always");
    let failure =
        Failure::after(None, "CreateContainerConfigError", "secret \"s\" not found".into(), world.now);
    world.memory.containers.get_mut("app").unwrap().start_failure = Some(failure);
    assert_eq!(world.waiting_reason(), "CreateContainerConfigError");
    assert_eq!(world.steps(), []);
    assert_eq!(world.after(10).steps(), [start_of("app", 0)]);
}

#[test]
fn waiting_reason_tells_init_from_creation() {
    assert_eq!(World::simple("Always").waiting_reason(), "ContainerCreating");
    assert_eq!(with_inits().waiting_reason(), "PodInitializing");
}

#[test]
fn restarted_container_keeps_its_last_state() {
    let world = World::simple("Always").exited("app", 0, 3).run("app", 1, ContainerState::Running);
    let main = world.status().container_statuses.unwrap().remove(0);
    assert_eq!(main.restart_count, 1);
    assert_eq!(main.last_state.unwrap().terminated.unwrap().exit_code, 3);
    assert!(main.ready);
}

#[test]
fn failed_liveness_kills_the_container() {
    let mut world = World::simple("Always").running("app");
    let probed = Probed { started: true, ready: false, failed: Some("Liveness probe failed".into()) };
    world.memory.probes.insert("app-0".into(), probed);
    let why = Why::Probe("Liveness probe failed".into());
    let grace = Duration::from_secs(30);
    assert_eq!(world.steps(), [Step::Kill { id: "app-0".into(), container: "app".into(), grace, why }]);
}

#[test]
fn readiness_waits_for_its_probe() {
    let spec = json!({"containers": [{"name": "app", "readinessProbe": {"tcpSocket": {"port": 1}}}]});
    let mut world = World::new(spec).sandbox().running("app");
    assert_eq!(world.condition("Ready"), "False");
    world.memory.probes.insert("app-0".into(), Probed { started: true, ready: true, failed: None });
    assert_eq!(world.condition("Ready"), "True");
}

#[test]
fn readiness_gate_holds_ready_back_but_not_containers_ready() {
    let spec = json!({"containers": [{"name": "app"}], "readinessGates": [{"conditionType": "x/y"}]});
    let world = World::new(spec).sandbox().running("app");
    assert_eq!(world.condition("ContainersReady"), "True");
    assert_eq!(world.condition("Ready"), "False");
}

#[test]
fn transition_time_stays_while_the_condition_stays() {
    let mut world = World::simple("Always").running("app");
    world.pod.status = Some(world.status());
    let before = world.pod.status.clone();
    assert_eq!(Some(world.after(60).status()), before);
}

#[test]
fn a_condition_keeps_its_time_while_the_object_does_not_show_what_was_told() {
    let mut world = World::simple("Always").running("app");
    world.pod.metadata.resource_version = Some("9".into());
    let told = world.status().conditions.unwrap();
    world.memory.told = Told { conditions: told.clone(), revision: 10 };
    let world = world.after(60);
    assert_eq!(world.status().conditions.unwrap(), told);
}

#[test]
fn a_condition_that_somebody_else_changed_since_has_a_new_time() {
    let mut world = World::simple("Always").running("app");
    let told = world.status().conditions.unwrap();
    let mut changed = told.clone();
    changed.iter_mut().for_each(|it| it.status = "Unknown".into());
    world.memory.told = Told { conditions: told.clone(), revision: 10 };
    world.pod.metadata.resource_version = Some("11".into());
    world.pod.status.get_or_insert_default().conditions = Some(changed);
    let now = world.after(60).status().conditions.unwrap();
    assert!(now.iter().zip(&told).all(|(now, told)| now.last_transition_time > told.last_transition_time));
}

#[test]
fn addresses_come_from_the_sandbox_and_the_node() {
    let status = World::simple("Always").running("app").status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.7"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let on_host = World::new(json!({"hostNetwork": true, "containers": [{"name": "app"}]})).sandbox();
    assert_eq!(on_host.status().pod_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn runs_before_the_previous_one_are_removed() {
    let world = World::simple("Always").exited("app", 0, 1).exited("app", 1, 1).run(
        "app",
        2,
        ContainerState::Running,
    );
    assert_eq!(world.steps(), [Step::RemoveContainer { id: "app-0".into() }]);
}

#[test]
fn an_end_that_was_reported_stays_when_the_runtime_has_forgotten_the_container() {
    let mut world = World::simple("Never").exited("app", 0, 0);
    let reported = world.status();
    world.memory.remember(&reported);
    world.pod.status = Some(reported.clone());
    world.observed.containers.clear();
    world.observed.sandboxes.clear();
    assert_eq!(world.status().container_statuses, reported.container_statuses);
}

#[test]
fn a_container_that_was_only_reported_as_waiting_has_not_run() {
    let mut world = World::simple("Always");
    let waiting = world.status();
    world.memory.remember(&waiting);
    assert_eq!(world.steps(), [start_of("app", 0)]);
}

#[test]
fn restart_count_goes_on_after_the_runtime_forgot() {
    let mut world = World::simple("Always");
    world.pod.status = Some(World::simple("Always").run("app", 4, ContainerState::Running).status());
    world.memory.reported = Memory::of(&world.pod, world.now).reported;
    assert_eq!(world.steps(), [start_of("app", 5)]);
}
