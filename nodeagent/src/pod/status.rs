//! What the node reports of a pod: pure, from its object, what the runtime shows and what the worker remembers.

use chrono::{DateTime, Utc};
use component_base::clock::time_of;
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};

use super::admit::Refusal;
use super::observed::{Failure, ImageState, Memory, Observed, Volumes};
use super::plan::{self, Finished, Need, PULL_ERROR_SHOWN, Restart, init_containers, is_sidecar};
use super::qos::Qos;
use crate::runtime::{Container, ContainerState};

/// What of the node a pod's status tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) ips: Vec<String>,
    /// Before `://` in container ids.
    pub(crate) runtime_name: String,
}

/// The status of `pod` at `now`; of the conditions those that a node agent keeps.
pub(crate) fn status(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    host: &Host,
    now: DateTime<Utc>,
) -> PodStatus {
    let Some(spec) = &pod.spec else { return PodStatus::default() };
    if let Some(refusal) = &memory.refused {
        return refused(pod, spec, refusal, memory);
    }
    let report = Report { pod, spec, observed, memory, host, now };
    let inits: Vec<ContainerStatus> =
        init_containers(spec).iter().map(|it| report.container(it, true)).collect();
    let mains: Vec<ContainerStatus> = spec.containers.iter().map(|it| report.container(it, false)).collect();
    let ending = plan::ending(pod, memory, now);
    let failed = ending.as_ref().and_then(|it| it.failed.clone()).or_else(|| report.kept_failure());
    let phase = report.phase(&inits, &mains, ending.is_some(), failed.is_some());
    let ips = report.ips();
    PodStatus {
        conditions: Some(report.conditions(phase, &inits, &mains)),
        container_statuses: Some(mains),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        host_ip: host.ips.first().cloned(),
        host_ips: Some(host.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        phase: Some(phase.to_owned()),
        qos_class: Some(Qos::of(spec).name().to_owned()),
        reason: failed.as_ref().map(|it| it.0.clone()),
        message: failed.map(|it| it.1),
        start_time: Some(time_of(memory.start_time)),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// A pod that the node did not take has no containers to tell of.
fn refused(pod: &Pod, spec: &PodSpec, refusal: &Refusal, memory: &Memory) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        qos_class: Some(Qos::of(spec).name().to_owned()),
        reason: Some(refusal.reason.clone()),
        message: Some(refusal.shown()),
        start_time: Some(time_of(memory.start_time)),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// The containers that wait in `CrashLoopBackOff`.
pub(crate) fn backing_off(status: &PodStatus) -> Vec<String> {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let waits = |it: &&ContainerStatus| {
        let waiting = it.state.as_ref().and_then(|it| it.waiting.as_ref());
        waiting.is_some_and(|it| it.reason.as_deref() == Some("CrashLoopBackOff"))
    };
    all.filter(waits).map(|it| it.name.clone()).collect()
}

struct Report<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    observed: &'a Observed,
    memory: &'a Memory,
    host: &'a Host,
    now: DateTime<Utc>,
}

impl Report<'_> {
    fn ips(&self) -> Vec<String> {
        if self.spec.host_network == Some(true) {
            return if self.observed.sandbox().is_some() { self.host.ips.clone() } else { Vec::new() };
        }
        let seen =
            self.observed.sandbox().map(|it| it.ips.iter().map(ToString::to_string).collect::<Vec<_>>());
        match seen.filter(|ips| !ips.is_empty()) {
            Some(ips) => ips,
            // Kept when the sandbox is gone, so that an ended pod still shows where it was.
            None => {
                let old = self.pod.status.as_ref().and_then(|it| it.pod_ips.as_ref());
                old.into_iter().flatten().map(|it| it.ip.clone()).collect()
            }
        }
    }

    /// Reason and message of a pod that was reported as failed by the node; they stay.
    fn kept_failure(&self) -> Option<(String, String)> {
        let status = self.pod.status.as_ref().filter(|it| it.phase.as_deref() == Some("Failed"))?;
        Some((status.reason.clone()?, status.message.clone().unwrap_or_default()))
    }

    fn phase(
        &self,
        inits: &[ContainerStatus],
        mains: &[ContainerStatus],
        ending: bool,
        failed: bool,
    ) -> &'static str {
        match self.pod.status.as_ref().and_then(|it| it.phase.as_deref()) {
            Some("Succeeded") => return "Succeeded",
            Some("Failed") => return "Failed",
            _ => {}
        }
        let running = mains.iter().chain(inits).any(|it| state(it).running.is_some());
        match plan::finished(self.pod, self.observed, self.memory, self.now) {
            _ if failed && !running => return "Failed",
            Some(_) if running && mains.iter().any(|it| state(it).running.is_some()) => {}
            Some(Finished::Succeeded) => return "Succeeded",
            Some(Finished::Failed) => return "Failed",
            None => {}
        }
        let all_ended = mains.iter().all(|it| state(it).terminated.is_some());
        if ending && all_ended && !running {
            let success =
                mains.iter().all(|it| state(it).terminated.as_ref().is_some_and(|end| end.exit_code == 0));
            return if success { "Succeeded" } else { "Failed" };
        }
        let begun = |it: &ContainerStatus| {
            state(it).running.is_some()
                || state(it).terminated.is_some()
                || it.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
        };
        if mains.iter().all(begun) { "Running" } else { "Pending" }
    }

    fn container(&self, spec: &ContainerSpec, init: bool) -> ContainerStatus {
        let runs = self.observed.runs(&spec.name);
        let reported = self.memory.reported.get(&spec.name);
        let Some(run) = runs.first() else {
            return self.not_there(spec, init, reported);
        };
        let running = run.state == ContainerState::Running;
        let passed_init = init && !is_sidecar(spec);
        let ended = run.state == ContainerState::Exited;
        let previous = runs.get(1).map(|it| self.terminated(it));
        let kept = || reported.and_then(|it| it.last_state.clone()?.terminated);
        let (state, last) = match self.waiting(spec, init) {
            Some(waiting) if ended || run.state == ContainerState::Unknown => {
                (waiting, Some(self.terminated(run)))
            }
            _ => (self.state_of(run, init), previous.or_else(kept)),
        };
        ContainerStatus {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            image_id: run.image_id.clone(),
            container_id: Some(self.id(run)),
            restart_count: i32::try_from(run.attempt).unwrap_or(i32::MAX),
            ready: if passed_init { ended && run.exit_code == Some(0) } else { self.memory.ready(spec, run) },
            started: Some(running && !passed_init && self.memory.started(spec, run)),
            state: Some(state),
            last_state: Some(ApiState { terminated: last, ..ApiState::default() }),
            ..ContainerStatus::default()
        }
    }

    /// The runtime knows nothing of it: not yet started, or forgotten.
    fn not_there(
        &self,
        spec: &ContainerSpec,
        init: bool,
        reported: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let ended = reported.filter(|it| it.state.as_ref().is_some_and(|state| state.terminated.is_some()));
        if let Some(ended) = ended.filter(|_| plan::ending(self.pod, self.memory, self.now).is_some()) {
            return ended.clone();
        }
        let state = self.waiting(spec, init).unwrap_or_else(|| self.not_begun(init));
        let last = reported.and_then(|it| match &it.state {
            Some(ApiState { terminated: Some(end), .. }) => Some(end.clone()),
            _ => it.last_state.clone()?.terminated,
        });
        ContainerStatus {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            restart_count: reported.map_or(0, |it| it.restart_count),
            started: Some(false),
            state: Some(state),
            last_state: Some(ApiState { terminated: last, ..ApiState::default() }),
            ..ContainerStatus::default()
        }
    }

    fn not_begun(&self, init: bool) -> ApiState {
        let has_inits = !init_containers(self.spec).is_empty();
        let reason = if has_inits || init { "PodInitializing" } else { "ContainerCreating" };
        waiting(reason, None)
    }

    /// Why it waits for its next run, if it does.
    fn waiting(&self, spec: &ContainerSpec, init: bool) -> Option<ApiState> {
        let memory = self.memory.container(&spec.name);
        if let Some(failure) = &memory.start_failure {
            return Some(waiting(&failure.reason, Some(failure.message.clone())));
        }
        if let ImageState::Failed(failure) = &memory.image {
            return Some(self.pull_failed(spec, failure));
        }
        let latest = self.observed.latest(&spec.name)?;
        let need =
            plan::need(Restart::of(self.spec, spec, init), Some(latest), &memory, None, None, self.now);
        if plan::ending(self.pod, self.memory, self.now).is_some() {
            return None;
        }
        match need {
            Need::BackOff { delay, .. } => {
                let text = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_duration(delay),
                    spec.name,
                    self.pod.metadata.name.as_deref().unwrap_or_default(),
                    self.pod.metadata.namespace.as_deref().unwrap_or_default(),
                    self.pod.metadata.uid.as_deref().unwrap_or_default(),
                );
                Some(waiting("CrashLoopBackOff", Some(text)))
            }
            _ => None,
        }
    }

    fn pull_failed(&self, spec: &ContainerSpec, failure: &Failure) -> ApiState {
        let shown = self.now < failure.at + PULL_ERROR_SHOWN;
        if shown || failure.reason != "ErrImagePull" {
            return waiting(&failure.reason, Some(failure.message.clone()));
        }
        let image = spec.image.as_deref().unwrap_or_default();
        let text = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
        waiting("ImagePullBackOff", Some(text))
    }

    fn state_of(&self, run: &Container, init: bool) -> ApiState {
        match run.state {
            ContainerState::Created => self.not_begun(init),
            ContainerState::Running => ApiState {
                running: Some(ContainerStateRunning { started_at: run.started_at.map(time_of) }),
                ..ApiState::default()
            },
            ContainerState::Exited | ContainerState::Unknown => {
                ApiState { terminated: Some(self.terminated(run)), ..ApiState::default() }
            }
        }
    }

    fn terminated(&self, run: &Container) -> ContainerStateTerminated {
        let unknown = run.state == ContainerState::Unknown;
        let exit_code = run.exit_code.unwrap_or(if unknown { 137 } else { 0 });
        let reason = match (run.reason.as_str(), exit_code) {
            _ if unknown => "ContainerStatusUnknown".to_owned(),
            ("", 0) => "Completed".to_owned(),
            ("", _) => "Error".to_owned(),
            (given, _) => given.to_owned(),
        };
        ContainerStateTerminated {
            container_id: Some(self.id(run)),
            exit_code,
            reason: Some(reason),
            message: (!run.message.is_empty()).then(|| run.message.clone()),
            started_at: run.started_at.map(time_of),
            finished_at: run.finished_at.map(time_of),
            signal: None,
        }
    }

    fn id(&self, run: &Container) -> String {
        format!("{}://{}", self.host.runtime_name, run.id)
    }

    fn conditions(
        &self,
        phase: &str,
        inits: &[ContainerStatus],
        mains: &[ContainerStatus],
    ) -> Vec<PodCondition> {
        let before = self.memory.told.conditions(self.pod);
        let containers_ready = self.containers_ready(phase, mains);
        let initialized = self.initialized(phase, inits, mains);
        let ready = self.ready(&containers_ready);
        let sandbox =
            plain(self.observed.ready_sandbox().is_some() && self.memory.volumes == Volumes::Mounted);
        let ours = [
            ("PodReadyToStartContainers", sandbox),
            ("Initialized", initialized),
            ("Ready", ready),
            ("ContainersReady", containers_ready),
            ("PodScheduled", plain(true)),
        ];
        let condition = |(type_, verdict): &(&str, Verdict)| {
            self.condition(type_, verdict, before.iter().find(|it| it.type_ == *type_))
        };
        ours.iter().map(condition).collect()
    }

    fn condition(&self, type_: &str, verdict: &Verdict, old: Option<&PodCondition>) -> PodCondition {
        let status = if verdict.holds { "True" } else { "False" };
        let since = old.filter(|it| it.status == status).and_then(|it| it.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message.clone(),
            last_transition_time: since.or_else(|| Some(time_of(self.now))),
            observed_generation: self.pod.metadata.generation,
            last_probe_time: None,
        }
    }

    fn containers_ready(&self, phase: &str, mains: &[ContainerStatus]) -> Verdict {
        let unready: Vec<&str> = mains.iter().filter(|it| !it.ready).map(|it| it.name.as_str()).collect();
        match phase {
            "Succeeded" => Verdict { holds: false, reason: Some("PodCompleted"), message: None },
            "Failed" => Verdict { holds: false, reason: Some("PodFailed"), message: None },
            _ if unready.is_empty() => plain(true),
            _ => {
                not("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
            }
        }
    }

    fn initialized(&self, phase: &str, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> Verdict {
        let begun = mains.iter().any(|it| state(it).running.is_some() || state(it).terminated.is_some());
        let open: Vec<&str> = inits
            .iter()
            .filter(|it| !it.ready && it.started != Some(true) && state(it).running.is_none())
            .map(|it| it.name.as_str())
            .collect();
        let running: Vec<&str> = inits
            .iter()
            .zip(init_containers(self.spec))
            .filter(|(it, spec)| state(it).running.is_some() && !is_sidecar(spec))
            .map(|(it, _)| it.name.as_str())
            .collect();
        match (phase, begun) {
            ("Succeeded", _) => Verdict { holds: true, reason: Some("PodCompleted"), message: None },
            (_, true) => plain(true),
            _ if open.is_empty() && running.is_empty() => plain(true),
            _ => {
                let names = [open, running].concat().join(" ");
                not("ContainersNotInitialized", format!("containers with incomplete status: [{names}]"))
            }
        }
    }

    fn ready(&self, containers: &Verdict) -> Verdict {
        if !containers.holds {
            return containers.clone();
        }
        let shown = self.pod.status.as_ref().and_then(|it| it.conditions.as_ref());
        let holds =
            |type_: &str| shown.into_iter().flatten().any(|it| it.type_ == type_ && it.status == "True");
        let gates = self.spec.readiness_gates.iter().flatten();
        let missing: Vec<&str> =
            gates.map(|it| it.condition_type.as_str()).filter(|type_| !holds(type_)).collect();
        if missing.is_empty() {
            return plain(true);
        }
        not(
            "ReadinessGatesNotReady",
            format!("corresponding condition of pod readiness gate {missing:?} is not \"True\""),
        )
    }
}

#[derive(Clone)]
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn plain(holds: bool) -> Verdict {
    Verdict { holds, reason: None, message: None }
}

fn not(reason: &'static str, message: String) -> Verdict {
    Verdict { holds: false, reason: Some(reason), message: Some(message) }
}

fn state(status: &ContainerStatus) -> ApiState {
    status.state.clone().unwrap_or_default()
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ApiState::default()
    }
}

/// As Go prints whole seconds: `10s`, `1m20s`, `5m0s`.
fn go_duration(duration: std::time::Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
