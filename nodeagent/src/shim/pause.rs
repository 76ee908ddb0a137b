//! `shim pause PLAN`: holds the namespaces of a sandbox and does nothing else until it is killed.
//!
//! With a shared pid namespace it is its first process, too, and ends what its children leave behind.

use std::io::BufRead;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::ForkResult;

use super::{AddressPlan, PausePlan, Report, ShimError, leave_standard_streams, read_plan, report};
use crate::bridge::netlink::Netlink;

pub(super) fn run(path: &Path) -> Result<(), ShimError> {
    let plan: PausePlan = read_plan(path)?;
    match prepare(&plan) {
        Ok(Role::Holder) => {}
        Ok(Role::Parent) => return Ok(()),
        Err(error) => return report(&Report::Failed { message: error.to_string() }),
    }
    report(&Report::Ready { pid: own_pid()? })?;
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.map_err(ShimError::io("waiting for the address"))? == 0 {
        // The agent has gone, and nobody knows of this sandbox.
        return Ok(());
    }
    if !line.trim().is_empty() {
        match configure(&line) {
            Ok(()) => report(&Report::Ready { pid: own_pid()? })?,
            Err(error) => return report(&Report::Failed { message: error.to_string() }),
        }
    }
    leave_standard_streams()?;
    loop {
        nix::unistd::pause();
    }
}

enum Role {
    /// Owns the namespaces.
    Holder,
    /// Only forked the holder.
    Parent,
}

fn prepare(plan: &PausePlan) -> Result<Role, ShimError> {
    nix::unistd::setsid().ok();
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, plan.own_network);
    flags.set(CloneFlags::CLONE_NEWIPC, plan.own_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, !plan.hostname.is_empty());
    flags.set(CloneFlags::CLONE_NEWPID, plan.own_pid);
    unshare(flags).map_err(ShimError::os("making the sandbox's namespaces"))?;
    if !plan.hostname.is_empty() {
        nix::unistd::sethostname(&plan.hostname).map_err(ShimError::os("setting the hostname"))?;
    }
    if plan.own_network {
        up("lo").map_err(ShimError::io("starting the loopback"))?;
    }
    for (name, value) in &plan.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(path, value).map_err(ShimError::io(format!("setting sysctl {name}")))?;
    }
    // The kernel reaps the children of a process that ignores their end.
    #[expect(unsafe_code, reason = "no handler is installed, and the process has one thread")]
    let ignored = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    ignored.map_err(ShimError::os("ignoring the end of children"))?;
    if !plan.own_pid {
        return Ok(Role::Holder);
    }
    #[expect(unsafe_code, reason = "the process has one thread, so its copy is whole")]
    let forked = unsafe { nix::unistd::fork() };
    match forked.map_err(ShimError::os("entering the pid namespace"))? {
        ForkResult::Parent { .. } => Ok(Role::Parent),
        ForkResult::Child => Ok(Role::Holder),
    }
}

/// As the node sees it: `/proc` is still the node's.
fn own_pid() -> Result<i32, ShimError> {
    let link = std::fs::read_link("/proc/self").map_err(ShimError::io("reading the own pid"))?;
    let pid = link.to_str().and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| ShimError::Container { message: format!("{} is no pid", link.display()) })
}

fn configure(line: &str) -> Result<(), ShimError> {
    let plan: AddressPlan = serde_json::from_str(line)
        .map_err(|source| ShimError::Decode { doing: "reading the address".into(), source })?;
    let doing = "configuring the sandbox's link";
    let mut netlink = Netlink::open().map_err(ShimError::io(doing))?;
    let index = netlink.index_of(&plan.link).map_err(ShimError::io(doing))?;
    netlink.add_address(index, plan.address, plan.prefix_len).map_err(ShimError::io(doing))?;
    netlink.set_up(index).map_err(ShimError::io(doing))?;
    netlink.add_default_route(index, plan.gateway).map_err(ShimError::io(doing))
}

fn up(link: &str) -> std::io::Result<()> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index_of(link)?;
    netlink.set_up(index)
}
