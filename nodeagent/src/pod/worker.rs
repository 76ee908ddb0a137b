//! The task of one pod: look, report, plan, begin what is planned, wait.
//!
//! Work runs beside the loop, so a pull that hangs does not keep a pod from being ended. What is under way is
//! in `Memory::busy`, which the plan heeds. Nothing here decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use component_base::Shutdown;
use component_base::client::said;
use component_base::events::EventType;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::admit::Refusal;
use super::message;
use super::observed::{Failure, ImageState, Memory, Observed, Told, Volumes, Work, revision};
use super::plan::{self, Plan, Step};
use super::status;
use crate::agent::{Agent, PodView, Wake};
use crate::probe::prober::{Prober, Verdicts, has_probes};
use crate::runtime::{Container, ContainerFilter, ContainerState, SandboxFilter, labels};

mod work;

use work::{Outcome, Task};

/// A worker looks again after this long even if nothing happened.
const RESYNC: Duration = Duration::from_secs(60);
/// How long after an API or runtime error the worker tries again.
const RETRY: Duration = Duration::from_secs(1);
/// Statuses of a pod that is coming up are told together when they follow each other this closely.
const TOGETHER: Duration = Duration::from_secs(1);

/// What the API shows of the pod.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) pod: Arc<Pod>,
    pub(crate) gone: bool,
}

/// How the rest of the agent reaches a worker: the latest object wins, a wake-up is never lost.
pub(crate) struct Mailbox {
    view: watch::Sender<View>,
    wake: Wake,
    /// False: the pod uses nothing of the node.
    pub(crate) admitted: bool,
}

impl Mailbox {
    pub(crate) fn new(pod: Pod, admitted: bool) -> (Self, PodView, Wake) {
        let (view, receiver) = watch::channel(View { pod: Arc::new(pod), gone: false });
        let wake = Arc::new(Notify::new());
        (Self { view, wake: wake.clone(), admitted }, receiver, wake)
    }

    pub(crate) fn pod(&self) -> Arc<Pod> {
        self.view.borrow().pod.clone()
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.view.is_closed()
    }

    pub(crate) fn put(&self, pod: Pod) {
        self.view.send_modify(|view| view.pod = Arc::new(pod));
    }

    pub(crate) fn gone(&self) {
        self.view.send_modify(|view| view.gone = true);
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

pub(crate) struct Worker {
    agent: Arc<Agent>,
    view: PodView,
    wake: Wake,
    memory: Memory,
    verdicts: Verdicts,
    /// By container id.
    probers: BTreeMap<String, Shutdown>,
    volumes: BTreeMap<String, PathBuf>,
    volumes_again: Instant,
    under_way: FuturesUnordered<BoxFuture<'static, (Work, Outcome)>>,
    pulls: Shutdown,
    reported: Option<PodStatus>,
    reported_at: Option<Instant>,
}

/// How a round of the loop ended.
enum Round {
    Wait(Option<DateTime<Utc>>),
    Retry,
    End,
}

impl Worker {
    /// In a box, since the task that runs it would have two places for it.
    pub(crate) fn new(agent: Arc<Agent>, view: PodView, wake: Wake, refused: Option<Refusal>) -> Box<Self> {
        let pod = view.borrow().pod.clone();
        let memory = Memory { refused, ..Memory::of(&pod, agent.clock.now()) };
        Box::new(Self {
            reported: pod.status.clone(),
            reported_at: None,
            pulls: agent.tasks.shutdown().child_token(),
            agent,
            view,
            wake,
            memory,
            verdicts: Verdicts::default(),
            probers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            volumes_again: Instant::now(),
            under_way: FuturesUnordered::new(),
        })
    }

    /// Works until nothing of the pod is left on this node.
    pub(crate) async fn run(mut self: Box<Self>) {
        loop {
            // In a box, so that a pod at which nothing happens holds no place for what a round needs.
            let until = match Box::pin(self.round()).await {
                Round::End => break,
                Round::Retry => Instant::now() + RETRY,
                Round::Wait(when) => {
                    let in_time = when.and_then(|it| (it - self.agent.clock.now()).to_std().ok());
                    Instant::now() + in_time.map_or(RESYNC, |it| it.min(RESYNC))
                }
            };
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { break },
                () = self.wake.notified() => {}
                Some((work, outcome)) = self.under_way.next() => self.settle(work, outcome),
                () = tokio::time::sleep_until(until) => {}
            }
        }
        self.probers.values().for_each(Shutdown::cancel);
    }

    async fn round(&mut self) -> Round {
        let View { pod, gone } = self.view.borrow_and_update().clone();
        self.memory.gone = self.memory.gone || gone;
        let observed = match self.observe(&pod).await {
            Ok(observed) => observed,
            Err(error) => {
                warn!(pod = pod.metadata.name, "looking at the runtime: {error}");
                return Round::Retry;
            }
        };
        self.memory.probes = self.verdicts.lock().clone();
        let now = self.agent.clock.now();
        let mut tell_at = None;
        if !self.memory.gone && !self.memory.torn_down {
            let wanted = status::status(&pod, &observed, &self.memory, &self.agent.host, now);
            let makes_progress = || {
                let busy = !self.under_way.is_empty();
                busy || !plan::plan(&pod, &observed, &self.memory, now).steps.is_empty()
            };
            let since = self.reported_at.map(|at| at.elapsed());
            tell_at =
                told_later(self.reported.as_ref(), &wanted, since, makes_progress).map(|wait| now + wait);
            if tell_at.is_none()
                && let Err(error) = self.report(&pod, wanted).await
            {
                warn!(pod = pod.metadata.name, "reporting a pod's status: {}", said(&error));
                return Round::Retry;
            }
        }
        self.probe(&pod, &observed);
        let Plan { steps, look_again } = plan::plan(&pod, &observed, &self.memory, now);
        if self.memory.torn_down && self.memory.gone {
            return Round::End;
        }
        if plan::ending(&pod, &self.memory, now).is_some() {
            self.pulls.cancel();
        }
        let again = self.refresh_volumes(&pod, &steps);
        for step in steps.into_iter().chain(again) {
            self.begin(&pod, &observed, step);
        }
        Round::Wait(look_again.into_iter().chain(tell_at).min())
    }

    async fn observe(&mut self, pod: &Pod) -> crate::runtime::Result<Observed> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let runtime = &self.agent.runtime;
        let filter = SandboxFilter { pod_uid: Some(uid.clone()), ..SandboxFilter::default() };
        let sandboxes = runtime.list_sandboxes(&filter).await?;
        let of_pod = BTreeMap::from([(labels::POD_UID.to_owned(), uid.clone())]);
        let mut containers = Vec::new();
        if !sandboxes.is_empty() {
            containers = runtime.list_containers(&ContainerFilter { sandbox: None, labels: of_pod }).await?;
        }
        for container in containers.iter_mut().filter(|it| it.state == ContainerState::Exited) {
            self.read_message(pod, &uid, container);
        }
        Ok(Observed { sandboxes, containers })
    }

    /// What the container wrote to its `terminationMessagePath`, or if it wants that and failed, to its log.
    fn read_message(&self, pod: &Pod, uid: &str, container: &mut Container) {
        if !self.agent.disk || !container.message.is_empty() {
            return;
        }
        let folders = &self.agent.folders;
        container.message =
            message::of_file(&folders.termination_log(uid, &container.name, container.attempt));
        let policy = find_spec(pod, &container.name).and_then(|it| it.termination_message_policy.as_deref());
        let failed = container.exit_code != Some(0);
        if container.message.is_empty() && failed && policy == Some("FallbackToLogsOnError") {
            let file = || folders.logs(pod).join(&container.name).join(format!("{}.log", container.attempt));
            container.message = message::of_log(&container.log_path.clone().unwrap_or_else(file));
        }
    }

    async fn report(&mut self, pod: &Pod, wanted: PodStatus) -> Result<(), kube::Error> {
        if self.reported.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let (meta, name) = (&pod.metadata, pod.metadata.name.as_deref().unwrap_or_default());
        let mut status = serde_json::to_value(&wanted).map_err(kube::Error::SerdeError)?;
        for (field, absent) in [("reason", wanted.reason.is_none()), ("message", wanted.message.is_none())] {
            if absent && self.reported.as_ref().is_some_and(|it| it.reason.is_some() || it.message.is_some())
            {
                status[field] = serde_json::Value::Null;
            }
        }
        replace_addresses(&mut status);
        clear_reasons(&mut status);
        let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
        let api: Api<Pod> =
            Api::namespaced(self.agent.client.clone(), meta.namespace.as_deref().unwrap_or_default());
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(written) => {
                self.tell_of_back_offs(pod, &wanted);
                self.memory.remember(&wanted);
                let conditions = wanted.conditions.clone().unwrap_or_default();
                self.memory.told = Told { conditions, revision: revision(&written) };
                self.reported = Some(wanted);
                self.reported_at = Some(Instant::now());
            }
            Err(kube::Error::Api(status)) if status.code == 404 || is_other_pod(&status) => {
                self.memory.gone = true
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// An event for each container that has just entered its back-off.
    fn tell_of_back_offs(&self, pod: &Pod, wanted: &PodStatus) {
        let before = self.reported.as_ref().map(status::backing_off).unwrap_or_default();
        let meta = &pod.metadata;
        for name in status::backing_off(wanted).into_iter().filter(|name| !before.contains(name)) {
            let text = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                meta.name.as_deref().unwrap_or_default(),
                meta.namespace.as_deref().unwrap_or_default(),
                meta.uid.as_deref().unwrap_or_default(),
            );
            self.agent.event(pod, Some(&name), EventType::Warning, "BackOff", &text);
        }
    }

    /// Starts probers for containers that run, and ends those of containers that do not.
    fn probe(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        let running: BTreeMap<&str, &Container> = observed.running().map(|it| (it.id.as_str(), it)).collect();
        self.probers.retain(|id, stop| {
            let keep = running.contains_key(id.as_str());
            if !keep {
                stop.cancel();
            }
            keep
        });
        self.verdicts.lock().retain(|id, _| running.contains_key(id.as_str()));
        for (id, run) in running {
            let Some(spec) = find_spec(pod, &run.name).filter(|it| has_probes(it)) else { continue };
            if self.probers.contains_key(id) {
                continue;
            }
            let stop = self.agent.tasks.shutdown().child_token();
            self.probers.insert(id.to_owned(), stop.clone());
            let prober = Prober {
                agent: self.agent.clone(),
                pod: pod.clone(),
                spec: spec.clone(),
                container_id: id.to_owned(),
                sandbox_id: run.sandbox.clone(),
                verdicts: self.verdicts.clone(),
                wake: self.wake.clone(),
            };
            self.agent.tasks.spawn("probes", async move {
                stop.run_until_cancelled(prober.run()).await;
            });
        }
    }

    /// Mounts again from time to time, so that changed config maps, secrets and tokens arrive.
    fn refresh_volumes(&mut self, pod: &Pod, steps: &[Step]) -> Option<Step> {
        let due = self.agent.disk
            && self.memory.volumes == Volumes::Mounted
            && Instant::now() >= self.volumes_again
            && steps.iter().all(|it| !matches!(it, Step::MountVolumes | Step::Teardown | Step::Delete))
            && !self.memory.gone
            && !self.memory.torn_down
            && crate::volume::may_change(pod);
        due.then_some(Step::MountVolumes)
    }

    fn begin(&mut self, pod: &Arc<Pod>, observed: &Observed, step: Step) {
        let work = work_of(&step);
        if !self.memory.busy.insert(work.clone()) {
            return;
        }
        debug!(pod = pod.metadata.name, ?step, "begin");
        if let Step::Start { container, attempt, .. } = &step {
            self.count_restart(container, *attempt, observed);
        }
        let task = Task {
            agent: self.agent.clone(),
            pod: pod.clone(),
            sandbox_ips: observed.sandbox().map(|it| it.ips.clone()).unwrap_or_default(),
            sandboxes: observed.sandboxes.iter().map(|it| it.id.clone()).collect(),
            volumes: self.volumes.clone(),
            images: self
                .memory
                .containers
                .iter()
                .map(|(name, it)| (name.clone(), it.image.clone()))
                .collect(),
            pulls: self.pulls.clone(),
        };
        self.under_way.push(Box::pin(async move { (work, task.perform(step).await) }));
    }

    fn count_restart(&mut self, name: &str, attempt: u32, observed: &Observed) {
        let memory = self.memory.containers.entry(name.to_owned()).or_default();
        let ended = observed.latest(name).filter(|it| it.attempt < attempt);
        if let Some(run) = ended {
            memory.restarts = memory.restarts_that_count(run) + 1;
        }
    }

    fn settle(&mut self, work: Work, outcome: Outcome) {
        self.memory.busy.remove(&work);
        let now = self.agent.clock.now();
        match (outcome, work) {
            (Outcome::Volumes(Ok(paths)), _) => {
                self.volumes = paths;
                self.volumes_again = Instant::now() + RESYNC;
                self.memory.volumes = Volumes::Mounted;
            }
            (Outcome::Volumes(Err(message)), _) => self.volumes_failed(message, now),
            (Outcome::Sandbox(Ok(())), _) => self.memory.sandbox_failure = None,
            (Outcome::Sandbox(Err(message)), _) => {
                self.event(None, EventType::Warning, "FailedCreatePodSandBox", &message);
                let before = self.memory.sandbox_failure.take();
                let failure = Failure::after(before.as_ref(), "FailedCreatePodSandBox", message, now);
                self.memory.sandbox_failure = Some(failure);
            }
            (Outcome::Pulled(result), Work::Pull(name)) => self.pulled(&name, result, now),
            (Outcome::Started(result), Work::Start(name)) => self.started(&name, result, now),
            (Outcome::TornDown(Ok(())), _) => self.memory.torn_down = true,
            (Outcome::Deleted(Ok(())), _) => self.memory.gone = true,
            (
                Outcome::TornDown(Err(error)) | Outcome::Deleted(Err(error)) | Outcome::Done(Err(error)),
                work,
            ) => {
                warn!(?work, "{error}");
                self.back_off();
            }
            (Outcome::Done(Ok(())) | Outcome::Pulled(_) | Outcome::Started(_), _) => {}
        }
    }

    /// Waits a moment before what just failed is planned again.
    fn back_off(&mut self) {
        let again = Work::Remove("pause".to_owned());
        if self.memory.busy.insert(again.clone()) {
            self.under_way.push(Box::pin(async move {
                tokio::time::sleep(RETRY).await;
                (again, Outcome::Done(Ok(())))
            }));
        }
    }

    fn volumes_failed(&mut self, message: String, now: DateTime<Utc>) {
        self.event(None, EventType::Warning, "FailedMount", &message);
        self.volumes_again = Instant::now() + RESYNC;
        self.memory.volumes = match &self.memory.volumes {
            // Containers run with the content they have; only its renewal failed.
            Volumes::Mounted => Volumes::Mounted,
            Volumes::Pending => Volumes::Failed(Failure::of_volumes(None, message, now)),
            Volumes::Failed(before) => Volumes::Failed(Failure::of_volumes(Some(before), message, now)),
        };
    }

    fn pulled(&mut self, name: &str, result: Result<String, work::Problem>, now: DateTime<Utc>) {
        let memory = self.memory.containers.entry(name.to_owned()).or_default();
        match result {
            Ok(image) => {
                memory.last_pull = None;
                memory.image = ImageState::Present(image);
            }
            Err(problem) if problem.reason.is_empty() => memory.image = ImageState::Unknown,
            Err(problem) => {
                let failure =
                    Failure::after(memory.last_pull.as_ref(), &problem.reason, problem.message, now);
                memory.last_pull = Some(failure.clone());
                memory.image = ImageState::Failed(failure);
            }
        }
    }

    fn started(&mut self, name: &str, result: Result<(), work::Problem>, now: DateTime<Utc>) {
        let memory = self.memory.containers.entry(name.to_owned()).or_default();
        match result {
            Ok(()) => {
                memory.start_failure = None;
                // The next start asks the pull policy again.
                memory.image = ImageState::Unknown;
            }
            Err(problem) => {
                let before = memory.start_failure.take();
                memory.start_failure =
                    Some(Failure::after(before.as_ref(), &problem.reason, problem.message, now));
            }
        }
    }

    fn event(&self, container: Option<&str>, type_: EventType, reason: &str, message: &str) {
        let pod = self.view.borrow().pod.clone();
        self.agent.event(&pod, container, type_, reason, message);
    }
}

/// The name was taken by a new pod while this one was being reported.
fn is_other_pod(status: &kube::core::Status) -> bool {
    status.code == 409 && status.message.contains("UID")
}

pub(crate) fn find_spec<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerSpec> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|it| it.name == name)
}

fn work_of(step: &Step) -> Work {
    match step {
        Step::MountVolumes => Work::Volumes,
        Step::RunSandbox { .. } => Work::Sandbox,
        Step::Pull { container } => Work::Pull(container.clone()),
        Step::Start { container, .. } => Work::Start(container.clone()),
        Step::Kill { id, .. } => Work::Kill(id.clone()),
        Step::StopSandbox { id } | Step::RemoveSandbox { id } | Step::RemoveContainer { id } => {
            Work::Remove(id.clone())
        }
        Step::Teardown => Work::Teardown,
        Step::Delete => Work::Delete,
    }
}

/// Removes the object for good; that it is gone already is what was wanted.
async fn delete_object(agent: &Agent, pod: &Pod) -> Result<(), kube::Error> {
    let (meta, name) = (&pod.metadata, pod.metadata.name.as_deref().unwrap_or_default());
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A strategic merge would add new addresses to those that the pod had in an earlier sandbox.
fn replace_addresses(status: &mut serde_json::Value) {
    for list in ["podIPs", "hostIPs"] {
        if let Some(addresses) = status.get_mut(list).and_then(serde_json::Value::as_array_mut) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
}

/// A strategic merge would keep the reason of a condition that has none any more.
fn clear_reasons(status: &mut serde_json::Value) {
    let conditions = status.get_mut("conditions").and_then(serde_json::Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(serde_json::Value::as_object_mut) {
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(serde_json::Value::Null);
        }
    }
}

/// How long a status need not be told yet, `since` the one before was: between its first status and the one with
/// which it runs, a pod that is making progress has others that nobody waits for.
fn told_later(
    reported: Option<&PodStatus>,
    wanted: &PodStatus,
    since: Option<Duration>,
    makes_progress: impl Fn() -> bool,
) -> Option<Duration> {
    let is_pending = |status: &PodStatus| status.phase.as_deref() == Some("Pending");
    let waits = reported.is_some_and(is_pending) && is_pending(wanted) && makes_progress();
    since.filter(|_| waits).and_then(|since| TOGETHER.checked_sub(since)).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_between_the_first_status_and_running_is_told_together() {
        let status = |phase: &str| PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
        let (pending, running) = (status("Pending"), status("Running"));
        let soon = Some(Duration::from_millis(100));
        let later = |reported: Option<&PodStatus>, wanted, since, progress: bool| {
            told_later(reported, wanted, since, || progress)
        };
        assert_eq!(later(Some(&pending), &pending, soon, true), Some(Duration::from_millis(900)));
        assert_eq!(later(Some(&pending), &running, soon, true), None);
        assert_eq!(later(Some(&pending), &pending, soon, false), None, "nothing else will come of it");
        assert_eq!(later(Some(&pending), &pending, Some(TOGETHER), true), None);
        assert_eq!(later(Some(&pending), &pending, None, true), None, "the first is told at once");
    }

    #[test]
    fn a_condition_that_holds_again_loses_its_reason() {
        let mut status =
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "reason": "Y"}]});
        clear_reasons(&mut status);
        let wanted = json!({"conditions": [
            {"type": "Ready", "status": "True", "reason": null, "message": null},
            {"type": "X", "reason": "Y", "message": null},
        ]});
        assert_eq!(status, wanted);
    }

    #[test]
    fn new_addresses_replace_those_of_the_sandbox_before() {
        let mut status = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.3"}]});
        replace_addresses(&mut status);
        let wanted = json!({"phase": "Running", "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.3"}]});
        assert_eq!(status, wanted);
    }
}
