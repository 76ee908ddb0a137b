//! `shim container FOLDER`: makes one container, starts it, writes its log, waits, and notes how it ended.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, pipe2};

use super::frame::Frame;
use super::log_file::{LogFile, Stream};
use super::pump::{PeerRule, Pump};
use super::{
    ATTACH_SOCKET, ContainerPlan, EXIT_FILE, Exit, PLAN_FILE, ProcessIdentity, Report, RootfsPlan,
    STARTED_FILE, ShimError, Started, chain, leave_standard_streams, now, read_plan, report,
    set_broken_pipe_signal, write_json_atomically,
};
use crate::runtime::oci::cgroup::Cgroup;

pub(super) fn run(folder: &Path) -> Result<(), ShimError> {
    let plan: ContainerPlan = read_plan(&folder.join(PLAN_FILE))?;
    match start(folder, &plan) {
        Ok(running) => {
            report(&Report::Ready { pid: running.pump.child.as_raw() })?;
            leave_standard_streams()?;
            watch(folder, &plan, running)
        }
        Err(error) => {
            let message = chain(&error);
            Cgroup::at(&plan.cgroup).remove();
            report(&Report::Failed { message })
        }
    }
}

struct Running {
    container: Container,
    pump: Pump,
}

fn start(folder: &Path, plan: &ContainerPlan) -> Result<Running, ShimError> {
    nix::unistd::setsid().ok();
    mount_rootfs(&plan.rootfs)?;
    std::env::set_current_dir(folder).map_err(ShimError::io("entering the container's folder"))?;
    let log = plan.log_path.as_deref().map(LogFile::open).transpose();
    let log = log.map_err(ShimError::io("opening the log"))?;
    let listener = listen()?;
    set_broken_pipe_signal(false)?;
    let (mut container, streams) =
        if plan.tty { create_with_terminal(folder, plan)? } else { create_with_pipes(folder, plan)? };
    set_broken_pipe_signal(true)?;
    let pid = container.pid().ok_or_else(|| failed("the container has no process"))?;
    // libcontainer's numbers are of its own version of nix.
    let pid = Pid::from_raw(pid.as_raw());
    set_oom_score(pid, plan.oom_score_adj);
    let pidfd = pidfd(pid)?;
    container.start().map_err(|error| failed(chain(&error)))?;
    note_start(folder, pid)?;
    let pump = Pump {
        child: pid,
        pidfd,
        outputs: streams.outputs,
        input: streams.input,
        terminal: streams.terminal,
        log,
        listener: Some(listener),
        peers: Vec::new(),
        rule: PeerRule::Viewers { stdin_once: plan.stdin_once },
        waiting_input: VecDeque::new(),
        input_ends: false,
    };
    Ok(Running { container, pump })
}

fn watch(folder: &Path, plan: &ContainerPlan, mut running: Running) -> Result<(), ShimError> {
    let cgroup = Cgroup::at(&plan.cgroup);
    let mut oom_killed = false;
    // What shares a pid namespace with others outlives the first process; its cgroup knows it.
    let code = running.pump.run(|| {
        oom_killed = cgroup.oom_kills() > 0;
        cgroup.kill_all();
    })?;
    if let Err(error) = running.container.delete(true) {
        eprintln!("shim: removing the container: {}", chain(&error));
    }
    cgroup.remove();
    let exit = Exit { code, oom_killed, at: now(), message: String::new() };
    write_json_atomically(&folder.join(EXIT_FILE), &exit).map_err(ShimError::io("noting the exit"))?;
    running.pump.say_goodbye(&Frame::Exit(code));
    Ok(())
}

struct ProcessStreams {
    outputs: Vec<Option<(Stream, OwnedFd)>>,
    input: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

fn builder(plan: &ContainerPlan) -> Result<ContainerBuilder, ShimError> {
    ContainerBuilder::new(plan.id.clone(), SyscallType::default())
        .with_root_path(&plan.state_root)
        .map_err(|error| failed(chain(&error)))
}

fn create(builder: ContainerBuilder, folder: &Path) -> Result<Container, ShimError> {
    builder
        .as_init(folder)
        .with_systemd(false)
        .as_sibling(false)
        .with_detach(true)
        .build()
        .map_err(|error| failed(chain(&error)))
}

fn create_with_pipes(folder: &Path, plan: &ContainerPlan) -> Result<(Container, ProcessStreams), ShimError> {
    let (out_read, out_write) = pipe()?;
    let (error_read, error_write) = pipe()?;
    let (stdin, input) = if plan.stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        let null = OpenOptions::new().read(true).open("/dev/null");
        (null.map_err(ShimError::io("opening /dev/null"))?.into(), None)
    };
    let builder = builder(plan)?.with_stdin(stdin).with_stdout(out_write).with_stderr(error_write);
    let container = create(builder, folder)?;
    let outputs = vec![Some((Stream::Stdout, out_read)), Some((Stream::Stderr, error_read))];
    Ok((container, ProcessStreams { outputs, input, terminal: None }))
}

fn create_with_terminal(
    folder: &Path,
    plan: &ContainerPlan,
) -> Result<(Container, ProcessStreams), ShimError> {
    let console = Console::listen(&folder.join("console.sock"))?;
    let builder = builder(plan)?.with_console_socket(Some(&console.path));
    let container = create(builder, folder)?;
    let (outputs, input, terminal) = terminal_streams(console.receive()?, plan.stdin)?;
    Ok((container, ProcessStreams { outputs, input, terminal }))
}

type TerminalStreams = (Vec<Option<(Stream, OwnedFd)>>, Option<OwnedFd>, Option<OwnedFd>);

/// A terminal's master side as output, as input if wanted, and for its size.
pub(super) fn terminal_streams(master: OwnedFd, stdin: bool) -> Result<TerminalStreams, ShimError> {
    let copy = || master.try_clone().map_err(ShimError::io("copying the terminal"));
    let output = copy()?;
    let input = if stdin { Some(copy()?) } else { None };
    Ok((vec![Some((Stream::Stdout, output))], input, Some(master)))
}

/// The socket over which the container's terminal comes out.
pub(super) struct Console {
    pub(super) path: std::path::PathBuf,
    listener: UnixListener,
}

impl Console {
    pub(super) fn listen(path: &Path) -> Result<Self, ShimError> {
        drop(std::fs::remove_file(path));
        // The name of a socket has at most 108 bytes, so it is bound relative to its folder.
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::env::set_current_dir(folder).map_err(ShimError::io("entering the container's folder"))?;
        let name = path.file_name().unwrap_or_default();
        let listener = UnixListener::bind(name).map_err(ShimError::io("listening for the terminal"))?;
        Ok(Self { path: path.to_owned(), listener })
    }

    pub(super) fn receive(self) -> Result<OwnedFd, ShimError> {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let (stream, _) = self.listener.accept().map_err(ShimError::io("waiting for the terminal"))?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 64];
        let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
        recvmsg(&stream, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(|errno| ShimError::io("receiving the terminal")(errno.into()))?;
        drop(std::fs::remove_file(&self.path));
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        descriptor.ok_or_else(|| failed("the container sent no terminal"))
    }
}

/// Mounts the root filesystem where only this process and the container see it.
fn mount_rootfs(plan: &RootfsPlan) -> Result<(), ShimError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(ShimError::os("making a mount namespace"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(ShimError::os("separating the mount namespace"))?;
    if plan.private_in_memory {
        mount(Some("coxswain"), &plan.private, Some("tmpfs"), MsFlags::empty(), Some("mode=0700"))
            .map_err(ShimError::os("mounting memory for the container's changes"))?;
    }
    let (upper, work) = (plan.private.join("upper"), plan.private.join("work"));
    for folder in [&upper, &work] {
        std::fs::create_dir_all(folder).map_err(ShimError::io("making the container's layer"))?;
    }
    for hidden in &plan.hidden {
        hide(&upper, hidden).map_err(ShimError::io(format!("hiding {}", hidden.display())))?;
    }
    std::env::set_current_dir(&plan.lower_base).map_err(ShimError::io("entering the layers' folder"))?;
    let lower: Vec<_> = plan.lower.iter().map(|path| escape(&path.to_string_lossy())).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        escape(&upper.to_string_lossy()),
        escape(&work.to_string_lossy())
    );
    mount(Some("overlay"), &plan.target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(ShimError::os(format!("mounting the root filesystem ({options})")))
}

fn escape(path: &str) -> String {
    path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

/// Puts a whiteout over an absolute path of the lower filesystem, folders above it as they are below.
fn hide(upper: &Path, hidden: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let relative = hidden.strip_prefix("/").unwrap_or(hidden);
    let (mut here, mut below) = (upper.to_owned(), std::path::PathBuf::from("/"));
    for part in relative.parent().into_iter().flat_map(Path::components) {
        here.push(part);
        below.push(part);
        if !here.exists() {
            let like = std::fs::metadata(&below)?;
            std::fs::create_dir(&here)?;
            std::os::unix::fs::chown(&here, Some(like.uid()), Some(like.gid()))?;
            std::fs::set_permissions(&here, std::fs::Permissions::from_mode(like.mode()))?;
        }
    }
    crate::image::make_whiteout(&upper.join(relative))
}

fn listen() -> Result<UnixListener, ShimError> {
    drop(std::fs::remove_file(ATTACH_SOCKET));
    let listener = UnixListener::bind(ATTACH_SOCKET).map_err(ShimError::io("listening for attach"))?;
    listener.set_nonblocking(true).map_err(ShimError::io("listening for attach"))?;
    Ok(listener)
}

fn note_start(folder: &Path, pid: Pid) -> Result<(), ShimError> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let shim = ProcessIdentity::of(own).unwrap_or_default();
    let started = Started { pid: pid.as_raw(), shim, at: now() };
    write_json_atomically(&folder.join(STARTED_FILE), &started).map_err(ShimError::io("noting the start"))
}

/// A refused value (a negative one without CAP_SYS_RESOURCE) is a warning, as it is only a preference.
fn set_oom_score(pid: Pid, score: Option<i32>) {
    let Some(score) = score else { return };
    let file = OpenOptions::new().write(true).open(format!("/proc/{pid}/oom_score_adj"));
    if let Err(error) = file.and_then(|mut file| file.write_all(score.to_string().as_bytes())) {
        eprintln!("shim: oom_score_adj {score} was refused: {error}");
    }
}

pub(super) fn pidfd(pid: Pid) -> Result<OwnedFd, ShimError> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or_else(|| failed("no such process"))?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| ShimError::io("watching the process")(errno.into()))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), ShimError> {
    pipe2(OFlag::O_CLOEXEC).map_err(ShimError::os("making a pipe"))
}

pub(super) fn failed(message: impl Into<String>) -> ShimError {
    ShimError::Container { message: message.into() }
}
