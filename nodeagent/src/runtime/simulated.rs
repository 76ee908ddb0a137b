//! A runtime without I/O: containers are entries in a map that change state when tokio's clock says so.
//!
//! What a container does is data: a list of [`Stage`]s, taken from annotations of its pod and otherwise from
//! [`Simulation`]. Thousands of nodes fit into one process, and a paused clock steps all of them. Logs are a
//! few generated lines in memory, `exec` answers `echo` and a handful of commands, nothing touches the disk.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, broadcast, watch};

use super::{
    Container, ContainerConfig, ContainerEvent, ContainerEventKind, ContainerFilter, ContainerState,
    EVENTS_MAX, ExecOutput, ExecRequest, Image, LogLine, MemoryLog, NetworkMode, RegistryAuth, Resources,
    Result, Runtime, RuntimeError, RuntimeStatus, RuntimeVersion, Sandbox, SandboxConfig, SandboxFilter,
    SandboxState, Stats, Streams, labels_match,
};

mod stages;

pub use stages::{ANNOTATION_PREFIX, Stage, stages};
use stages::{Usage, usage};

/// The pods of a Job carry it: what they run is work that ends.
const JOB_LABEL: &str = "batch.kubernetes.io/job-name";
/// Log lines kept of one container; older ones are dropped.
const LOG_LINES_MAX: usize = 10_000;

/// Defaults for what containers do.
#[derive(Clone, Debug)]
pub struct Simulation {
    pub sandbox_delay: Duration,
    pub pull_delay: Duration,
    pub start_delay: Duration,
    /// How long a container takes to end after its stop signal.
    pub stop_delay: Duration,
    /// Containers that share one `Clock` can be told apart by nothing else; this is their time.
    pub clock: Clock,
}

impl Simulation {
    /// Everything happens at once.
    pub fn immediate(clock: Clock) -> Self {
        let none = Duration::ZERO;
        Self { sandbox_delay: none, pull_delay: none, start_delay: none, stop_delay: none, clock }
    }
}

struct Simulated {
    record: Container,
    config: ContainerConfig,
    stages: Vec<Stage>,
    usage: Usage,
    logs: Vec<LogLine>,
    log_changed: watch::Sender<usize>,
    stop: Arc<Notify>,
    ended: watch::Sender<bool>,
}

struct SimulatedSandbox {
    record: Sandbox,
    config: SandboxConfig,
}

#[derive(Default)]
struct State {
    next: u64,
    sandboxes: BTreeMap<String, SimulatedSandbox>,
    containers: BTreeMap<String, Simulated>,
    images: BTreeMap<String, Image>,
}

struct Inner {
    simulation: Simulation,
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEvent>,
    tasks: Tasks,
}

/// The runtime of one simulated node. Cheap to clone.
#[derive(Clone)]
pub struct SimulatedRuntime(Arc<Inner>);

impl SimulatedRuntime {
    /// A runtime with nothing in it, whose containers live as tasks of `tasks`.
    pub fn new(simulation: Simulation, tasks: Tasks) -> Self {
        let (events, _) = broadcast::channel(EVENTS_MAX);
        Self(Arc::new(Inner { simulation, state: Mutex::default(), events, tasks }))
    }

    fn emit(&self, kind: ContainerEventKind, record: &Container) {
        let pod_uid = record.labels.get(super::labels::POD_UID).cloned().unwrap_or_default();
        let event =
            ContainerEvent { kind, container: record.id.clone(), sandbox: record.sandbox.clone(), pod_uid };
        // Nobody listening is no fault: the next listener lists.
        drop(self.0.events.send(event));
    }

    fn append(&self, id: &str, line: &str) {
        let at = self.0.simulation.clock.now();
        let mut state = self.0.state.lock();
        let Some(container) = state.containers.get_mut(id) else { return };
        if container.logs.len() >= LOG_LINES_MAX {
            container.logs.remove(0);
        }
        container.logs.push(LogLine { at, stderr: false, text: line.as_bytes().to_vec() });
        container.log_changed.send_modify(|count| *count += 1);
    }

    fn finish(&self, id: &str, code: i32, reason: &str) {
        let now = self.0.simulation.clock.now();
        let record = {
            let mut state = self.0.state.lock();
            let Some(container) = state.containers.get_mut(id) else { return };
            if container.record.state != ContainerState::Running {
                return;
            }
            container.record.state = ContainerState::Exited;
            container.record.exit_code = Some(code);
            container.record.finished_at = Some(now);
            container.record.pid = None;
            container.record.reason = match (reason, code) {
                ("", 0) => "Completed".to_owned(),
                ("", _) => "Error".to_owned(),
                (given, _) => given.to_owned(),
            };
            container.ended.send_replace(true);
            container.record.clone()
        };
        self.emit(ContainerEventKind::Exited, &record);
    }

    async fn live(self, id: String, stages: Vec<Stage>, stop: Arc<Notify>) {
        let play = async {
            for stage in &stages {
                match stage {
                    Stage::Log(line) => self.append(&id, line),
                    Stage::Wait(time) => tokio::time::sleep(*time).await,
                    Stage::Exit { code, reason } => return (*code, reason.as_str()),
                }
            }
            std::future::pending().await
        };
        let (code, reason) = tokio::select! {
            ended = play => ended,
            () = stop.notified() => {
                tokio::time::sleep(self.0.simulation.stop_delay).await;
                (143, "")
            }
        };
        self.finish(&id, code, reason);
    }

    fn must_run(&self, id: &str) -> Result<()> {
        let state = self.0.state.lock();
        let container = state.containers.get(id).ok_or_else(|| no_container(id))?;
        match container.record.state {
            ContainerState::Running => Ok(()),
            other => Err(RuntimeError::WrongState {
                what: "container",
                id: id.to_owned(),
                state: format!("{other:?}").to_lowercase(),
            }),
        }
    }
}

fn no_container(id: &str) -> RuntimeError {
    RuntimeError::NotFound { what: "container", id: id.to_owned() }
}

fn no_sandbox(id: &str) -> RuntimeError {
    RuntimeError::NotFound { what: "sandbox", id: id.to_owned() }
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    async fn version(&self) -> Result<RuntimeVersion> {
        Ok(RuntimeVersion { name: "simulated".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        Ok(RuntimeStatus { runtime_ready: true, network_ready: true, message: String::new() })
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        tokio::time::sleep(self.0.simulation.sandbox_delay).await;
        let created_at = self.0.simulation.clock.now();
        let mut state = self.0.state.lock();
        state.next += 1;
        let id = format!("sandbox-{}-{}", config.uid, state.next);
        let ips: Vec<IpAddr> = match &config.network {
            NetworkMode::Pod(ip) => vec![ip.address],
            NetworkMode::Host | NetworkMode::Isolated => Vec::new(),
        };
        let record = Sandbox {
            id: id.clone(),
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            uid: config.uid.clone(),
            attempt: config.attempt,
            state: SandboxState::Ready,
            created_at,
            ips,
            netns: None,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        state.sandboxes.insert(id.clone(), SimulatedSandbox { record, config: config.clone() });
        Ok(id)
    }

    async fn stop_sandbox(&self, sandbox: &str) -> Result<()> {
        let members = self
            .list_containers(&ContainerFilter { sandbox: Some(sandbox.to_owned()), ..Default::default() })
            .await?;
        for container in members {
            self.stop_container(&container.id, Duration::ZERO).await?;
        }
        if let Some(found) = self.0.state.lock().sandboxes.get_mut(sandbox) {
            found.record.state = SandboxState::NotReady;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        self.stop_sandbox(sandbox).await?;
        let mut state = self.0.state.lock();
        state.containers.retain(|_, container| container.record.sandbox != sandbox);
        state.sandboxes.remove(sandbox);
        Ok(())
    }

    async fn list_sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        let wanted = |sandbox: &Sandbox| {
            filter.pod_uid.as_ref().is_none_or(|uid| *uid == sandbox.uid)
                && labels_match(&filter.labels, &sandbox.labels)
        };
        let state = self.0.state.lock();
        Ok(state.sandboxes.values().map(|found| &found.record).filter(|it| wanted(it)).cloned().collect())
    }

    async fn sandbox_status(&self, sandbox: &str) -> Result<Sandbox> {
        let state = self.0.state.lock();
        state.sandboxes.get(sandbox).map(|found| found.record.clone()).ok_or_else(|| no_sandbox(sandbox))
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig) -> Result<String> {
        let created_at = self.0.simulation.clock.now();
        let record = {
            let mut state = self.0.state.lock();
            let home = state.sandboxes.get(sandbox).ok_or_else(|| no_sandbox(sandbox))?;
            if home.record.state != SandboxState::Ready {
                let state = "not ready".to_owned();
                return Err(RuntimeError::WrongState { what: "sandbox", id: sandbox.to_owned(), state });
            }
            let is_work = match config.labels.get(super::labels::CONTAINER_ROLE).map(String::as_str) {
                Some(super::labels::ROLE_INIT) => true,
                Some(super::labels::ROLE_SIDECAR) => false,
                _ => home.config.labels.contains_key(JOB_LABEL),
            };
            let stages = stages(&config.name, &home.config.annotations, is_work);
            let usage = usage(&config.name, &home.config.annotations);
            let image_id = match state.images.get(&config.image) {
                Some(image) => image.id.clone(),
                None => return Err(RuntimeError::ImageNotPresent { image: config.image.clone() }),
            };
            state.next += 1;
            let id = format!("container-{}-{}", config.name, state.next);
            let record = Container {
                id: id.clone(),
                sandbox: sandbox.to_owned(),
                name: config.name.clone(),
                attempt: config.attempt,
                state: ContainerState::Created,
                created_at,
                image: config.image.clone(),
                image_id,
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                ..Container::default()
            };
            let simulated = Simulated {
                record: record.clone(),
                config: config.clone(),
                stages,
                usage,
                logs: Vec::new(),
                log_changed: watch::channel(0).0,
                stop: Arc::new(Notify::new()),
                ended: watch::channel(false).0,
            };
            state.containers.insert(id, simulated);
            record
        };
        self.emit(ContainerEventKind::Created, &record);
        Ok(record.id)
    }

    async fn start_container(&self, container: &str) -> Result<()> {
        tokio::time::sleep(self.0.simulation.start_delay).await;
        let now = self.0.simulation.clock.now();
        let (record, stages, stop) = {
            let mut state = self.0.state.lock();
            state.next += 1;
            let pid = i32::try_from(state.next).ok();
            let found = state.containers.get_mut(container).ok_or_else(|| no_container(container))?;
            if found.record.state != ContainerState::Created {
                let state = format!("{:?}", found.record.state).to_lowercase();
                return Err(RuntimeError::WrongState { what: "container", id: container.to_owned(), state });
            }
            found.record.state = ContainerState::Running;
            found.record.started_at = Some(now);
            found.record.pid = pid;
            (found.record.clone(), found.stages.clone(), found.stop.clone())
        };
        self.emit(ContainerEventKind::Started, &record);
        let life = self.clone().live(container.to_owned(), stages, stop);
        self.0.tasks.spawn_until_shutdown("simulated-container", life);
        Ok(())
    }

    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        let mut ended = {
            let state = self.0.state.lock();
            match state.containers.get(container) {
                Some(found) if found.record.state == ContainerState::Running => {
                    found.stop.notify_one();
                    found.ended.subscribe()
                }
                _ => return Ok(()),
            }
        };
        let finished = tokio::time::timeout(grace, ended.wait_for(|done| *done)).await.is_ok();
        if !finished {
            self.finish(container, 137, "");
        }
        Ok(())
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        self.stop_container(container, Duration::ZERO).await?;
        let removed = self.0.state.lock().containers.remove(container);
        if let Some(removed) = removed {
            self.emit(ContainerEventKind::Removed, &removed.record);
        }
        Ok(())
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>> {
        let wanted = |container: &Container| {
            filter.sandbox.as_ref().is_none_or(|sandbox| *sandbox == container.sandbox)
                && labels_match(&filter.labels, &container.labels)
        };
        let state = self.0.state.lock();
        Ok(state.containers.values().map(|found| &found.record).filter(|it| wanted(it)).cloned().collect())
    }

    async fn container_status(&self, container: &str) -> Result<Container> {
        let state = self.0.state.lock();
        state
            .containers
            .get(container)
            .map(|found| found.record.clone())
            .ok_or_else(|| no_container(container))
    }

    async fn update_resources(&self, container: &str, resources: &Resources) -> Result<()> {
        let mut state = self.0.state.lock();
        let found = state.containers.get_mut(container).ok_or_else(|| no_container(container))?;
        found.config.resources = resources.clone();
        Ok(())
    }

    async fn container_stats(&self, container: &str) -> Result<Stats> {
        let at = self.0.simulation.clock.now();
        let found = self.container_status(container).await?;
        let running = found.started_at.map(|start| at - start).unwrap_or_default();
        let usage = {
            let state = self.0.state.lock();
            state.containers.get(container).map(|found| found.usage).ok_or_else(|| no_container(container))?
        };
        let milliseconds = u64::try_from(running.num_milliseconds()).unwrap_or(0);
        // A thousandth of a core for a millisecond is a microsecond.
        let cpu_nanoseconds = milliseconds.saturating_mul(usage.cpu_milli).saturating_mul(1000);
        let memory = usage.memory_bytes;
        Ok(Stats { cpu_nanoseconds, memory_working_set_bytes: memory, memory_usage_bytes: memory, at })
    }

    async fn exec(&self, container: &str, request: &ExecRequest, mut streams: Streams) -> Result<i32> {
        self.must_run(container)?;
        if let ["cat"] = texts(&request.command)[..] {
            if let (Some(stdin), Some(stdout)) = (&mut streams.stdin, &mut streams.stdout) {
                tokio::io::copy(stdin, stdout).await.map_err(RuntimeError::io("copying stdin to stdout"))?;
            }
            return Ok(0);
        }
        let output = answer(&request.command);
        write_to(streams.stdout, &output.stdout).await?;
        write_to(streams.stderr, &output.stderr).await?;
        Ok(output.exit_code)
    }

    async fn exec_sync(&self, container: &str, command: &[String], _limit: Duration) -> Result<ExecOutput> {
        self.must_run(container)?;
        Ok(answer(command))
    }

    async fn attach(&self, container: &str, streams: Streams) -> Result<()> {
        self.must_run(container)?;
        let log = self.memory_log(container).ok_or_else(|| no_container(container))?;
        let Some(mut stdout) = streams.stdout else { return Ok(()) };
        let mut ended = {
            let state = self.0.state.lock();
            state.containers.get(container).ok_or_else(|| no_container(container))?.ended.subscribe()
        };
        for line in log.lines {
            stdout.write_all(&line.text).await.map_err(RuntimeError::io("writing to the attached stream"))?;
            stdout.write_all(b"\n").await.map_err(RuntimeError::io("writing to the attached stream"))?;
        }
        // A closed sender means that the container was removed: the streams end as well.
        drop(ended.wait_for(|done| *done).await);
        Ok(())
    }

    async fn port_forward(&self, sandbox: &str, _port: u16, stream: super::BoxStream) -> Result<()> {
        self.sandbox_status(sandbox).await?;
        let (mut read, mut write) = tokio::io::split(stream);
        let mut buffer = [0; 4096];
        loop {
            match read.read(&mut buffer).await.map_err(RuntimeError::io("reading the forwarded stream"))? {
                0 => return Ok(()),
                count => write
                    .write_all(&buffer[..count])
                    .await
                    .map_err(RuntimeError::io("answering the forwarded stream"))?,
            }
        }
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        Ok(self.0.state.lock().images.get(image).cloned())
    }

    async fn pull_image(&self, image: &str, _auth: Option<&RegistryAuth>) -> Result<Image> {
        tokio::time::sleep(self.0.simulation.pull_delay).await;
        if image.contains("does-not-exist") || image.starts_with("missing") {
            let answer = format!("simulated registry: {image}: not found");
            return Err(RuntimeError::PullImage { image: image.to_owned(), answer });
        }
        let pulled = Image {
            id: format!("simulated@{image}"),
            tags: vec![image.to_owned()],
            size_bytes: 1 << 20,
            ..Image::default()
        };
        self.0.state.lock().images.insert(image.to_owned(), pulled.clone());
        Ok(pulled)
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.0.state.lock().images.values().cloned().collect())
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.0.state.lock().images.remove(image);
        Ok(())
    }

    fn memory_log(&self, container: &str) -> Option<MemoryLog> {
        let state = self.0.state.lock();
        let found = state.containers.get(container)?;
        Some(MemoryLog { lines: found.logs.clone(), changed: found.log_changed.subscribe() })
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.0.events.subscribe()
    }
}

fn texts(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// What the imagined container answers: `echo`, `true`, `false`, `hostname`, `sh -c "exit N"`.
fn answer(command: &[String]) -> ExecOutput {
    let say = |text: String| ExecOutput { stdout: text.into_bytes(), ..ExecOutput::default() };
    match &texts(command)[..] {
        ["true" | "/bin/true", ..] => ExecOutput::default(),
        ["false" | "/bin/false", ..] => ExecOutput { exit_code: 1, ..ExecOutput::default() },
        ["echo", words @ ..] => say(format!("{}\n", words.join(" "))),
        ["sh" | "/bin/sh", "-c", script] => match script.strip_prefix("exit ").map(str::parse) {
            Some(Ok(exit_code)) => ExecOutput { exit_code, ..ExecOutput::default() },
            _ => match script.strip_prefix("echo ") {
                Some(words) => say(format!("{words}\n")),
                None => ExecOutput::default(),
            },
        },
        words => say(format!("simulated: {}\n", words.join(" "))),
    }
}

async fn write_to(to: Option<super::BoxWrite>, bytes: &[u8]) -> Result<()> {
    let Some(mut to) = to else { return Ok(()) };
    to.write_all(bytes).await.map_err(RuntimeError::io("writing output"))?;
    to.shutdown().await.map_err(RuntimeError::io("closing output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_simulated_runtime_conforms() {
        let clock = Clock::starting_at(chrono::DateTime::UNIX_EPOCH);
        let tasks = Tasks::new(component_base::Shutdown::new());
        let runtime = SimulatedRuntime::new(Simulation::immediate(clock), tasks.clone());
        let suite = super::super::conformance::Suite {
            image: "busybox".to_owned(),
            missing_image: "does-not-exist".to_owned(),
            log_dir: std::path::PathBuf::from("/nonexistent"),
            simulated: true,
            stdin_ends: true,
            network: NetworkMode::Isolated,
        };
        suite.run(&runtime).await.unwrap();
        tasks.shutdown().cancel();
        tasks.join().await;
    }
}
