//! What the runtime keeps of a sandbox and of a container on disk, and what it shows of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::runtime::{Container, ContainerState, Sandbox, SandboxState};
use crate::shim::{EXIT_FILE, Exit, ProcessIdentity, STARTED_FILE, Started, write_json_atomically};

const RECORD_FILE: &str = "record.json";

/// A sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) attempt: u32,
    pub(super) hostname: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) host_network: bool,
    pub(super) host_pid: bool,
    pub(super) host_ipc: bool,
    pub(super) share_process_namespace: bool,
    pub(super) log_dir: PathBuf,
    pub(super) cgroup_parent: String,
    pub(super) created_at: DateTime<Utc>,
    /// The process that holds the namespaces; `None` before it runs and after stop.
    pub(super) holder: Option<ProcessIdentity>,
    pub(super) address: Option<IpAddr>,
}

impl SandboxRecord {
    pub(super) fn namespace_path(&self, kind: &str) -> Option<PathBuf> {
        self.holder.as_ref().map(|holder| PathBuf::from(format!("/proc/{}/ns/{kind}", holder.pid)))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.holder.as_ref().is_some_and(ProcessIdentity::is_alive)
    }

    pub(super) fn view(&self) -> Sandbox {
        let ready = self.is_ready();
        Sandbox {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            attempt: self.attempt,
            state: if ready { SandboxState::Ready } else { SandboxState::NotReady },
            created_at: self.created_at,
            ips: self.address.into_iter().collect(),
            netns: if ready && !self.host_network { self.namespace_path("net") } else { None },
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// A container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) pod_uid: String,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) image: String,
    pub(super) image_id: String,
    /// As it is shown: with a digest where there is one.
    pub(super) image_shown: String,
    pub(super) created_at: DateTime<Utc>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) log_path: Option<PathBuf>,
    pub(super) stop_signal: String,
    pub(super) cgroup: String,
}

/// A container with what its shim wrote.
pub(super) struct Entry {
    pub(super) record: ContainerRecord,
    pub(super) started: Option<Started>,
    /// Changes once, when it has ended.
    pub(super) exit: watch::Sender<Option<Exit>>,
}

impl Entry {
    pub(super) fn new(record: ContainerRecord) -> Self {
        Self { record, started: None, exit: watch::Sender::new(None) }
    }

    /// As found in a container's folder after a restart.
    pub(super) fn load(folder: &Path) -> Option<Self> {
        let record = read(&folder.join(RECORD_FILE))?;
        let exit = watch::Sender::new(read(&folder.join(EXIT_FILE)));
        Some(Self { record, started: read(&folder.join(STARTED_FILE)), exit })
    }

    pub(super) fn state(&self) -> ContainerState {
        match (&self.started, &*self.exit.borrow()) {
            (_, Some(_)) => ContainerState::Exited,
            (Some(_), None) => ContainerState::Running,
            (None, None) => ContainerState::Created,
        }
    }

    pub(super) fn view(&self) -> Container {
        let exit = self.exit.borrow().clone();
        let state = self.state();
        let running = state == ContainerState::Running;
        let record = &self.record;
        Container {
            id: record.id.clone(),
            sandbox: record.sandbox.clone(),
            name: record.name.clone(),
            attempt: record.attempt,
            state,
            pid: self.started.as_ref().filter(|_| running).map(|started| started.pid),
            created_at: record.created_at,
            started_at: self.started.as_ref().map(|started| started.at),
            finished_at: exit.as_ref().map(|exit| exit.at),
            exit_code: exit.as_ref().map(|exit| exit.code),
            reason: exit.as_ref().map(reason).unwrap_or_default().to_owned(),
            message: exit.map(|exit| exit.message).unwrap_or_default(),
            image: record.image.clone(),
            image_id: record.image_shown.clone(),
            log_path: record.log_path.clone(),
            labels: record.labels.clone(),
            annotations: record.annotations.clone(),
        }
    }
}

fn reason(exit: &Exit) -> &'static str {
    match (exit.oom_killed, exit.message.is_empty(), exit.code) {
        (true, _, _) => "OOMKilled",
        (false, false, _) => "ContainerCannotRun",
        (false, true, 0) => "Completed",
        (false, true, _) => "Error",
    }
}

pub(super) fn save<T: Serialize>(folder: &Path, record: &T) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    write_json_atomically(&folder.join(RECORD_FILE), record)
}

pub(super) fn load_sandbox(folder: &Path) -> Option<SandboxRecord> {
    read(&folder.join(RECORD_FILE))
}

pub(super) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
