//! The embedded runtime: containers without a daemon, by libcontainer in shims of this same binary.
//!
//! `sandbox`, `container` and `exec` do what [`Runtime`] promises; `spec` makes a container's configuration,
//! `record` is what is kept on disk, `process` and `stream` talk with shims, `cgroup` reads and removes
//! cgroups. Everything that runs is found again after a restart of the agent by its record and its shim's
//! identity. Mounts exist only in the shims' own mount namespaces, so none is ever left on the node.
//! Deliberately not here: seccomp profiles (libcontainer needs a system library for them; said once at start).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{
    BoxStream, Container, ContainerConfig, ContainerEvent, ContainerEventKind, ContainerFilter, EVENTS_MAX,
    ExecOutput, ExecRequest, Image, IpConfig, RegistryAuth, Resources, Result, Runtime, RuntimeError,
    RuntimeStatus, RuntimeVersion, Sandbox, SandboxConfig, SandboxFilter, Stats, Streams, labels_match,
};
use crate::bridge::{Bridge, BridgeConfig};
use crate::image::ImageStore;
use cgroup::Cgroup;
use record::{Entry, SandboxRecord};

pub(crate) mod cgroup;
mod container;
mod exec;
mod process;
mod record;
mod sandbox;
mod spec;
mod stream;

/// What the bridge was made from, to remove it by.
const BRIDGE_FILE: &str = "bridge.json";

/// How the embedded runtime is set up.
#[derive(Clone, Debug)]
pub struct OciConfig {
    /// Everything the runtime keeps: records, images, containers' own layers.
    pub root: PathBuf,
    /// Image archives in this folder count as present images.
    pub archives: PathBuf,
    /// Serve [`crate::image::NODE_ROOTFS`]: pods that ask for it see this machine's root filesystem.
    pub node_rootfs: bool,
    /// Folders that such a pod must not see, the data directory above all.
    pub hidden: Vec<PathBuf>,
    /// All pods of the cluster: traffic to them keeps its address.
    pub cluster_cidr: Option<String>,
    /// The program that becomes a shim when asked: this one.
    pub program: PathBuf,
}

impl OciConfig {
    /// A runtime in `root` that runs itself as its shims.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            archives: root.join("archives"),
            node_rootfs: false,
            hidden: vec![root.clone()],
            cluster_cidr: None,
            program: PathBuf::from("/proc/self/exe"),
            root,
        }
    }
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxRecord>,
    containers: BTreeMap<String, Entry>,
}

/// Containers by libcontainer. Needs root.
pub struct OciRuntime {
    root: PathBuf,
    program: PathBuf,
    hidden: Vec<PathBuf>,
    images: Arc<ImageStore>,
    /// Made with the first sandbox that has an address, removed with the last. Held while one is linked.
    bridge: Mutex<Option<Bridge>>,
    cluster_cidr: Option<String>,
    limits: spec::Limits,
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEvent>,
    clock: Clock,
    tasks: Tasks,
}

impl OciRuntime {
    /// Opens the runtime and takes over what still runs in `config.root`.
    pub async fn open(config: OciConfig, clock: Clock, tasks: Tasks) -> Result<Arc<Self>> {
        let opened = tokio::task::spawn_blocking(move || Self::build(config, clock, tasks)).await;
        let runtime = opened
            .map_err(|error| RuntimeError::io("opening the runtime")(std::io::Error::other(error)))??;
        let runtime = Arc::new(runtime);
        runtime.adopt();
        Ok(runtime)
    }

    fn build(config: OciConfig, clock: Clock, tasks: Tasks) -> Result<Self> {
        for name in ["sandboxes", "containers", "states"] {
            let folder = config.root.join(name);
            std::fs::create_dir_all(&folder).map_err(RuntimeError::io("making the runtime's folders"))?;
        }
        let root = config.root.canonicalize().map_err(RuntimeError::io("finding the runtime's folder"))?;
        let images = ImageStore::open(&root.join("images"), &config.archives, config.node_rootfs)?;
        tracing::info!("containers run without seccomp profiles: this build has no libseccomp");
        Ok(Self {
            program: config.program,
            hidden: config.hidden.iter().map(|path| path.canonicalize().unwrap_or(path.clone())).collect(),
            images: Arc::new(images),
            bridge: Mutex::new(None),
            cluster_cidr: config.cluster_cidr,
            limits: spec::Limits::of_this_process(),
            state: Mutex::new(load(&root)),
            events: broadcast::Sender::new(EVENTS_MAX),
            root,
            clock,
            tasks,
        })
    }

    /// Watches what runs, and cleans up after what died with an agent.
    fn adopt(self: &Arc<Self>) {
        let running: Vec<_> = {
            let state = self.state.lock();
            let entries = state.containers.values().filter(|entry| entry.exit.borrow().is_none());
            entries.filter_map(|entry| Some((entry.record.id.clone(), entry.started.clone()?))).collect()
        };
        for (id, started) in running {
            self.watch(&id, &started);
        }
    }

    /// The images of this node, for `image load`.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.images
    }

    /// Ends and removes all sandboxes, the bridge and the rules: nothing is left but images and logs.
    pub async fn clean_up(&self) -> Result<()> {
        let sandboxes: Vec<_> = self.state.lock().sandboxes.keys().cloned().collect();
        let removed = sandboxes.iter().map(|id| self.delete_sandbox(id));
        for done in futures::future::join_all(removed).await {
            done?;
        }
        self.remove_idle_bridge()
    }

    /// Takes the bridge and its rules away when no sandbox needs them.
    fn remove_idle_bridge(&self) -> Result<()> {
        let mut bridge = self.bridge.lock();
        if self.state.lock().sandboxes.values().any(|record| record.address.is_some()) {
            return Ok(());
        }
        *bridge = None;
        let known: Option<BridgeConfig> = record::read(&self.root.join(BRIDGE_FILE));
        let Some(known) = known else { return Ok(()) };
        Bridge::remove(&known)?;
        let forgotten = std::fs::remove_file(self.root.join(BRIDGE_FILE));
        forgotten.map_err(RuntimeError::io("forgetting the bridge"))
    }

    /// Links a sandbox to the bridge of this node's pods, which is made from the first of their addresses.
    fn attach_to_bridge(&self, sandbox: &str, pid: i32, of: &IpConfig) -> Result<()> {
        let mut bridge = self.bridge.lock();
        if let Some(bridge) = &*bridge {
            return Ok(bridge.attach(sandbox, pid)?);
        }
        let config = BridgeConfig {
            // A name of its own: nodes of several clusters may run on one machine under the same name.
            owner: self.root.display().to_string(),
            pod_cidr: format!("{}/{}", of.address, of.prefix_len),
            cluster_cidr: self.cluster_cidr.clone(),
        };
        crate::shim::write_json_atomically(&self.root.join(BRIDGE_FILE), &config)
            .map_err(RuntimeError::io("noting the bridge"))?;
        Ok(bridge.insert(Bridge::start(&config)?).attach(sandbox, pid)?)
    }

    fn entry<T>(&self, id: &str, read: impl FnOnce(&Entry) -> T) -> Result<T> {
        self.state.lock().containers.get(id).map(read).ok_or_else(|| not_found("container", id))
    }

    fn entry_mut<T>(&self, id: &str, change: impl FnOnce(&mut Entry) -> T) -> Result<T> {
        self.state.lock().containers.get_mut(id).map(change).ok_or_else(|| not_found("container", id))
    }

    fn tell_of(&self, kind: ContainerEventKind, id: &str) {
        let of = self.entry(id, |entry| (entry.record.sandbox.clone(), entry.record.pod_uid.clone()));
        if let Ok((sandbox, pod_uid)) = of {
            self.tell(kind, id, &sandbox, &pod_uid);
        }
    }

    fn tell(&self, kind: ContainerEventKind, container: &str, sandbox: &str, pod_uid: &str) {
        let event = ContainerEvent {
            kind,
            container: container.to_owned(),
            sandbox: sandbox.to_owned(),
            pod_uid: pod_uid.to_owned(),
        };
        // Nobody listening is fine.
        drop(self.events.send(event));
    }
}

/// The runtime as the agent holds it: shims are watched by tasks that share it.
#[async_trait]
impl Runtime for Arc<OciRuntime> {
    async fn version(&self) -> Result<RuntimeVersion> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(RuntimeVersion { name: "coxswain".into(), version })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let bridge = self.bridge.lock();
        let warning = bridge.as_ref().and_then(Bridge::warning).unwrap_or_default().to_owned();
        Ok(RuntimeStatus { runtime_ready: true, network_ready: true, message: warning })
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        self.make_sandbox(config).await
    }

    async fn stop_sandbox(&self, sandbox: &str) -> Result<()> {
        self.end_sandbox(sandbox).await
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        self.delete_sandbox(sandbox).await
    }

    async fn list_sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        let state = self.state.lock();
        let wanted = state.sandboxes.values().filter(|record| {
            filter.pod_uid.as_ref().is_none_or(|uid| *uid == record.uid)
                && labels_match(&filter.labels, &record.labels)
        });
        Ok(wanted.map(SandboxRecord::view).collect())
    }

    async fn sandbox_status(&self, sandbox: &str) -> Result<Sandbox> {
        let state = self.state.lock();
        state.sandboxes.get(sandbox).map(SandboxRecord::view).ok_or_else(|| not_found("sandbox", sandbox))
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig) -> Result<String> {
        let (runtime, sandbox, config) = (Arc::clone(self), sandbox.to_owned(), config.clone());
        blocking("creating a container", move || runtime.make_container(&sandbox, &config)).await
    }

    async fn start_container(&self, container: &str) -> Result<()> {
        self.run_container(container).await
    }

    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        self.end_container(container, grace).await
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        self.delete_container(container).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>> {
        let state = self.state.lock();
        let wanted = state.containers.values().filter(|entry| {
            filter.sandbox.as_ref().is_none_or(|sandbox| *sandbox == entry.record.sandbox)
                && labels_match(&filter.labels, &entry.record.labels)
        });
        Ok(wanted.map(Entry::view).collect())
    }

    async fn container_status(&self, container: &str) -> Result<Container> {
        self.entry(container, Entry::view)
    }

    async fn update_resources(&self, container: &str, resources: &Resources) -> Result<()> {
        let cgroup = self.entry(container, |entry| entry.record.cgroup.clone())?;
        Cgroup::at(&cgroup).set(resources).map_err(RuntimeError::io("changing limits"))
    }

    async fn container_stats(&self, container: &str) -> Result<Stats> {
        self.figures(container)
    }

    async fn exec(&self, container: &str, request: &ExecRequest, streams: Streams) -> Result<i32> {
        self.run_exec(container, request, streams).await
    }

    async fn exec_sync(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecOutput> {
        self.collect_exec(container, command, limit).await
    }

    async fn attach(&self, container: &str, streams: Streams) -> Result<()> {
        self.join_streams(container, streams).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16, stream: BoxStream) -> Result<()> {
        self.forward(sandbox, port, stream).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let (images, image) = (Arc::clone(&self.images), image.to_owned());
        blocking("looking for an image", move || Ok(images.status(&image)?)).await
    }

    async fn pull_image(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<Image> {
        Ok(self.images.pull(image, auth).await?)
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.images.list())
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let Some(found) = self.images.find(image)? else { return Ok(()) };
        let user = {
            let state = self.state.lock();
            let mut users = state.containers.values().filter(|entry| entry.record.image_id == found.id);
            users.next().map(|entry| entry.record.id.clone())
        };
        if let Some(container) = user {
            let state = format!("in use by container {container}");
            return Err(RuntimeError::WrongState { what: "image", id: found.id, state });
        }
        let (images, id) = (Arc::clone(&self.images), found.id);
        blocking("removing an image", move || Ok(images.remove(&id)?)).await
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| RuntimeError::io(doing)(std::io::Error::other(error)))?
}

/// The records of a folder; half-written ones are removed.
fn load(root: &Path) -> State {
    let mut state = State::default();
    for folder in subfolders(&root.join("sandboxes")) {
        match record::load_sandbox(&folder) {
            Some(record) => drop(state.sandboxes.insert(record.id.clone(), record)),
            None => drop(std::fs::remove_dir_all(folder)),
        }
    }
    for folder in subfolders(&root.join("containers")) {
        match Entry::load(&folder) {
            Some(entry) => drop(state.containers.insert(entry.record.id.clone(), entry)),
            None => drop(std::fs::remove_dir_all(folder)),
        }
    }
    state
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn not_found(what: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { what, id: id.to_owned() }
}

/// An error with all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}
