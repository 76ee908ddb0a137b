//! The single-threaded side of the embedded runtime: this same binary, run again as `shim …`.
//!
//! Namespaces are made by raw `clone` and `unshare`, which is only sound in a process with one thread, and a
//! container must outlive the agent that started it. So each container has a shim (`container`) that makes
//! it, copies its output to the log, waits for it and writes down how it ended; each sandbox has a holder
//! (`pause`) that owns the namespaces its containers join; and each exec has a helper (`exec`). They talk
//! with the agent in frames (`frame`) over pipes and one Unix socket, moved by one poll loop (`pump`).
//! Deliberately not here: any decision; the agent writes a plan file and the shim does what it says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

mod container;
mod exec;
pub(crate) mod frame;
mod log_file;
mod pause;
mod pump;

/// Name of the first argument that makes this binary a shim.
pub(crate) const ARGUMENT: &str = "shim";
/// Files of a container's folder that shim and agent share.
pub(crate) const PLAN_FILE: &str = "plan.json";
pub(crate) const STARTED_FILE: &str = "started.json";
pub(crate) const EXIT_FILE: &str = "exit.json";
pub(crate) const ATTACH_SOCKET: &str = "attach.sock";
/// What the shim has to say that has no other place, for a person to read.
pub(crate) const SHIM_LOG_FILE: &str = "shim.log";

/// Why a shim ended without doing its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("{doing}: {source}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{doing}: {source}")]
    Decode {
        doing: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{message}")]
    Container { message: String },
    #[error("usage: shim container|exec|pause PLAN")]
    Usage,
}

impl ShimError {
    fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    fn os(doing: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let doing = doing.into();
        move |errno| Self::Io { doing, source: errno.into() }
    }
}

/// How a container's root filesystem is mounted, in the shim's own mount namespace, so that the mounts go
/// when the last process does, whatever happens to the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootfsPlan {
    /// Folder that relative `lower` entries start from; short names keep the option below a page.
    pub(crate) lower_base: PathBuf,
    /// Top-most first.
    pub(crate) lower: Vec<PathBuf>,
    /// Where the overlay is mounted.
    pub(crate) target: PathBuf,
    /// Holds `upper` and `work`.
    pub(crate) private: PathBuf,
    /// `private` is a memory filesystem: when the data folder lies inside the lower one, which overlayfs refuses.
    pub(crate) private_in_memory: bool,
    /// Paths of the lower filesystem that the container must not see.
    pub(crate) hidden: Vec<PathBuf>,
}

/// What the shim of a container needs; the OCI configuration is `config.json` beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerPlan {
    pub(crate) id: String,
    /// Folder where libcontainer keeps its states.
    pub(crate) state_root: PathBuf,
    pub(crate) rootfs: RootfsPlan,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    pub(crate) oom_score_adj: Option<i32>,
    /// Path of the container's own cgroup below the cgroup roots.
    pub(crate) cgroup: String,
}

/// What the helper of an exec needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExecPlan {
    pub(crate) id: String,
    pub(crate) state_root: PathBuf,
    /// An OCI process description, removed by the helper once read.
    pub(crate) process: PathBuf,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
}

/// What the holder of a sandbox's namespaces needs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PausePlan {
    /// Empty: the node's.
    pub(crate) hostname: String,
    pub(crate) own_network: bool,
    pub(crate) own_ipc: bool,
    /// One pid namespace for all containers, with the holder as its first process.
    pub(crate) own_pid: bool,
    pub(crate) sysctls: Vec<(String, String)>,
}

/// The address of the sandbox, told to the holder once the link is in its namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AddressPlan {
    pub(crate) link: String,
    pub(crate) address: std::net::IpAddr,
    pub(crate) prefix_len: u8,
    pub(crate) gateway: std::net::IpAddr,
}

/// One line on stdout by which a shim reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Report {
    Ready { pid: i32 },
    Failed { message: String },
}

/// Written when the container runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) shim: ProcessIdentity,
    pub(crate) at: DateTime<Utc>,
}

/// Written when it has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) oom_killed: bool,
    pub(crate) at: DateTime<Utc>,
    /// Why it could not run at all; empty otherwise.
    #[serde(default)]
    pub(crate) message: String,
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat`, clock ticks after boot.
    pub(crate) start_time: u64,
    pub(crate) boot_id: String,
}

impl ProcessIdentity {
    /// The identity of a process that is alive now; a zombie is not.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command in parentheses may hold anything; fields are counted from its end.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(fields.first(), Some(&"Z" | &"X")) {
            return None;
        }
        let start_time = fields.get(19)?.parse().ok()?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { pid, start_time, boot_id })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now == *self)
    }
}

/// Becomes a shim and never returns if this process was started as one.
///
/// To be called first in `main`, before any thread or runtime exists.
pub fn main_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == ARGUMENT) {
        std::process::exit(run(&arguments.collect::<Vec<_>>()));
    }
}

fn run(arguments: &[OsString]) -> i32 {
    let done = match arguments {
        [what, plan] if what == "container" => container::run(Path::new(plan)),
        [what, plan] if what == "exec" => exec::run(Path::new(plan)),
        [what, plan] if what == "pause" => pause::run(Path::new(plan)),
        _ => Err(ShimError::Usage),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("shim: {error}");
            1
        }
    }
}

/// Writes `value` so that a reader sees all of it or nothing.
pub(crate) fn write_json_atomically<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, serde_json::to_vec(value)?)?;
    std::fs::rename(partial, path)
}

fn read_plan<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ShimError> {
    let doing = format!("reading the plan {}", path.display());
    let text = std::fs::read(path).map_err(ShimError::io(doing.clone()))?;
    serde_json::from_slice(&text).map_err(|source| ShimError::Decode { doing, source })
}

fn report(report: &Report) -> Result<(), ShimError> {
    use std::io::Write;
    let mut line = serde_json::to_vec(report)
        .map_err(|source| ShimError::Decode { doing: "encoding the report".into(), source })?;
    line.push(b'\n');
    let mut out = std::io::stdout();
    out.write_all(&line).and_then(|()| out.flush()).map_err(ShimError::io("reporting to the agent"))
}

/// Gives stdin and stdout back, so that the agent sees their end and the shim depends on nobody.
fn leave_standard_streams() -> Result<(), ShimError> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(ShimError::io("opening /dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(ShimError::os("leaving stdin"))?;
    nix::unistd::dup2_stdout(&null).map_err(ShimError::os("leaving stdout"))
}

/// An error with all its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Wall time. The shim has no runtime whose clock could be injected: it lives in real time only.
fn now() -> DateTime<Utc> {
    component_base::clock::Clock::system().now()
}

/// SIGPIPE as a program expects it for what is executed from here, or ignored for the shim itself.
///
/// Rust's start-up ignores the signal, and an ignored signal stays ignored across exec.
fn set_broken_pipe_signal(ignored: bool) -> Result<(), ShimError> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    let disposition = if ignored { SigHandler::SigIgn } else { SigHandler::SigDfl };
    #[expect(unsafe_code, reason = "no handler is installed, and the process has one thread")]
    let set = unsafe { signal(Signal::SIGPIPE, disposition) };
    set.map(drop).map_err(ShimError::os("setting the action for SIGPIPE"))
}
