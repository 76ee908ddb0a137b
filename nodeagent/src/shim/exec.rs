//! `shim exec PLAN`: one more process in a running container, its streams in frames on stdin and stdout.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::container::{Console, failed, pidfd, terminal_streams};
use super::frame::Frame;
use super::log_file::Stream;
use super::pump::{Peer, PeerRule, Pump};
use super::{ExecPlan, ShimError, chain, read_plan, set_broken_pipe_signal};

pub(super) fn run(path: &Path) -> Result<(), ShimError> {
    let plan: ExecPlan = read_plan(path)?;
    drop(std::fs::remove_file(path));
    let peer = caller()?;
    match start(&plan) {
        Ok(mut pump) => {
            pump.peers.push(peer);
            let code = pump.run(|| {})?;
            pump.say_goodbye(&Frame::Exit(code));
        }
        Err(error) => {
            let mut pump = nobody()?;
            pump.peers.push(peer);
            pump.say_goodbye(&Frame::Failed(chain(&error)));
        }
    }
    Ok(())
}

/// The agent on the other end of stdin and stdout; both are moved away so that the process gets its own.
fn caller() -> Result<Peer, ShimError> {
    let duplicate = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(ShimError::io("taking the agent's streams"))
    };
    let read = duplicate(std::io::stdin().as_fd())?;
    let write = duplicate(std::io::stdout().as_fd())?;
    super::leave_standard_streams()?;
    Peer::new(read, write)
}

/// A pump without a process, to say one last thing.
fn nobody() -> Result<Pump, ShimError> {
    let null = OpenOptions::new().read(true).open("/dev/null").map_err(ShimError::io("opening /dev/null"))?;
    Ok(pump(Pid::from_raw(0), null.into()))
}

fn pump(child: Pid, pidfd: OwnedFd) -> Pump {
    Pump {
        child,
        pidfd,
        outputs: Vec::new(),
        input: None,
        terminal: None,
        log: None,
        listener: None,
        peers: Vec::new(),
        rule: PeerRule::Owner,
        waiting_input: VecDeque::new(),
        input_ends: false,
    }
}

fn start(plan: &ExecPlan) -> Result<Pump, ShimError> {
    nix::unistd::setsid().ok();
    let builder = ContainerBuilder::new(plan.id.clone(), SyscallType::default())
        .with_root_path(&plan.state_root)
        .map_err(|error| failed(chain(&error)))?;
    set_broken_pipe_signal(false)?;
    let pump = if plan.tty { with_terminal(plan, builder) } else { with_pipes(plan, builder) };
    set_broken_pipe_signal(true)?;
    drop(std::fs::remove_file(&plan.process));
    pump
}

fn with_terminal(plan: &ExecPlan, builder: ContainerBuilder) -> Result<Pump, ShimError> {
    let console = Console::listen(&plan.process.with_extension("sock"))?;
    let builder = builder.with_console_socket(Some(&console.path));
    let child = join(plan, builder)?;
    let mut pump = pump(child, pidfd(child)?);
    (pump.outputs, pump.input, pump.terminal) = terminal_streams(console.receive()?, plan.stdin)?;
    Ok(pump)
}

fn with_pipes(plan: &ExecPlan, builder: ContainerBuilder) -> Result<Pump, ShimError> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(ShimError::os("making a pipe"));
    let (out_read, out_write) = pipe()?;
    let (error_read, error_write) = pipe()?;
    let (stdin, input) = if plan.stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        let null = OpenOptions::new().read(true).open("/dev/null");
        (null.map_err(ShimError::io("opening /dev/null"))?.into(), None)
    };
    let builder = builder.with_stdin(stdin).with_stdout(out_write).with_stderr(error_write);
    let child = join(plan, builder)?;
    let mut pump = pump(child, pidfd(child)?);
    pump.outputs = vec![Some((Stream::Stdout, out_read)), Some((Stream::Stderr, error_read))];
    pump.input = input;
    Ok(pump)
}

fn join(plan: &ExecPlan, builder: ContainerBuilder) -> Result<Pid, ShimError> {
    let pid = builder
        .as_tenant()
        .with_process(Some(&plan.process))
        .with_detach(true)
        .as_sibling(false)
        .build()
        .map_err(|error| failed(chain(&error)))?;
    Ok(Pid::from_raw(pid.as_raw()))
}
