//! What is known of a pod on this node: what the runtime shows, and what the worker remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState as ApiState, ContainerStatus, Pod, PodCondition, PodStatus,
};

use super::admit::Refusal;
use crate::runtime::{Container, ContainerState, Sandbox, SandboxState};

/// The first delay of CrashLoopBackOff and of ImagePullBackOff; it doubles.
pub(crate) const BACKOFF_BASE: Duration = Duration::from_secs(10);
/// Volumes mostly wait for something that comes soon, such as a claim's volume: the kubelet's own times.
const VOLUMES_BASE: Duration = Duration::from_millis(500);
const VOLUMES_MAX: Duration = Duration::from_secs(122);
/// The longest delay of both.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long starts its back-off anew.
const BACKOFF_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// What the runtime shows of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
}

impl Observed {
    /// The sandbox in use: the latest one.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|sandbox| (sandbox.attempt, sandbox.created_at))
    }

    pub(crate) fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandbox().filter(|sandbox| sandbox.state == SandboxState::Ready)
    }

    /// All runs of the container `name`, the latest first.
    pub(crate) fn runs(&self, name: &str) -> Vec<&Container> {
        let mut runs: Vec<&Container> = self.containers.iter().filter(|it| it.name == name).collect();
        runs.sort_by_key(|run| std::cmp::Reverse((run.attempt, run.created_at)));
        runs
    }

    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.runs(name).into_iter().next()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|it| it.state == ContainerState::Running)
    }
}

/// Something that the worker has begun and not finished; the plan does not begin it twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Volumes,
    Sandbox,
    Pull(String),
    Start(String),
    /// By container id.
    Kill(String),
    Remove(String),
    Teardown,
    Delete,
}

/// What a worker remembers of its pod between two looks.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// `status.startTime`: when this node took the pod on.
    pub(crate) start_time: DateTime<Utc>,
    pub(crate) volumes: Volumes,
    pub(crate) sandbox_failure: Option<Failure>,
    pub(crate) containers: BTreeMap<String, ContainerMemory>,
    /// By container id.
    pub(crate) probes: BTreeMap<String, Probed>,
    pub(crate) busy: BTreeSet<Work>,
    /// The object is gone from the API: end it and report nothing.
    pub(crate) gone: bool,
    /// Why the node does not take the pod.
    pub(crate) refused: Option<Refusal>,
    /// Sandboxes and folders are removed; only the object is left.
    pub(crate) torn_down: bool,
    /// The last reported status of each container that has run, for what the runtime has forgotten.
    pub(crate) reported: BTreeMap<String, ContainerStatus>,
    pub(crate) told: Told,
}

/// The conditions that were reported last, and the revision that this made: an object of an earlier one does not
/// show them yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) conditions: Vec<PodCondition>,
    pub(crate) revision: u64,
}

impl Told {
    /// The conditions as they are, as far as `pod` and this tell.
    pub(crate) fn conditions<'a>(&'a self, pod: &'a Pod) -> &'a [PodCondition] {
        if revision(pod) < self.revision {
            return &self.conditions;
        }
        pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
    }
}

/// Revisions of one resource are in order: `metadata.resourceVersion` is compared as a number.
pub(crate) fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|it| it.parse().ok()).unwrap_or(0)
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Volumes {
    #[default]
    Pending,
    Mounted,
    Failed(Failure),
}

/// Something went wrong; it is tried again at `retry_at`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: DateTime<Utc>,
    pub(crate) retry_at: DateTime<Utc>,
    pub(crate) failures: u32,
}

impl Failure {
    /// The next failure after `previous`, with the doubled delay.
    pub(crate) fn after(
        previous: Option<&Failure>,
        reason: &str,
        message: String,
        now: DateTime<Utc>,
    ) -> Self {
        let failures = previous.map_or(0, |it| it.failures) + 1;
        Self { reason: reason.to_owned(), message, at: now, retry_at: now + backoff(failures), failures }
    }

    /// The next failure of a pod's volumes after `previous`.
    pub(crate) fn of_volumes(previous: Option<&Failure>, message: String, now: DateTime<Utc>) -> Self {
        let failure = Self::after(previous, "FailedMount", message, now);
        let delay = doubled(VOLUMES_BASE, VOLUMES_MAX, failure.failures);
        Self { retry_at: now + delay, ..failure }
    }
}

/// 10 s after the first failure, doubling up to 5 min; none before.
pub(crate) fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => doubled(BACKOFF_BASE, BACKOFF_MAX, n),
    }
}

/// `base` after the first failure, doubling up to `max`.
fn doubled(base: Duration, max: Duration, failures: u32) -> Duration {
    base.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerMemory {
    /// Restarts that count for the back-off.
    pub(crate) restarts: u32,
    pub(crate) image: ImageState,
    /// Why the last start failed.
    pub(crate) start_failure: Option<Failure>,
    /// The failure that the registry gave before, so that its back-off goes on.
    pub(crate) last_pull: Option<Failure>,
}

impl ContainerMemory {
    /// How long after its exit a run is followed by the next. The first restart is at once.
    pub(crate) fn restart_delay(&self, run: &Container) -> Duration {
        backoff(self.restarts_that_count(run))
    }

    /// Restarts before `run`, unless `run` went well for long enough.
    pub(crate) fn restarts_that_count(&self, run: &Container) -> u32 {
        let ran = match (run.started_at, run.finished_at) {
            (Some(start), Some(end)) => (end - start).to_std().unwrap_or_default(),
            _ => Duration::ZERO,
        };
        if ran >= BACKOFF_FORGOTTEN_AFTER { 0 } else { self.restarts }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum ImageState {
    #[default]
    Unknown,
    Present(String),
    Failed(Failure),
}

/// What the probes of one run have found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Probed {
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// Why the run must be killed: the liveness or startup probe failed for good.
    pub(crate) failed: Option<String>,
}

impl Memory {
    pub(crate) fn new(start_time: DateTime<Utc>) -> Self {
        Self {
            start_time,
            volumes: Volumes::Pending,
            sandbox_failure: None,
            containers: BTreeMap::new(),
            probes: BTreeMap::new(),
            busy: BTreeSet::new(),
            gone: false,
            refused: None,
            torn_down: false,
            reported: BTreeMap::new(),
            told: Told::default(),
        }
    }

    /// What can be known from the pod's own status after a restart of the agent.
    pub(crate) fn of(pod: &Pod, now: DateTime<Utc>) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let start = status.start_time.as_ref().map(component_base::clock::moment_of);
        let mut memory = Self::new(start.unwrap_or(now));
        memory.remember(&status);
        memory
    }

    /// Keeps what was reported of containers that have run: the runtime forgets them before the pod's object is
    /// gone, and all of them when a simulated node starts anew.
    pub(crate) fn remember(&mut self, status: &PodStatus) {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses);
        let ran = all.flatten().filter(|it| has_run(it));
        self.reported.extend(ran.map(|it| (it.name.clone(), it.clone())));
    }

    pub(crate) fn container(&self, name: &str) -> ContainerMemory {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn started(&self, spec: &ContainerSpec, run: &Container) -> bool {
        spec.startup_probe.is_none() || self.probes.get(&run.id).is_some_and(|it| it.started)
    }

    pub(crate) fn ready(&self, spec: &ContainerSpec, run: &Container) -> bool {
        let passed = spec.readiness_probe.is_none() || self.probes.get(&run.id).is_some_and(|it| it.ready);
        run.state == ContainerState::Running && self.started(spec, run) && passed
    }
}

fn has_run(status: &ContainerStatus) -> bool {
    let is_running = status.state.as_ref().is_some_and(|it| it.running.is_some());
    let ended = |it: &Option<ApiState>| it.as_ref().is_some_and(|it| it.terminated.is_some());
    is_running || ended(&status.state) || ended(&status.last_state)
}
