//! Containers: created on disk, run by a shim, watched by its pidfd, ended by signal and cgroup.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::cgroup::Cgroup;
use super::record::{self, ContainerRecord, Entry, SandboxRecord};
use super::sandbox::remove_folder;
use super::spec::{self, Namespaces, PidNamespace};
use super::{OciRuntime, not_found, process};
use crate::image::StoredImage;
use crate::image::user::{Accounts, User};
use crate::runtime::{
    ContainerConfig, ContainerEventKind, ContainerState, Mount, Propagation, Result, RuntimeError, Stats,
};
use crate::shim::{
    ContainerPlan, EXIT_FILE, Exit, PLAN_FILE, RootfsPlan, STARTED_FILE, Started, write_json_atomically,
};

/// After SIGKILL; longer, and the kernel cannot end it (a disk that hangs).
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// The exit code of what could not be started, as the kubelet shows it.
const CANNOT_RUN_CODE: i32 = 128;

impl OciRuntime {
    pub(super) fn container_folder(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    pub(super) fn containers_of(&self, sandbox: &str) -> Vec<String> {
        let state = self.state.lock();
        let of = state.containers.values().filter(|entry| entry.record.sandbox == sandbox);
        of.map(|entry| entry.record.id.clone()).collect()
    }

    pub(super) fn make_container(&self, sandbox: &str, config: &ContainerConfig) -> Result<String> {
        let sandbox = self.state.lock().sandboxes.get(sandbox).cloned();
        let sandbox = sandbox.ok_or_else(|| not_found("sandbox", "of the container"))?;
        if !sandbox.is_ready() {
            let state = "not ready".to_owned();
            return Err(RuntimeError::WrongState { what: "sandbox", id: sandbox.id, state });
        }
        let image = self.images.find(&config.image)?;
        let image = image.ok_or_else(|| RuntimeError::ImageNotPresent { image: config.image.clone() })?;
        let id = super::new_id();
        let folder = self.container_folder(&id);
        let made = self.write_container(&id, &folder, &sandbox, config, &image);
        if made.is_err() {
            drop(std::fs::remove_dir_all(&folder));
        }
        let entry = Entry::new(made?);
        let uid = entry.record.pod_uid.clone();
        self.state.lock().containers.insert(id.clone(), entry);
        self.tell(ContainerEventKind::Created, &id, &sandbox.id, &uid);
        Ok(id)
    }

    fn write_container(
        &self,
        id: &str,
        folder: &Path,
        sandbox: &SandboxRecord,
        config: &ContainerConfig,
        image: &StoredImage,
    ) -> Result<ContainerRecord> {
        let target = folder.join("rootfs");
        std::fs::create_dir_all(&target).map_err(RuntimeError::io("making the container's folder"))?;
        std::fs::create_dir_all(folder.join("private")).map_err(RuntimeError::io("making its layer"))?;
        let rootfs = self.rootfs_plan(folder, image);
        let user = resolve_user(&rootfs, config, image)?;
        let cgroup = format!("{}/{id}", sandbox.cgroup_parent.trim_end_matches('/'));
        let mounts = self.own_mounts(sandbox);
        let input = spec::Input {
            config,
            image: &image.config,
            user: &user,
            limits: &self.limits,
            rootfs: &target,
            hostname: &sandbox.hostname,
            namespaces: namespaces(sandbox),
            cgroup: &cgroup,
            own_mounts: &mounts,
        };
        write_json(folder, "config.json", &spec::spec(&input)?)?;
        let log_path =
            (!config.log_path.as_os_str().is_empty()).then(|| sandbox.log_dir.join(&config.log_path));
        let plan = ContainerPlan {
            id: id.to_owned(),
            state_root: self.root.join("states"),
            rootfs,
            log_path: log_path.clone(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            oom_score_adj: config.resources.oom_score_adj,
            cgroup: cgroup.clone(),
        };
        write_json(folder, PLAN_FILE, &plan)?;
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.id.clone(),
            pod_uid: sandbox.uid.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            image: config.image.clone(),
            image_id: image.id.clone(),
            image_shown: image.digests.first().unwrap_or(&image.id).clone(),
            created_at: self.clock.now(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path,
            stop_signal: image.config.stop_signal.clone(),
            cgroup,
        };
        record::save(folder, &record).map_err(RuntimeError::io("noting the container"))?;
        Ok(record)
    }

    /// The image's layers under a private one; for the node's own filesystem, that with the data hidden.
    fn rootfs_plan(&self, folder: &Path, image: &StoredImage) -> RootfsPlan {
        let (target, private) = (folder.join("rootfs"), folder.join("private"));
        if image.id == crate::image::NODE_ROOTFS {
            let hidden = self.hidden.iter().filter(|path| on_root_filesystem(path)).cloned().collect();
            // overlayfs refuses an upper folder inside the lower one.
            let private_in_memory = on_root_filesystem(folder);
            let (lower_base, lower) = (PathBuf::from("/"), vec![PathBuf::from("/")]);
            return RootfsPlan { lower_base, lower, target, private, private_in_memory, hidden };
        }
        let mut lower: Vec<PathBuf> = image.layers.iter().rev().map(PathBuf::from).collect();
        if lower.is_empty() {
            // An image of nothing: overlayfs still wants a folder.
            lower.push(folder.join("rootfs"));
        }
        let lower_base = self.images.layers_dir();
        RootfsPlan { lower_base, lower, target, private, ..RootfsPlan::default() }
    }

    fn own_mounts(&self, sandbox: &SandboxRecord) -> Vec<Mount> {
        let folder = self.sandbox_folder(&sandbox.id);
        let mount = |name: &str, to: &str| Mount {
            host_path: folder.join(name),
            container_path: PathBuf::from(to),
            read_only: false,
            propagation: Propagation::Private,
        };
        let shm = if sandbox.host_ipc {
            Mount { host_path: PathBuf::from("/dev/shm"), ..mount("", "/dev/shm") }
        } else {
            mount("shm", "/dev/shm")
        };
        let mut mounts = vec![shm, mount("resolv.conf", "/etc/resolv.conf")];
        if !sandbox.hostname.is_empty() {
            mounts.push(mount("hostname", "/etc/hostname"));
        }
        mounts
    }

    pub(super) async fn run_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let folder = self.container_folder(id);
        match self.entry(id, Entry::state)? {
            ContainerState::Created => {}
            ContainerState::Running => return Ok(()),
            state => {
                let state = format!("{state:?}").to_lowercase();
                return Err(RuntimeError::WrongState { what: "container", id: id.to_owned(), state });
            }
        }
        let mut shim = process::spawn(&self.program, "container", folder.as_os_str(), &folder)?;
        let reported = process::report(&mut shim.stdout, "starting the container", &folder).await;
        let started: Option<Started> = record::read(&folder.join(STARTED_FILE));
        match (reported, started) {
            (Ok(_), Some(started)) => {
                self.entry_mut(id, |entry| entry.started = Some(started.clone()))?;
                self.tell_of(ContainerEventKind::Started, id);
                self.watch(id, &started);
                Ok(())
            }
            (Ok(_), None) => Err(RuntimeError::Failed {
                doing: "starting the container".into(),
                message: "its shim wrote no record".into(),
            }),
            (Err(error), _) => {
                // A shim that hangs must not start it later.
                drop(shim.child.start_kill());
                let message = error.to_string();
                self.note_exit(
                    id,
                    Exit { code: CANNOT_RUN_CODE, oom_killed: false, at: self.clock.now(), message },
                );
                Err(error)
            }
        }
    }

    /// Waits for the shim's end in a task of its own; the shim writes the exit before it goes.
    pub(super) fn watch(self: &Arc<Self>, id: &str, started: &Started) {
        let fd = started.shim.is_alive().then(|| pidfd(started.shim.pid)).flatten();
        let (runtime, id) = (Arc::clone(self), id.to_owned());
        self.tasks.spawn_until_shutdown("container exit", async move {
            if let Some(fd) = fd.and_then(register) {
                // An error means that there is nothing to wait for.
                drop(fd.readable().await);
            }
            runtime.collect_exit(&id);
        });
    }

    fn collect_exit(&self, id: &str) {
        let exit = record::read(&self.container_folder(id).join(EXIT_FILE));
        let exit = exit.unwrap_or_else(|| {
            if let Ok(cgroup) = self.entry(id, |entry| entry.record.cgroup.clone()) {
                let cgroup = Cgroup::at(&cgroup);
                cgroup.kill_all();
                cgroup.remove();
            }
            let message = "its shim was killed, and it with it".to_owned();
            Exit { code: 137, oom_killed: false, at: self.clock.now(), message }
        });
        self.note_exit(id, exit);
    }

    fn note_exit(&self, id: &str, exit: Exit) {
        let file = self.container_folder(id).join(EXIT_FILE);
        let written = if file.exists() { Ok(()) } else { write_json_atomically(&file, &exit) };
        if let Err(error) = written {
            tracing::warn!(container = id, "cannot note the exit: {error}");
        }
        let noted = self.entry_mut(id, |entry| drop(entry.exit.send_replace(Some(exit))));
        if noted.is_ok() {
            self.tell_of(ContainerEventKind::Exited, id);
        }
    }

    pub(super) async fn end_container(&self, id: &str, grace: Duration) -> Result<()> {
        let (state, mut exit, pid, signal, cgroup) = self.entry(id, |entry| {
            let pid = entry.started.as_ref().map(|started| started.pid);
            let signal = stop_signal(&entry.record.stop_signal);
            (entry.state(), entry.exit.subscribe(), pid, signal, entry.record.cgroup.clone())
        })?;
        let Some(pid) = pid.filter(|_| state == ContainerState::Running) else { return Ok(()) };
        if !grace.is_zero() {
            // Gone already is as good.
            kill(Pid::from_raw(pid), signal).ok();
            if tokio::time::timeout(grace, ended(&mut exit)).await.is_ok() {
                return Ok(());
            }
        }
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        let killed = tokio::time::timeout(Duration::from_secs(2), ended(&mut exit)).await;
        if killed.is_err() {
            let all = tokio::task::spawn_blocking(move || Cgroup::at(&cgroup).kill_all());
            drop(all.await);
        }
        let limit = KILL_LIMIT;
        tokio::time::timeout(limit, ended(&mut exit))
            .await
            .map_err(|_| RuntimeError::TimedOut { doing: format!("killing container {id}"), limit })
    }

    pub(super) async fn delete_container(&self, id: &str) -> Result<()> {
        if self.entry(id, Entry::state).is_err() {
            return Ok(());
        }
        self.end_container(id, Duration::ZERO).await?;
        self.tell_of(ContainerEventKind::Removed, id);
        let Some(entry) = self.state.lock().containers.remove(id) else { return Ok(()) };
        let folders = [self.container_folder(id), self.root.join("states").join(id)];
        let removed = tokio::task::spawn_blocking(move || {
            let cgroup = Cgroup::at(&entry.record.cgroup);
            cgroup.kill_all();
            cgroup.remove();
            folders.iter().try_for_each(|folder| remove_folder(folder))
        });
        let doing = "removing the container";
        removed
            .await
            .map_err(|error| RuntimeError::io(doing)(std::io::Error::other(error)))?
            .map_err(RuntimeError::io(doing))
    }

    pub(super) fn figures(&self, id: &str) -> Result<Stats> {
        let cgroup = self.entry(id, |entry| entry.record.cgroup.clone())?;
        let usage = Cgroup::at(&cgroup).usage();
        Ok(Stats {
            cpu_nanoseconds: usage.cpu_nanoseconds,
            memory_working_set_bytes: usage.memory_bytes.saturating_sub(usage.inactive_file_bytes),
            memory_usage_bytes: usage.memory_bytes,
            at: self.clock.now(),
        })
    }
}

fn register(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "the descriptor is owned, so it stays open and the same")]
    let registered = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) };
    registered.ok()
}

async fn ended(exit: &mut watch::Receiver<Option<Exit>>) {
    // The sender goes with its container, which then has ended, too.
    drop(exit.wait_for(Option::is_some).await);
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

fn stop_signal(name: &str) -> Signal {
    let named = format!("SIG{}", name.trim_start_matches("SIG"));
    let by_number = name.parse().ok().and_then(|number: i32| Signal::try_from(number).ok());
    by_number.or_else(|| named.parse().ok()).unwrap_or(Signal::SIGTERM)
}

fn namespaces(sandbox: &SandboxRecord) -> Namespaces {
    let path = |wanted: bool, kind: &str| sandbox.namespace_path(kind).filter(|_| wanted);
    let shared = path(sandbox.share_process_namespace, "pid");
    Namespaces {
        network: path(!sandbox.host_network, "net"),
        ipc: path(!sandbox.host_ipc, "ipc"),
        uts: path(!sandbox.hostname.is_empty(), "uts"),
        pid: match (sandbox.host_pid, shared) {
            (true, _) => PidNamespace::Node,
            (false, Some(shared)) => PidNamespace::Join(shared),
            (false, None) => PidNamespace::Own,
        },
    }
}

/// The pod's numbers before the image's user.
fn resolve_user(rootfs: &RootfsPlan, config: &ContainerConfig, image: &StoredImage) -> Result<User> {
    let layers: Vec<_> = rootfs.lower.iter().map(|layer| rootfs.lower_base.join(layer)).collect();
    let security = &config.security;
    let wanted = match security.run_as_user {
        Some(uid) => uid.to_string(),
        None => image.config.user.clone(),
    };
    let mut user = Accounts::read(&layers)
        .resolve(&wanted)
        .map_err(|error| RuntimeError::InvalidConfig { field: "user", reason: error.to_string() })?;
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| RuntimeError::InvalidConfig {
            field: "user",
            reason: format!("{number} is no user or group id"),
        })
    };
    if let Some(gid) = security.run_as_group {
        user.gid = number(gid)?;
    }
    for group in &security.supplemental_groups {
        user.groups.push(number(*group)?);
    }
    Ok(user)
}

fn on_root_filesystem(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(path) == device(Path::new("/"))
}

fn write_json<T: serde::Serialize>(folder: &Path, name: &str, value: &T) -> Result<()> {
    write_json_atomically(&folder.join(name), value).map_err(RuntimeError::io(format!("writing {name}")))
}
