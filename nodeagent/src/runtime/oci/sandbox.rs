//! Sandboxes: a holder of namespaces, a link to the node's bridge, and the files its containers share.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::cgroup::Cgroup;
use super::record::{self, SandboxRecord};
use super::{OciRuntime, process};
use crate::bridge::{BridgeError, POD_LINK};
use crate::runtime::{BoxStream, DnsConfig, IpConfig, NetworkMode, Result, RuntimeError, SandboxConfig};
use crate::shim::{AddressPlan, PausePlan, ProcessIdentity, write_json_atomically};

/// How long a port of a sandbox may take to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

impl From<BridgeError> for RuntimeError {
    fn from(error: BridgeError) -> Self {
        Self::Failed { doing: "setting up the pod's network".into(), message: super::chain(&error) }
    }
}

impl OciRuntime {
    pub(super) fn sandbox_folder(&self, id: &str) -> PathBuf {
        self.root.join("sandboxes").join(id)
    }

    pub(super) async fn make_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let id = super::new_id();
        let record = new_record(&id, config, self.clock.now());
        match self.fill_sandbox(record, config).await {
            Ok(record) => {
                self.state.lock().sandboxes.insert(id.clone(), record);
                Ok(id)
            }
            Err(error) => {
                self.discard_sandbox(&id, &config.cgroup_parent);
                Err(error)
            }
        }
    }

    async fn fill_sandbox(&self, mut record: SandboxRecord, config: &SandboxConfig) -> Result<SandboxRecord> {
        let folder = self.sandbox_folder(&record.id);
        std::fs::create_dir_all(&folder).map_err(RuntimeError::io("making the sandbox's folder"))?;
        write_shared_files(&folder, config).map_err(RuntimeError::io("writing the sandbox's files"))?;
        if !config.cgroup_parent.is_empty() {
            let cgroup = Cgroup::at(&config.cgroup_parent);
            cgroup.create(&config.resources).map_err(RuntimeError::io("making the pod's cgroup"))?;
        }
        let plan_file = folder.join("pause.json");
        write_json_atomically(&plan_file, &pause_plan(config))
            .map_err(RuntimeError::io("writing the sandbox's plan"))?;
        let mut shim = process::spawn(&self.program, "pause", plan_file.as_os_str(), &folder)?;
        let doing = "starting the sandbox";
        let pid = process::report(&mut shim.stdout, doing, &folder).await?;
        record.holder = ProcessIdentity::of(pid);
        // From here on the record knows what to clean up.
        record::save(&folder, &record).map_err(RuntimeError::io("noting the sandbox"))?;
        self.state.lock().sandboxes.insert(record.id.clone(), record.clone());
        let line = match self.link(&record, config, pid)? {
            Some(plan) => serde_json::to_string(&plan).unwrap_or_default(),
            None => String::new(),
        };
        let told = shim.stdin.write_all(format!("{line}\n").as_bytes()).await;
        told.map_err(RuntimeError::io(doing))?;
        if !line.is_empty() {
            process::report(&mut shim.stdout, doing, &folder).await?;
        }
        record::save(&folder, &record).map_err(RuntimeError::io("noting the sandbox"))?;
        Ok(record)
    }

    /// Puts a link into the sandbox and says which address it shall have.
    fn link(&self, record: &SandboxRecord, config: &SandboxConfig, pid: i32) -> Result<Option<AddressPlan>> {
        let given = match &config.network {
            NetworkMode::Host | NetworkMode::Isolated => return Ok(None),
            NetworkMode::Pod(given) => given,
        };
        let IpConfig { address, prefix_len, gateway } = given.clone();
        self.attach_to_bridge(&record.id, pid, given)?;
        Ok(Some(AddressPlan { link: POD_LINK.to_owned(), address, prefix_len, gateway }))
    }

    /// What a failed start left.
    fn discard_sandbox(&self, id: &str, cgroup_parent: &str) {
        let record = self.state.lock().sandboxes.remove(id);
        if let Some(record) = record {
            kill_holder(&record);
            self.unlink(&record);
        }
        if let Err(error) = self.remove_idle_bridge() {
            tracing::warn!("{}", super::chain(&error));
        }
        Cgroup::at(cgroup_parent).remove();
        drop(std::fs::remove_dir_all(self.sandbox_folder(id)));
    }

    fn unlink(&self, record: &SandboxRecord) {
        let done = record.address.map_or(Ok(()), |_| crate::bridge::detach(&record.id));
        if let Err(error) = done {
            tracing::warn!(sandbox = record.id, "{}", super::chain(&error));
        }
    }

    pub(super) async fn end_sandbox(&self, id: &str) -> Result<()> {
        let Some(mut record) = self.state.lock().sandboxes.get(id).cloned() else { return Ok(()) };
        for container in self.containers_of(id) {
            self.end_container(&container, Duration::ZERO).await?;
        }
        self.unlink(&record);
        kill_holder(&record);
        record.holder = None;
        record.address = None;
        record::save(&self.sandbox_folder(id), &record).map_err(RuntimeError::io("noting the stop"))?;
        self.state.lock().sandboxes.insert(id.to_owned(), record);
        Ok(())
    }

    pub(super) async fn delete_sandbox(&self, id: &str) -> Result<()> {
        self.end_sandbox(id).await?;
        for container in self.containers_of(id) {
            self.delete_container(&container).await?;
        }
        let Some(record) = self.state.lock().sandboxes.remove(id) else { return Ok(()) };
        Cgroup::at(&record.cgroup_parent).remove();
        remove_folder(&self.sandbox_folder(id)).map_err(RuntimeError::io("removing the sandbox's folder"))?;
        self.remove_idle_bridge()
    }

    /// Connects to a port on the sandbox's loopback and copies both ways.
    pub(super) async fn forward(&self, id: &str, port: u16, stream: BoxStream) -> Result<()> {
        let netns = {
            let state = self.state.lock();
            let record = state.sandboxes.get(id).ok_or_else(|| super::not_found("sandbox", id))?;
            if record.host_network { None } else { record.namespace_path("net") }
        };
        let doing = format!("connecting to port {port} of sandbox {id}");
        let connected = tokio::task::spawn_blocking(move || connect_in(netns, port)).await;
        let connected = connected.map_err(|error| RuntimeError::io(&doing)(std::io::Error::other(error)))?;
        let connected = connected.map_err(RuntimeError::io(&doing))?;
        let mut socket = tokio::net::TcpStream::from_std(connected).map_err(RuntimeError::io(&doing))?;
        let (mut near_read, mut near_write) = tokio::io::split(stream);
        let (mut far_read, mut far_write) = socket.split();
        // A caller who has said everything still wants the answer; it ends when the server does.
        let up = async {
            drop(tokio::io::copy(&mut near_read, &mut far_write).await);
            drop(far_write.shutdown().await);
            std::future::pending::<std::convert::Infallible>().await
        };
        let down = async {
            drop(tokio::io::copy(&mut far_read, &mut near_write).await);
            drop(near_write.shutdown().await);
        };
        tokio::select! {
            () = down => {}
            never = up => match never {},
        }
        Ok(())
    }
}

/// A socket belongs to the namespace of the thread that made it, so a thread of its own goes there.
fn connect_in(netns: Option<PathBuf>, port: u16) -> std::io::Result<std::net::TcpStream> {
    let connect = move || {
        if let Some(netns) = netns {
            let file = std::fs::File::open(netns)?;
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        }
        let v4 = (std::net::Ipv4Addr::LOCALHOST, port).into();
        let v6 = (std::net::Ipv6Addr::LOCALHOST, port).into();
        let stream = std::net::TcpStream::connect_timeout(&v4, CONNECT_LIMIT)
            .or_else(|error| std::net::TcpStream::connect_timeout(&v6, CONNECT_LIMIT).map_err(|_| error))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let thread = std::thread::Builder::new().name("port-forward".into()).spawn(connect)?;
    thread.join().map_err(|_| std::io::Error::other("the connecting thread panicked"))?
}

fn new_record(id: &str, config: &SandboxConfig, now: chrono::DateTime<chrono::Utc>) -> SandboxRecord {
    SandboxRecord {
        id: id.to_owned(),
        namespace: config.namespace.clone(),
        name: config.name.clone(),
        uid: config.uid.clone(),
        attempt: config.attempt,
        hostname: config.hostname.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        host_network: config.network == NetworkMode::Host,
        host_pid: config.host_pid,
        host_ipc: config.host_ipc,
        share_process_namespace: config.share_process_namespace,
        log_dir: config.log_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        created_at: now,
        holder: None,
        address: match &config.network {
            NetworkMode::Pod(given) => Some(given.address),
            NetworkMode::Host | NetworkMode::Isolated => None,
        },
    }
}

fn pause_plan(config: &SandboxConfig) -> PausePlan {
    PausePlan {
        hostname: config.hostname.clone(),
        own_network: config.network != NetworkMode::Host,
        own_ipc: !config.host_ipc,
        own_pid: config.share_process_namespace && !config.host_pid,
        sysctls: config.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

/// `resolv.conf`, `hostname`, and a folder for POSIX shared memory that all containers see.
fn write_shared_files(folder: &std::path::Path, config: &SandboxConfig) -> std::io::Result<()> {
    let resolver = if config.dns == DnsConfig::default() {
        std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
    } else {
        resolver(&config.dns)
    };
    std::fs::write(folder.join("resolv.conf"), resolver)?;
    std::fs::write(folder.join("hostname"), format!("{}\n", config.hostname))?;
    let shm = folder.join("shm");
    std::fs::create_dir_all(&shm)?;
    std::fs::set_permissions(shm, std::fs::Permissions::from_mode(0o1777))
}

fn resolver(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn kill_holder(record: &SandboxRecord) {
    if let Some(holder) = record.holder.as_ref().filter(|holder| holder.is_alive()) {
        // One that has just ended is what is wanted.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(holder.pid), nix::sys::signal::SIGKILL).ok();
    }
}

pub(super) fn remove_folder(folder: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
