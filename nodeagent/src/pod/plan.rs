//! What to do next for a pod: pure, from its object, what the runtime shows and what the worker remembers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use component_base::clock::moment_of;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};

use super::observed::{ContainerMemory, ImageState, Memory, Observed, Volumes, Work};
use crate::runtime::{Container, ContainerState, Sandbox, SandboxState};

/// How long a failed pull is shown as `ErrImagePull` before it is `ImagePullBackOff`.
pub(crate) const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// One thing to do. Steps of one plan do not depend on each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    MountVolumes,
    RunSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    Pull {
        container: String,
    },
    Start {
        container: String,
        attempt: u32,
        sandbox: String,
        replaces: Option<String>,
    },
    Kill {
        id: String,
        container: String,
        grace: Duration,
        why: Why,
    },
    RemoveContainer {
        id: String,
    },
    /// Removes sandboxes, volumes and folders of the pod.
    Teardown,
    /// Removes the object: everything on the node is gone.
    Delete,
}

/// Why a container is killed; its text is the event's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Stopping,
    Probe(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// When to look again even if nothing happens.
    pub(crate) look_again: Option<DateTime<Utc>>,
}

impl Plan {
    fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    fn wait_until(&mut self, when: DateTime<Utc>) {
        self.look_again = Some(self.look_again.map_or(when, |before| before.min(when)));
    }
}

/// Why and how a pod is ended before its containers end by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) grace: Duration,
    /// `status.reason` and `status.message`, if the node ended it.
    pub(crate) failed: Option<(String, String)>,
}

/// How the pod ended, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    Succeeded,
    Failed,
}

/// What a container needs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It runs.
    Nothing,
    Start {
        attempt: u32,
        replaces: Option<String>,
    },
    /// It ended and stays ended.
    Done {
        success: bool,
    },
    /// It crashed; the next run starts at `until`.
    BackOff {
        until: DateTime<Utc>,
        delay: Duration,
    },
    Kill(String),
}

/// What happens to a container after it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(crate) fn of_pod(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Of a container of the pod; a sidecar is always restarted, an init container at most until it succeeds.
    pub(crate) fn of(spec: &PodSpec, container: &ContainerSpec, init: bool) -> Self {
        let own = match container.restart_policy.as_deref() {
            Some("Always") => Some(Self::Always),
            Some("OnFailure") => Some(Self::OnFailure),
            Some("Never") => Some(Self::Never),
            _ => None,
        };
        match (own, Self::of_pod(spec), init) {
            (Some(own), _, _) => own,
            (None, Self::Always, true) => Self::OnFailure,
            (None, pod, _) => pod,
        }
    }

    fn again(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

pub(crate) fn is_sidecar(container: &ContainerSpec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn init_containers(spec: &PodSpec) -> &[ContainerSpec] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// The steps for `pod` at `now`.
pub(crate) fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    let look = Look { spec, observed, memory, now };
    if let Some(deadline) = deadline(pod, memory).filter(|at| *at > now) {
        plan.wait_until(deadline);
    }
    match (ending(pod, memory, now), finished(pod, observed, memory, now)) {
        (Some(ending), _) => look.end(&mut plan, ending.grace, is_deleted(pod, memory)),
        (None, Some(_)) => look.end(&mut plan, grace_of(spec), false),
        (None, None) => look.keep_running(&mut plan),
    }
    plan
}

fn is_deleted(pod: &Pod, memory: &Memory) -> bool {
    memory.gone || pod.metadata.deletion_timestamp.is_some()
}

fn grace_of(spec: &PodSpec) -> Duration {
    seconds(spec.termination_grace_period_seconds.unwrap_or(30))
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn deadline(pod: &Pod, memory: &Memory) -> Option<DateTime<Utc>> {
    let limit = pod.spec.as_ref()?.active_deadline_seconds?;
    Some(memory.start_time + seconds(limit))
}

/// Whether the pod must end, whatever its containers do.
pub(crate) fn ending(pod: &Pod, memory: &Memory, now: DateTime<Utc>) -> Option<Ending> {
    let spec = pod.spec.as_ref()?;
    let expired = deadline(pod, memory).is_some_and(|at| at <= now);
    let refused = memory.refused.as_ref().map(|it| (it.reason.clone(), it.shown()));
    let failed =
        refused.or_else(|| expired.then(|| ("DeadlineExceeded".to_owned(), DEADLINE_MESSAGE.to_owned())));
    let reported = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match (&pod.metadata.deletion_timestamp, memory.gone || failed.is_some(), reported) {
        (Some(at), _, _) => {
            let full = pod.metadata.deletion_grace_period_seconds.map_or_else(|| grace_of(spec), seconds);
            let left = (moment_of(at) - now).to_std().unwrap_or_default();
            Some(Ending { grace: full.min(left.max(Duration::from_secs(1))), failed })
        }
        (None, true, _) | (None, _, Some("Succeeded" | "Failed")) => {
            Some(Ending { grace: grace_of(spec), failed })
        }
        (None, false, _) => None,
    }
}

/// How the pod has ended by the exits of its containers alone.
pub(crate) fn finished(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    now: DateTime<Utc>,
) -> Option<Finished> {
    let spec = pod.spec.as_ref()?;
    let look = Look { spec, observed, memory, now };
    if !look.initialized() {
        let failed =
            init_containers(spec).iter().any(|it| look.need(it, true) == Need::Done { success: false });
        return failed.then_some(Finished::Failed);
    }
    let ends: Option<Vec<bool>> = spec.containers.iter().map(|it| look.done(it, false)).collect();
    match ends {
        Some(ends) if ends.iter().all(|success| *success) => Some(Finished::Succeeded),
        Some(_) => Some(Finished::Failed),
        None => None,
    }
}

/// The need of one container; `status` reads it too.
pub(crate) fn need(
    restart: Restart,
    latest: Option<&Container>,
    memory: &ContainerMemory,
    probes_failed: Option<&String>,
    reported_restarts: Option<u32>,
    now: DateTime<Utc>,
) -> Need {
    let Some(run) = latest else {
        // The runtime has forgotten earlier runs; the count goes on.
        let attempt = reported_restarts.map_or(0, |count| count + 1);
        return Need::Start { attempt, replaces: None };
    };
    let exit = match (run.state, probes_failed) {
        (ContainerState::Created, _) => {
            return Need::Start { attempt: run.attempt, replaces: Some(run.id.clone()) };
        }
        (ContainerState::Running, Some(why)) => return Need::Kill(why.clone()),
        (ContainerState::Running, None) => return Need::Nothing,
        (ContainerState::Exited, _) => run.exit_code.unwrap_or(0),
        (ContainerState::Unknown, _) => run.exit_code.unwrap_or(137),
    };
    if !restart.again(exit) {
        return Need::Done { success: exit == 0 };
    }
    let delay = memory.restart_delay(run);
    let until = run.finished_at.unwrap_or(run.created_at) + delay;
    if until > now {
        Need::BackOff { until, delay }
    } else {
        Need::Start { attempt: run.attempt + 1, replaces: None }
    }
}

struct Look<'a> {
    spec: &'a PodSpec,
    observed: &'a Observed,
    memory: &'a Memory,
    now: DateTime<Utc>,
}

impl Look<'_> {
    fn need(&self, container: &ContainerSpec, init: bool) -> Need {
        let latest = self.observed.latest(&container.name);
        // A new sandbox begins anew with the init containers: their earlier runs do not count.
        let latest = latest.filter(|run| !init || self.in_sandbox(run));
        let failed = latest.and_then(|run| self.memory.probes.get(&run.id)?.failed.as_ref());
        need(
            Restart::of(self.spec, container, init),
            latest,
            &self.memory.container(&container.name),
            failed,
            self.reported_restarts(&container.name),
            self.now,
        )
    }

    /// The count of a container that had been running before.
    fn reported_restarts(&self, name: &str) -> Option<u32> {
        self.memory.reported.get(name).map(|it| u32::try_from(it.restart_count).unwrap_or(0))
    }

    fn in_sandbox(&self, run: &Container) -> bool {
        self.observed.sandbox().is_none_or(|sandbox| sandbox.id == run.sandbox)
    }

    fn done(&self, container: &ContainerSpec, init: bool) -> Option<bool> {
        match self.need(container, init) {
            Need::Done { success } => Some(success),
            _ => None,
        }
    }

    /// Init containers are through. A main container that has ever been made proves it, also after their
    /// own records are gone.
    fn initialized(&self) -> bool {
        let main_made = self.spec.containers.iter().any(|it| {
            self.observed.latest(&it.name).is_some_and(|run| {
                self.in_sandbox(run)
                    || self.observed.sandbox().is_none_or(|it| it.state != SandboxState::Ready)
            })
        });
        main_made || init_containers(self.spec).iter().all(|it| self.init_passed(it))
    }

    fn init_passed(&self, container: &ContainerSpec) -> bool {
        if !is_sidecar(container) {
            return self.done(container, true) == Some(true);
        }
        self.observed.latest(&container.name).is_some_and(|run| {
            self.in_sandbox(run)
                && run.state == ContainerState::Running
                && self.memory.started(container, run)
        })
    }

    fn busy(&self, work: Work) -> bool {
        self.memory.busy.contains(&work)
    }

    fn keep_running(&self, plan: &mut Plan) {
        match &self.memory.volumes {
            _ if self.busy(Work::Volumes) => return,
            Volumes::Pending => return plan.add(Step::MountVolumes),
            Volumes::Failed(failure) if failure.retry_at > self.now => {
                return plan.wait_until(failure.retry_at);
            }
            Volumes::Failed(_) => return plan.add(Step::MountVolumes),
            Volumes::Mounted => {}
        }
        let Some(sandbox) = self.observed.ready_sandbox() else { return self.make_sandbox(plan) };
        self.tidy(plan, sandbox);
        self.run_containers(plan, sandbox);
    }

    fn make_sandbox(&self, plan: &mut Plan) {
        if self.busy(Work::Sandbox) {
            return;
        }
        if let Some(failure) = self.memory.sandbox_failure.as_ref().filter(|it| it.retry_at > self.now) {
            return plan.wait_until(failure.retry_at);
        }
        plan.add(Step::RunSandbox { attempt: self.observed.sandbox().map_or(0, |it| it.attempt + 1) });
    }

    /// Removes sandboxes that were replaced and runs before the previous one.
    fn tidy(&self, plan: &mut Plan, current: &Sandbox) {
        for old in self.observed.sandboxes.iter().filter(|it| it.id != current.id) {
            if !self.busy(Work::Remove(old.id.clone())) {
                plan.add(Step::RemoveSandbox { id: old.id.clone() });
            }
        }
        for container in init_containers(self.spec).iter().chain(&self.spec.containers) {
            for old in self.observed.runs(&container.name).iter().skip(2) {
                let gone =
                    self.busy(Work::Remove(old.id.clone())) || self.busy(Work::Start(old.name.clone()));
                if !gone && old.state != ContainerState::Running {
                    plan.add(Step::RemoveContainer { id: old.id.clone() });
                }
            }
        }
    }

    fn run_containers(&self, plan: &mut Plan, sandbox: &Sandbox) {
        if !self.initialized() {
            for container in init_containers(self.spec) {
                if self.init_passed(container) {
                    continue;
                }
                return self.satisfy(plan, sandbox, container, true);
            }
        }
        for container in init_containers(self.spec).iter().filter(|it| is_sidecar(it)) {
            self.satisfy(plan, sandbox, container, true);
        }
        for container in &self.spec.containers {
            self.satisfy(plan, sandbox, container, false);
        }
    }

    fn satisfy(&self, plan: &mut Plan, sandbox: &Sandbox, container: &ContainerSpec, init: bool) {
        let name = &container.name;
        match self.need(container, init) {
            Need::Nothing | Need::Done { .. } => {}
            Need::BackOff { until, .. } => plan.wait_until(until),
            Need::Kill(why) => {
                let grace = container
                    .liveness_probe
                    .as_ref()
                    .and_then(|probe| probe.termination_grace_period_seconds)
                    .map_or_else(|| grace_of(self.spec), seconds);
                if let Some(run) = self.observed.latest(name) {
                    self.kill(plan, run, grace, Why::Probe(why));
                }
            }
            Need::Start { attempt, replaces } => self.start(plan, sandbox, name, attempt, replaces),
        }
    }

    fn start(&self, plan: &mut Plan, sandbox: &Sandbox, name: &str, attempt: u32, replaces: Option<String>) {
        if self.busy(Work::Pull(name.to_owned())) || self.busy(Work::Start(name.to_owned())) {
            return;
        }
        let memory = self.memory.container(name);
        if let Some(failure) = memory.start_failure.as_ref().filter(|it| it.retry_at > self.now) {
            return plan.wait_until(failure.retry_at);
        }
        match &memory.image {
            ImageState::Unknown => plan.add(Step::Pull { container: name.to_owned() }),
            ImageState::Failed(failure) if failure.retry_at > self.now => {
                let shown = failure.at + PULL_ERROR_SHOWN;
                plan.wait_until(if shown > self.now { shown } else { failure.retry_at });
            }
            ImageState::Failed(_) => plan.add(Step::Pull { container: name.to_owned() }),
            ImageState::Present(_) => plan.add(Step::Start {
                container: name.to_owned(),
                attempt,
                sandbox: sandbox.id.clone(),
                replaces,
            }),
        }
    }

    fn kill(&self, plan: &mut Plan, run: &Container, grace: Duration, why: Why) {
        if !self.busy(Work::Kill(run.id.clone())) {
            plan.add(Step::Kill { id: run.id.clone(), container: run.name.clone(), grace, why });
        }
    }

    /// Stops everything: first the containers, then the sidecars from the last to the first, then the
    /// sandbox; of a deleted pod nothing remains.
    fn end(&self, plan: &mut Plan, grace: Duration, deleted: bool) {
        if self.memory.torn_down {
            if deleted && !self.memory.gone && !self.busy(Work::Delete) {
                plan.add(Step::Delete);
            }
            return;
        }
        let sidecars: Vec<&str> = init_containers(self.spec)
            .iter()
            .filter(|it| is_sidecar(it))
            .map(|it| it.name.as_str())
            .collect();
        let place = |run: &Container| sidecars.iter().position(|name| *name == run.name);
        let mut running: Vec<&Container> = self.observed.running().collect();
        running.sort_by_key(|run| std::cmp::Reverse(place(run).map_or(usize::MAX, |at| at)));
        let mains: Vec<&Container> = running.iter().copied().filter(|run| place(run).is_none()).collect();
        let next = if mains.is_empty() { running.into_iter().take(1).collect() } else { mains };
        for run in &next {
            self.kill(plan, run, grace, Why::Stopping);
        }
        let under_way =
            |work: &Work| matches!(work, Work::Start(_) | Work::Kill(_) | Work::Sandbox | Work::Volumes);
        if !next.is_empty() || self.memory.busy.iter().any(under_way) || self.busy(Work::Teardown) {
            return;
        }
        match (deleted, self.observed.ready_sandbox()) {
            (true, _) => plan.add(Step::Teardown),
            (false, Some(sandbox)) if !self.busy(Work::Remove(sandbox.id.clone())) => {
                plan.add(Step::StopSandbox { id: sandbox.id.clone() });
            }
            (false, _) => {}
        }
    }
}
