//! What runs containers: one trait in the shape of CRI with model types of our own.
//!
//! The agent above knows only [`Runtime`]. Implementations: [`simulated`] (no I/O, thousands of nodes in one
//! process), the embedded OCI runtime and CRI over gRPC. `conformance` is the suite that each of them passes.
//! Deliberately not here: pods, volumes, probes and restarts; a runtime does what it is told, once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::supervise::Tasks;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc, watch};

use self::oci::{OciConfig, OciRuntime};
use crate::config::{Config, RuntimeKind};

pub mod conformance;
pub mod cri;
pub mod oci;
pub mod simulated;

/// Labels by which a restarted agent finds its sandboxes and containers again (the kubelet's names).
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// What the container is in its pod: one of the three roles below.
    pub const CONTAINER_ROLE: &str = "coxswain.dev/container-role";
    pub const ROLE_MAIN: &str = "main";
    pub const ROLE_INIT: &str = "init";
    /// An init container that is always restarted: it runs beside the main ones.
    pub const ROLE_SIDECAR: &str = "sidecar";
}

/// What went wrong in a runtime. `Display` is one line for an event; the chain has the rest.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("image {image} is not on this node")]
    ImageNotPresent { image: String },
    /// `answer` is what the registry said, for the user to read.
    #[error("failed to pull image {image:?}: {answer}")]
    PullImage { image: String, answer: String },
    #[error("invalid image reference {image:?}: {reason}")]
    InvalidImageName { image: String, reason: String },
    #[error("invalid {field}: {reason}")]
    InvalidConfig { field: &'static str, reason: String },
    #[error("{what} {id} is {state}")]
    WrongState { what: &'static str, id: String, state: String },
    #[error("this runtime cannot {what}")]
    Unsupported { what: String },
    #[error("{doing} took longer than {limit:?}")]
    TimedOut { doing: String, limit: Duration },
    #[error("{doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{doing}: {message}")]
    Failed { doing: String, message: String },
}

impl RuntimeError {
    /// True if what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::ImageNotPresent { .. })
    }

    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// A container runtime on one machine.
///
/// Every call is idempotent where its result allows it: stopping what is stopped and removing what is gone
/// succeed. Identifiers are the runtime's own and opaque. Sandboxes and containers outlive the caller; after
/// a restart they are found by `list_*` with the labels they were made with. Dropping a future may leave the
/// operation done or not done; the caller lists again.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn version(&self) -> Result<RuntimeVersion>;
    async fn status(&self) -> Result<RuntimeStatus>;

    /// Makes and starts a sandbox: namespaces, cgroup parent, network. On error nothing is left.
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String>;
    /// Kills what still runs in it and takes its network down; the record stays until removal.
    async fn stop_sandbox(&self, sandbox: &str) -> Result<()>;
    /// Removes it with all its containers.
    async fn remove_sandbox(&self, sandbox: &str) -> Result<()>;
    async fn list_sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>>;
    async fn sandbox_status(&self, sandbox: &str) -> Result<Sandbox>;

    /// Prepares a container; the image must be present. Nothing runs yet.
    async fn create_container(&self, sandbox: &str, config: &ContainerConfig) -> Result<String>;
    async fn start_container(&self, container: &str) -> Result<()>;
    /// The image's stop signal, and after `grace` SIGKILL; returns when the container has exited.
    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()>;
    /// Removes an exited or never started container, and kills a running one first. Its log stays.
    async fn remove_container(&self, container: &str) -> Result<()>;
    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>>;
    async fn container_status(&self, container: &str) -> Result<Container>;
    async fn update_resources(&self, container: &str, resources: &Resources) -> Result<()>;
    async fn container_stats(&self, container: &str) -> Result<Stats>;

    /// Runs a command in the container and returns its exit code once it and its output have ended.
    async fn exec(&self, container: &str, request: &ExecRequest, streams: Streams) -> Result<i32>;
    /// As `exec`, output collected (at most [`EXEC_OUTPUT_BYTES_MAX`] each) and ended after `limit`.
    async fn exec_sync(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecOutput>;
    /// Joins the main process's streams until they end.
    async fn attach(&self, container: &str, streams: Streams) -> Result<()>;
    /// Copies `stream` to and from a TCP port on the sandbox's loopback until either side ends.
    async fn port_forward(&self, sandbox: &str, port: u16, stream: BoxStream) -> Result<()>;

    /// The image if it is on this node.
    async fn image_status(&self, image: &str) -> Result<Option<Image>>;
    /// Fetches it and returns it. An error carries the registry's answer.
    async fn pull_image(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<Image>;
    async fn list_images(&self) -> Result<Vec<Image>>;
    async fn remove_image(&self, image: &str) -> Result<()>;

    /// The log of a runtime that keeps logs in memory; others write files and have none.
    fn memory_log(&self, _container: &str) -> Option<MemoryLog> {
        None
    }

    /// Starts and exits of containers from now on. Bounded: a slow receiver gets `Lagged` and lists again;
    /// events hint at what to look at and are never the only source.
    fn events(&self) -> broadcast::Receiver<ContainerEvent>;
}

/// Most bytes that `exec_sync` keeps of each of stdout and stderr.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Events that wait for a slow receiver before the oldest is dropped.
pub const EVENTS_MAX: usize = 128;

#[derive(Clone, Debug)]
pub struct RuntimeVersion {
    /// As in `Node.status.nodeInfo.containerRuntimeVersion` before `://`.
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, Default)]
pub struct RuntimeStatus {
    pub runtime_ready: bool,
    pub network_ready: bool,
    /// Why something is not ready, or a warning.
    pub message: String,
}

/// What a pod's sandbox needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxConfig {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Counts the sandboxes of one pod.
    pub attempt: u32,
    /// Empty: the node's (host network).
    pub hostname: String,
    pub dns: DnsConfig,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub network: NetworkMode,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_process_namespace: bool,
    /// `ContainerConfig::log_path` is relative to this folder.
    pub log_dir: PathBuf,
    pub port_mappings: Vec<PortMapping>,
    /// Absolute path below the cgroup root, as `/kubepods/burstable/pod<uid>`; the runtime makes and removes it.
    pub cgroup_parent: String,
    pub sysctls: BTreeMap<String, String>,
    /// Limits of the whole pod, set on `cgroup_parent`.
    pub resources: Resources,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The node's own network namespace.
    Host,
    /// A network namespace of its own with loopback only.
    #[default]
    Isolated,
    /// A network namespace with this address. A runtime that assigns addresses itself (CNI) ignores it.
    Pod(IpConfig),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    pub address: IpAddr,
    pub prefix_len: u8,
    pub gateway: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxState {
    #[default]
    Ready,
    NotReady,
}

/// A sandbox as the runtime sees it.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    pub id: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub attempt: u32,
    pub state: SandboxState,
    pub created_at: DateTime<Utc>,
    /// Empty for host network.
    pub ips: Vec<IpAddr>,
    /// For probes and port-forwards; `None` for host network and in simulation.
    pub netns: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// All given conditions must hold; the default matches everything.
#[derive(Clone, Debug, Default)]
pub struct SandboxFilter {
    pub pod_uid: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// What a container needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerConfig {
    pub name: String,
    /// Counts the restarts of this container.
    pub attempt: u32,
    /// The reference as written, or the `id` that `pull_image` returned.
    pub image: String,
    /// Overrides the image's entrypoint; empty: the image's.
    pub command: Vec<String>,
    /// Overrides the image's cmd; empty: the image's, unless `command` is given.
    pub args: Vec<String>,
    /// `None`: the image's.
    pub working_dir: Option<PathBuf>,
    /// Added to the image's; later entries win.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub resources: Resources,
    pub security: Security,
    /// Relative to the sandbox's `log_dir`. The runtime writes the CRI log format to it.
    pub log_path: PathBuf,
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    pub stdin_once: bool,
    pub tty: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    pub read_only: bool,
    pub propagation: Propagation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Of `rwm`.
    pub permissions: String,
}

/// cgroup limits; `None`: no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
    /// Without `CAP_`; `ALL` is all.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerState {
    #[default]
    Created,
    Running,
    Exited,
    /// The runtime lost sight of it.
    Unknown,
}

/// A container as the runtime sees it.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
    pub state: ContainerState,
    pub pid: Option<i32>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// 128 + signal when a signal ended it.
    pub exit_code: Option<i32>,
    /// `OOMKilled`, `ContainerCannotRun`, `Completed`, `Error` or empty.
    pub reason: String,
    pub message: String,
    /// As it was asked for.
    pub image: String,
    /// With digest, as for `containerStatuses[].imageID`.
    pub image_id: String,
    /// Absolute; `None` if the runtime does not keep logs in files.
    pub log_path: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// All given conditions must hold; the default matches everything.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    pub sandbox: Option<String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// CPU time used since start.
    pub cpu_nanoseconds: u64,
    pub memory_working_set_bytes: u64,
    pub memory_usage_bytes: u64,
    pub at: DateTime<Utc>,
}

pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;
pub trait ReadWrite: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> ReadWrite for T {}
pub type BoxStream = Box<dyn ReadWrite + Send + Unpin>;

/// The caller's ends: the runtime reads `stdin`, writes `stdout` and `stderr`, and follows `resize`.
/// An end that is `None` is not wanted. With a terminal everything comes on `stdout`.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<BoxRead>,
    pub stdout: Option<BoxWrite>,
    pub stderr: Option<BoxWrite>,
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub tty: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

#[derive(Clone, Debug, Default)]
pub struct Image {
    /// What `create_container` takes, and the `imageID` of a container's status.
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// The image's `USER`, for runAsNonRoot.
    pub user: String,
}

#[derive(Clone, Debug, Default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
}

/// One line of a container's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub at: DateTime<Utc>,
    pub stderr: bool,
    /// Without the newline.
    pub text: Vec<u8>,
}

/// A log in memory: the lines so far, and a count that changes when there are more.
pub struct MemoryLog {
    pub lines: Vec<LogLine>,
    pub changed: watch::Receiver<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    pub kind: ContainerEventKind,
    pub container: String,
    pub sandbox: String,
    pub pod_uid: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    Created,
    Started,
    Exited,
    Removed,
}

/// Opens the runtime that `config` names. Its background work is tasks of `tasks`.
pub(crate) async fn open(config: &Config, tasks: &Tasks) -> Result<Arc<dyn Runtime>> {
    match &config.runtime {
        RuntimeKind::Simulated => {
            let simulation = config.simulation.clone();
            let simulation = simulation.unwrap_or_else(|| simulated::Simulation::immediate(config.clock));
            Ok(Arc::new(simulated::SimulatedRuntime::new(simulation, tasks.clone())))
        }
        RuntimeKind::Oci { root, images, node_rootfs } => {
            let mut oci = OciConfig::new(root);
            oci.archives = images.clone();
            oci.node_rootfs = *node_rootfs;
            oci.cluster_cidr.clone_from(&config.cluster_cidr);
            // Pods that see the node's root must not see what the cluster keeps: keys above all.
            oci.hidden.push(config.root_dir.clone());
            oci.hidden.extend(images.parent().map(Into::into));
            Ok(Arc::new(OciRuntime::open(oci, config.clock, tasks.clone()).await?))
        }
        RuntimeKind::Cri { endpoint } => {
            Ok(Arc::new(cri::CriRuntime::connect(endpoint, config.clock, tasks)?))
        }
    }
}

/// True if `have` has all of `want`.
pub(crate) fn labels_match(want: &BTreeMap<String, String>, have: &BTreeMap<String, String>) -> bool {
    want.iter().all(|(key, value)| have.get(key) == Some(value))
}
